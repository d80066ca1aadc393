"""Connected streams in memory that behave as connected sockets do, and misbehave on request.

| one end | the other end reads | the other end writes |
|---|---|---|
| `send_eof()` | what was sent, then the end | as before |
| `aclose()` | what was sent, then the end | `BrokenResourceError` from `EPIPE` |
| `aclose()` with bytes unread | what was sent, then `BrokenResourceError` from `ECONNRESET` | the same |
| `abort()` | the same | the same |

Reads and writes may be partial; a write waits while `capacity` bytes are on their way. Either end can be made to
misbehave: `step` limits what one read or write moves, `hook` is awaited before each of them.
"""

from __future__ import annotations

import errno
import operator
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio

# bytes that may be on their way in one direction
CAPACITY: int = 64 * 1024

# the words of `trio` for its sockets, which the layers above tell apart
WAS_CLOSED = 'this socket was already closed'
CLOSED_MEANWHILE = 'another task closed this fd'


class _Pipe:
    """The bytes of one direction, and how each of its ends is doing."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.data = bytearray()
        # the writing end will write no more; with `reset` it went away in anger
        self.ended = False
        self.reset = False
        # the reading end reads no more
        self.deaf = False
        # who waits at either end looks again after each change
        self.changed = trio.lowlevel.ParkingLot()

    @property
    def room(self) -> int:
        return max(0, self.capacity - len(self.data))

    def notify(self) -> None:
        self.changed.unpark_all()


class MemoryStream(trio.abc.HalfCloseableStream):
    """
    One end of a connection; made by `stream_pair()`, `connect()` and `MemoryListener.accept()`.

    Args:
        incoming, outgoing: the two directions.
        laddr, raddr: the addresses of this end and of the other one.

    One task may read and one may write at a time. A cancelled read has taken nothing, a cancelled `send_some()` has
    given nothing.
    """

    def __init__(self, incoming: _Pipe, outgoing: _Pipe, laddr: Any, raddr: Any) -> None:
        self._in, self._out = incoming, outgoing
        self.laddr, self.raddr = laddr, raddr
        self.closed = False
        # bytes that one read or write moves at most; `None` is as many as possible
        self.step: int | None = None
        # awaited with 'receive' or 'send' before anything is moved
        self.hook: Callable[[str], Awaitable[object]] | None = None
        self._busy: set[str] = set()

    def __repr__(self) -> str:
        state = 'closed' if self.closed else 'open'
        return f'<MemoryStream {self.laddr} <-> {self.raddr} {state}>'

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        if what in self._busy:
            raise trio.BusyResourceError(f'another task is using this stream to {what}')
        self._busy.add(what)
        try:
            yield
        finally:
            self._busy.discard(what)

    async def _begin(self, what: str) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.closed:
            raise trio.ClosedResourceError(WAS_CLOSED)
        if self.hook is not None:
            await self.hook(what)
            if self.closed:
                raise trio.ClosedResourceError(CLOSED_MEANWHILE)

    async def _wait(self, pipe: _Pipe) -> None:
        await pipe.changed.park()
        if self.closed:
            raise trio.ClosedResourceError(CLOSED_MEANWHILE)

    # -- reading ------------------------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """
        Wait for some bytes.

        Returns:
            At most `max_bytes` of them; none at the end.

        Raises:
            trio.BrokenResourceError: the other end was aborted.
            trio.ClosedResourceError: this end is closed.
        """
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError('max_bytes must be at least 1')
        with self._alone('receive'):
            await self._begin('receive')
            pipe = self._in
            while not pipe.data and not pipe.ended:
                await self._wait(pipe)
            if not pipe.data and pipe.reset:
                raise _broken(errno.ECONNRESET, 'Connection reset by peer')
            count = min(max_bytes or len(pipe.data), self.step or len(pipe.data))
            data = bytes(pipe.data[:count])
            del pipe.data[:count]
            pipe.notify()
        await trio.lowlevel.cancel_shielded_checkpoint()
        return data

    # -- writing ------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Bytes that can be written without waiting; 0 also if writing would fail."""
        pipe = self._out
        return 0 if self.closed or pipe.ended or pipe.deaf else pipe.room

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """
        Write as much as fits.

        Returns:
            How many bytes that were.

        Raises:
            BlockingIOError: none, for now or for ever.
        """
        # a hook may want to wait
        if not self.room or self.hook is not None:
            raise BlockingIOError(errno.EAGAIN, 'it would have to wait')
        return self._put(data)

    def _put(self, data: bytes | bytearray | memoryview) -> int:
        part = data[: min(self.room, self.step or len(data))]
        self._out.data += part
        self._out.notify()
        return len(part)

    async def send_some(self, data: bytes | bytearray | memoryview) -> int:
        """
        Write a part of the data, at least one byte, as soon as any fits.

        Returns:
            How many bytes that were.

        Raises:
            trio.BrokenResourceError: the other end is closed.
            trio.ClosedResourceError: this end is closed, or has sent its end.
        """
        with self._alone('send'):
            return await self._send_some(data)

    async def _send_some(self, data: bytes | bytearray | memoryview) -> int:
        await self._begin('send')
        await self._wait_for_room()
        count = self._put(data)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return count

    async def _wait_for_room(self) -> None:
        pipe = self._out
        if pipe.ended:
            raise trio.ClosedResourceError('cannot send after the end was sent')
        while not pipe.room and not pipe.deaf:
            await self._wait(pipe)
        if pipe.deaf:
            raise _broken(errno.EPIPE, 'Broken pipe')

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """
        Write all of the data; cancelled, nobody knows how much of it.

        Raises:
            As `send_some()`.
        """
        with self._alone('send'):
            rest = memoryview(data)
            if not rest:
                await self._begin('send')
                await self._wait_for_room()
                await trio.lowlevel.checkpoint()
            while rest:
                rest = rest[await self._send_some(rest) :]

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until some bytes fit, or writing would fail."""
        with self._alone('send'):
            await self._begin('wait')
            pipe = self._out
            while not pipe.room and not pipe.deaf:
                await self._wait(pipe)
        await trio.lowlevel.checkpoint()

    # -- the end ------------------------------------------------------------------------------------------------

    async def send_eof(self) -> None:
        """End what this end sends; it can still read."""
        with self._alone('send'):
            await trio.lowlevel.checkpoint()
            if self.closed:
                raise trio.ClosedResourceError(WAS_CLOSED)
            self._out.ended = True
            self._out.notify()

    def abort(self) -> None:
        """Close this end so that the other one gets an error."""
        self._close(reset=True)

    async def aclose(self) -> None:
        """Close this end; a second call does nothing."""
        self._close(reset=bool(self._in.data))
        await trio.lowlevel.checkpoint()

    def _close(self, reset: bool) -> None:
        if self.closed:
            return
        self.closed = True
        self._out.ended = True
        self._out.reset = reset
        self._in.deaf = True
        self._in.data.clear()
        self._out.notify()
        self._in.notify()


def _broken(number: int, text: str) -> trio.BrokenResourceError:
    err = trio.BrokenResourceError(f'connection in memory broken: {text}')
    err.__cause__ = OSError(number, text)
    return err


def stream_pair(
    laddr: Any = None, raddr: Any = None, capacity: int = CAPACITY
) -> tuple[MemoryStream, MemoryStream]:
    """
    Both ends of a connection.

    Args:
        laddr, raddr: addresses of the first and of the second end.
        capacity: bytes that may be on their way in each direction.
    """
    one, two = _Pipe(capacity), _Pipe(capacity)
    return MemoryStream(one, two, laddr, raddr), MemoryStream(two, one, raddr, laddr)
