"""contract: the annotations of the helpers can be read at run time, on every supported Python."""

from __future__ import annotations

import inspect
import typing
from types import FunctionType

import pytest

from tractor import trionics

FUNCTIONS = [
    value
    for name in trionics.__all__
    if isinstance(value := inspect.unwrap(getattr(trionics, name)), FunctionType)
]
METHODS = [
    value
    for name in trionics.__all__
    if isinstance(cls := getattr(trionics, name), type)
    for value in vars(cls).values()
    if isinstance(value, FunctionType) and '__annotations__' in dir(value)
]


@pytest.mark.parametrize('func', FUNCTIONS + METHODS, ids=lambda func: func.__qualname__)
def test_hints_resolve(func: FunctionType) -> None:
    if func.__module__.startswith('tractor'):
        assert set(typing.get_type_hints(func)) == set(func.__annotations__)


def test_helpers_need_no_actor() -> None:
    """Reads the files: what they import is trio, the standard library, each other, and the log."""
    import ast
    from pathlib import Path

    allowed = {'trio', 'tractor', *__import__('sys').stdlib_module_names}
    for path in Path(trionics.__file__).parent.rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level < 2:
                names = [] if node.level else [node.module or '']
            elif isinstance(node, ast.ImportFrom):
                assert node.module == 'log' or node.module is None, (path, node.lineno)
                continue
            else:
                continue
            assert {name.split('.')[0] for name in names} <= allowed - {'tractor'}, path
