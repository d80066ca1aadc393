"""
What `subint-stopping.md` says, observed: an asynchronous exception does not end a loop that swallows it, the warden
ends every kind of stuck Python code, and a lock is what it cannot end.

    python ai/subint_stopping.py

Exit code 0 if all was seen. CPython 3.14.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable

import trio

import tractor
from tractor._exceptions import ActorFailure


async def spin() -> None:
    """Never yields."""
    while True:
        pass


async def swallow() -> None:
    """Nor does it let go."""
    while True:
        try:
            while True:
                pass
        except BaseException:  # noqa: BLE001, S112 - the point
            continue


async def park() -> None:
    """Yields, and waits again whatever comes."""
    with trio.CancelScope(shield=True):
        while True:
            try:
                await trio.sleep_forever()
            except BaseException:  # noqa: BLE001, S112 - the point
                continue


async def sleep() -> None:
    """Blocks the thread."""
    time.sleep(1000)  # noqa: ASYNC251 - the point


async def receive() -> None:
    """Blocks the thread in a system call."""
    ours, theirs = socket.socketpair()
    ours.recv(1)
    theirs.close()


async def work() -> None:
    """A worker thread that spins."""
    await trio.to_thread.run_sync(forever)


def forever() -> None:
    """Never returns."""
    while True:
        pass


async def wait_for_lock() -> None:
    """Blocks the thread where nothing can reach it."""
    lock = threading.Lock()
    with lock:
        lock.acquire()


STUCK: tuple[Callable[[], Awaitable[None]], ...] = (spin, swallow, park, sleep, receive, work)


async def call(portal: tractor.Portal, kind: Callable[[], Awaitable[None]]) -> None:
    """Get it stuck; that it is gone is learnt elsewhere, too."""
    with contextlib.suppress(tractor.TransportClosed):
        await portal.run(kind)


async def stop(kind: Callable[[], Awaitable[None]], within: float) -> float | None:
    """Milliseconds from the order to the end of an actor that is stuck so, if it ended."""
    took: float | None = None
    with contextlib.suppress(ActorFailure):
        async with tractor.open_nursery(start_method='subint', loglevel='critical') as an:
            portal = await an.start_actor('stuck', enable_modules=[__name__])
            (child,) = an._children.values()
            async with trio.open_nursery() as tn:
                tn.start_soon(call, portal, kind)
                await trio.sleep(0.3)
                start = trio.current_time()
                child.proc.kill()
                with trio.move_on_after(within):
                    await child.proc.wait()
                    took = 1000 * (trio.current_time() - start)
                tn.cancel_scope.cancel()
            await an.cancel()
    return took


async def main() -> int:
    """Stop each, and say how long it took."""
    seen = True
    for kind in STUCK:
        took = await stop(kind, 5)
        print(f'{kind.__name__:14} {"not ended" if took is None else f"ended in {took:.0f} ms"}')
        seen &= took is not None
    took = await stop(wait_for_lock, 1)
    print(f'{"a lock":14} {"abandoned" if took is None else f"ended in {took:.0f} ms"}')
    return 0 if seen and took is None else 1


if __name__ == '__main__':
    code = trio.run(main)
    sys.stdout.flush()
    # what was abandoned ends with the process, and that at once: its exit code is the answer
    os._exit(code)
