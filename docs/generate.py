"""
Write the tables of the documentation which the source holds already into `docs/_generated/`.

    python docs/generate.py

The transitions of a dialog come from the data of `tractor.runtime._dialog`, the others from tables in docstrings,
found by their head row wherever they are. `tests/test_docs.py` tells when the files are not current.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / 'docs' / '_generated'

Rows = list[list[str]]

# file name -> how the head row of a table in some docstring of the package begins
TABLES: dict[str, str] = {
    'block_exit': '| step | what |',
    'broadcast': '| the receiving task | the others, waiting |',
    'child_states': '| state | ends when | then |',
    'ladder': '| step | how | next step after |',
    'actor_cancel': '| cancellation',
    'actor_phases': '| phase | what is done | what may fail |',
    'call_endings': '| ending of a call | what the caller gets |',
    'call_kinds': '| kind | answers | when cancelled |',
    'context_exit': '| the body was left by | then | propagates |',
    'exit_codes': '| child ends by | exit code |',
    'payload_types': '| declared by | arguments |',
    'linked_channel': '| how it ended | trio: `receive()`',
    'linked_ends': '| exception | raised in | meaning |',
    'linked_exit': '| the body | the asyncio task | leaves the block |',
    'loss': '| dialog | the connection was lost | this side closed it |',
    'registrar_link': '| link to a registrar |',
    'routing': '| message | goes to |',
    'shared_resource': '| entry | users | a task that comes |',
    'stream_endings': '| how it ends | `receive()` | `send()` |',
}

DIALOG_ROLES: dict[str, str] = {
    'REQUESTER': 'The side that sent the ``Start``, of a call or a context',
    'CANCELLER': 'The side that sent the ``Start`` of a request for cancellation',
    'RESPONDER': 'The side that runs the function',
}


# -- reading --------------------------------------------------------------------------------------------------------


def docstring_tables() -> dict[str, Rows]:
    """All tables in docstrings of the package, the bodies by head row."""
    found: dict[str, Rows] = {}
    for path in sorted((ROOT / 'tractor').rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found.update(tables_in(ast.get_docstring(node) or ''))
    return found


def tables_in(text: str) -> dict[str, Rows]:
    """The tables of one docstring."""
    found: dict[str, Rows] = {}
    rows: Rows | None = None
    lines = text.splitlines()
    for line, following in itertools.zip_longest(lines, lines[1:], fillvalue=''):
        if not line.startswith('|'):
            rows = None
        elif rows is not None:
            if not line.startswith('|-'):
                rows.append(cells(line))
        elif following.startswith('|-'):
            rows = found[line.strip()] = []
    return found


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip('|').split('|')]


def dialog_module() -> Any:
    """`tractor.runtime._dialog` of this checkout."""
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module('tractor.runtime._dialog')
    finally:
        sys.path.remove(str(ROOT))


# -- writing --------------------------------------------------------------------------------------------------------


def list_table(head: list[str], body: Rows, stub: bool = False) -> str:
    """A table as reStructuredText."""
    lines = ['.. list-table::', '   :header-rows: 1']
    if stub:
        lines.append('   :stub-columns: 1')
    lines.append('')
    for row in [head, *body]:
        for index, cell in enumerate(row):
            lines.append(f'   {"-" if index else "* -"} {as_rst(cell)}'.replace('   - ', '     - '))
    return '\n'.join(lines) + '\n'


def as_rst(text: str) -> str:
    return text.replace('``', '`').replace('`', '``').replace('*', '\\*')


def dialog_text(dialog: Any) -> str:
    """The transition tables of a dialog, one for each side."""
    parts = []
    for name, title in DIALOG_ROLES.items():
        table = getattr(dialog, name, None)
        if table is None:
            continue
        kinds = [kind for kind in dialog.MESSAGES if any(key[1] is kind for key in table)]
        phases = list(dict.fromkeys(phase for phase, _ in table))
        body = [[phase, *(_step(table, phase, kind, dialog) for kind in kinds)] for phase in phases]
        head = ['phase', *(kind.__name__ for kind in kinds)]
        parts.append(f'{title}:\n\n{list_table(head, body, stub=True)}')
    return '\n'.join(parts)


def _step(table: dict[Any, tuple[str, str]], phase: str, kind: type, dialog: Any) -> str:
    step = table.get((phase, kind))
    if step is None:
        return dialog.ILLEGAL
    after, action = step
    return action if after == phase else f'{action} → {after}'


def render() -> dict[str, str]:
    """All files by name."""
    tables = docstring_tables()
    files = {}
    for name, begins in TABLES.items():
        head = next((head for head in tables if head.startswith(begins)), None)
        if head is None:
            raise SystemExit(
                f'no docstring of the package has a table that begins with {begins!r}: '
                'put the present one into TABLES of docs/generate.py'
            )
        files[f'{name}.rst'] = list_table(cells(head), tables[head])
    files['dialog.rst'] = dialog_text(dialog_module())
    return files


def main() -> None:
    TARGET.mkdir(exist_ok=True)
    files = render()
    for path in TARGET.glob('*.rst'):
        if path.name not in files:
            path.unlink()
    for name, text in files.items():
        (TARGET / name).write_text(text, encoding='utf-8')


if __name__ == '__main__':
    main()
