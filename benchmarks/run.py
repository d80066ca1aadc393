"""Measure the runtime against what this machine can do: `run.py [--quick] [--group NAME] [--json PATH] [ROW ...]`.

All sides of a row are measured in turn, each in a process of its own, several times; the ratio of a row is the
median of the ratios of these turns, so a machine that is busy for a while does not change it much. See README.rst.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measure import Crash, Result, measure, measure_quickly, run_command
from plot import as_svg
from rows import GROUPS, OTHERS, choose

HEAD = (
    f'{"":<28}{"floor":>11}{"tractor":>11}    {"ratio":>7}{"from":>8}{"to":>8}{"best":>8}{"target":>8} {"":<7}'
    f'{"x mp":>7}{"x queue":>8}{"x pool":>8}{"x ipool":>8}'
)


def number(figure: float | None, width: int) -> str:
    """A figure, or nothing."""
    shown = '' if figure is None else f'{figure:.2f}' if abs(figure) < 10_000 else f'{figure:.0f}'
    return shown.rjust(width)


def as_line(row: Result) -> str:
    """One line of the table."""
    spread = [row.ratio, min(row.ratios), max(row.ratios), row.best, row.target]
    target = f'{number(spread.pop(), 8)} {row.verdict:<7}'
    others = ''.join(number(row.others.get(name), 8) for name in OTHERS)
    return (
        f'{row.name:<28}{number(row.floor, 11)}{number(row.ours, 11)} {row.unit:<3}'
        f'{"".join(number(figure, 8) for figure in spread)}{target}{others[1:]}'
    ).rstrip()


def machine() -> dict[str, str | int | bool | None]:
    """Where this was measured."""
    return {
        'python': platform.python_version(),
        'system': platform.platform(),
        'cpus': os.cpu_count(),
        'bytecode': not sys.dont_write_bytecode,
    }


def shown(results: Iterable[Result]) -> Iterator[Result]:
    """Print each row as it comes."""
    print(HEAD, flush=True)
    group = ''
    for row in results:
        if row.group != group:
            print(f'-- {row.group}')
            group = row.group
        print(as_line(row), flush=True)
        yield row


def write_targets(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """The rows that have a target, as a table for the documentation."""
    with path.open('w', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(['row', 'floor', 'tractor', 'ratio', 'target', ''])
        for row in rows:
            if row['target'] is not None:
                shown = [
                    '' if row[key] is None else f'{row[key]:.2f}' for key in ('floor', 'ratio')
                ]
                ours, bound = f'{row["ours"]:.2f} {row["unit"]}', f'{row["target"]:g}'
                writer.writerow([row['name'], shown[0], ours, shown[1], bound, row['verdict']])


def parse(groups: list[str]) -> argparse.Namespace:
    """The command line; without a choice, of these groups."""
    parser = argparse.ArgumentParser(description='measure the runtime against the floor')
    parser.add_argument('cases', nargs='*', metavar='ROW', help='rows whose name contains this')
    parser.add_argument(
        '--group', action='append', choices=list(GROUPS), help='rows of this group; may be repeated'
    )
    parser.add_argument('--quick', action='store_true', help='a twentieth of it: does it run?')
    parser.add_argument(
        '--turns', type=int, help="measurements of each side, instead of the rows' own"
    )
    parser.add_argument('--json', type=Path, metavar='PATH', help='write the figures there')
    parser.add_argument('--plot', type=Path, metavar='PATH', help='draw the ratios there, as SVG')
    parser.add_argument('--csv', type=Path, metavar='PATH', help='write the rows with a target')
    parser.add_argument(
        '--from',
        type=Path,
        metavar='PATH',
        dest='source',
        help='measure nothing, use what --json has written',
    )
    args = parser.parse_args()
    args.group = args.group or groups
    return args


def main(groups: list[str]) -> None:
    """The command; what was measured before an interruption is written too."""
    args = parse(groups)
    crashes: list[Crash] = []
    figures: dict[str, Any] = {**machine(), 'quick': args.quick, 'rows': []}
    if args.source is not None:
        figures = json.loads(args.source.read_text())
    try:
        if args.source is None:
            for row in measured(args, crashes):
                figures['rows'].append({**asdict(row), 'verdict': row.verdict})
    finally:
        if args.json is not None:
            args.json.write_text(json.dumps(figures, indent=1) + '\n')
        if args.plot is not None:
            args.plot.parent.mkdir(parents=True, exist_ok=True)
            args.plot.write_text(as_svg(figures))
        if args.csv is not None:
            args.csv.parent.mkdir(parents=True, exist_ok=True)
            write_targets(args.csv, figures['rows'])
    if crashes:
        sys.exit('\n'.join(dict.fromkeys(map(str, crashes))))


def measured(args: argparse.Namespace, crashes: list[Crash]) -> Iterator[Result]:
    """Measure what was chosen."""
    where = machine()
    print(', '.join(f'{key} {value}' for key, value in where.items()))
    if not where['bytecode']:
        print('PYTHONDONTWRITEBYTECODE is set: every process compiles what it imports anew')
    rows = choose(args.group, args.cases)
    # have the bytecode of both sides written, if it may be
    run_command(('floor.py', 'import', 'trio, msgspec, tractor', '1'), 1)
    if args.quick:
        return shown(measure_quickly(rows, crashes))
    return shown(measure(rows, args.turns, crashes))


if __name__ == '__main__':
    main([])
