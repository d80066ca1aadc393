"""What it costs to start, to keep and to stop an actor, on each backend: `spawn.py [--quick] [--json PATH] [ROW ...]`.

Each row compares two measurements, taken in turn, each in a process of its own. Most figures are ratios of these
two; see README.rst for the targets.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import endpoints
import stuck
import trio
from cases import free_address
from run import environ

import tractor
from tractor.spawn._spawn import check_method

NOW = time.perf_counter
HERE = Path(__file__).resolve().parent
TIME_LIMIT = 300
AT_ONCE = 16
IDLE = 8
CYCLES = 200
BURN = 3_000_000
KINDS = ('spin', 'swallow', 'park', 'sleep', 'receive', 'thread')
# seconds in which a spare interpreter gets ready
PAUSE = 0.5

Nursery = tractor.ActorNursery


async def first_answer(an: Nursery, name: str = 'one') -> tuple[float, tractor.Portal]:
    """Seconds from the request to the answer of the first call."""
    start = NOW()
    # the figures of this file's own imports are not wanted
    portal = await an.start_actor(
        name, enable_modules=['endpoints', 'stuck'], inherit_parent_main=False
    )
    await portal.run(endpoints.ping, n=1)
    return NOW() - start, portal


async def spawn(an: Nursery, pause: float, count: int) -> float:
    """Start, first answer; the end is not counted."""
    took = []
    for _ in range(count + 2):
        seconds, portal = await first_answer(an)
        took.append(seconds)
        await portal.cancel_actor()
        await trio.sleep(pause)
    return statistics.median(took[2:])


async def at_once(an: Nursery) -> float:
    """Until the last of many actors has answered its first call."""
    start = NOW()
    async with trio.open_nursery() as tn:
        for number in range(AT_ONCE):
            tn.start_soon(first_answer, an, f'actor_{number}')
    took = NOW() - start
    await an.cancel()
    return took


async def burn(an: Nursery, actors: int) -> float:
    """Seconds until each of some actors has counted down once."""
    portals = [(await first_answer(an, f'actor_{number}'))[1] for number in range(actors)]
    await trio.sleep(PAUSE)
    start = NOW()
    async with trio.open_nursery() as tn:
        for portal in portals:
            tn.start_soon(call_burn, portal)
    return NOW() - start


async def call_burn(portal: tractor.Portal) -> None:
    """Have one count down."""
    await portal.run(endpoints.burn, count=BURN)


async def rpc(an: Nursery, count: int) -> float:
    """One call there and back."""
    _, portal = await first_answer(an)
    start = NOW()
    for number in range(count):
        await portal.run(endpoints.ping, n=number)
    return (NOW() - start) / count


async def stream(an: Nursery, count: int) -> float:
    """One message there and back."""
    _, portal = await first_answer(an)
    async with portal.open_context(endpoints.echo) as (ctx, _), ctx.open_stream() as both_ways:
        start = NOW()
        for number in range(count):
            await both_ways.send(number)
            await both_ways.receive()
        return (NOW() - start) / count


async def memory(an: Nursery) -> float:
    """Proportional MiB for each idle actor."""
    _, first = await first_answer(an)
    before = pss()
    for number in range(IDLE):
        await first_answer(an, f'actor_{number}')
    await trio.sleep(PAUSE)
    grown = pss() - before
    await first.cancel_actor()
    return grown / IDLE / 1024


def pss() -> int:
    """KiB of this process and all below it, shared pages in equal parts."""
    pids = [os.getpid()]
    for pid in pids:
        with suppress(OSError):
            for task in Path(f'/proc/{pid}/task').iterdir():
                pids += map(int, (task / 'children').read_text().split())
    total = 0
    for pid in pids:
        with suppress(OSError):
            rollup = Path(f'/proc/{pid}/smaps_rollup').read_text()
            total += next(int(line.split()[1]) for line in rollup.splitlines() if 'Pss:' in line)
    return total


async def kill(an: Nursery, kind: str) -> float:
    """Seconds from `kill()` to the end of an actor that is stuck."""
    took = []
    for _ in range(3):
        _, portal = await first_answer(an)
        (child,) = an._children.values()
        async with trio.open_nursery() as tn:
            tn.start_soon(get_stuck, portal, kind)
            await trio.sleep(0.2)
            start = NOW()
            child.proc.kill()
            await child.proc.wait()
            took.append(NOW() - start)
        await child.gone.wait()
    return statistics.median(took)


async def get_stuck(portal: tractor.Portal, kind: str) -> None:
    """Until it is gone."""
    with suppress(tractor.TransportClosed):
        await portal.run(getattr(stuck, kind))


async def cycles(an: Nursery, count: int) -> float:
    """KiB that the process has grown from the tenth actor to the last."""
    sizes = []
    for _ in range(count):
        _, portal = await first_answer(an)
        (child,) = an._children.values()
        await portal.cancel_actor()
        await child.gone.wait()
        sizes.append(pss())
    # a spare that is just there, or not, is no growth
    part = max(1, min(20, count // 3))
    return float(min(sizes[-part:]) - min(sizes[part : 2 * part]))


CASES: dict[str, Callable[..., Awaitable[float]]] = {
    case.__name__: case for case in (spawn, at_once, burn, rpc, stream, memory, kill, cycles)
}


@dataclass(frozen=True)
class Comparison:
    """
    A row.

    Args:
        name: its name.
        base, ours: two measurements: the words of a command line.
        target: what the ratio must keep to.
        at_least: that is a lower bound.
        scale: the figure is `scale * ours / base`; a base of `one` makes it absolute.
    """

    name: str
    base: tuple[str, ...]
    ours: tuple[str, ...]
    target: float
    at_least: bool = False
    scale: float = 1.0


ONE = ('one',)


def comparisons(part: int) -> list[Comparison]:
    """All rows; the number of operations is divided by `part`."""
    calls = str(max(20, 2000 // part))
    starts = str(max(1, 8 // part))
    floor = ('floor.py', 'subint', starts)
    rows = [
        Comparison(
            'two busy actors',
            ('subint', '0', 'burn', '2'),
            ('subint', '0', 'burn', '1'),
            1.85,
            True,
            2.0,
        ),
        Comparison('spawn, cold', floor, ('subint', '0', 'spawn', '0', starts), 1.35),
        Comparison('spawn, warm', floor, ('subint', '1', 'spawn', str(PAUSE), starts), 0.15),
        Comparison('16 at once, cold', ('trio', '0', 'at_once'), ('subint', '0', 'at_once'), 0.7),
        Comparison('memory, idle', ('trio', '0', 'memory'), ('subint', '0', 'memory'), 0.75),
        Comparison('call', ('trio', '0', 'rpc', calls), ('subint', '0', 'rpc', calls), 1.0),
        Comparison('stream', ('trio', '0', 'stream', calls), ('subint', '0', 'stream', calls), 1.0),
        Comparison(
            'spawn mp_forkserver',
            ('floor.py', 'mp_forkserver', starts),
            ('mp_forkserver', '0', 'spawn', '0', starts),
            3.0,
        ),
        Comparison(
            'KiB in 200 cycles', ONE, ('subint', '1', 'cycles', str(max(12, CYCLES // part))), 3000
        ),
    ]
    kinds = KINDS if part == 1 else KINDS[:2]
    rows += [
        Comparison(f'kill: {kind}, ms', ONE, ('subint', '0', 'kill', kind), 150, scale=1e3)
        for kind in kinds
    ]
    return rows


@dataclass
class Figure:
    """What came out of a row."""

    name: str
    target: float
    at_least: bool
    ratios: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The figure."""
        return statistics.median(self.ratios)

    @property
    def verdict(self) -> str:
        """Whether it keeps to the target."""
        kept = self.median >= self.target if self.at_least else self.median <= self.target
        return 'met' if kept else 'MISSED'

    def line(self) -> str:
        """Of the table."""
        bound = 'at least' if self.at_least else 'at most'
        spread = f'{min(self.ratios):.2f} to {max(self.ratios):.2f}'
        return f'{self.name:<22}{self.median:>9.2f}  {spread:>18}  {bound} {self.target:g} {self.verdict}'


def run(words: tuple[str, ...]) -> float:
    """One measurement, in a process of its own."""
    if words == ONE:
        return 1.0
    command = [words[0], *words[1:]] if words[0].endswith('.py') else ['spawn.py', '--case', *words]
    with tempfile.TemporaryDirectory(prefix='tb-') as folder:
        done = subprocess.run(
            [sys.executable, str(HERE / command[0]), *command[1:]],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=TIME_LIMIT,
            env={**environ(), 'XDG_RUNTIME_DIR': folder},
        )
    return float(done.stdout)


def measure(row: Comparison, turns: int) -> Figure:
    """Both sides in turn."""
    figure = Figure(row.name, row.target, row.at_least)
    for _ in range(turns):
        base = run(row.base)
        figure.ratios.append(round(row.scale * run(row.ours) / base, 3))
    return figure


async def main_case(method: str, spares: str, case: str, *args: str) -> float:
    """One measurement in this process."""
    os.environ['TRACTOR_SUBINT_SPARES'] = spares
    numbers: list[Any] = [
        float(arg) if '.' in arg else int(arg) if arg.isdecimal() else arg for arg in args
    ]
    async with tractor.open_nursery(
        start_method=method,
        enable_transports=['uds'],
        registry_addrs=[free_address('uds')],
        loglevel='critical',
    ) as an:
        took = await CASES[case](an, *numbers)
        await an.cancel()
    return took


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='measure starting, keeping and stopping actors')
    parser.add_argument('rows', nargs='*', metavar='ROW', help='rows whose name contains this')
    parser.add_argument('--quick', action='store_true', help='a small part of it: does it run?')
    parser.add_argument('--turns', type=int, default=5, help='measurements of each side')
    parser.add_argument('--json', type=Path, metavar='PATH', help='write the figures there')
    parser.add_argument('--case', nargs='+', help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """The command."""
    args = parse()
    if args.case:
        print(trio.run(main_case, *args.case))
        return
    try:
        check_method('subint')
    except RuntimeError as err:
        print(err)
        return
    figures = []
    for row in comparisons(20 if args.quick else 1):
        if not args.rows or any(wanted in row.name for wanted in args.rows):
            figures.append(measure(row, 1 if args.quick else args.turns))
            print(figures[-1].line(), flush=True)
    if args.json is not None:
        told = [
            {**asdict(figure), 'median': figure.median, 'verdict': figure.verdict}
            for figure in figures
        ]
        args.json.write_text(json.dumps(told, indent=1) + '\n')


if __name__ == '__main__':
    main()
