"""Lists in shared memory: a fixed number of slots for numbers, truth values, text, bytes, `None`."""

from __future__ import annotations

import operator
import struct
from collections.abc import Iterable
from functools import partial
from multiprocessing.shared_memory import ShareableList
from typing import TYPE_CHECKING, Any, overload

from tractor.ipc import _shm_owner
from tractor.ipc._mp_bs import SharedMemory

if TYPE_CHECKING:
    from tractor.ipc._mp_bs import Ledger

_DEFAULTS: dict[type | None, Any] = {
    float: 0.0,
    int: 0,
    bool: True,
    # five characters make a slot of eight bytes
    str: 'empty',
    None: None,
}

_FORMATS: dict[type, str] = {int: 'q', float: 'd', bool: 'xxxxxxx?', type(None): 'xxxxxx?x'}

# stored whole
_NUMBERS = frozenset({'q', 'd'})

# how a slot's bytes become a value again, see `ShareableList`
_CODES: dict[type, int] = {str: 1, bytes: 2, type(None): 3}

_SLOT = 8


class ShmList(ShareableList[Any]):
    """
    A list in shared memory, of fixed length; its layout is that of the stdlib's `ShareableList`.

    A slot takes any of `float`, `int` (64 bit), `bool`, `None`, and `str` or `bytes` up to the
    capacity that the slot got from its first value: its size in bytes, rounded up to the next
    multiple of 8 (above it, if it is one). Zero bytes at the end of text are not kept.

    Nothing is locked. A number which replaces one of the same type is seen whole; other assignments
    can be seen half done by others. By itself the class neither closes nor unlinks anything; `open_shm_list()` does.

    Args:
        sequence: the first values of a new list; without it an existing one is attached.
        name: of its segment; for a new one a free name is chosen by default.
        readonly: refuse assignments through this object.

    Raises:
        FileExistsError: a new list is to be called like an existing segment.
        FileNotFoundError: there is no segment of that name to attach.
        TypeError: a value is of another type.
        ValueError: the segment does not hold a list, or a value does not fit.
    """

    def __init__(
        self,
        sequence: Iterable[Any] | None = None,
        *,
        name: str | None = None,
        readonly: bool = True,
        _ledger: Ledger | None = None,
    ) -> None:
        self._readonly = readonly
        if sequence is None and name is not None:
            self._attach(name)
        else:
            self._create(list(sequence or ()), name, _ledger)

    def _create(self, values: list[Any], name: str | None, ledger: Ledger | None) -> None:
        raw = [value.encode() if isinstance(value, str) else value for value in values]
        formats = [_format_of(i, value) for i, value in enumerate(raw)]
        offsets = [0]
        for fmt in formats:
            offsets.append(offsets[-1] + (int(fmt[:-1]) if fmt[-1] == 's' else _SLOT))
        self._list_len = len(values)
        self._allocated_offsets = offsets
        codes = [_CODES.get(type(value), 0) for value in values]

        def fill(buf: memoryview) -> None:
            n = len(values)
            struct.pack_into(f'{n + 2}q', buf, 0, n, *offsets)
            struct.pack_into(''.join(formats), buf, self._offset_data_start, *raw)
            packed = ''.join(['8s'] * n)
            names = [fmt.encode() for fmt in formats]
            struct.pack_into(packed, buf, self._offset_packing_formats, *names)
            struct.pack_into(f'{n}b', buf, self._offset_back_transform_codes, *codes)

        try:
            self.shm = SharedMemory.published(name, self._size_needed, fill=fill, ledger=ledger)
        except struct.error as err:
            raise ValueError(f'a value does not fit into its slot: {err}') from err

    def _attach(self, name: str) -> None:
        self.shm = shm = SharedMemory(name)
        self._list_len = n = struct.unpack_from('q', shm.memory, 0)[0] if shm.size >= _SLOT else -1
        if n >= 0 and _SLOT * (n + 2) <= shm.size:
            self._allocated_offsets = list(struct.unpack_from(f'{n + 1}q', shm.memory, _SLOT))
            if self._allocated_offsets[-1] >= 0 and self._size_needed <= shm.size:
                return
        shm.close()
        raise ValueError(f'the shared memory {name!r} does not hold a list.')

    @property
    def _size_needed(self) -> int:
        return self._offset_back_transform_codes + self._list_len

    if TYPE_CHECKING:
        # what the stdlib's class computes from these two
        shm: SharedMemory
        _list_len: int
        _allocated_offsets: list[int]
        _offset_data_start: int
        _offset_packing_formats: int
        _offset_back_transform_codes: int

        def _get_packing_format(self, position: int) -> str: ...

    @property
    def key(self) -> str:
        """What to attach this list by: the name of its segment."""
        return self.shm.name

    @property
    def readonly(self) -> bool:
        """Whether assignments through this object are refused."""
        return self._readonly

    def __repr__(self) -> str:
        state = 'closed' if self.shm.closed else f'{self._list_len} items'
        return f'<{type(self).__name__} {self.key!r}, {state}>'

    def __reduce__(self) -> Any:
        return partial(type(self), name=self.key, readonly=self._readonly), ()

    def __len__(self) -> int:
        return self._list_len

    @overload
    def __getitem__(self, position: int) -> Any: ...
    @overload
    def __getitem__(self, position: slice) -> list[Any]: ...
    def __getitem__(self, position: int | slice) -> Any:
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(self._list_len))]
        return super().__getitem__(self._index(position))

    def __setitem__(self, position: int | slice, value: Any) -> None:
        if self._readonly:
            raise ValueError('assignment destination is read-only')
        if isinstance(position, slice):
            raise TypeError('assign to one item at a time: a shared list takes no slice.')
        index = self._index(position)
        raw = value.encode() if isinstance(value, str) else value
        fmt = _format_of(index, raw)
        try:
            if fmt in _NUMBERS and self._get_packing_format(index) == fmt:
                self._slot(index, fmt)[0] = value
            else:
                super().__setitem__(index, value)
        except (struct.error, ValueError) as err:
            raise ValueError(f'{value!r} does not fit into a slot: {err}') from err

    def _slot(self, index: int, fmt: Any) -> memoryview[Any]:
        # stored in one piece, while `struct.pack_into()` writes zeros first
        start = self._offset_data_start + self._allocated_offsets[index]
        return self.shm.memory[start : start + _SLOT].cast(fmt)

    def _index(self, position: int) -> int:
        index = operator.index(position)
        if index < 0:
            index += self._list_len
        if not 0 <= index < self._list_len:
            raise IndexError(f'no item {position} in a shared list of {self._list_len}.')
        if self.shm.closed:
            raise ValueError(f'the shared list {self.key!r} is closed.')
        return index


def _format_of(index: int, raw: Any) -> str:
    """The struct format of a slot for a value, text encoded."""
    if isinstance(raw, bytes):
        return f'{_SLOT * (len(raw) // _SLOT + 1)}s'
    try:
        return _FORMATS[type(raw)]
    except KeyError:
        raise TypeError(
            f'item {index} is of type {type(raw).__name__}: shared lists hold float, int, bool, '
            'str, bytes and None only.'
        ) from None


def open_shm_list(
    key: str,
    sequence: Iterable[Any] | None = None,
    size: int = 1024,
    dtype: type | None = float,
    readonly: bool = True,
    prefix: str = 'shml_',
) -> ShmList:
    """
    Create a list in shared memory, owned by the current actor.

    The segment is removed when the actor ends, however it ends. Without a runtime it is up to the
    caller to unlink it, and a warning is logged.

    Args:
        key: the name of its segment. Attach by `ShmList.key` elsewhere: macOS cannot have names of
            more than 31 characters, there it is another one.
        sequence: the first values; they decide how long texts may get. By default `size` times the
            default of `dtype`.
        size: number of slots when there is no `sequence`.
        dtype: `float` (0.0), `int` (0), `bool` (`True`), `str` (slots of 8 bytes) or `None`.
        readonly: refuse assignments through the returned object.
        prefix: of the name when `key` is too long.

    Raises:
        FileExistsError: `key` is in use.
        OSError: there is no room for it.
        TypeError: `dtype` is another type, or a value is of another type.
        ValueError: `key` is no file name, or a value does not fit.

    The end of the actor unlinks the list and closes it, in that order.
    """
    if sequence is None:
        if dtype not in _DEFAULTS:
            raise TypeError(
                f'dtype {dtype!r} has no default: pass float, int, bool, str or None, or the '
                'values as `sequence`.'
            )
        sequence = [_DEFAULTS[dtype]] * size
    owner = _shm_owner.get_owner(f'the shared list {key!r}')
    name = _shm_owner.short_key(key, prefix)
    shml = ShmList(sequence, name=name, readonly=readonly, _ledger=owner)
    if owner is not None:
        _shm_owner.at_end(shml.shm.close, shml.shm.unlink)
    return shml


def attach_shm_list(key: str, readonly: bool = False) -> ShmList:
    """
    Attach to a list of another actor, or of this one.

    Args:
        key: `ShmList.key` of the list.
        readonly: refuse assignments through the returned object.

    Raises:
        FileNotFoundError: there is none of that name.
        ValueError: the segment does not hold a list.

    The mapping is given up with the last reference to the list, and valid until then, whether or
    not its owner has ended. Attaching never removes anything.
    """
    return ShmList(name=key, readonly=readonly)
