"""
The code of modules, read once for all interpreters of a process.

A sub-interpreter loads about 230 modules before it can be an actor, all of which the main interpreter has. To look
for each in every folder, read its cache file and check that against its source takes a fifth of a new one's CPU time,
so it is done once, for what the main interpreter runs itself; the bytes are shared, and unmarshalled in place.

| the module | in a new interpreter |
|---|---|
| of the standard library or of `PACKED`, with a valid cache file | comes from the pack |
| anything else: the user's, extensions, what the main interpreter has not loaded | is found by the stock finders |

| the pack | when | holds |
|---|---|---|
| first | an interpreter is started | what the main interpreter has loaded |
| lean | the first spare is ready, which makes it | what that has loaded, with empty docstrings: 1 MiB less in each actor |

A module that the main interpreter loaded from elsewhere than usual comes from there, as it should. An edit of a packed
file has no effect on new interpreters: they run what the program runs.

Loaded by its path in a sub-interpreter, like the loader; it imports the standard library only.
"""

from __future__ import annotations

import _thread
import marshal
import os
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import MAGIC_NUMBER

# what is imported here is loaded without a pack
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    # the module's name, its code, its source, its cache file, whether it is a package
    Entry = tuple[str, bytes, str, str, bool]
    # by module name: where its code starts and ends, and the rest
    Index = dict[str, tuple[int, int, str, str, bool]]

# the packages which the runtime is made of
PACKED: frozenset[str] = frozenset(
    {
        *('attr', 'attrs', 'idna', 'msgspec', 'outcome', 'sniffio', 'sortedcontainers'),
        *('tractor', 'trio'),
    }
)

# of a cache file (PEP 552): magic number, flags, time and size of the source
_HEADER: int = 16

# of a pack: the size of its index; then come the index and the code objects, in marshal format
_SIZE: int = 8

# of this interpreter: made here, or what it was given; then the lean one
_pack: list[bytes | memoryview] = []
_lock = _thread.allocate_lock()
# whether somebody has been told to make that
_is_ordered: list[bool] = []


def pack() -> memoryview:
    """
    The pack for a new interpreter, made when it is first asked for.

    It stays as it is, and shares its memory with every interpreter that has it.
    """
    with _lock:
        if not _pack:
            _pack.append(_build())
    return memoryview(_pack[-1])


def order_lean() -> bool:
    """Whether the caller shall have a lean pack made; true once."""
    with _lock:
        if _is_ordered:
            return False
        _is_ordered.append(True)
        return True


def take_lean(packed: bytes) -> None:
    """Use this one from now on, as `_subint_lean.make()` has made it."""
    with _lock:
        _pack.append(packed)
        del _pack[:-1]


def install(given: memoryview) -> PackFinder:
    """
    From now on this interpreter takes its modules from a pack, as far as they are in it.

    Args:
        given: what `pack()` has returned in the interpreter that made this one.

    Returns:
        The finder that does it.
    """
    _pack.append(given)
    finder = PackFinder(given)
    first: Any = finder
    sys.meta_path.insert(0, first)
    return finder


def _build() -> bytes:
    """Pack what this interpreter has loaded of the standard library and of `PACKED`."""
    return join(_loaded())


def _loaded() -> Iterator[Entry]:
    ours = sys.stdlib_module_names | PACKED
    # other threads may import meanwhile
    for name, module in list(sys.modules.items()):
        spec = getattr(module, '__spec__', None)
        if spec is None or spec.name != name or name.partition('.')[0] not in ours:
            continue
        if type(spec.loader) is not SourceFileLoader or not spec.origin or not spec.cached:
            continue
        code = _read(spec.origin, spec.cached)
        if code:
            is_package = spec.submodule_search_locations is not None
            yield name, code, spec.origin, spec.cached, is_package


def join(entries: Iterable[Entry]) -> bytes:
    """Make a pack of these."""
    parts: list[bytes] = []
    index: Index = {}
    start = 0
    for name, code, source, cached, is_package in entries:
        end = start + len(code)
        index[name] = (start, end, source, cached, is_package)
        parts.append(code)
        start = end
    head = marshal.dumps(index)
    return b''.join((len(head).to_bytes(_SIZE, 'little'), head, *parts))


def split(packed: memoryview) -> tuple[Index, memoryview]:
    """The two parts of a pack: its index, and the code it is about."""
    end = _SIZE + int.from_bytes(packed[:_SIZE], 'little')
    return marshal.loads(packed[_SIZE:end]), packed[end:]


def _read(source: str, cached: str) -> bytes:
    """The marshalled code in a cache file; nothing if it is not known to be that of the source as it is."""
    try:
        with open(cached, 'rb') as file:
            data = file.read()
        found = os.stat(source)
    except OSError:
        return b''
    stamp = b''.join(
        number.to_bytes(4, 'little')
        for number in (0, int(found.st_mtime) & 0xFFFFFFFF, found.st_size & 0xFFFFFFFF)
    )
    return data[_HEADER:] if data[:_HEADER] == MAGIC_NUMBER + stamp else b''


class PackedLoader(SourceFileLoader):
    """
    Loads a module from the pack, once; what else is asked of it is answered from its files.

    Args:
        name: the module's.
        path: its source.
        finder: has the pack.
        span: where its marshalled code starts and ends there.
    """

    def __init__(self, name: str, path: str, finder: PackFinder, span: tuple[int, int]) -> None:
        super().__init__(name, path)
        self._finder: PackFinder | None = finder
        self._span = span

    def get_code(self, fullname: str) -> Any:
        """The module's code object."""
        finder, self._finder = self._finder, None
        if finder is None or finder.code is None:
            return super().get_code(fullname)
        return marshal.loads(finder.code[slice(*self._span)])


class PackFinder:
    """
    Finds the modules of a pack, each once: a module that is loaded again comes from its file.

    Args:
        packed: what `pack()` has returned, in the interpreter that made this one.
    """

    def __init__(self, packed: memoryview) -> None:
        index, code = split(packed)
        self._index = index
        self.code: memoryview | None = code

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """Where a module is, or `None`."""
        entry = self._index.pop(name, None)
        if entry is None:
            return None
        start, end, origin, cached, is_package = entry
        loader = PackedLoader(name, origin, self, (start, end))
        spec = ModuleSpec(name, loader, origin=origin, is_package=is_package)
        spec.has_location = True
        spec.cached = cached
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(os.path.dirname(origin))
        return spec

    def close(self) -> None:
        """From now on all modules come from their files; a view of foreign memory must not see an interpreter's end."""
        self._index.clear()
        self.code = None
        _pack.clear()
