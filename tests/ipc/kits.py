"""The transports of the conformance suite, one kit each: how to get an address, a connection, and an accident."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from tractor._testing import memory, peer
from tractor.ipc import transport_from_addr, transport_from_stream
from tractor.ipc._tcp import TCPAddress
from tractor.ipc._types import Backend, backend_from_addr
from tractor.ipc._uds import HAS_UDS, UDSAddress


class Kit:
    """
    One transport.

    Args:
        folder: an empty directory, for transports that leave something in the file system.
    """

    key: str = ''
    listener_type: type = trio.SocketListener
    # whether an abortive close reaches a peer that has sent nothing
    can_reset = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def addr(self) -> Any:
        """An address to bind, a new one for each call."""
        raise NotImplementedError

    @property
    def backend(self) -> Backend:
        return backend_from_addr(self.addr())

    @property
    def name(self) -> str:
        """What errors and texts call it."""
        return self.backend.transport.__name__

    def reset(self, stream: Any) -> None:
        """Close a stream so that the other end gets an error."""
        peer.reset(stream)

    def is_closed(self, stream: Any) -> bool:
        """Whether this end was closed."""
        return bool(stream.socket.fileno() == -1)

    @asynccontextmanager
    async def listening(self, addr: Any = None) -> AsyncIterator[tuple[Any, Any]]:
        """The address really bound, and the listener."""
        addr = addr or self.addr()
        listener = await self.backend.start_listener(addr)
        try:
            yield self.backend.bound_addr(addr, listener), listener
        finally:
            self.backend.close_listener(addr, listener)

    @asynccontextmanager
    async def pair(self, accepted: bool = False) -> AsyncIterator[tuple[Any, Any]]:
        """
        A transport, and the stream at its other end.

        Args:
            accepted: the transport is the end that was accepted, not the one that connected.
        """
        async with self.listening() as (addr, listener):
            tpt = await transport_from_addr(addr).connect_to(addr)
            other = await listener.accept()
            if accepted:
                tpt, other = transport_from_stream(other)(other), tpt.stream
            try:
                yield tpt, other
            finally:
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(tpt.stream)
                    await trio.aclose_forcefully(other)

    @asynccontextmanager
    async def transports(self) -> AsyncIterator[tuple[Any, Any]]:
        """Both ends of a connection."""
        async with self.pair() as (one, stream):
            yield one, transport_from_stream(stream)(stream)


class TCP(Kit):
    key = 'tcp'
    host = '127.0.0.1'

    def addr(self) -> Any:
        return TCPAddress(self.host, 0)


class TCP6(TCP):
    host = '::1'


class UDS(Kit):
    key = 'uds'
    can_reset = False

    def addr(self) -> Any:
        self.count += 1
        return UDSAddress(self.folder, f'x{self.count}@1.sock')


class Memory(Kit):
    key = 'mem'
    listener_type = memory.MemoryListener

    def addr(self) -> Any:
        return memory.MemoryAddress.get_random()

    def is_closed(self, stream: Any) -> bool:
        return bool(stream.closed)


KITS: dict[str, type[Kit]] = {'tcp': TCP, 'tcp6': TCP6, 'uds': UDS, 'mem': Memory}


def has_ipv6() -> bool:
    with suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.bind(('::1', 0))
        return True
    return False


def params(*names: str) -> list[Any]:
    """The kits of these names, all by default, for `pytest.fixture` or `parametrize`."""
    reasons = {} if HAS_UDS else {'uds': 'no UNIX sockets on this system'}
    if not has_ipv6():
        reasons['tcp6'] = 'no IPv6 on this machine'
    return [
        pytest.param(name, marks=pytest.mark.skip(reason=reasons[name]) if name in reasons else ())
        for name in names or KITS
    ]


@contextmanager
def opened(name: str, folder: Path) -> Iterator[Kit]:
    """A kit, its transport being known for the block."""
    with ExitStack() as stack:
        if name == 'mem':
            stack.enter_context(memory.memory_transport())
        yield KITS[name](folder)
