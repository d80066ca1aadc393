"""
What `subint-threads.md` says, observed: daemon threads are refused, workers of trio's cache are not, and they are
gone with the actor although they would idle for seconds.

Exit code 0 if all was seen. CPython 3.14.
"""

from __future__ import annotations

import sys
import threading

import trio

import tractor


async def daemon_thread() -> str:
    """What the interpreter says to one."""
    try:
        threading.Thread(target=print, daemon=True).start()
    except RuntimeError as err:
        return str(err)
    return ''


async def worker_thread() -> int:
    """What a worker computes."""
    return await trio.to_thread.run_sync(sum, (40, 2))


async def main() -> int:
    """Try both, and see how long the actor takes to end."""
    async with tractor.open_nursery(start_method='subint') as an:
        portal = await an.start_actor('threads', enable_modules=[__name__])
        refused = await portal.run(daemon_thread)
        answer = await portal.run(worker_thread)
        (child,) = an._children.values()
        start = trio.current_time()
        await portal.cancel_actor()
        await child.proc.wait()
        took = trio.current_time() - start
    print(f'a daemon thread: {refused!r}')
    print(
        f'a worker thread: {answer}, and the actor ended {1000 * took:.0f} ms after it was asked to'
    )
    return 0 if 'daemon' in refused and answer == 42 and took < 5 else 1


if __name__ == '__main__':
    sys.exit(trio.run(main))
