"""
The transports this package speaks, one record each.

Adding one: a module with an address class, a `MsgpackTransport` subclass, functions that start and close a listener,
and one `Backend` given to `register_backend()`. Nothing else has to know of it.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import trio

from tractor.discovery._addr import register_address_type, unregister_address_type
from tractor.ipc import _tcp, _uds
from tractor.ipc._tcp import MsgpackTCPStream, TCPAddress
from tractor.ipc._transport import MsgpackTransport, MsgTransportKey
from tractor.ipc._uds import HAS_UDS, MsgpackUDSStream, UDSAddress

Address = TCPAddress | UDSAddress


def _addr_of_socket(addr: Any, listener: trio.SocketListener) -> Any:
    bound = listener.socket.getsockname()
    # a path is what was asked for
    return addr if isinstance(bound, (str, bytes)) else type(addr).from_addr(tuple(bound[:2]))


@dataclass(frozen=True)
class Backend:
    """
    Everything the server and the channel need to know about one transport.

    Args:
        address: its address class, see `tractor.discovery._addr.Address`.
        transport: what turns its streams into messages.
        start_listener: `await start_listener(addr)` binds and returns a `trio.abc.Listener` of its streams.
        close_listener: `close_listener(addr, listener)` ends that at once, a second call does nothing.
        stream: the type of its streams.
        families: socket families of its streams, if several transports share the type.
        bound_addr: `bound_addr(addr, listener)` is the address really bound; by default the name of its socket.
    """

    address: type
    transport: type[MsgpackTransport]
    start_listener: Callable[..., Awaitable[Any]]
    close_listener: Callable[..., None]
    stream: type = trio.SocketStream
    families: frozenset[int] = frozenset()
    bound_addr: Callable[[Any, Any], Any] = _addr_of_socket

    @property
    def proto_key(self) -> str:
        """The name users give: `'tcp'`, `'uds'`."""
        key: str = self.address.proto_key  # type: ignore[attr-defined]
        return key

    def owns(self, stream: Any) -> bool:
        """Whether a connected stream is one of this transport."""
        if not isinstance(stream, self.stream):
            return False
        return not self.families or int(stream.socket.family) in self.families  # type: ignore[attr-defined]


_backends: list[Backend] = []
_msg_transports: list[type[MsgpackTransport]] = []
_key_to_transport: dict[MsgTransportKey, type[MsgpackTransport]] = {}
_addr_to_transport: dict[type, type[MsgpackTransport]] = {}


def register_backend(backend: Backend) -> None:
    """
    Make a transport known, and its address type with it.

    Raises:
        ValueError: there is one of that key already.
    """
    if any(known.proto_key == backend.proto_key for known in _backends):
        raise ValueError(f'there is a transport {backend.proto_key!r} already')
    register_address_type(backend.address)
    _backends.append(backend)
    _msg_transports.append(backend.transport)
    _key_to_transport[backend.transport.key()] = backend.transport
    _addr_to_transport[backend.address] = backend.transport


def unregister_backend(backend: Backend) -> None:
    """Forget a transport that was registered, and its address type; what is connected stays so."""
    _backends.remove(backend)
    _msg_transports.remove(backend.transport)
    del _key_to_transport[backend.transport.key()]
    del _addr_to_transport[backend.address]
    unregister_address_type(backend.address)


register_backend(
    Backend(
        TCPAddress,
        MsgpackTCPStream,
        _tcp.start_listener,
        _tcp.close_listener,
        families=frozenset({int(socket.AF_INET), int(socket.AF_INET6)}),
    )
)
if HAS_UDS:
    register_backend(
        Backend(
            UDSAddress,
            MsgpackUDSStream,
            _uds.start_listener,
            _uds.close_listener,
            families=frozenset({int(socket.AF_UNIX)}),
        )
    )


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
        NotImplementedError: no transport has such streams, or theirs does not speak this codec.
    """
    for backend in _backends:
        if backend.owns(stream):
            return _transport_of(backend, codec_key)
    what = f'a stream of type {type(stream).__name__}'
    if isinstance(stream, trio.SocketStream):
        what = f'the socket family {int(stream.socket.family)}'
    raise NotImplementedError(f'no transport for {what}')


def _transport_of(backend: Backend, codec_key: str) -> type[MsgpackTransport]:
    try:
        return _key_to_transport[codec_key, backend.proto_key]
    except KeyError:
        raise NotImplementedError(
            f'no transport speaks {codec_key!r} over {backend.proto_key!r}'
        ) from None
