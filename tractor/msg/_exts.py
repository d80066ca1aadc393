"""Type unions as lists of names, for specs that must cross to another process."""

from __future__ import annotations

import builtins
import types
import typing
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType


def union_members(spec: Any) -> tuple[Any, ...]:
    """Members of a type union in order of declaration, or the one type given."""
    is_union = get_origin(spec) in {Union, types.UnionType}
    return get_args(spec) if is_union else (spec,)


def mk_union(members: Iterable[Any]) -> Any:
    """Make a type union of members known at run time only."""
    return Union[tuple(members)]  # noqa: UP007


def enc_type_union(spec: Any) -> list[str]:
    """Name each member of a type union, or the one type given."""
    return [getattr(member, '__qualname__', None) or str(member) for member in union_members(spec)]


def dec_type_union(type_names: Iterable[str], mods: Iterable[ModuleType] = ()) -> Any:
    """
    Rebuild a type union from the names of its members.

    Args:
      type_names: as made by `enc_type_union()`.
      mods: where to look after `typing`, and before `builtins` and `types`.

    Returns:
      The union of all names which were found, others are left out.

    Raises:
      TypeError: no name was found.
    """
    names = list(type_names)
    spaces = (typing, *mods, builtins, types)
    found = [_first_found(name, spaces) for name in names]
    members = [member for member in found if member is not None]
    if not members:
        raise TypeError(f'none of {names} names a type, pass its module in `mods`')
    return mk_union(members)


def _first_found(name: str, spaces: Iterable[ModuleType]) -> Any:
    return next((getattr(mod, name) for mod in spaces if hasattr(mod, name)), None)
