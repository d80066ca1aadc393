"""A `msgspec.Struct` whose instances print legibly, field by field, and can be compared so."""

from __future__ import annotations

from collections import UserList
from typing import TYPE_CHECKING, Any, Self, get_origin

import msgspec
from msgspec import structs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class DiffDump(UserList[tuple[str, Any, Any]]):
    """Differences between two structs, each as `(field name, left value, right value)`."""

    def __repr__(self) -> str:
        if not self.data:
            return f'{type(self).__name__}([])'
        lines = ''.join(f'  {name}: {left!r} -> {right!r},\n' for name, left, right in self.data)
        return f'{type(self).__name__}([\n{lines}])'


def iter_fields(struct: msgspec.Struct) -> Iterator[tuple[structs.FieldInfo, str, Any]]:
    """Iterate over `(field info, name, value)` of every field, in declaration order."""
    for info in structs.fields(struct):
        yield info, info.name, getattr(struct, info.name)


def _type_name(hint: Any) -> str:
    plain = isinstance(hint, type) and get_origin(hint) is None
    return hint.__name__ if plain else str(hint)


def iter_struct_ppfmt_lines(
    struct: msgspec.Struct, field_indent: int = 0
) -> Iterator[tuple[str, str]]:
    """
    Iterate over the public fields, those of nested pretty structs in place of the struct.

    Args:
      struct: what to show.
      field_indent: spaces before each field, for each level of nesting.

    Returns:
      Pairs of the indentation and `'name: type = repr,'`.
    """
    for info, name, value in iter_fields(struct):
        if name.startswith('_'):
            continue
        if isinstance(value, Struct):
            yield from iter_struct_ppfmt_lines(value, field_indent * 2)
        else:
            yield ' ' * field_indent, f'{name}: {_type_name(info.type)} = {value!r},'


def pformat(struct: msgspec.Struct, field_indent: int = 2, indent: int = 0) -> str:
    """
    Show a struct with one public field per line.

    Args:
      struct: what to show.
      field_indent: spaces before each field.
      indent: spaces before every line.
    """
    pad = ' ' * indent
    fields = iter_struct_ppfmt_lines(struct, field_indent)
    lines = ''.join(f'{pad}{prefix}{text}\n' for prefix, text in fields)
    return f'{pad}{type(struct).__name__}(\n{lines}{pad})'


class Struct(msgspec.Struct):
    """Base of structs that print legibly; fields whose name starts with `_` are not shown."""

    def to_dict(self, include_non_members: bool = True) -> dict[str, Any]:
        """
        Pair field names with their values; nested structs stay as they are.

        Args:
          include_non_members: no effect, a struct holds nothing but its fields. Accepted for
            callers which also serve other kinds of records.
        """
        del include_non_members
        return structs.asdict(self)

    def pformat(self, field_indent: int = 2, indent: int = 0) -> str:
        """Show with one public field per line, see `pformat()` of this module."""
        return pformat(self, field_indent, indent)

    def __repr__(self) -> str:
        try:
            return pformat(self)
        except Exception:  # noqa: BLE001  (a repr must not fail for want of type hints)
            return super().__repr__()

    def copy(self, update: Mapping[str, Any] | None = None) -> Self:
        """
        Copy by value, through an encoding round trip.

        Args:
          update: values which replace those of the original, which is left untouched.

        Raises:
          msgspec.ValidationError: a value does not fit its field.
          TypeError: a value cannot be encoded.
        """
        raw = msgspec.msgpack.encode(structs.replace(self, **(update or {})))
        return msgspec.msgpack.decode(raw, type=type(self))

    def typecast(self) -> None:
        """
        Convert every field to its declared type, in place.

        Raises:
          msgspec.ValidationError: a value cannot be converted; fields before it have been.
          AttributeError: the struct is frozen.
        """
        for info, name, value in iter_fields(self):
            setattr(self, name, msgspec.convert(value, info.type, strict=False))

    def __sub__(self, other: msgspec.Struct) -> DiffDump:
        """List the fields of this struct whose value differs in, or is missing from, `other`."""
        pairs = ((name, value, getattr(other, name, None)) for _, name, value in iter_fields(self))
        return DiffDump(pair for pair in pairs if pair[1] != pair[2])

    @classmethod
    def fields_diff(cls, other: Mapping[str, Any]) -> DiffDump:
        """
        List where the keys of a dict and the fields of this class do not match.

        Returns:
          `(field name, declared type, None)` for a field that the dict lacks, and
          `(key, None, value)` for a key that is no field.
        """
        declared = {info.name: info.type for info in structs.fields(cls)}
        lacking = [(name, hint, None) for name, hint in declared.items() if name not in other]
        excess = [(key, None, value) for key, value in other.items() if key not in declared]
        return DiffDump([*lacking, *excess])
