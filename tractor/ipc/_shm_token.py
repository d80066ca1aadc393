"""What to attach a shared array by, and the means to do without NumPy until one is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

import msgspec

from tractor.ipc import _shm_owner

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np


def import_numpy() -> Any:
    try:
        import numpy
    except ModuleNotFoundError as err:
        if err.name != 'numpy':
            raise
        raise ImportError(
            'arrays in shared memory need NumPy: install it (`pip install numpy`), or use '
            '`open_shm_list()`, which does not need it.',
            name='numpy',
        ) from err
    except ImportError as err:
        raise ImportError(
            'NumPy is installed but cannot be imported in this actor. If the actor is a '
            "sub-interpreter it never can: start it with start_method='trio', or use "
            '`open_shm_list()`, which does not need NumPy.',
            name='numpy',
        ) from err
    return numpy


class NDToken(msgspec.Struct, frozen=True, eq=False, weakref=True):
    """
    What to attach an array by, anywhere on this host.

    Two tokens are equal if they are of the same array; `key` does not matter.
    """

    shm_name: str
    shm_first_index_name: str
    shm_last_index_name: str
    dtype_descr: tuple[Any, ...]
    """The fields, as in `numpy.dtype.descr`, with tuples for all lists."""
    size: int
    """Number of rows."""
    key: str | None = None

    def _identity(self) -> tuple[Any, ...]:
        names = self.shm_name, self.shm_first_index_name, self.shm_last_index_name
        return *names, self.dtype_descr, self.size

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NDToken):
            return NotImplemented
        return self._identity() == other._identity()

    def __ne__(self, other: object) -> bool:
        # that of `msgspec.Struct` does not ask `__eq__()`
        return not self == other

    def __hash__(self) -> int:
        return hash(self._identity())

    @property
    def dtype(self) -> np.dtype[Any]:
        """
        Raises:
            ImportError: NumPy is not there.
        """
        dtype: np.dtype[Any] = import_numpy().lib.format.descr_to_dtype(_as_descr(self.dtype_descr))
        return dtype

    def as_msg(self) -> dict[str, Any]:
        """As builtins, to be sent; `from_msg()` takes it back."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return fields | {'dtype_descr': _as_lists(self.dtype_descr)}

    @classmethod
    def from_msg(cls, msg: Mapping[str, Any] | Self) -> Self:
        """
        The token that was sent as `msg`; a token is returned as it is.

        Raises:
            TypeError: it is not a token.
        """
        if isinstance(msg, cls):
            return msg
        try:
            fields: dict[str, Any] = dict(msg)  # type: ignore[arg-type]
            return cls(**fields | {'dtype_descr': as_tuples(fields['dtype_descr'])})
        except (KeyError, TypeError, ValueError) as err:
            raise TypeError(f'not the token of a shared array: {msg!r}') from err


def as_tuples(value: Any) -> Any:
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


def _as_lists(value: Any) -> Any:
    return list(map(_as_lists, value)) if isinstance(value, list | tuple) else value


def _as_descr(fields: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The fields with lists where NumPy wants lists: for the fields of a field."""
    return [
        (name, kind if isinstance(kind, str) else _as_descr(kind), *shape)
        for name, kind, *shape in fields
    ]


_known_tokens: WeakValueDictionary[str, NDToken] = WeakValueDictionary()
"""Tokens by key, of the arrays that somebody in this actor has open."""


def get_shm_token(key: str) -> NDToken | None:
    """The token of an array which this actor has open or attached; `None` if it has none."""
    return _known_tokens.get(key)


def make_token(key: str, size: int, dtype: np.dtype[Any]) -> NDToken:
    name, first, last = map(_shm_owner.short_key, (key, f'{key}_first', f'{key}_last'))
    return NDToken(name, first, last, as_tuples(dtype.descr), size, key)
