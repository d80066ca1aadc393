"""
What the demo prints: plain text, with colours on a terminal.
"""

from __future__ import annotations

import os
import sys
import textwrap
from dataclasses import dataclass, field
from typing import TextIO

_CODES = {'head': '1;36', 'good': '32', 'bad': '1;31', 'dim': '2'}


@dataclass
class Outcome:
    """
    What came of one backend.

    Args:
        backend: its key.
        actors: how many were started, the root not counted.
        boot_ms: until the whole tree was up, divided by the number of actors.
        rpc_us: the median of a call, there and back.
        problems: what was not as it should be; empty if all is well.
        left_over: the processes that were still there afterwards.
        skipped: why it was not run.
    """

    backend: str
    actors: int = 0
    boot_ms: float = 0.0
    rpc_us: float = 0.0
    problems: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    skipped: str = ''

    @property
    def result(self) -> str:
        """One word."""
        if self.skipped:
            return 'skipped'
        return 'FAILED' if self.problems or self.left_over else 'ok'

    def row(self) -> list[str]:
        """Its line of the table."""
        if not self.actors:
            return [self.backend, '-', '-', '-', self.result, str(len(self.left_over))]
        return [
            self.backend,
            str(self.actors),
            f'{self.boot_ms:.1f}' if self.boot_ms else '-',
            f'{self.rpc_us:.0f}' if self.rpc_us else '-',
            self.result,
            str(len(self.left_over)),
        ]


HEADINGS = ['backend', 'actors', 'boot ms/actor', 'RPC us', 'result', 'left-over processes']


class Printer:
    """
    Args:
        out: where to print.
        colours: whether to use any; by default on a terminal, unless `NO_COLOR` is set or it is a dumb one.
    """

    def __init__(self, out: TextIO | None = None, colours: bool | None = None) -> None:
        self.out = out or sys.stdout
        if colours is None:
            env = os.environ
            colours = (
                self.out.isatty() and not env.get('NO_COLOR') and env.get('TERM', 'dumb') != 'dumb'
            )
        self.colours = colours

    def paint(self, text: str, style: str) -> str:
        """The text in a style, if there are colours."""
        return f'\x1b[{_CODES[style]}m{text}\x1b[0m' if self.colours else text

    def line(self, text: str = '', style: str = '') -> None:
        """One line, at once."""
        print(self.paint(text, style) if style else text, file=self.out, flush=True)

    def head(self, text: str) -> None:
        """A heading."""
        self.line()
        self.line(text, 'head')

    def step(self, name: str, text: str, style: str = '') -> None:
        """One step of a tree."""
        self.line(f'  {name:<8} {self.paint(text, style) if style else text}')

    def block(self, text: str, style: str = 'dim') -> None:
        """Several lines, indented."""
        for part in textwrap.indent(text.rstrip('\n'), ' ' * 11).splitlines():
            self.line(part, style)

    def table(self, outcomes: list[Outcome]) -> None:
        """The summary."""
        rows = [outcome.row() for outcome in outcomes]
        widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]

        def aligned(cells: list[str]) -> str:
            first, *rest = (
                cell.ljust(width) if index in (0, 4) else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
            )
            return '  '.join([first, *rest])

        self.line()
        self.line(aligned(HEADINGS), 'head')
        for row, outcome in zip(rows, outcomes, strict=True):
            styles = {'ok': 'good', 'skipped': 'dim', 'FAILED': 'bad'}
            self.line(aligned(row), styles[outcome.result])
