"""
Modules which an interpreter loads when something in them is asked for.

Nine tenths of the time and most of the memory of an idle actor are imports, and much of what trio imports an actor
seldom needs.

| put off | asked for by | then |
|---|---|---|
| `MODULES` | `import module`, and later `module.name` | it loads itself |
| `NAMES` | `from module import name`, at the top of its package, and later `package.name` | it loads, and fills the name in |

Between the import of a package and `settle()` such a name stands for nothing that could be used.

Loaded by its path, before anything else of the package; it imports the standard library only.
"""

from __future__ import annotations

import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# what the imports of trio and msgspec load for a few of their functions only
MODULES: frozenset[str] = frozenset(
    {
        *('ssl', 'subprocess', 'shutil', 'tempfile', 'idna', 'hashlib', 'hmac', 'tokenize'),
        *('traceback', 'msgspec.inspect', 'msgspec.json', 'msgspec.toml', 'msgspec.yaml'),
    }
)

# what trio offers in its own name, by the module that takes it from there
NAMES: dict[str, frozenset[str]] = {
    'trio._dtls': frozenset({'trio'}),
    'trio._file_io': frozenset({'trio'}),
    'trio._highlevel_ssl_helpers': frozenset({'trio'}),
    'trio._path': frozenset({'trio'}),
    'trio._ssl': frozenset({'trio'}),
    'trio._subprocess': frozenset({'trio', 'trio.lowlevel'}),
}

# the same, until `settle()`
_takers: dict[str, frozenset[str]] = dict(NAMES)

_IMPORT_NAMES: frozenset[str] = frozenset({'__path__', '__file__', '__cached__', '__loader__'})

_lock = threading.RLock()


class _Missing:
    """
    Stands for a name until `settle()`.

    Args:
        module: where it will come from.
    """

    def __init__(self, module: _LateModule) -> None:
        self.module = module


class _LateModule(ModuleType):
    """A module that is executed when something in it is asked for."""

    def __getattr__(self, name: str) -> Any:
        # the import system looks whether these are there
        if name in _IMPORT_NAMES:
            raise AttributeError(name)
        spec: Any = self.__spec__
        takers = _takers.get(spec.name)
        if takers and spec.loader_state == 'put off':
            asking = sys._getframe(1)
            at_top = asking.f_locals is asking.f_globals
            if at_top and asking.f_globals.get('__name__') in takers:
                return _Missing(self)
        with _lock:
            if spec.loader_state == 'put off':
                spec.loader_state = 'loading'
                try:
                    spec.loader.stock.exec_module(self)
                except BaseException:
                    spec.loader_state = 'put off'
                    raise
                spec.loader_state = None
                spec.loader = spec.loader.stock
                self.__class__ = ModuleType  # type: ignore[assignment]
        return ModuleType.__getattribute__(self, name)

    def __dir__(self) -> Any:
        # any name will do to have it loaded
        getattr(self, '__annotate__', None)
        return ModuleType.__dir__(self)


class LateLoader:
    """
    Makes modules of that kind.

    Args:
        stock: the loader that will execute it.
    """

    def __init__(self, stock: Any) -> None:
        self.stock = stock

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """One that holds nothing yet."""
        spec.loader_state = 'put off'
        return _LateModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Later."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stock, name)


def is_put_off(name: str) -> bool:
    """Whether a module is one of those."""
    return name in MODULES or name in NAMES


def settle() -> None:
    """From now on the names that are missing are filled in when they are asked for."""
    _takers.clear()
    for taker in frozenset().union(*NAMES.values()):
        module = sys.modules.get(taker)
        if module is not None:
            _settle(module)


def _settle(taker: ModuleType) -> None:
    missing = {
        name: value.module for name, value in vars(taker).items() if isinstance(value, _Missing)
    }
    for name in missing:
        delattr(taker, name)

    def get_missing(name: str) -> Any:
        if name not in missing:
            raise AttributeError(f'module {taker.__name__!r} has no attribute {name!r}')
        value = getattr(missing[name], name)
        # as the package does with all of its names
        sys.modules['trio._util'].fixup_module_metadata(taker.__name__, {name: value})
        return vars(taker).setdefault(name, value)

    def list_names() -> list[str]:
        return sorted({*vars(taker), *missing} - {'__getattr__', '__dir__'})

    if missing:
        # what `from package import *` takes
        public = [name for name in list_names() if not name.startswith('_')]
        vars(taker).setdefault('__all__', public)
        vars(taker).update(__getattr__=get_missing, __dir__=list_names)
