"""
How an interpreter with its own GIL gets extension modules that were not written for it.

This runs before anything else of the package does, and outlives it: it imports the standard library only, and is
loaded by its path, since importing it through the package would import what it is there to load.

| the extension | what is loaded |
|---|---|
| declares support | it, by the stock importer |
| refuses, and its name is in the list of `install()` | a private copy of its file: own static data for each interpreter |
| refuses otherwise | nothing: `ImportError` naming it, and the backends that can |

An extension refuses because its objects lie in static memory, which all interpreters of a process would share. In a
copy of the file, mapped anew, they are this interpreter's own. Its init function is called here, through ctypes: the
stock importer would run the first one in the main interpreter.

| the init function returns | then |
|---|---|
| a module (single-phase) | that is it |
| a `PyModuleDef` (multi-phase) | a module is made from it and executed |
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import BuiltinImporter, ExtensionFileLoader, ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

# a refusal of the stock importer: the text is the only mark it has
_REFUSAL = 'does not support loading in subinterpreters'

# what one module takes from a large one, if that is there, and otherwise, the same things, from the standard library
DONE_WITHOUT: dict[str, str] = {'typing_extensions': 'msgspec._utils'}


class PrivateCopy:
    """
    A copy of an extension's file.

    Args:
        name: the full name of the module.
        path: where the copy is; the file may be gone once it is loaded.
        mark: what the name of its mapping contains, and no other's.
    """

    def __init__(self, name: str, path: str, mark: str) -> None:
        self.name = name
        self.path = path
        self.mark = mark
        self.handle: int | None = None
        self.module: ModuleType | None = None
        self.is_definition = False

    def create(self, spec: ModuleSpec) -> ModuleType:
        """Load it and call its init function."""
        import ctypes

        library = ctypes.PyDLL(self.path)
        self.handle = library._handle
        init = getattr(library, 'PyInit_' + self.name.rpartition('.')[2])
        init.restype = ctypes.py_object
        with _union_type_of_its_own():
            made = init()
        self.is_definition = not isinstance(made, ModuleType)
        self.module = self._from_definition(made, spec) if self.is_definition else made
        return self.module

    def _from_definition(self, definition: Any, spec: ModuleSpec) -> ModuleType:
        import _imp as imp_module
        import ctypes

        _imp: Any = imp_module
        make = ctypes.pythonapi.PyModule_FromDefAndSpec2
        make.argtypes = [ctypes.py_object, ctypes.py_object, ctypes.c_int]
        make.restype = ctypes.py_object
        # it may say that it cannot share a process; the copy does not share anything
        before = _imp._override_multi_interp_extensions_check(-1)
        try:
            module: ModuleType = make(definition, spec, 1013)
        finally:
            _imp._override_multi_interp_extensions_check(before)
        self._definition = definition
        return module

    def execute(self, module: ModuleType) -> None:
        """Run what a module made from a definition leaves for later."""
        if not self.is_definition:
            return
        import ctypes

        run = ctypes.pythonapi.PyModule_ExecDef
        run.argtypes = [ctypes.py_object, ctypes.py_object]
        if run(module, self._definition) != 0:
            raise ImportError(f'the extension module {self.name!r} failed to initialise')

    def span(self) -> tuple[int, int]:
        """The addresses which its data occupies; empty where that cannot be told."""
        try:
            with open('/proc/self/maps', encoding='ascii', errors='replace') as maps:
                lines = [line for line in maps if self.mark in line]
        except OSError:
            return 0, 0
        if not lines:
            return 0, 0
        start = min(int(line.partition('-')[0], 16) for line in lines)
        return start, start + _memory_size(start)


def _memory_size(base: int) -> int:
    """The size of a mapped 64-bit ELF image, up to the end of its last segment, .bss included."""
    import ctypes

    header = ctypes.string_at(base, 64)
    if header[:5] != b'\x7fELF\x02':
        return 0
    (table,) = struct.unpack_from('<Q', header, 32)
    size, count = struct.unpack_from('<HH', header, 54)
    end = 0
    for index in range(count):
        entry = ctypes.string_at(base + table + index * size, size)
        (kind,) = struct.unpack_from('<I', entry)
        address, _, _, in_memory = struct.unpack_from('<QQQQ', entry, 16)
        if kind == 1:
            end = max(end, address + in_memory)
    return end


@contextmanager
def _union_type_of_its_own() -> Iterator[None]:
    """
    While an extension initialises, `types.UnionType` is another type than `typing.Union`.

    Since CPython 3.14 they are one. msgspec up to 0.22 then takes the arguments of a union twice, as those of either,
    and drops them once: each union that it ever looks at would leave a tuple behind.
    """
    import types
    import typing

    real = types.UnionType
    one: Any = typing.Union
    if real is one:
        types.UnionType = type('UnionType', (), {})  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        types.UnionType = real  # type: ignore[misc]


class _Loader:
    """
    Loads one extension module: the stock way, or from a private copy, or with a clear error.

    Args:
        stock: its stock loader.
        copy: its private copy, if it is on the list.
    """

    def __init__(self, stock: Any, copy: PrivateCopy | None) -> None:
        self._stock = stock
        self._copy = copy
        self._is_private = False

    def create_module(self, spec: ModuleSpec) -> Any:
        """Make the module."""
        try:
            return self._stock.create_module(spec)
        except ImportError as refused:
            if _REFUSAL not in str(refused):
                raise
            if self._copy is None:
                raise ImportError(
                    f'the extension module {spec.name!r} does not support sub-interpreters: '
                    "use start_method='trio' for this actor",
                    name=spec.name,
                    path=spec.origin,
                ) from None
        self._is_private = True
        return self._copy.create(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Initialise it."""
        if self._is_private:
            assert self._copy is not None
            self._copy.execute(module)
        else:
            self._stock.exec_module(module)

    def __getattr__(self, name: str) -> Any:
        # resources, file names and the like
        return getattr(self._stock, name)


def _is_being_imported(name: str) -> bool:
    return getattr(getattr(sys.modules.get(name), '__spec__', None), '_initializing', False)


class Finder:
    """
    A stock finder, with a `_Loader` in front of the extension modules which it finds, and what is put off.

    Args:
        stock: the finder.
        copies: the private copies, by module name.
        late: knows what is put off.
    """

    def __init__(self, stock: Any, copies: dict[str, PrivateCopy], late: Any) -> None:
        self._stock = stock
        self._copies = copies
        self._late = late

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Where a module is, or `None`."""
        if name in DONE_WITHOUT and _is_being_imported(DONE_WITHOUT[name]):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
        spec: ModuleSpec | None = self._stock.find_spec(name, path, target)
        if spec is not None:
            stock: Any = spec.loader
            if stock is BuiltinImporter or isinstance(stock, ExtensionFileLoader):
                loader: Any = _Loader(stock, self._copies.get(name))
                spec.loader = loader
            elif stock is not None and self._late is not None and self._late.is_put_off(name):
                spec.loader = self._late.LateLoader(stock)
        return spec

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)


class _Installed:
    """What `install()` has set up in this interpreter."""

    def __init__(self, copies: list[PrivateCopy], packed: Any) -> None:
        self.copies = copies
        self.packed = packed
        self.main = sys.modules['__main__']


# what was set up: one entry, written by `install()` only
_installed: list[_Installed] = []


def install(
    copies: tuple[tuple[str, str, str], ...],
    libraries: tuple[tuple[str, str], ...] = (),
    packed: Any = None,
    late: Any = None,
) -> None:
    """
    From now on extension modules of this interpreter are found as the table above says.

    Args:
        copies: name, path of the copy and mark of each extension that is to be loaded privately if it refuses.
        libraries: name and file of shared libraries, as `ctypes.util.find_library()` has found them before: it
            runs a program for that.
        packed: the finder of modules whose code is at hand (see `_subint_pack.py`).
        late: the module that knows what is put off (`_subint_late.py`); nothing is without it.
    """
    installed = _Installed([PrivateCopy(*copy) for copy in copies], packed)
    by_name = {copy.name: copy for copy in installed.copies}
    for index, finder in enumerate(sys.meta_path):
        if finder in (BuiltinImporter, PathFinder, packed):
            wrapped: Any = Finder(finder, by_name, late)
            sys.meta_path[index] = wrapped
    _installed.append(installed)
    if libraries:
        _know_libraries(dict(libraries))


def _know_libraries(known: dict[str, str]) -> None:
    import ctypes.util

    search = ctypes.util.find_library
    ctypes.util.find_library = lambda name: known.get(name) or search(name)


def loaded_copies() -> list[PrivateCopy]:
    """The copies in use here."""
    return [copy for one in _installed for copy in one.copies if copy.handle is not None]


def close_pack() -> None:
    """Let go of what other interpreters share with this one."""
    for one in _installed:
        if one.packed is not None:
            one.packed.close()


def main_module() -> ModuleType:
    """What `__main__` was before the user's was loaded."""
    return _installed[0].main


def handles() -> list[int]:
    """Handles of the libraries that were loaded; to be closed when the interpreter is gone."""
    return [copy.handle for copy in loaded_copies() if copy.handle is not None]
