"""TCP: the address type, the listener and the transport."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import trio

from tractor.discovery._addr import register_address_type
from tractor.discovery._multiaddr import mk_maddr
from tractor.ipc._transport import MsgpackTransport

if TYPE_CHECKING:
    from multiaddr import Multiaddr
else:
    # annotations must resolve at run time without loading the package
    Multiaddr = Any


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ':' in host else socket.AF_INET


def _packed_ip(host: str) -> bytes:
    """
    The 4 or 16 bytes of an IP literal.

    Raises:
        ValueError: `host` is no IP literal.
    """
    try:
        return socket.inet_pton(_family(host), host)
    except (OSError, ValueError):
        # Forms that the system call does not know, such as `fe80::1%eth0`. The module takes 6 ms to
        # import, which a child that listens on an ordinary host need not pay for.
        import ipaddress

    try:
        return ipaddress.ip_address(host).packed
    except ValueError:
        raise ValueError(
            f'Not an IPv4 or IPv6 address: {host!r}. Resolve host names before making a TCP address.'
        ) from None


def _is_connectable(packed: bytes) -> bool:
    """Whether an IP address is neither the unspecified one nor a multicast one."""
    if packed[:12] == b'\0' * 10 + b'\xff\xff':
        packed = packed[12:]
    if not any(packed):
        return False
    return packed[0] != 0xFF if len(packed) == 16 else packed[0] >> 4 != 0xE


@register_address_type
class TCPAddress(msgspec.Struct, frozen=True):
    """
    A host, given as an IPv4 or IPv6 literal, and a port; port 0 is chosen by the system at bind.

    Raises:
        ValueError: the host is no IP literal.
    """

    _host: str
    _port: int

    proto_key: ClassVar[str] = 'tcp'
    unwrapped_type: ClassVar[Any] = tuple[str, int]
    def_bindspace: ClassVar[str] = '127.0.0.1'

    def __post_init__(self) -> None:
        _packed_ip(self._host)
        if not 0 <= self._port < 1 << 16:
            raise ValueError(f'a TCP port is between 0 and 65535, not {self._port}')

    @property
    def is_valid(self) -> bool:
        """Whether a peer could connect to it: a real port on a unicast host."""
        return self._port != 0 and _is_connectable(_packed_ip(self._host))

    @property
    def namespace(self) -> str | None:
        """`None`: the network namespace of the process."""
        return None

    @property
    def bindspace(self) -> str:
        """The host."""
        return self._host

    @property
    def domain(self) -> str:
        """The host."""
        return self._host

    @classmethod
    def from_addr(cls, addr: Any) -> TCPAddress:
        """
        Wrap a pair `(host, port)`.

        Raises:
            ValueError: `addr` is not such a pair or the host is no IP literal.
        """
        match addr:
            case (str(host), int(port)):
                return cls(host, port)
        raise ValueError(f'Not a TCP address: {addr!r}. Give (host: str, port: int).')

    @classmethod
    def get_random(cls, bindspace: str | None = None) -> TCPAddress:
        """An address on the given host, the loopback one by default, with a port to be chosen."""
        return cls(bindspace or cls.def_bindspace, 0)

    @classmethod
    def get_root(cls) -> TCPAddress:
        """The default address of a registrar on this host."""
        return cls('127.0.0.1', 1616)

    def unwrap(self) -> tuple[str, int]:
        """`(host, port)`."""
        return self._host, self._port

    async def open_listener(self, **kwargs: Any) -> trio.SocketListener:
        """Bind and listen, see `start_listener()`."""
        return await start_listener(self, **kwargs)

    def close_listener(self, lstnr: trio.SocketListener) -> None:
        """Stop listening, see `close_listener()`."""
        close_listener(self, lstnr)

    def __repr__(self) -> str:
        return f'{type(self).__name__}[{self.unwrap()}]'


async def start_listener(addr: TCPAddress, **kwargs: Any) -> trio.SocketListener:
    """
    Bind and listen.

    Args:
        addr: where; with port 0 the system picks one, see the socket name of the listener.
        kwargs: for `trio.open_tcp_listeners()`, such as `backlog`.

    Raises:
        OSError: the address is taken, not ours, or not permitted; the text names it.
    """
    host, port = addr.unwrap()
    try:
        [listener] = await trio.open_tcp_listeners(port, host=host, **kwargs)
    except OSError as err:
        raise OSError(err.errno, f'Cannot listen on {addr}: {err.strerror or err}') from err
    return listener


def close_listener(addr: TCPAddress, lstnr: trio.SocketListener) -> None:  # noqa: ARG001
    """Stop listening; what was accepted lives on. Idempotent."""
    lstnr.socket.close()


async def _connect(host: str, port: int) -> trio.SocketStream:
    # `trio.open_tcp_stream()` costs three times as much, for name resolution and a race between
    # several addresses, neither of which an IP literal needs.
    sock = trio.socket.socket(_family(host), socket.SOCK_STREAM)
    try:
        await sock.connect((host, port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


class MsgpackTCPStream(MsgpackTransport):
    """Messages over a TCP connection, sent at once (`TCP_NODELAY`, which `trio` sets on both ends)."""

    address_type: ClassVar[type[TCPAddress]] = TCPAddress
    layer_key: ClassVar[int] = 4

    @property
    def maddr(self) -> Multiaddr:
        """The peer's address as a multiaddr."""
        return mk_maddr(self.raddr)

    @classmethod
    def get_stream_addrs(cls, stream: trio.SocketStream) -> tuple[TCPAddress, TCPAddress]:
        """
        Local and remote address of a connected stream.

        Raises:
            OSError: the peer has reset the connection already.
        """
        sock = stream.socket
        lhost, lport = sock.getsockname()[:2]
        rhost, rport = sock.getpeername()[:2]
        return TCPAddress(lhost, lport), TCPAddress(rhost, rport)

    @classmethod
    async def connect_to(
        cls,
        addr: TCPAddress,
        prefix_size: int = 4,
        codec: Any = None,
        **kwargs: Any,
    ) -> MsgpackTCPStream:
        """
        Connect to a listening address.

        Args:
            addr: where to.
            prefix_size, codec: kept for compatibility, see `MsgpackTransport`.
            kwargs: for `trio.open_tcp_stream()`, such as `local_address`.

        Raises:
            OSError: nobody listens there, or it cannot be reached.

        Cancelled: nothing stays open.
        """
        host, port = addr.unwrap()
        if kwargs or '%' in host:
            stream = await trio.open_tcp_stream(host, port, **kwargs)
        else:
            stream = await _connect(host, port)
        try:
            transport = cls(stream, prefix_size=prefix_size, codec=codec)
            if transport.laddr == transport.raddr:
                # Our end happened to get the very port that it was to connect to, and so met itself.
                raise ConnectionRefusedError(
                    errno.ECONNREFUSED, f'Cannot connect to {addr}: nobody listens there'
                )
        except BaseException:
            stream.socket.close()
            raise
        return transport
