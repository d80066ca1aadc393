"""contract: the public names of the package, and what importing it costs."""

import ast
import functools
import importlib
import inspect
import json
import os
import subprocess
import sys
import typing
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import tractor

EXPORTS = {
    'tractor._clustering': ('open_actor_cluster',),
    'tractor._context': ('Context', 'context'),
    'tractor._streaming': ('MsgStream', 'stream'),
    'tractor.discovery._api': ('find_actor', 'get_registry', 'query_actor', 'wait_for_actor'),
    'tractor.runtime._supervise': ('ActorNursery', 'open_nursery'),
    'tractor.runtime._state': (
        'RuntimeVars',
        'current_actor',
        'current_ipc_ctx',
        'debug_mode',
        'get_runtime_vars',
        'is_root_process',
    ),
    'tractor._exceptions': (
        'ContextCancelled',
        'ModuleNotExposed',
        'MsgTypeError',
        'RemoteActorError',
        'TransportClosed',
    ),
    'tractor._root': ('open_root_actor', 'run_daemon'),
    'tractor.ipc._chan': ('Channel',),
    'tractor.runtime._portal': ('Portal',),
    'tractor.runtime._runtime': ('Actor',),
    'tractor.discovery._registry': ('Arbiter', 'Registrar'),
}
"""Public names by the module that defines them."""

HOMES = {name: home for home, names in EXPORTS.items() for name in names}

SUBMODULES = (
    'log',
    'ipc',
    'msg',
    'trionics',
    'runtime',
    'discovery',
    'spawn',
    '_exceptions',
    'runtime._state',
    'runtime._portal',
    'runtime._runtime',
    'runtime._rpc',
    'runtime._supervise',
)
"""What a bare `import tractor` makes reachable by attributes."""

LAZY = ('asyncio', 'bidict', 'colorlog', 'multiaddr', 'wrapt', 'platformdirs', 'pdbp')
"""What it must not load."""

ROOT = Path(tractor.__file__).parents[1]


@functools.cache
def fresh(code):
    """Run `code` in a new interpreter; return what it prints, read as JSON."""
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'PYTHONPATH': path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- names


@pytest.mark.parametrize('name', sorted(HOMES))
def test_public_name_comes_from_its_module(name):
    value = getattr(tractor, name)
    assert value is getattr(importlib.import_module(HOMES[name]), name)
    assert value.__module__ == HOMES[name]


def test_arbiter_is_an_alias():
    assert tractor.Arbiter is tractor.Registrar
    runtime = importlib.import_module('tractor.runtime._runtime')
    assert (runtime.Registrar, runtime.Arbiter) == (tractor.Registrar, tractor.Registrar)


def test_all_names_every_public_global():
    assert {*HOMES, 'msg'} <= set(tractor.__all__)
    assert len(tractor.__all__) == len(set(tractor.__all__))
    public = {
        name
        for name, value in vars(tractor).items()
        if not name.startswith('_') and not isinstance(value, ModuleType)
    }
    assert public - set(tractor.__all__) <= {'annotations'}


def test_dir_is_sorted_and_has_all():
    assert dir(tractor) == sorted({*vars(tractor), *tractor.__all__})


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match='no_such_name'):
        _ = tractor.no_such_name


def test_bare_import_binds_the_submodules():
    code = (
        'import functools, json, tractor\n'
        f'for path in {SUBMODULES!r}:\n'
        '    module = functools.reduce(getattr, path.split("."), tractor)\n'
        '    assert module.__name__ == "tractor." + path, module\n'
        'print(json.dumps(True))'
    )
    assert fresh(code) is True


# --- cost of the import


@pytest.mark.parametrize('name', LAZY)
def test_import_does_not_load(name):
    assert name not in fresh('import json, sys, tractor; print(json.dumps(sorted(sys.modules)))')


def test_import_leaves_to_asyncio_for_later():
    code = 'import json, sys, tractor; print(json.dumps("tractor.to_asyncio" in sys.modules))'
    assert fresh(code) is False


# --- documentation and types


def described(name):
    """Return a public name with the public functions of it, if it is a class of ours."""
    value = getattr(tractor, name)
    yield name, value
    if inspect.isclass(value):
        for attr, member in vars(value).items():
            plain = member.fget if isinstance(member, property) else member
            plain = getattr(plain, '__func__', plain)
            if isinstance(plain, FunctionType) and not attr.startswith('_'):
                yield f'{name}.{attr}', plain


@pytest.mark.parametrize('name', sorted(HOMES))
def test_public_name_has_a_docstring(name):
    missing = [path for path, value in described(name) if not (value.__doc__ or '').strip()]
    assert not missing


@functools.cache
def names_for_checkers(module_name):
    """Return what a module imports for type checkers only, by the name it uses."""
    module = importlib.import_module(module_name)
    tree = ast.parse(inspect.getsource(module))
    names = {}
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith('TYPE_CHECKING'):
            imports = [n for n in node.body if isinstance(n, ast.Import | ast.ImportFrom)]
            code = compile(ast.Module(imports, []), module_name, 'exec')
            scope = {'__package__': module.__package__ or module_name}
            exec(code, scope)
            names.update(scope)
    return names


@pytest.mark.parametrize('name', sorted(HOMES))
def test_annotations_of_public_name_name_real_things(name):
    for path, value in described(name):
        # what travels through a decorator keeps the namespace of the function below it
        inner = inspect.unwrap(value)
        scope = {}
        for owner in getattr(inner, '__mro__', (inner,)):
            if owner.__module__.startswith('tractor'):
                scope.update(names_for_checkers(owner.__module__))
        hints = typing.get_type_hints(inner, localns=scope)
        if isinstance(inner, FunctionType):
            assert set(hints) == set(inner.__annotations__), path


@pytest.mark.parametrize('name', sorted(HOMES))
def test_public_functions_are_annotated(name):
    bare = [
        f'{path}({parameter.name})'
        for path, value in described(name)
        if isinstance(inner := inspect.unwrap(value), FunctionType)
        for parameter in inspect.signature(inner).parameters.values()
        if parameter.annotation is inspect.Parameter.empty and parameter.name not in ('self', 'cls')
    ]
    assert not bare


def test_lazily_imported_types_resolve_without_their_package():
    code = """
import json, sys, typing, tractor
from tractor.discovery import _addr, _multiaddr
from tractor.ipc import _tcp, _uds
hint = typing.get_type_hints
found = [
    hint(_multiaddr.mk_maddr)['return'] is typing.Any,
    hint(_tcp.MsgpackTCPStream.maddr.fget)['return'] is typing.Any,
    hint(_uds.MsgpackUDSStream.maddr.fget)['return'] == typing.Any | str,
    hint(_addr.Address.get_random)['current_actor'] is typing.Any,
    _addr.__annotations__['_address_types'].startswith('dict'),
    'multiaddr' not in sys.modules,
    'bidict' not in sys.modules,
]
print(json.dumps(found))
"""
    assert fresh(code) == [True] * 7
