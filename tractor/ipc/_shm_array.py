"""
Arrays in shared memory: rows of a structured NumPy array, pushed at either end by one writer.

An array has `size` rows and two numbers, *first* and *last*, each in a segment of its own: the rows
in use are ``first:last``. The writer writes rows first and then moves one of the numbers; each of
them is written and read in one piece. Hence a reader sees whole rows only, and never needs a lock.
Its first field is the row number: it is written once, for all rows.

NumPy is imported when the first array is opened or attached.
"""

from __future__ import annotations

import secrets
import sys
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from tractor.ipc import _shm_owner
from tractor.ipc._mp_bs import SharedMemory
from tractor.ipc._shm_token import (
    NDToken,
    _known_tokens,
    as_tuples,
    get_shm_token,
    import_numpy,
    make_token,
)
from tractor.runtime import _state

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

INDEX = 'index'
"""The field which has the row number."""

# where the rows in use start unless told: more rows are appended than prepended
_START = 0.616

_TRIES = 3
_PAUSE = 0.1
"""How often, and seconds between, an array that is not there is looked for."""

_INT_SIZE = 4


class SharedInt:
    """
    A number in shared memory: 4 bytes, without a sign, in the byte order of the host.

    Args:
        shm: its segment.
    """

    def __init__(self, shm: SharedMemory) -> None:
        self._shm = shm

    def __repr__(self) -> str:
        shown = 'closed' if self._shm.buf is None else self.value
        return f'<{type(self).__name__} {self._shm.name!r}: {shown}>'

    @property
    def _slot(self) -> memoryview:
        # stored in one piece, while `struct.pack_into()` writes zeros first
        return self._shm.memory[:_INT_SIZE].cast('I')

    @property
    def value(self) -> int:
        """The number; never half of the old and half of a new one."""
        return self._slot[0]

    @value.setter
    def value(self, value: int) -> None:
        slot = self._slot
        try:
            slot[0] = value
        except (TypeError, ValueError) as err:
            raise ValueError(f'{value!r} is not an int of 4 bytes without a sign.') from err

    def close(self) -> None:
        """Give the mapping up."""
        self._shm.close()

    def destroy(self) -> None:
        """Remove the segment; that somebody else has done so is fine."""
        _shm_owner.unlink_if_there(self._shm.unlink)


class ShmArray:
    """
    The rows in use of a structured array in shared memory. One actor may write at a time.

    Args:
        shmarr: all rows, in the memory of `shm`.
        first: number of the first row in use.
        last: number of the row after the last one in use.
        shm: the segment of the rows.
    """

    def __init__(self, shmarr: Array, first: SharedInt, last: SharedInt, shm: SharedMemory) -> None:
        self._array = shmarr
        self._first = first
        self._last = last
        self._shm = shm
        self._len = len(shmarr)
        self._pushed = False
        names = shmarr.dtype.names or ()
        index = INDEX if INDEX in names else names[0]
        self._write_fields = [name for name in names if name != index]
        self._token = NDToken(
            shm.name,
            first._shm.name,
            last._shm.name,
            dtype_descr=as_tuples(shmarr.dtype.descr),
            size=self._len,
            key=shm.name,
        )

    def __repr__(self) -> str:
        used = 'closed'
        if not self._shm.closed:
            used = f'rows {self._first.value}:{self._last.value} of {self._len}'
        return f'<{type(self).__name__} {self._shm.name!r}, {used}>'

    @property
    def token(self) -> dict[str, Any]:
        """What to attach this array by, as builtins that can be sent."""
        return self._token.as_msg()

    @property
    def array(self) -> Array:
        """
        The rows in use, as a view.

        Raises:
            RuntimeError: there are none although this object has pushed some.
        """
        rows = self._array[self._first.value : self._last.value]
        if not len(rows) and self._pushed:
            raise RuntimeError(
                f'no row of {self._shm.name!r} is in use, although some were pushed: another '
                'actor has written the indexes.'
            )
        return rows

    @property
    def index(self) -> int:
        """Number of the row after the last one in use; 0 when that is the end."""
        return self._last.value % self._len

    def last(self, length: int = 1) -> Array:
        """The last `length` rows in use, fewer if there are not so many, as a view."""
        rows = self.array
        return rows[max(0, len(rows) - length) :]

    def push(
        self,
        data: Array,
        field_map: Mapping[str, str] | None = None,
        prepend: bool = False,
        update_first: bool = True,
        start: int | None = None,
    ) -> int:
        """
        Add rows after those in use, or before them.

        Args:
            data: structured rows, or one. The index is never copied, fields that this array does
                not have are ignored.
            field_map: names of fields of `data` and where each goes; by default every field of
                this array except for the index is taken from the field of the same name.
            prepend: put them before the rows in use.
            update_first: let rows that are prepended be in use.
            start: number of the row to start at (`prepend`: to end before) instead of at what is
                in use. Rows from there on count as in use no longer once they are overwritten.

        Returns:
            The number of the row after the added ones.

        Raises:
            TypeError: `data` has not got the fields.
            ValueError: they do not fit, there is no wrap-around; or the array is read-only.
        """
        rows = import_numpy().atleast_1d(data)
        fields = self._fields(rows, field_map)
        begin, end = self._place(len(rows), prepend, start)
        if not len(rows):
            return end
        for source, target in fields.items():
            self._array[target][begin:end] = rows[source]
        # only now, and one number only: readers see the old rows or the new ones
        if not prepend:
            self._last.value = end
        elif update_first and begin < self._first.value:
            self._first.value = begin
        self._pushed = True
        return end

    def prepend(self, data: Array) -> int:
        """Add rows before those in use; as `push(data, prepend=True)`."""
        return self.push(data, prepend=True)

    def _fields(self, rows: Array, field_map: Mapping[str, str] | None) -> Mapping[str, str]:
        fields = {name: name for name in self._write_fields} if field_map is None else field_map
        given = rows.dtype.names or ()
        missing = [name for name in fields if name not in given]
        unknown = [name for name in fields.values() if name not in self._write_fields]
        if missing or unknown:
            raise TypeError(
                f'the fields do not match. Missing in the data: {missing}; not to be written: '
                f'{unknown}. The data has {list(given)}, the array takes {self._write_fields}.'
            )
        return fields

    def _place(self, length: int, prepend: bool, start: int | None) -> tuple[int, int]:
        first = self._first.value
        if prepend:
            end = first if start is None else start
            begin = end - length
        else:
            begin = self._last.value if start is None else start
            end = begin + length
        if not 0 <= begin <= end <= self._len:
            raise ValueError(
                f'{length} rows do not fit at {begin}:{end}: the array has {self._len} rows, '
                f'{first}:{self._last.value} are in use, and nothing wraps around.'
            )
        if not prepend and begin < first:
            raise ValueError(f'row {begin} is before the first one in use, {first}: prepend.')
        return begin, end

    def ustruct(self, fields: Sequence[str] | None = None) -> Array:
        """
        All rows, in use or not, as a plain array of floats.

        Args:
            fields: which ones; all of them by default.

        Returns:
            A copy of shape ``(rows, fields)``, so that row numbers count from the same row.
        """
        import_numpy()
        from numpy.lib.recfunctions import structured_to_unstructured

        chosen = self._array[list(fields)] if fields else self._array
        floats: Array = structured_to_unstructured(chosen, dtype=float, copy=True)
        return floats

    def close(self) -> None:
        """Give the mapping up; views of it, taken before, stay valid."""
        # it would keep the mapping
        self._array = self._array[:0].copy()
        for part in (self._first, self._last, self._shm):
            part.close()

    def destroy(self) -> None:
        """Remove the segments; that somebody else has done so is fine. Mappings stay valid."""
        _shm_owner.unlink_if_there(self._shm.unlink)
        self._first.destroy()
        self._last.destroy()
        for key in [key for key, token in _known_tokens.items() if token == self._token]:
            _known_tokens.pop(key, None)


def _checked_dtype(dtype: Any) -> np.dtype[Any]:
    """
    Raises:
        TypeError: rows of that kind cannot be shared.
        ValueError: the row number has no field.
    """
    if dtype is None:
        raise ValueError('pass the `dtype` of the rows, with a field `index` for their number.')
    checked: np.dtype[Any] = import_numpy().dtype(dtype)
    if INDEX not in (checked.names or ()):
        raise ValueError(f'{checked!r} has no field `{INDEX}` for the number of a row.')
    if checked.hasobject:
        raise TypeError(f'{checked!r} has fields of Python objects, which cannot be shared.')
    return checked


def _assemble(
    token: NDToken, shm: SharedMemory, first: SharedMemory, last: SharedMemory, readonly: bool
) -> ShmArray:
    dtype = token.dtype
    if (needed := dtype.itemsize * token.size) > shm.size:
        raise ValueError(
            f'{token.size} rows of {dtype!r} take {needed} bytes, but the shared memory '
            f'{shm.name!r} has {shm.size}: its array is another one.'
        )
    rows = import_numpy().ndarray(token.size, dtype=dtype, buffer=shm.buf)
    rows.setflags(write=not readonly)
    array = ShmArray(rows, SharedInt(first), SharedInt(last), shm)
    key = token.key or token.shm_name
    # the one that lives as long as any array of it
    known = _known_tokens.get(key)
    array._token = token if known is None or known != token else known
    _known_tokens[key] = array._token
    return array


def open_shm_ndarray(
    size: int,
    key: str | None = None,
    dtype: Any = None,
    append_start_index: int | None = None,
    readonly: bool = False,
) -> ShmArray:
    """
    Create an array in shared memory, owned by the current actor; all rows are zero but for `index`.

    It has three segments, `key`, ``{key}_first`` and ``{key}_last``. They are removed when the
    actor ends, however it ends. Also called `open_shm_array`.

    Args:
        size: number of rows.
        key: the name of its segment; a free one is chosen by default. Attach by `ShmArray.token`.
        dtype: structured, of rows with a field `index`, which gets the number of the row.
        append_start_index: row at which the first `push()` starts; by default
            ``round(0.616 * size)``, which leaves the rows before it to be prepended.
        readonly: refuse to push through the returned object.

    Raises:
        FileExistsError: `key` is in use.
        ImportError: NumPy is not there.
        NoRuntime: no actor runs here.
        OSError: there is no room for it.
        TypeError: the rows have Python objects in them.
        ValueError: an argument makes no sense.

    The end of the actor unlinks the array and closes it, in that order.
    """
    actor = _state.current_actor()
    rows = _checked_dtype(dtype)
    if size <= 0:
        raise ValueError(f'an array of {size} rows: it must be a positive number.')
    start = round(size * _START) if append_start_index is None else append_start_index
    if not 0 <= start <= size:
        raise ValueError(f'row {start} to start at is not in an array of {size} rows.')
    token = make_token(key or f'tractor_{secrets.token_hex(6)}', size, rows)
    _shm_owner.owner.serve(actor)
    number = start.to_bytes(_INT_SIZE, sys.byteorder)
    with ExitStack() as undo:
        # the rows come last: whoever finds them finds the rest
        first, last = (
            _publish(name, _INT_SIZE, lambda buf: _copy(number, buf), undo)
            for name in (token.shm_first_index_name, token.shm_last_index_name)
        )
        fill = partial(_number_rows, dtype=rows)
        shm = _publish(token.shm_name, size * rows.itemsize, fill, undo)
        array = _assemble(token, shm, first, last, readonly)
        undo.pop_all()
    _shm_owner.at_end(array.close, array.destroy)
    return array


def _publish(
    name: str, size: int, fill: Callable[[memoryview], None], undo: ExitStack
) -> SharedMemory:
    shm = SharedMemory.published(name, size, fill=fill, ledger=_shm_owner.owner)
    undo.callback(shm.close)
    undo.callback(shm.unlink)
    return shm


def _copy(data: bytes, buf: memoryview) -> None:
    buf[: len(data)] = data


def _number_rows(buf: memoryview, dtype: np.dtype[Any]) -> None:
    np = import_numpy()
    size = len(buf) // dtype.itemsize
    np.ndarray(size, dtype=dtype, buffer=buf)[INDEX] = np.arange(size)


def attach_shm_ndarray(token: NDToken | Mapping[str, Any], readonly: bool = True) -> ShmArray:
    """
    Attach to an array of another actor, or of this one. Also called `attach_shm_array`.

    Args:
        token: `ShmArray.token` of the array.
        readonly: refuse to push through the returned object.

    Raises:
        FileNotFoundError: there is none. It is looked for 3 times in 0.2 s, during which
            **nothing else runs** in this actor.
        ImportError: NumPy is not there.
        TypeError: `token` is not a token.
        ValueError: another array has its name.

    The mapping is given up by `close()` or with the last reference, and valid until then, whether
    or not its owner has ended. Attaching never removes anything.
    """
    wanted = NDToken.from_msg(token)
    for _ in range(_TRIES - 1):
        try:
            return _attach(wanted, readonly)
        except FileNotFoundError:
            time.sleep(_PAUSE)
    return _attach(wanted, readonly)


def _attach(token: NDToken, readonly: bool) -> ShmArray:
    names = token.shm_name, token.shm_first_index_name, token.shm_last_index_name
    shm, first, last = (SharedMemory(name) for name in names)
    return _assemble(token, shm, first, last, readonly)


def maybe_open_shm_ndarray(
    key: str,
    size: int,
    dtype: Any = None,
    append_start_index: int | None = 0,
    readonly: bool = True,
) -> tuple[ShmArray, bool]:
    """
    Attach to the array called `key`, or open it when there is none.

    Args:
        key: its name.
        size: number of rows.
        dtype: of the rows; may be left out for an array which this actor has open already.
        append_start_index: for a new one, see `open_shm_ndarray()`.
        readonly: refuse to push through the returned object, also when it was opened.

    Returns:
        The array, and whether it was opened, which makes this actor its owner.

    Raises:
        ImportError: NumPy is not there.
        NoRuntime: it has to be opened, and no actor runs here.
        OSError: there is no room for it.
        TypeError: the rows have Python objects in them.
        ValueError: the array of that name is another one, or an argument makes no sense.
    """
    token = _expected_token(key, size, dtype)
    for _ in range(_TRIES - 1):
        try:
            return _attach(token, readonly), False
        except FileNotFoundError:
            pass
        try:
            return open_shm_ndarray(size, key, token.dtype, append_start_index, readonly), True
        except FileExistsError:
            # somebody else opens it right now
            time.sleep(_PAUSE)
    return _attach(token, readonly), False


def _expected_token(key: str, size: int, dtype: Any) -> NDToken:
    known = get_shm_token(key)
    if dtype is None and known is not None:
        dtype = known.dtype
    token = make_token(key, size, _checked_dtype(dtype))
    if known is not None and known != token:
        raise ValueError(f'the array {key!r} of this actor is another one: {known!r}')
    return token


open_shm_array = open_shm_ndarray
attach_shm_array = attach_shm_ndarray
