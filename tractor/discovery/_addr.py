"""
Addresses: the wrapped form, an `Address` object, and the unwrapped one, a pair of builtins, which
is what travels in messages and what stands in configurations.

This module owns the table of address types. The transports under `tractor.ipc` define the types
and register them when they are imported, which `import tractor` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeGuard, cast
from uuid import uuid4

from tractor.runtime import _state

if TYPE_CHECKING:
    import trio

    from tractor.runtime._runtime import Actor
else:
    # annotations must resolve at run time without loading the runtime
    Actor = Any

# `(host, port)` is TCP, `(directory, file name)` a UNIX socket; a list of two after the wire
UnwrappedAddress = tuple[str, int | str]


class Address(Protocol):
    """
    Where an actor listens: an immutable, hashable value.

    Equal unwrapped forms make equal addresses, with equal hashes.
    """

    proto_key: ClassVar[str]
    unwrapped_type: ClassVar[Any]
    def_bindspace: ClassVar[Any]

    @property
    def is_valid(self) -> bool:
        """Whether a peer could connect to it."""
        ...

    @property
    def namespace(self) -> str | None:
        """Name of the system namespace that it belongs to; `None` is the process's own."""
        ...

    @property
    def bindspace(self) -> str | Path:
        """What several addresses of one machine share: the host, or the directory."""
        ...

    @classmethod
    def from_addr(cls, addr: Any) -> Address:
        """Wrap an unwrapped address of this type."""
        ...

    @classmethod
    def get_random(cls, current_actor: Actor, bindspace: str | Path | None = None) -> Address:
        """An address to bind that no other actor uses; concrete types ask for the bindspace only."""
        ...

    @classmethod
    def get_root(cls) -> Address:
        """The default address of a registrar on this host."""
        ...

    def unwrap(self) -> UnwrappedAddress:
        """The form for messages and configurations."""
        ...

    async def open_listener(self, **kwargs: Any) -> trio.SocketListener:
        """Bind and listen."""
        ...

    def close_listener(self, lstnr: trio.SocketListener) -> None:
        """Stop listening and remove what is left of it in the system."""
        ...

    def __eq__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...
    def __repr__(self) -> str: ...


class _RootAddrs(MutableMapping[str, UnwrappedAddress]):
    """
    Default registry address per transport, computed when looked up: for UNIX sockets it depends on
    the runtime directory, which is not to be touched by a mere import. A value that was set wins.
    """

    def __init__(self, types: dict[str, Any]) -> None:
        self._types = types
        self._values: dict[str, UnwrappedAddress] = {}

    def __getitem__(self, key: str) -> UnwrappedAddress:
        if key in self._values:
            return self._values[key]
        addr: UnwrappedAddress = self._types[key].get_root().unwrap()
        return addr

    def __setitem__(self, key: str, addr: UnwrappedAddress) -> None:
        self._values[key] = addr

    def __delitem__(self, key: str) -> None:
        del self._values[key]

    def __contains__(self, key: object) -> bool:
        return key in self._types or key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter({**self._types, **self._values})

    def __len__(self) -> int:
        return len(self._types.keys() | self._values.keys())

    def __repr__(self) -> str:
        return f'{type(self).__name__}({dict(self)})'


_address_types: dict[str, type[Any]] = {}
_default_lo_addrs: MutableMapping[str, UnwrappedAddress] = _RootAddrs(_address_types)


def register_address_type[AddressT: type[Any]](cls: AddressT) -> AddressT:
    """
    Make an address class known under its `proto_key`; usable as a decorator.

    Pairs `(str, int)` are taken for TCP and `(str, str)` for UNIX sockets. A class whose unwrapped form is one of
    these as well has a class method `claims(addr) -> bool`, which is asked first.
    """
    _address_types[cls.proto_key] = cls
    return cls


def unregister_address_type(cls: type[Any]) -> None:
    """Forget an address class; nothing happens if it is not known."""
    if _address_types.get(cls.proto_key) is cls:
        del _address_types[cls.proto_key]


def _not_available(name: str) -> NotImplementedError:
    known = ', '.join(map(repr, _address_types)) or 'none: `import tractor` first'
    return NotImplementedError(f'No transport {name!r} on this system. Available: {known}.')


def get_address_cls(name: str) -> type[Any]:
    """
    The address class of a transport key.

    Raises:
        NotImplementedError: there is no such transport on this system.
    """
    try:
        return _address_types[name]
    except KeyError:
        raise _not_available(name) from None


def default_lo_addrs(transports: Iterable[str]) -> list[UnwrappedAddress]:
    """
    The default registry addresses of the given transports, unwrapped.

    Raises:
        NotImplementedError: one of them does not exist on this system.
    """
    addrs: list[UnwrappedAddress] = []
    for key in transports:
        if key not in _default_lo_addrs:
            raise _not_available(key)
        addrs.append(_default_lo_addrs[key])
    return addrs


def is_wrapped_addr(addr: Any) -> TypeGuard[Address]:
    """Whether `addr` is an object of a registered address type."""
    return type(addr) in _address_types.values()


def mk_uuid() -> str:
    """A fresh unique id, as each actor has one."""
    return str(uuid4())


def wrap_address(addr: Any) -> Address:
    """
    The address object that `addr` stands for.

    Args:
        addr: an address object (returned as it is); `(host, port)`; `(directory, file name)`;
            a multiaddr string such as `'/ip4/127.0.0.1/tcp/1616'`; or `None` or a pair of `None`
            for the default registry address of the default transport.

    Raises:
        TypeError: it is none of these.
        ValueError: it has the form of an address but a wrong content.
        NotImplementedError: its transport does not exist on this system.
    """
    if isinstance(addr, tuple(_address_types.values())):
        return cast('Address', addr)
    wrapped: Address
    for cls in _address_types.values():
        if hasattr(cls, 'claims') and cls.claims(addr):
            wrapped = cls.from_addr(addr)
            return wrapped
    match addr:
        case None | (None, None):
            wrapped = get_address_cls(_state._def_tpt_proto).get_root()
        case str() if addr.startswith('/'):
            from tractor.discovery._multiaddr import parse_maddr

            wrapped = parse_maddr(addr)
        case (str(), int(port)) if not isinstance(port, bool):
            wrapped = get_address_cls('tcp').from_addr((addr[0], port))
        case (None | str() | os.PathLike(), str() | Path()):
            wrapped = get_address_cls('uds').from_addr((addr[0], addr[1]))
        case _:
            raise TypeError(
                f'Not an address: {addr!r}. Give an address object, (host, port), '
                '(directory, file name), or a multiaddr string that starts with "/".'
            )
    return wrapped
