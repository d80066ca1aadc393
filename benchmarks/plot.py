"""The ratios of a run as a picture: a row for each row, on a logarithmic scale, readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby
from typing import Any
from xml.sax.saxutils import escape

from rows import INTERPRETERS, MP, OTHERS, POOL, QUEUE

# tones in the middle, which are seen on white and on black
INK, FAINT = '#7a7a7a', '#7a7a7a55'
FLOOR = 'floor: bare trio and msgspec'
COLOURS = {
    FLOOR: '#1f8fd6',
    MP: '#d9822b',
    QUEUE: '#b8860b',
    POOL: '#3a9d5d',
    INTERPRETERS: '#a06cc8',
}
MISSED = '#d64545'

WIDTH, LABELS, RIGHT = 900, 230, 20
ROW, GROUP, TOP, BOTTOM = 17, 30, 100, 24
LOWEST, HIGHEST = 1 / 64, 64

Figures = dict[str, Any]


def across(ratio: float) -> float:
    """Where a ratio is, from the left."""
    ratio = min(max(ratio, LOWEST), HIGHEST)
    part = math.log(ratio / LOWEST) / math.log(HIGHEST / LOWEST)
    return round(LABELS + part * (WIDTH - LABELS - RIGHT), 1)


def text(x: float, y: float, words: str, more: str = '') -> str:
    """A label."""
    return f'<text x="{x}" y="{y}" {more}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, more: str) -> str:
    """A straight one."""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" {more}/>'


def mark(name: str, x: float, y: float, words: str = '') -> str:
    """The sign of a column; the words show when a pointer is on it."""
    colour = COLOURS[name]
    title = f'<title>{escape(words)}</title>' if words else ''
    if name == FLOOR:
        return f'<circle cx="{x}" cy="{y}" r="4.5" fill="{colour}">{title}</circle>'
    shapes = {
        MP: f'M{x - 3.5} {y - 3.5}h7v7h-7z',
        QUEUE: f'M{x - 3.5} {y - 3.5}l7 7m0 -7l-7 7',
        POOL: f'M{x} {y - 4.5}l4.5 4.5l-4.5 4.5l-4.5 -4.5z',
        INTERPRETERS: f'M{x} {y - 4}l4.5 7.5h-9z',
    }
    return (
        f'<path d="{shapes[name]}" fill="none" stroke="{colour}" stroke-width="1.6">{title}</path>'
    )


def legend(names: list[str]) -> Iterator[str]:
    """What the signs are."""
    yield text(LABELS, 18, 'tractor compared with', 'font-weight="bold"')
    x, y = float(LABELS), 38
    for name in names:
        if x + 7 * len(name) > WIDTH - RIGHT:
            x, y = float(LABELS), y + 18
        yield mark(name, x + 5, y - 4)
        yield text(x + 15, y, name)
        x += 32 + 6.4 * len(name)
    yield line(x + 5, y - 10, x + 5, y + 2, f'stroke="{INK}" stroke-width="2"')
    yield text(x + 13, y, 'target')
    yield text(x + 64, y, 'a name in red: missed', f'fill="{MISSED}"')


def scale(height: float) -> Iterator[str]:
    """The lines behind everything."""
    yield text(LABELS, TOP - 26, '\N{LEFTWARDS ARROW} tractor is faster or smaller')
    yield text(
        WIDTH - RIGHT, TOP - 26, 'slower or larger \N{RIGHTWARDS ARROW}', 'text-anchor="end"'
    )
    for power in range(-6, 7, 2):
        ratio = 2.0**power
        shown = f'{ratio:g}\N{MULTIPLICATION SIGN}' if power >= 0 else f'1/{2**-power}'
        x = across(ratio)
        stroke = f'stroke="{INK}" stroke-width="1.5"' if power == 0 else f'stroke="{FAINT}"'
        yield line(x, TOP, x, height - BOTTOM, stroke)
        for y in (TOP - 6, height - 8):
            yield text(x, y, shown, 'text-anchor="middle"')


def row_marks(row: Figures, y: float) -> Iterator[str]:
    """One row."""
    missed = row['verdict'] == 'MISSED'
    yield text(
        LABELS - 10,
        y + 4,
        row['name'],
        f'text-anchor="end"{f" fill={chr(34)}{MISSED}{chr(34)}" if missed else ""}',
    )
    yield line(LABELS, y, WIDTH - RIGHT, y, f'stroke="{FAINT}" stroke-dasharray="1 4"')
    if row['ratio'] is not None:
        low, high = across(min(row['ratios'])), across(max(row['ratios']))
        yield line(low, y, high, y, f'stroke="{COLOURS[FLOOR]}" stroke-width="2"')
    if row['target'] and row['ratio'] is not None:
        x = across(row['target'])
        yield line(x, y - 6, x, y + 6, f'stroke="{INK}" stroke-width="2"')
    for name, ratio in row['others'].items():
        yield mark(name, across(ratio), y, f'{row["name"]}: {ratio:.2f} x {name}')
    if row['ratio'] is not None:
        yield mark(FLOOR, across(row['ratio']), y, f'{row["name"]}: {row["ratio"]:.2f} x floor')


def as_svg(figures: Figures) -> str:
    """
    Draw the ratios.

    Args:
        figures: what `run.py --json` writes; rows without any ratio are left out.

    Returns:
        A whole document.
    """
    rows = [row for row in figures['rows'] if row['ratio'] is not None]
    y = TOP
    parts = []
    for group, members in groupby(rows, key=lambda row: row['group']):
        parts.append(text(LABELS - 10, y + 19, group, 'text-anchor="end" font-weight="bold"'))
        y += GROUP
        for row in members:
            parts += row_marks(row, y)
            y += ROW
    height = y + BOTTOM
    names = [FLOOR, *(name for name in OTHERS if any(name in row['others'] for row in rows))]
    return '\n'.join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'font-family="sans-serif" font-size="12" fill="{INK}">',
            f'<title>How tractor compares, Python {escape(figures["python"])}</title>',
            *legend(names),
            *scale(height),
            *parts,
            '</svg>\n',
        ]
    )
