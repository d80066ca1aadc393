"""A transport in memory, key `'mem'`: whole runtimes that listen and connect within one `trio.run()`, without sockets.

Nobody knows it until `memory_transport()` registers it. It reaches no other process, thread or interpreter, so actors
on it have no children: one that is started ends before it is up. Its streams behave as connected sockets do, see
`_memory_stream.py`; a message may be on its way in parts, an end may be orderly or abortive, and at any point either
end can be made to stall or to break.
"""

from __future__ import annotations

import errno
import secrets
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import msgspec
import trio

from tractor._testing._memory_stream import (
    CLOSED_MEANWHILE,
    WAS_CLOSED,
    stream_pair,
)
from tractor._testing._memory_stream import MemoryStream as MemoryStream
from tractor.ipc import _types
from tractor.ipc._transport import MsgpackTransport

# connections that may wait to be accepted
BACKLOG: int = 128

_SPACE = 'mem:'


class MemoryAddress(msgspec.Struct, frozen=True):
    """
    The name of a listener in this `trio.run()`.

    Args:
        space: names of different spaces never meet; begins with `mem:`.
        name: any text.
    """

    space: str
    name: str

    proto_key: ClassVar[str] = 'mem'
    unwrapped_type: ClassVar[Any] = tuple[str, str]
    def_bindspace: ClassVar[str] = _SPACE

    def __post_init__(self) -> None:
        if not self.space.startswith(_SPACE):
            raise ValueError(f'the space of an address in memory begins with {_SPACE!r}: {self}')

    @classmethod
    def claims(cls, addr: Any) -> bool:
        """Whether an unwrapped address is one of these."""
        match addr:
            case (str(space), str()):
                return space.startswith(_SPACE)
        return False

    @classmethod
    def from_addr(cls, addr: Any) -> MemoryAddress:
        """
        Wrap a pair `(space, name)`.

        Raises:
            ValueError: `addr` is not such a pair.
        """
        match addr:
            case (str(space), str(name)):
                return cls(space, name)
        raise ValueError(f'Not an address in memory: {addr!r}. Give (space: str, name: str).')

    @property
    def is_valid(self) -> bool:
        """Whether it has a name."""
        return bool(self.name)

    @property
    def namespace(self) -> str | None:
        """`None`: the `trio.run()`."""
        return None

    @property
    def bindspace(self) -> str:
        """The space."""
        return self.space

    @classmethod
    def get_random(cls, bindspace: str | None = None) -> MemoryAddress:
        """A fresh name."""
        return cls(bindspace or cls.def_bindspace, secrets.token_hex(6))

    @classmethod
    def get_root(cls) -> MemoryAddress:
        """The default address of a registrar."""
        return cls(cls.def_bindspace, 'registry')

    def unwrap(self) -> tuple[str, str]:
        """`(space, name)`."""
        return self.space, self.name

    async def open_listener(self, **kwargs: Any) -> MemoryListener:
        """Bind and listen, see `start_listener()`."""
        return await start_listener(self, **kwargs)

    def close_listener(self, lstnr: MemoryListener) -> None:
        """Stop listening, see `close_listener()`."""
        close_listener(self, lstnr)

    def __repr__(self) -> str:
        return f'{type(self).__name__}[{self.unwrap()}]'


_Table = dict[MemoryAddress, 'MemoryListener']
_listeners: trio.lowlevel.RunVar[_Table] = trio.lowlevel.RunVar('memory_listeners')


def _table() -> _Table:
    try:
        return _listeners.get()
    except LookupError:
        table: _Table = {}
        _listeners.set(table)
        return table


class MemoryListener(trio.abc.Listener[MemoryStream]):
    """
    What is at an address; made by `start_listener()`.

    Args:
        addr: that address.
        backlog: connections that may wait to be accepted; further ones wait to be made.
    """

    def __init__(self, addr: MemoryAddress, backlog: int) -> None:
        self.addr = addr
        self.backlog = backlog
        self.closed = False
        self._waiting: deque[MemoryStream] = deque()
        self._changed = trio.lowlevel.ParkingLot()
        self._table = _table()
        self._table[addr] = self

    async def accept(self) -> MemoryStream:
        """
        Wait for a connection.

        Raises:
            trio.ClosedResourceError: the listener is closed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.closed:
            raise trio.ClosedResourceError(WAS_CLOSED)
        while not self._waiting:
            await self._changed.park()
            if self.closed:
                raise trio.ClosedResourceError(CLOSED_MEANWHILE)
        stream = self._waiting.popleft()
        self._changed.unpark_all()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return stream

    async def wait_room(self) -> None:
        """Wait until one more connection may wait, or the listener is closed."""
        while not self.closed and len(self._waiting) >= self.backlog:
            await self._changed.park()

    def offer(self, stream: MemoryStream) -> None:
        """Let a connection wait to be accepted."""
        self._waiting.append(stream)
        self._changed.unpark_all()

    def close(self) -> None:
        """Stop listening, and abort what waits to be accepted; a second call does nothing."""
        if self.closed:
            return
        self.closed = True
        del self._table[self.addr]
        while self._waiting:
            self._waiting.popleft().abort()
        self._changed.unpark_all()

    async def aclose(self) -> None:
        """The same as `close()`."""
        self.close()
        await trio.lowlevel.checkpoint()


async def start_listener(addr: MemoryAddress, backlog: int = BACKLOG) -> MemoryListener:
    """
    Bind and listen.

    Raises:
        OSError: the address is taken.
    """
    await trio.lowlevel.checkpoint()
    if addr in _table():
        raise OSError(errno.EADDRINUSE, f'Cannot listen on {addr}: Address already in use')
    return MemoryListener(addr, backlog)


def close_listener(addr: MemoryAddress, lstnr: MemoryListener) -> None:  # noqa: ARG001
    """Stop listening; what was accepted lives on. Idempotent."""
    lstnr.close()


async def connect(addr: MemoryAddress) -> MemoryStream:
    """
    Connect; waits while the listener has too many connections to accept.

    Raises:
        ConnectionRefusedError: nobody listens there.

    Cancelled: nothing stays open.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    listener = _table().get(addr)
    if listener is not None:
        await listener.wait_room()
    if listener is None or listener.closed:
        raise ConnectionRefusedError(
            errno.ECONNREFUSED, f'Cannot connect to {addr}: nobody listens there'
        )
    ours, theirs = stream_pair(MemoryAddress.get_random(addr.space), addr)
    listener.offer(theirs)
    await trio.lowlevel.cancel_shielded_checkpoint()
    return ours


class MsgpackMemoryStream(MsgpackTransport):
    """Messages over a connection in memory."""

    address_type: ClassVar[type[MemoryAddress]] = MemoryAddress
    layer_key: ClassVar[int] = 4

    @classmethod
    def get_stream_addrs(cls, stream: MemoryStream) -> tuple[MemoryAddress, MemoryAddress]:
        """Local and remote address of a connected stream; only that of the listener can be connected to."""
        return stream.laddr, stream.raddr

    @classmethod
    async def connect_to(
        cls, addr: MemoryAddress, prefix_size: int = 4, codec: Any = None, **kwargs: Any
    ) -> MsgpackMemoryStream:
        """
        Connect to a listening address.

        Args:
            addr: where to.
            prefix_size, codec: kept for compatibility, see `MsgpackTransport`.
            kwargs: none is known; for the common signature of transports.

        Raises:
            ConnectionRefusedError: nobody listens there.

        Cancelled: nothing stays open.
        """
        if kwargs:
            raise TypeError(f'Unknown option for a connection in memory: {", ".join(kwargs)}')
        return cls(await connect(addr), prefix_size=prefix_size, codec=codec)

    def connected(self) -> bool:
        """Whether our end is open, and more may come. A peer that went away is noticed by reading only."""
        return super().connected() and not self.stream.closed

    def _send_nowait(self, data: memoryview) -> int:
        count: int = self.stream.send_nowait(data)
        return count

    async def _send_some(self, data: memoryview) -> int:
        count: int = await self.stream.send_some(data)
        return count


BACKEND = _types.Backend(
    MemoryAddress,
    MsgpackMemoryStream,
    start_listener,
    close_listener,
    stream=MemoryStream,
    bound_addr=lambda addr, _listener: addr,
)


@contextmanager
def memory_transport() -> Iterator[str]:
    """
    Make the transport known for the block; within another such block nothing happens.

    Returns:
        Its key, for `enable_transports`.
    """
    known = BACKEND in _types._backends
    if not known:
        _types.register_backend(BACKEND)
    try:
        yield BACKEND.proto_key
    finally:
        if not known:
            _types.unregister_backend(BACKEND)
