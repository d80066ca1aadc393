"""
What `subint-spares.md` says, observed: a spawn that finds a ready spare is several times faster than one that does
not.

Exit code 0 if it was seen. CPython 3.14.
"""

from __future__ import annotations

import os
import sys

import trio

import tractor


async def nothing() -> None:
    """A call."""


async def spawn(an: tractor.ActorNursery) -> float:
    """Milliseconds from the request to the first answer."""
    start = trio.current_time()
    portal = await an.start_actor('one', enable_modules=[__name__])
    await portal.run(nothing)
    took = 1000 * (trio.current_time() - start)
    await portal.cancel_actor()
    return took


async def times(spares: int) -> float:
    """The fastest, each spawn after a pause in which a spare can get ready."""
    os.environ['TRACTOR_SUBINT_SPARES'] = str(spares)
    found = []
    async with tractor.open_nursery(start_method='subint') as an:
        for _ in range(6):
            found.append(await spawn(an))
            await trio.sleep(1)
    return min(found[1:])


async def main() -> int:
    """With, and without."""
    cold, warm = await times(0), await times(1)
    print(f'first answer after {cold:.0f} ms without spares, {warm:.0f} ms with one')
    return 0 if warm < cold / 2 else 1


if __name__ == '__main__':
    sys.exit(trio.run(main))
