"""
What `subint-memory.md` says, observed: msgspec leaves a tuple behind for each union it looks at, unless its init
function sees another `types.UnionType`; and actors come and go without the process growing.

    python ai/subint_memory.py [CYCLES]

Exit code 0 if both were seen. Linux, CPython 3.14, msgspec 0.22.
"""

from __future__ import annotations

import gc
import subprocess
import sys

import trio

import tractor

COUNT = """
import sys, types, typing
real = types.UnionType
if {hidden}:
    types.UnionType = type('UnionType', (), {{}})
import msgspec._core
types.UnionType = real
union = int | str
arguments = union.__args__
before = sys.getrefcount(arguments)
for _ in range(100):
    msgspec.msgpack.Decoder(union)
print(sys.getrefcount(arguments) - before)
"""


def left_behind(hidden: bool) -> int:
    """References to the arguments of a union after a hundred decoders were made for it, and dropped."""
    code = COUNT.format(hidden=hidden)
    done = subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, check=True)
    return int(done.stdout)


async def nothing() -> None:
    """A call."""


def resident() -> int:
    """KiB."""
    with open('/proc/self/status', encoding='ascii') as status:
        return next(int(line.split()[1]) for line in status if line.startswith('VmRSS'))


async def grow(cycles: int) -> tuple[int, int]:
    """KiB after the first five actors, and after all."""
    sizes = []
    async with tractor.open_nursery(start_method='subint') as an:
        for _ in range(cycles):
            portal = await an.start_actor('one', enable_modules=[__name__])
            (child,) = an._children.values()
            await portal.run(nothing)
            await portal.cancel_actor()
            await child.gone.wait()
            gc.collect()
            sizes.append(resident())
    return sizes[4], sizes[-1]


def main() -> int:
    """Both."""
    cycles = int(sys.argv[1]) if len(sys.argv) > 1 else 25
    stock, hidden = left_behind(False), left_behind(True)
    print(
        f'tuples left behind by 100 decoders of a union: {stock}, and {hidden} with another UnionType'
    )
    early, late = trio.run(grow, cycles)
    print(f'{early} KiB after 5 actors, {late} KiB after {cycles}')
    return 0 if stock >= 100 and hidden == 0 and late - early < 5000 else 1


if __name__ == '__main__':
    sys.exit(main())
