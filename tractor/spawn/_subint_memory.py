"""
An interpreter gives its memory back: the very last code that runs in it.

What the static types of a private copy (see `_subint_loader.py`) own is on no list that the interpreter clears at its
end, and an interpreter with one block of memory left keeps its whole allocator (about 5 MiB). `give_back()` frees it
by hand. All it relies on is checked first; when in doubt it does nothing, and the memory is lost.

Loaded by its path, like the loader: by now nothing else of the package is left.
"""

from __future__ import annotations

import gc
import os
import sys
from types import ModuleType
from typing import Any

loader: Any = sys.modules['tractor.spawn._subint_loader']

# 64-bit `PyTypeObject`, CPython 3.12 to 3.14 (Include/cpython/object.h): bytes to what a static type owns
_TP_DICT, _TP_BASES, _TP_MRO, _TP_CACHE = 264, 336, 344, 352

# what imports need to the end
_IMPORTERS: frozenset[str] = frozenset(
    {loader.__name__, 'tractor.spawn._subint_late', 'tractor.spawn._subint_pack'}
)

# references to modules which the init function of an extension keeps and never drops, by name and version
_KEPT_MODULES: dict[tuple[str, str], tuple[str, ...]] = {
    ('msgspec._core', '0.20'): ('uuid', 'decimal'),
    ('msgspec._core', '0.21'): ('uuid', 'decimal'),
    ('msgspec._core', '0.22'): ('uuid', 'decimal'),
}


def give_back() -> str:
    """
    Free what the private copies own: the very last thing that is done in an interpreter.

    Returns:
        Why that was not possible; empty if it was.
    """
    copies = loader.loaded_copies()
    versions = {copy.name: _version_of(copy.name) for copy in copies}
    loader.close_pack()
    _drop_modules()
    for copy in copies:
        doubt = _give_back_copy(copy, versions[copy.name])
        if doubt:
            return f'{copy.name}: {doubt}'
    return ''


def _version_of(name: str) -> str:
    package = sys.modules.get(name.partition('.')[0])
    return '.'.join(str(getattr(package, '__version__', '')).split('.')[:2])


def _drop_modules() -> None:
    """Drop all modules but those of the standard library, and what that remembers of them."""
    sys.modules['__main__'] = loader.main_module()
    sys.meta_path[:] = [finder for finder in sys.meta_path if isinstance(finder, loader.Finder)]
    keep = sys.stdlib_module_names | {'__main__'}
    names = [
        name
        for name in sys.modules
        if name.partition('.')[0] not in keep and name not in _IMPORTERS
    ]
    dropped = [sys.modules.pop(name) for name in names]
    contents = [module.__dict__ for module in dropped if isinstance(module, ModuleType)]
    dropped.clear()
    if (typing := sys.modules.get('typing')) is not None:
        typing.clear_overloads()
        for clear_cache in typing._cleanups:
            clear_cache()
    _collect()
    # a function that something still holds needs no globals any more
    for content in contents:
        content.clear()
    contents.clear()
    _collect()


def _collect() -> None:
    # what has a finalizer goes in a later pass than that which calls it
    for _ in range(5):
        if not gc.collect():
            return


def _give_back_copy(copy: loader.PrivateCopy, version: str) -> str:
    start, end = copy.span()
    if start == end:
        return 'its place in memory is not known'
    kept = _KEPT_MODULES.get((copy.name, version))
    if kept is None:
        return f'what its version {version!r} keeps is not known'
    _clear_caches(copy)
    static = _static_types(start, end)
    doubt = _doubt(static, start, end)
    if doubt:
        return doubt
    _strip(static)
    _drop_references(kept)
    return ''


def _clear_caches(copy: loader.PrivateCopy) -> None:
    """Empty the dicts in the C state of a module, which keep types of the user's alive."""
    assert copy.module is not None
    for owned in gc.get_referents(copy.module):
        if isinstance(owned, dict):
            owned.clear()
    copy.module = None
    _collect()


def _static_types(start: int, end: int) -> list[int]:
    """Addresses of the types that lie in a copy."""
    found: dict[int, None] = {}
    seen: set[int] = set()
    stack: list[type] = [object, type]
    while stack:
        subclasses: list[type] = type.__subclasses__(stack.pop())
        for sub in subclasses:
            if id(sub) in seen:
                continue
            seen.add(id(sub))
            stack.append(sub)
            if start <= id(sub) < end:
                found[id(sub)] = None
    return list(found)


def _doubt(static: list[int], start: int, end: int) -> str:
    """What speaks against freeing what these types own; empty if nothing does."""
    import ctypes

    def word(address: int) -> int | None:
        return ctypes.c_void_p.from_address(address).value

    if not static:
        return 'it has no static types'
    for address in static:
        kind: type = ctypes.cast(address, ctypes.py_object).value
        # one level of heap types is made by the extension itself, those below are the user's
        subclasses: list[type] = type.__subclasses__(kind)
        for sub in subclasses:
            users: list[type] = type.__subclasses__(sub)
            if users and not start <= id(sub) < end:
                return f'{kind!r} still has {len(users)} subclasses, {users[0]!r} for one'
        (own,) = gc.get_referents(kind.__dict__)
        expected = (id(own), id(kind.__bases__), id(kind.__mro__))
        if (
            word(address + _TP_DICT),
            word(address + _TP_BASES),
            word(address + _TP_MRO),
        ) != expected:
            return f'{kind!r} is not laid out as expected'
    alive = [
        one
        for one in gc.get_objects()
        if start <= id(type(one)) < end and not isinstance(one, type)
    ]
    if alive:
        return f'{len(alive)} of its objects are alive, {type(alive[0]).__name__!r} for one'
    return ''


def _strip(static: list[int]) -> None:
    import ctypes

    pointer = ctypes.c_void_p.from_address
    drop = ctypes.pythonapi.Py_DecRef
    drop.argtypes = [ctypes.c_void_p]
    for address in static:
        ctypes.cast(pointer(address + _TP_DICT).value or 0, ctypes.py_object).value.clear()
    gc.collect()
    for address in static:
        for offset in (_TP_DICT, _TP_BASES, _TP_MRO, _TP_CACHE):
            owned = pointer(address + offset)
            if value := owned.value:
                owned.value = None
                drop(value)


def _drop_references(names: tuple[str, ...]) -> None:
    import ctypes

    drop = ctypes.pythonapi.Py_DecRef
    drop.argtypes = [ctypes.c_void_p]
    for name in names:
        module = sys.modules.get(name)
        if module is not None:
            drop(id(module))


def finish(report_to: int) -> None:
    """
    Give back what can be, and report it: the last call into this interpreter.

    Args:
        report_to: a file descriptor.
    """
    facts = {'handles': loader.handles(), 'leak': ''}
    try:
        facts['leak'] = give_back()
    except Exception as err:  # noqa: BLE001 - memory that is not given back is lost, no more
        facts['leak'] = f'{type(err).__name__}: {err}'
    os.write(report_to, (repr(facts) + '\n').encode('utf-8', 'backslashreplace'))
