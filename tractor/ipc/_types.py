"""
The transports this package speaks, one record each.

Adding one: a module with an address class (registered with `tractor.discovery._addr`), a `MsgpackTransport`
subclass, `start_listener()` and `close_listener()`, and one `Backend` below.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import trio

from tractor.ipc import _tcp, _uds
from tractor.ipc._tcp import MsgpackTCPStream, TCPAddress
from tractor.ipc._transport import MsgpackTransport, MsgTransportKey
from tractor.ipc._uds import HAS_UDS, MsgpackUDSStream, UDSAddress

Address = TCPAddress | UDSAddress


@dataclass(frozen=True)
class Backend:
    """Everything the server and the channel need to know about one transport."""

    address: type
    transport: type[MsgpackTransport]
    families: frozenset[int]
    start_listener: Callable[..., Awaitable[trio.SocketListener]]
    close_listener: Callable[..., None]

    @property
    def proto_key(self) -> str:
        """The name users give: `'tcp'`, `'uds'`."""
        key: str = self.address.proto_key  # type: ignore[attr-defined]
        return key


_backends: list[Backend] = [
    Backend(
        TCPAddress,
        MsgpackTCPStream,
        frozenset({int(socket.AF_INET), int(socket.AF_INET6)}),
        _tcp.start_listener,
        _tcp.close_listener,
    )
]
if HAS_UDS:
    _backends.append(
        Backend(
            UDSAddress,
            MsgpackUDSStream,
            frozenset({int(socket.AF_UNIX)}),
            _uds.start_listener,
            _uds.close_listener,
        )
    )

_msg_transports: list[type[MsgpackTransport]] = [backend.transport for backend in _backends]
_key_to_transport: dict[MsgTransportKey, type[MsgpackTransport]] = {
    transport.key(): transport for transport in _msg_transports
}
_addr_to_transport: dict[type, type[MsgpackTransport]] = {
    backend.address: backend.transport for backend in _backends
}


def backend_from_addr(addr: Any) -> Backend:
    """
    The record of the transport that an address belongs to.

    Raises:
        NotImplementedError: no transport has addresses of this type.
    """
    for backend in _backends:
        if type(addr) is backend.address:
            return backend
    raise NotImplementedError(
        f'no transport for an address of type {type(addr).__name__}: {addr!r}\n'
        f'available: {[backend.proto_key for backend in _backends]}'
    )


def transport_from_addr(addr: Any, codec_key: str = 'msgpack') -> type[MsgpackTransport]:
    """
    The transport class for a wrapped address.

    Raises:
        NotImplementedError: there is none for this address type and codec.
    """
    return _transport_of(backend_from_addr(addr), codec_key)


def transport_from_stream(stream: Any, codec_key: str = 'msgpack') -> type[MsgpackTransport]:
    """
    The transport class for a connected stream.

    Raises:
        NotImplementedError: it is no `trio.SocketStream`, its socket family belongs to no transport, or
            that one does not speak this codec.
    """
    if not isinstance(stream, trio.SocketStream):
        raise NotImplementedError(f'no transport for a stream of type {type(stream).__name__}')
    family = int(stream.socket.family)
    for backend in _backends:
        if family in backend.families:
            return _transport_of(backend, codec_key)
    raise NotImplementedError(f'no transport for the socket family {family}')


def _transport_of(backend: Backend, codec_key: str) -> type[MsgpackTransport]:
    try:
        return _key_to_transport[codec_key, backend.proto_key]
    except KeyError:
        raise NotImplementedError(
            f'no transport speaks {codec_key!r} over {backend.proto_key!r}'
        ) from None
