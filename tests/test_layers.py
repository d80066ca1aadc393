"""contract: the layers of the package: who may import whom, who writes which global.

Reads the files only; nothing of the package is imported.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = 'tractor'

# --- what is enforced

LAYERS: dict[int, tuple[str, ...]] = {
    # the packages that import nothing by themselves are at the bottom, too
    0: (
        '_exceptions',
        '_log_console',
        '_logspec',
        'log',
        '_code_load',
        'trionics.*',
        'devx.pformat',
        'runtime',
        'spawn',
        # replaying a main module needs nothing of the runtime
        'spawn._mp_fixup_main',
    ),
    1: (
        'msg.*',
        'discovery',
        'discovery._addr',
        'discovery._multiaddr',
        'runtime._state',
        'runtime._rtdir',
    ),
    2: ('ipc.*',),
    3: ('_context', '_streaming', 'runtime.*', 'to_asyncio', '_aio.*'),
    4: (
        'runtime._supervise',
        'spawn.*',
        'discovery._api',
        'discovery._registry',
        '_child',
    ),
    5: ('', '_root', '_clustering', 'to_actor', 'experimental.*', 'devx.*'),
    6: ('_testing.*', 'devx.cli', 'demo.*'),
}
"""Modules by layer, relative to the package; `x.*` is a package with all in it unless named
elsewhere, `''` the package's own surface. A module may import from its own layer and below."""

FOREIGN_WRITES = {
    'tractor.runtime._state': {
        '_def_tpt_proto',
        '_current_actor',
        '_last_actor_terminated',
        '_runtime_vars',
    },
    'tractor.spawn._spawn': {'_spawn_method', '_ctx'},
    'tractor.log': {'_default_loglevel'},
}
"""Module globals that applications are documented to assign from outside."""

# --- reading


class Import(NamedTuple):
    """One imported module, as seen in the file of another."""

    target: str
    line: int
    at_load: bool
    """Whether it happens when the importing module is loaded, not in a function."""


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding='utf-8'), str(path))


@cache
def modules() -> dict[str, Path]:
    """Return the files of the package by the name of their module."""
    return {module_name(path): path for path in sorted((ROOT / PACKAGE).rglob('*.py'))}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and (
        (isinstance(node.test, ast.Name) and node.test.id == 'TYPE_CHECKING')
        or (isinstance(node.test, ast.Attribute) and node.test.attr == 'TYPE_CHECKING')
    )


def running_nodes(node: ast.AST, at_load: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Yield all nodes that can run, i.e. not those for type checkers, and whether on loading."""
    if is_type_checking(node):
        assert isinstance(node, ast.If)
        children: list[ast.stmt] | Iterator[ast.AST] = node.orelse
    else:
        yield node, at_load
        children = ast.iter_child_nodes(node)
    in_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in children:
        yield from running_nodes(child, at_load and not in_function)


def imports_of(name: str, known: set[str], path: Path, tree: ast.Module) -> Iterator[Import]:
    """Yield the modules of the package that module `name` imports, the most specific ones."""
    package = name if path.name == '__init__.py' else name.rpartition('.')[0]
    for node, at_load in running_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split('.')[0] == PACKAGE:
                    yield Import(alias.name, node.lineno, at_load)
        elif isinstance(node, ast.ImportFrom):
            base = resolve(node, package)
            if base.split('.')[0] == PACKAGE:
                for alias in node.names:
                    full = f'{base}.{alias.name}'
                    yield Import(full if full in known else base, node.lineno, at_load)


def resolve(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ''
    parts = package.split('.')
    parts = parts[: len(parts) - node.level + 1]
    return '.'.join([*parts, *([node.module] if node.module else [])])


def layer_of(name: str) -> int | None:
    """Return the layer of a module, by its own entry or the closest `x.*` around it."""
    inner = name.removeprefix(PACKAGE).removeprefix('.')
    entries = {entry: layer for layer, names in LAYERS.items() for entry in names}
    if inner in entries:
        return entries[inner]
    while inner:
        if f'{inner}.*' in entries:
            return entries[f'{inner}.*']
        inner = inner.rpartition('.')[0]
    return None


def upward(name: str, known: set[str], path: Path, tree: ast.Module) -> list[str]:
    own = layer_of(name)
    return [
        f'{path.name}:{found.line}: {name} (layer {own}) imports {found.target} (layer {theirs})'
        for found in imports_of(name, known, path, tree)
        if own is not None and (theirs := layer_of(found.target)) is not None and theirs > own
    ]


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return, for each knot of modules that import each other, one cycle through it."""
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        if name in trail:
            found.append([*trail[trail.index(name) :], name])
            return
        if name in done:
            return
        for target in sorted(graph.get(name, ())):
            visit(target, [*trail, name])
        done.add(name)

    for name in sorted(graph):
        visit(name, [])
    return found


# --- the imports


def test_every_module_has_a_layer():
    missing = [name for name in modules() if layer_of(name) is None]
    assert not missing, f'add to LAYERS in {__file__} where these belong: {missing}'


def test_imports_go_down_only():
    known = set(modules())
    wrong = {
        line: None
        for name, path in modules().items()
        for line in upward(name, known, path, tree_of(path))
    }
    assert not wrong, '\n'.join([*wrong, 'pass a hook down, or move what both need into a lower'])


def test_no_import_cycles():
    # a package's `__init__` gathers its modules, which import siblings through it
    plain = {name for name, path in modules().items() if path.name != '__init__.py'}
    graph = {
        name: {
            found.target
            for found in imports_of(name, set(modules()), path, tree_of(path))
            if found.at_load and found.target in plain
        }
        for name, path in modules().items()
        if name in plain
    }
    assert not cycles(graph), [' -> '.join(cycle) for cycle in cycles(graph)]


# --- module globals


def foreign_writes(name: str, known: set[str], path: Path, tree: ast.Module) -> Iterator[str]:
    """Yield the assignments in module `name` to globals of other modules of the package."""
    package = name if path.name == '__init__.py' else name.rpartition('.')[0]
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases.update({a.asname or a.name: a.name for a in node.names if a.name in known})
        elif isinstance(node, ast.ImportFrom):
            base = resolve(node, package)
            full = {a.asname or a.name: f'{base}.{a.name}' for a in node.names}
            aliases.update({short: long for short, long in full.items() if long in known})
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            owner = aliases.get(ast.unparse(node.value))
            if owner and owner != name and node.attr not in FOREIGN_WRITES.get(owner, ()):
                yield f'{path.name}:{node.lineno}: {name} writes {owner}.{node.attr}'


def test_globals_have_one_writer():
    known = set(modules())
    wrong = [
        line
        for name, path in modules().items()
        for line in foreign_writes(name, known, path, tree_of(path))
    ]
    assert not wrong, '\n'.join([*wrong, 'give the owner a function that sets it'])


# --- the checks themselves

KNOWN = {'tractor', 'tractor.log', 'tractor.ipc', 'tractor.ipc._chan', 'tractor._root'}


@pytest.mark.parametrize(
    ('source', 'found'),
    [
        ('from tractor import _root', True),
        ('def f():\n    from tractor._root import open_root_actor', True),
        ('def f():\n    import tractor', True),
        ('from .. import _root', True),
        ('from ._server import x\nfrom ..log import get_logger', False),
        ('if TYPE_CHECKING:\n    from tractor import _root', False),
        ('if typing.TYPE_CHECKING:\n    pass\nelse:\n    from tractor import _root', True),
        ('import trio\nfrom tractor import log', False),
    ],
)
def test_upward_imports_are_found(source, found):
    path = ROOT / 'tractor/ipc/_chan.py'
    assert bool(upward('tractor.ipc._chan', KNOWN, path, ast.parse(source))) is found


def test_cycles_are_found():
    assert cycles({'a': {'b'}, 'b': {'c'}, 'c': {'b'}}) == [['b', 'c', 'b']]
    assert not cycles({'a': {'b', 'c'}, 'b': {'c'}, 'c': set()})


@pytest.mark.parametrize(
    ('source', 'found'),
    [
        ('from tractor import log\nlog.other = 1', True),
        ('import tractor.log\ntractor.log.other += 1', True),
        ('from tractor import log\nlog._default_loglevel = 1', False),
        ('log = object()\nlog.other = 1', False),
    ],
)
def test_foreign_writes_are_found(source, found):
    path = ROOT / 'tractor/_root.py'
    writes = list(foreign_writes('tractor._root', KNOWN, path, ast.parse(source)))
    assert bool(writes) is found
