"""Rows of the table: what they are, and how their sides are measured in turn.

A *side* is a command, which runs in a process of its own and prints seconds (or whatever the row's unit says)
for each operation; where it prints several figures, each row takes its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

HERE = Path(__file__).resolve().parent
QUICK_PART = 20
TURNS = 5
TIME_LIMIT = 300

# scripts whose measurements may follow each other in one process, where no time is worth anything
SHARING = ('cases.py', 'floor.py', 'others.py')

# what a side prints is multiplied by this
SCALES = {'s': 1.0, 'ms': 1e3, 'us': 1e6, 'MiB': 1.0, 'KiB': 1.0, 'calls': 1.0}

COUNT = '{count}'
"""The word of a command which stands for the number of operations."""

Command = tuple[str, ...]


def many(number: int) -> str:
    """The word of a command which stands for so many actors, contexts or messages."""
    return f'{{{number}}}'


def filled(word: str, count: int, part: int = 1) -> str:
    """A word as it is run, with a part of what is `many`: never fewer than two, which are the least that are many."""
    if word == COUNT:
        return str(count)
    if word.startswith('{'):
        number = int(word[1:-1])
        return str(min(number, max(2, number // part)))
    return word


class Crash(Exception):
    """A measurement failed; what it said about that is on standard error."""


@dataclass(frozen=True)
class Row:
    """
    A row to be measured.

    Args:
        name: its name, which no other row has.
        group: the part of the table.
        ours: the command that measures the runtime.
        floor: the one that measures what it is compared with; without it, the figure itself counts.
        others: commands that do the same work with the standard library, by the name of what they use.
        unit: a key of `SCALES`.
        count: operations of one measurement.
        target: what the ratio, or the figure of a row that has no floor, must not exceed.
        block: rows next to each other with the same one share what the same command has printed in a turn.
        figure: which of the printed figures is the row's.
        turns: measurements of each side; many short ones where a moment of load matters much.
        heavy: too much for a quick run.
    """

    name: str
    group: str
    ours: Command
    floor: Command | None = None
    others: dict[str, Command] = field(default_factory=dict)
    unit: str = 'us'
    count: int = 1000
    target: float | None = None
    block: str = ''
    figure: int = 0
    turns: int = TURNS
    heavy: bool = False

    @property
    def commands(self) -> list[Command]:
        """All sides, the floor first."""
        return [*filter(None, [self.floor]), self.ours, *self.others.values()]


@dataclass
class Result:
    """What came out for a row: medians, and the ratios of all turns."""

    name: str
    group: str
    unit: str
    target: float | None
    floor: float | None
    ours: float
    ratio: float | None
    best: float | None
    ratios: list[float]
    others: dict[str, float]

    @property
    def verdict(self) -> str:
        """How it compares with the target, in a word."""
        if self.target is None:
            return ''
        return (
            'met' if (self.ours if self.ratio is None else self.ratio) <= self.target else 'MISSED'
        )


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


def run_script(script: str, *args: str, stdin: str = '') -> subprocess.CompletedProcess[str]:
    """Run a script of this folder in a new interpreter, with this text on standard input."""
    with tempfile.TemporaryDirectory(prefix='tb-') as folder:
        return subprocess.run(
            [sys.executable, str(HERE / script), *args],
            input=stdin,
            check=False,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            # sockets of its own: a registrar of another program is none of ours
            env={**environ(), 'XDG_RUNTIME_DIR': folder},
        )


def run_command(command: Command, count: int) -> list[float]:
    """The figures that one command prints, run in a new interpreter."""
    script, *args = (filled(word, count) for word in command)
    done = run_script(script, *args)
    if done.returncode:
        # what is killed on purpose is told about too: only now of interest
        sys.stderr.write(done.stderr)
        raise Crash(f'{" ".join([script, *args])} failed with exit code {done.returncode}')
    return [float(figure) for figure in done.stdout.split()]


Figures = dict[Command, list[float]]
"""What the commands of a block have printed in one turn."""


def one_turn(block: list[Row]) -> Figures:
    """Each command of the block once."""
    counts = {command: row.count for row in block for command in row.commands}
    return {command: run_command(command, count) for command, count in counts.items()}


def result_of(row: Row, turns: list[Figures]) -> Result:
    """Compare the sides of a row."""

    def taken(command: Command) -> list[float]:
        return [turn[command][row.figure] * SCALES[row.unit] for turn in turns]

    def ratios_to(command: Command) -> list[float]:
        return [round(a / b, 3) for a, b in zip(ours, taken(command), strict=True)]

    ours = taken(row.ours)
    floors = [] if row.floor is None else taken(row.floor)
    ratios = [] if row.floor is None else ratios_to(row.floor)
    return Result(
        name=row.name,
        group=row.group,
        unit=row.unit,
        target=row.target,
        floor=round(statistics.median(floors), 2) if floors else None,
        ours=round(statistics.median(ours), 2),
        ratio=statistics.median(ratios) if ratios else None,
        best=round(min(ours) / min(floors), 3) if floors else None,
        ratios=ratios or [round(figure, 2) for figure in ours],
        others={
            name: statistics.median(ratios_to(command)) for name, command in row.others.items()
        },
    )


def measure(rows: Iterable[Row], turns: int | None, crashes: list[Crash]) -> Iterator[Result]:
    """
    Measure all sides of each row in turn; a result as soon as its block is done.

    Args:
        turns: measurements of each side, instead of what the rows say.
        crashes: gets those of measurements that failed; their rows have no result, the others do.
    """
    for _, group in groupby(rows, key=lambda row: row.block or row.name):
        block = list(group)
        try:
            taken = [one_turn(block) for _ in range(turns or max(row.turns for row in block))]
        except Crash as err:
            crashes.append(err)
            continue
        for row in block:
            yield result_of(row, taken)


def run_quickly(counts: dict[Command, int]) -> dict[Command, list[float] | None]:
    """What these commands print, run in one new interpreter with a small part of the work; of a crash, nothing."""
    commands = [
        [filled(word, max(1, count // QUICK_PART), QUICK_PART) for word in command]
        for command, count in counts.items()
    ]
    done = run_script('several.py', stdin=json.dumps(commands))
    said = [None] * len(commands) if done.returncode else json.loads(done.stdout)
    if None in said:
        sys.stderr.write(done.stderr)
    return dict(zip(counts, said, strict=True))


def measure_quickly(rows: Iterable[Row], crashes: list[Crash]) -> Iterator[Result]:
    """Run each command once, several at a time, with a small part of the work: no time is worth anything."""
    rows = [row for row in rows if not row.heavy]
    batches: dict[Command, dict[Command, int]] = defaultdict(dict)
    for row in rows:
        for command in row.commands:
            batches[command[:1] if command[0] in SHARING else command][command] = row.count
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = {}
        # those that take longest first
        for batch in sorted(batches.values(), key=len, reverse=True):
            futures.update(dict.fromkeys(batch, pool.submit(run_quickly, batch)))
        try:
            for row in rows:
                said = {command: futures[command].result()[command] for command in row.commands}
                figures = {command: taken for command, taken in said.items() if taken is not None}
                if len(figures) == len(said):
                    yield result_of(row, [figures])
                else:
                    failed = [' '.join(command) for command in said if command not in figures]
                    crashes.append(Crash(f'{", ".join(failed)} failed'))
        finally:
            pool.shutdown(cancel_futures=True)
