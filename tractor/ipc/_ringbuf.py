"""
Ring buffers: a stream of bytes through shared memory, from one writer to one reader on one host.

Linux only: the two sides wake each other by event descriptors (``eventfd``), which are waited for
like sockets. No thread is involved and nothing but the bytes goes through the buffer.

A ring is a segment of `buf_size` bytes, an event *write* and an event *wrap*; a pass goes from the
start of the buffer to its end. Sender and receiver each have a position, `ptr`.

=======================================  ========================================================
event                                    what happens
=======================================  ========================================================
sender has bytes, and room up to the     copies as many as fit to `ptr`, advances, adds their
end of the buffer                        number to *write*; goes on with the rest
sender has bytes, is at the end          waits for *wrap*, takes it, starts again at 0
receiver is called, has bytes left       hands out up to `max_bytes` of them, advances
receiver is called, has none             waits for *write*, takes its number: so many it has now
receiver has handed out the last byte    starts again at 0, and *owes a wrap*
receiver owes a wrap and is called       adds 1 to *wrap*: the caller is through with the last
again, or closed                         bytes only now, and the sender may overwrite them
receiver is closed with bytes left       adds their number to *write* again, for its successor
either side is cancelled                 nothing is lost: positions and numbers change together,
                                         with no checkpoint between
either side is closed while it waits     the waiting call raises `trio.ClosedResourceError`
the peer closes or dies                  **nothing**: there is no end of file
=======================================  ========================================================

Hence the writer never overtakes the reader, nor overwrites what the reader's caller still looks at,
and both never wait for each other: the writer waits for a buffer which has something to be read.
It waits only when it has more to write, so that a request which ends at the end of the buffer does
not keep its writer from waiting for the reply.

**The end.** The reader learns it from what is in the stream (a length, a last message), or from the
context in which the other actor works: a killed writer fails `Portal.open_context()`, and that error
cancels the task which waits for its bytes if both share a nursery or the context's block. A sender
can be followed by another one with `start_ptr` where the first one was, which an end of file would
not allow.

**Descriptors.** They mean something only in processes that have them: pass them to an actor of the
`trio` backend with ``proc_kwargs={'pass_fds': (token.write_eventfd, token.wrap_eventfd)}``, along with
the token as an argument. Sub-interpreters share those of their process. The backends of
multiprocessing cannot pass any.
"""

from __future__ import annotations

import errno
import os
import sys
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import msgspec
import trio

from tractor.ipc import _shm_owner
from tractor.ipc._mp_bs import SharedMemory

_CHUNK = 1 << 16
"""Bytes after which a sender wakes its receiver while it goes on copying."""


class RBToken(msgspec.Struct, frozen=True):
    """What to open either side of a ring by; can be sent, see `as_msg()`."""

    shm_name: str
    write_eventfd: int
    wrap_eventfd: int
    buf_size: int

    def as_msg(self) -> dict[str, Any]:
        """As builtins, to be sent; `from_msg()` takes it back."""
        return msgspec.structs.asdict(self)

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
            return msgspec.convert(msg, cls)
        except (msgspec.ValidationError, TypeError, ValueError) as err:
            raise TypeError(f'not the token of a ring buffer: {msg!r}') from err


class _Event:
    """An event descriptor; closed with this object, with the interpreter at the latest."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        # also when an interpreter is ended by force, as its process keeps descriptors
        self._close = weakref.finalize(self, os.close, fd)

    @classmethod
    def duplicate(cls, fd: int) -> Self:
        """
        One of our own for the same event: closing either does not affect the other.

        Raises:
            OSError: `fd` is not the descriptor of an event in this process.
        """
        try:
            if os.readlink(f'/proc/self/fd/{fd}') == 'anon_inode:[eventfd]':
                return cls(os.dup(fd))
        except FileNotFoundError:
            # said below
            pass
        raise OSError(
            errno.EBADF,
            f'descriptor {fd} is not an event in this process: pass it to the actor with '
            "proc_kwargs={'pass_fds': (token.write_eventfd, token.wrap_eventfd)} and "
            "start_method='trio'",
        )

    def add(self, number: int) -> None:
        os.eventfd_write(self.fd, number)

    def take(self) -> int:
        """Its number, which becomes 0."""
        try:
            return os.eventfd_read(self.fd)
        except BlockingIOError:
            return 0

    async def wait(self) -> None:
        await trio.lowlevel.wait_readable(self.fd)

    def close(self) -> None:
        """Close it; who waits for it gets `trio.ClosedResourceError`."""
        if self._close.alive:
            trio.lowlevel.notify_closing(self.fd)
            self._close()


def _need_eventfd() -> None:
    if sys.platform != 'linux':
        raise NotImplementedError('ring buffers need event descriptors, which only Linux has.')


@contextmanager
def open_ringbuf(
    shm_name: str,
    buf_size: int = 10240,
    write_efd_flags: int = 0,
    wrap_efd_flags: int = 0,
) -> Iterator[RBToken]:
    """
    A context manager which creates a ring buffer and removes it at its end.

    Keep it open for as long as anybody uses the token. The segment is owned by the current actor:
    it is removed as well if that is killed. Without a runtime, leaving the block has to do.

    Args:
        shm_name: the name of the segment.
        buf_size: bytes of the buffer. A pass ends when it has been read to its end: make it a
            multiple of what is sent at once.
        write_efd_flags: for the event *write*, see `os.eventfd()`. `os.EFD_NONBLOCK` and
            `os.EFD_CLOEXEC` are always set.
        wrap_efd_flags: for the event *wrap*.

    Yields:
        The token, for one `RingBuffSender` and one `RingBuffReceiver`.

    Raises:
        FileExistsError: `shm_name` is in use.
        NotImplementedError: this is not Linux.
        OSError: there is no room for the buffer, or too many descriptors are open.
        ValueError: an argument makes no sense.
    """
    _need_eventfd()
    flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
    if (write_efd_flags | wrap_efd_flags) & os.EFD_SEMAPHORE:
        raise ValueError('a ring buffer counts bytes: its events cannot be semaphores.')
    owner = _shm_owner.get_owner(f'the ring buffer {shm_name!r}')
    shm = SharedMemory.published(shm_name, buf_size, ledger=owner)
    events: list[_Event] = []
    try:
        for extra in (write_efd_flags, wrap_efd_flags):
            events.append(_Event(os.eventfd(0, flags | extra)))
        write, wrap = events
        yield RBToken(shm.name, write.fd, wrap.fd, buf_size)
    finally:
        _shm_owner.unlink_if_there(shm.unlink)
        shm.close()
        for event in events:
            event._close()


class _Side(trio.abc.AsyncResource):
    """
    What both sides have: a mapping of the buffer, and descriptors of their own for the two events.

    They are there from entering the side with ``async with`` until it is closed.
    """

    def __init__(self, token: RBToken | Mapping[str, Any], start_ptr: int = 0) -> None:
        self._token = RBToken.from_msg(token)
        if not 0 <= start_ptr <= self._token.buf_size:
            raise ValueError(f'position {start_ptr} is not in {self._token}.')
        self._ptr = start_ptr
        self._shm: SharedMemory | None = None
        self._write: _Event | None = None
        self._wrap: _Event | None = None
        self._closed = False
        self._busy = False

    def __repr__(self) -> str:
        state = 'closed' if self._closed else f'at {self._ptr} of {self.size}'
        return f'<{type(self).__name__} {self.key!r}, {state}>'

    @property
    def key(self) -> str:
        """The name of the segment."""
        return self._token.shm_name

    @property
    def size(self) -> int:
        """Bytes of the buffer."""
        return self._token.buf_size

    @property
    def ptr(self) -> int:
        """Position in the buffer, and the `start_ptr` of a successor."""
        return self._ptr

    @property
    def write_fd(self) -> int:
        """The event *write* of the token."""
        return self._token.write_eventfd

    @property
    def wrap_fd(self) -> int:
        """The event *wrap* of the token."""
        return self._token.wrap_eventfd

    async def __aenter__(self) -> Self:
        """
        Raises:
            FileNotFoundError: the ring has been removed.
            NotImplementedError: this is not Linux.
            OSError: its descriptors are not open in this process.
            trio.ClosedResourceError: it was closed; make another one.
            ValueError: the segment is smaller than the token says.
        """
        _need_eventfd()
        if self._closed:
            raise trio.ClosedResourceError(f'{self!r} cannot be opened again')
        try:
            self._open()
        except BaseException:
            self._close()
            raise
        return self

    def _open(self) -> None:
        self._write = _Event.duplicate(self.write_fd)
        self._wrap = _Event.duplicate(self.wrap_fd)
        self._shm = SharedMemory(self.key)
        if self._shm.size < self.size:
            raise ValueError(f'the shared memory of {self._token} has {self._shm.size} bytes only.')

    def _close(self) -> None:
        self._closed = True
        for part in (self._write, self._wrap, self._shm):
            if part is not None:
                part.close()

    def _parts(self) -> tuple[memoryview, _Event, _Event]:
        """The buffer, *write* and *wrap*."""
        if self._closed:
            raise trio.ClosedResourceError(f'this side was closed: {self!r}')
        if self._shm is None or self._write is None or self._wrap is None:
            raise RuntimeError(f'enter it first: `async with {type(self).__name__}(token) as ...`')
        return self._shm.memory, self._write, self._wrap

    @contextmanager
    def _used(self) -> Iterator[None]:
        if self._busy:
            raise trio.BusyResourceError(f'another task uses {self!r}')
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    async def aclose(self) -> None:
        """
        Close this side; a task that waits in it gets `trio.ClosedResourceError`.

        The other side is not told, see the module. Closed at once, also when cancelled.
        """
        if not self._closed:
            try:
                self._settle()
            finally:
                self._close()
        await trio.lowlevel.checkpoint()

    def _settle(self) -> None:
        """Leave the ring to a successor."""


class RingBuffSender(_Side, trio.abc.SendStream):
    """
    The writing end of a ring buffer, to be used with ``async with``.

    Args:
        token: the ring, also as it was received in a message.
        start_ptr: where to start; `ptr` of the sender before, if there was one.

    Raises:
        TypeError: `token` is no token.
        ValueError: `start_ptr` is not in the buffer.
    """

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """
        Send bytes, of any number; waits while the reader has not read the buffer to its end.

        Args:
            data: what to send; anything with a contiguous buffer.

        Raises:
            trio.BusyResourceError: another task is sending.
            trio.ClosedResourceError: this side is, or gets, closed.

        Cancelled, it has sent an unknown part: `ptr` and the reader agree on how much that is, so
        that the ring can go on to be used by who knows what the reader makes of it.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        with self._used(), memoryview(data) as given, given.cast('B') as rest:
            sent = 0
            waited = False
            buf, write, _ = self._parts()
            while sent < len(rest):
                if self._ptr == self.size:
                    waited |= await self._start_again()
                length = min(len(rest) - sent, self.size - self._ptr, _CHUNK)
                buf[self._ptr : self._ptr + length] = rest[sent : sent + length]
                self._ptr += length
                sent += length
                write.add(length)
            if not waited:
                await trio.lowlevel.cancel_shielded_checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        """
        Return once there is room for at least one byte.

        Raises:
            trio.BusyResourceError: another task is sending.
            trio.ClosedResourceError: this side is, or gets, closed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        with self._used():
            self._parts()
            if self._ptr < self.size or not await self._start_again():
                await trio.lowlevel.cancel_shielded_checkpoint()

    async def _start_again(self) -> bool:
        """Go back to the start of the buffer when it has been read; whether that took waiting."""
        waited = False
        _, _, wrap = self._parts()
        while not wrap.take():
            waited = True
            await wrap.wait()
            self._parts()
        self._ptr = 0
        return waited


class RingBuffReceiver(_Side, trio.abc.ReceiveStream):
    """
    The reading end of a ring buffer, to be used with ``async with``.

    Args:
        token: the ring, also as it was received in a message.
        start_ptr: where to start; `ptr` of the receiver before, if there was one.
        flags: ignored; how an event is read does not depend on it.

    Raises:
        TypeError: `token` is no token.
        ValueError: `start_ptr` is not in the buffer.
    """

    def __init__(
        self, token: RBToken | Mapping[str, Any], start_ptr: int = 0, flags: int = 0
    ) -> None:
        super().__init__(token, start_ptr)
        self._ptr %= self.size
        self._flags = flags
        # bytes that were announced and not handed out
        self._unread = 0
        self._owes_wrap = False

    # memory that is shared, instead of a copy as the base class has it
    async def receive_some(  # type: ignore[override]
        self, max_bytes: int | None = None
    ) -> memoryview:
        """
        Wait for bytes.

        Args:
            max_bytes: at most so many; by default all that there are up to the end of the buffer.

        Returns:
            A read-only view of the buffer, never an empty one. What is in it may change with the
            next call, and when this side is closed: copy what has to last, and drop the view.

        Raises:
            trio.BrokenResourceError: more bytes were announced than there is room for: somebody
                else writes into the same ring, or started elsewhere.
            trio.BusyResourceError: another task is receiving.
            trio.ClosedResourceError: this side is, or gets, closed.
            ValueError: `max_bytes` is not positive.

        Cancelled, it has taken nothing. When the sender is gone it waits forever, see the module.
        """
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f'max_bytes is {max_bytes}: it must be positive.')
        await trio.lowlevel.checkpoint_if_cancelled()
        with self._used():
            waited = False
            buf, write, _ = self._parts()
            self._pay_wrap()
            while not self._take(write):
                waited = True
                await write.wait()
                self._parts()
            view = self._hand_out(buf, max_bytes)
            if not waited:
                await trio.lowlevel.cancel_shielded_checkpoint()
            return view

    def _take(self, write: _Event) -> bool:
        """Whether there are bytes to hand out."""
        if not self._unread:
            self._unread = write.take()
        return self._unread > 0

    def _hand_out(self, buf: memoryview, max_bytes: int | None) -> memoryview:
        if self._unread > self.size - self._ptr:
            raise trio.BrokenResourceError(
                f'{self._unread} bytes were announced to {self!r}: the ring has another writer, or '
                'the two sides did not start at the same position'
            )
        length = self._unread if max_bytes is None else min(max_bytes, self._unread)
        view = buf[self._ptr : self._ptr + length].toreadonly()
        self._unread -= length
        self._ptr += length
        if self._ptr == self.size:
            self._ptr = 0
            self._owes_wrap = True
        return view

    def _pay_wrap(self) -> None:
        if self._owes_wrap:
            self._owes_wrap = False
            self._parts()[2].add(1)

    def _settle(self) -> None:
        if self._write is None or self._wrap is None:
            return
        self._pay_wrap()
        if self._unread:
            self._write.add(self._unread)
            self._unread = 0
