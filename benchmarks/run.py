"""Measure the runtime against the floor of this machine: `run.py [--quick] [--json PATH] [CASE ...]`.

Each row is a pair of measurements, each in a process of its own, taken in turn several times; the
ratio of a row is the median of the ratios of these turns, so a machine that is busy for a while
does not change it much. See README.rst.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
QUICK_PART = 20
TIME_LIMIT = 300
TRANSPORTS = ('uds', 'tcp')

MS, US = 1e3, 1e6


@dataclass(frozen=True)
class Pair:
    """
    A row to be measured.

    Args:
        name: its name.
        floor, ours: the two commands.
        count: operations of one measurement.
        turns: measurements of each side; many short ones where a moment of load matters much.
        unit: `'ms'` or `'us'`.
        target: the ratio to be kept.
    """

    name: str
    floor: tuple[str, ...]
    ours: tuple[str, ...]
    count: int
    turns: int
    unit: str
    target: float | None = None


@dataclass
class Row:
    """What came out for a pair."""

    name: str
    unit: str
    target: float | None
    floor: float = 0.0
    ours: float = 0.0
    ratio: float = 0.0
    best: float = 0.0
    ratios: list[float] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """How the ratio compares with the target, in a word."""
        if self.target is None:
            return ''
        return 'met' if self.ratio <= self.target else 'MISSED'


def pairs() -> Iterator[Pair]:
    """All rows, in the order of the table."""
    yield Pair('import', ('import', 'trio, msgspec'), ('import', 'tractor'), 1, 25, 'ms', 1.35)
    starts = {'trio': ('python', 1.5), 'mp_spawn': ('mp_spawn', None)}
    if hasattr(os, 'fork'):
        starts['mp_forkserver'] = ('mp_forkserver', 4.0)
    for tpt in TRANSPORTS:
        for method, (floor, target) in starts.items():
            yield Pair(
                f'spawn {method} {tpt}',
                ('floor.py', floor),
                ('cases.py', 'spawn', method, tpt),
                5,
                9,
                'ms',
                target,
            )
    for tpt in TRANSPORTS:
        for name, floor, count, target in (
            ('rpc', 'pingpong', 1000, 3.0),
            ('pingpong', 'pingpong', 1000, 2.2),
            ('down', 'stream', 10000, 2.0),
            ('up', 'stream', 10000, 2.0),
            # 0.6 of the rate
            ('large', 'large', 200, 1.67),
        ):
            yield Pair(
                f'{name} {tpt}',
                ('floor.py', floor),
                ('cases.py', name, 'trio', tpt),
                count,
                9,
                'us',
                target,
            )
        yield Pair(
            f'many {tpt}',
            ('cases.py', 'pingpong', 'trio', tpt),
            ('cases.py', 'many', 'trio', tpt),
            1000,
            5,
            'us',
            1.5,
        )


def run_script(command: tuple[str, ...], count: int) -> float:
    """Run one measurement in a new interpreter; seconds for each operation."""
    script, *args = command
    with tempfile.TemporaryDirectory(prefix='tb-') as folder:
        done = subprocess.run(
            [sys.executable, str(HERE / script), *args, str(count)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=TIME_LIMIT,
            # sockets of its own: a registrar of another program is none of ours
            env={**environ(), 'XDG_RUNTIME_DIR': folder},
        )
    return float(done.stdout)


IMPORT = """
import subprocess, sys, time
start = time.perf_counter()
subprocess.run([sys.executable, '-c', 'import {}'], check=True)
print(time.perf_counter() - start)
"""


def run_import(names: str, count: int) -> float:
    """The median time of fresh interpreters which import something."""
    took = []
    for _ in range(count):
        done = subprocess.run(
            [sys.executable, '-c', IMPORT.format(names)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=TIME_LIMIT,
            env=environ(),
        )
        took.append(float(done.stdout))
    return statistics.median(took)


def environ() -> dict[str, str]:
    """The environment of the measurements: with this checkout, if nothing is installed."""
    env = dict(os.environ)
    for name in ('TRACTOR_SPAWN_METHOD', 'TRACTOR_LOGLEVEL'):
        env.pop(name, None)
    paths = [str(HERE), env.get('PYTHONPATH', '')]
    if importlib.util.find_spec('tractor') is None:
        paths.insert(1, str(HERE.parent))
    env['PYTHONPATH'] = os.pathsep.join(filter(None, paths))
    return env


def run_one(command: tuple[str, ...], count: int) -> float:
    """One measurement of either kind."""
    if command[0] == 'import':
        return run_import(command[1], count)
    return run_script(command, count)


def measure(pair: Pair, quick: bool) -> Row:
    """Take both measurements of a pair in turn, and compare."""
    count = max(1, pair.count // QUICK_PART) if quick else pair.count
    row = Row(pair.name, pair.unit, pair.target)
    scale = MS if pair.unit == 'ms' else US
    floors, ours = [], []
    for _ in range(1 if quick else pair.turns):
        floors.append(run_one(pair.floor, count) * scale)
        ours.append(run_one(pair.ours, count) * scale)
        row.ratios.append(round(ours[-1] / floors[-1], 3))
    row.floor = round(statistics.median(floors), 2)
    row.ours = round(statistics.median(ours), 2)
    row.ratio = statistics.median(row.ratios)
    row.best = round(min(ours) / min(floors), 3)
    return row


HEAD = f'{"":<24}{"floor":>11}{"tractor":>11}    {"ratio":>6}{"from":>7}{"to":>7}{"best":>7}{"target":>8}'


def as_line(row: Row) -> str:
    """One line of the table."""
    target = '' if row.target is None else f'{row.target:.2f}'
    return (
        f'{row.name:<24}{row.floor:>11.2f}{row.ours:>11.2f} {row.unit}'
        f' {row.ratio:>6.2f}{min(row.ratios):>7.2f}{max(row.ratios):>7.2f}{row.best:>7.2f}{target:>8} {row.verdict}'
    ).rstrip()


def machine() -> dict[str, str | int | bool | None]:
    """Where this was measured."""
    return {
        'python': platform.python_version(),
        'system': platform.platform(),
        'cpus': os.cpu_count(),
        'bytecode': not sys.dont_write_bytecode,
    }


def warm_up() -> None:
    """Have the bytecode of both sides written, if it may be."""
    run_import('trio, msgspec', 1)
    run_import('tractor', 1)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='measure the runtime against the floor')
    parser.add_argument('cases', nargs='*', metavar='CASE', help='rows whose name contains this')
    parser.add_argument('--quick', action='store_true', help='a twentieth of it: does it run?')
    parser.add_argument('--json', type=Path, metavar='PATH', help='write the figures there')
    return parser.parse_args()


def run(quick: bool, wanted: Callable[[str], bool]) -> list[Row]:
    """Measure what is wanted and show each row as it comes."""
    warm_up()
    print(HEAD, flush=True)
    rows = []
    for pair in pairs():
        if wanted(pair.name):
            rows.append(measure(pair, quick))
            print(as_line(rows[-1]), flush=True)
    return rows


def main() -> None:
    """The command."""
    args = parse()
    where = machine()
    print(', '.join(f'{key} {value}' for key, value in where.items()))
    if not where['bytecode']:
        print('PYTHONDONTWRITEBYTECODE is set: every process compiles what it imports anew')
    rows = run(args.quick, lambda name: not args.cases or any(case in name for case in args.cases))
    if args.json is not None:
        figures = [{**asdict(row), 'verdict': row.verdict} for row in rows]
        args.json.write_text(
            json.dumps({**where, 'quick': args.quick, 'rows': figures}, indent=1) + '\n'
        )


if __name__ == '__main__':
    main()
