"""
What turns a byte stream into a stream of messages: `MsgTransport` says what the layers above rely on,
`MsgpackTransport` does it for any `trio` stream with length-prefixed msgpack frames.

Every failure of the stream leaves this module as a `TransportClosed`; `_faults.py` decides what it says.

Writing is cooperative: a task pushes its frame into the writer's queue and then either writes (everything that is
queued, its own frame last) or, when another task is writing already, waits until its frame has been taken along.
A task whose `send()` is cancelled takes its frame back, unless a part of it may be on its way: then the rest stays
in the queue for the next task and the stream stays in sync.

How a stream is lost, for each direction:

| what happened | `recv()` from then on | `send()` from then on |
|---|---|---|
| a read failed, or found the end | raises | raises, also in tasks that wait for their turn |
| the peer broke the rules | raises, once all that came before is taken | raises |
| a write failed | goes on: the peer's last words may be here already | raises |

A frame that the kernel had taken when its stream was lost has been sent: that `send()` returns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Any, ClassVar, Protocol, runtime_checkable

import msgspec
import trio

from tractor import log as _log
from tractor._exceptions import MsgTypeError, TransportClosed
from tractor.ipc import _faults, _fdio
from tractor.ipc._framing import MAX_FRAME_SIZE, FrameReader, FrameTooLarge, FrameWriter
from tractor.msg import _codec
from tractor.msg._errors import _mk_recv_mte, _mk_send_mte

log = _log.get_logger()

MsgTransportKey = tuple[str, str]

# bytes asked from the kernel at once; what is larger goes straight into a buffer of its own
_READ_SIZE: int = 64 * 1024

# undecodable frames which a peer may send before the connection is given up
_MAX_GARBAGE: int = 4


@runtime_checkable
class MsgTransport(Protocol):
    """One connection, as the channel above it sees it."""

    stream: Any
    drained: list[Any]
    address_type: ClassVar[type]
    codec_key: ClassVar[str]
    layer_key: ClassVar[int]

    async def send(self, msg: Any) -> None: ...
    async def recv(self) -> Any: ...
    def __aiter__(self) -> AsyncIterator[Any]: ...
    def connected(self) -> bool: ...
    def drain(self) -> AsyncIterator[Any]: ...
    @classmethod
    def key(cls) -> MsgTransportKey: ...
    @property
    def laddr(self) -> Any: ...
    @property
    def raddr(self) -> Any: ...
    @property
    def maddr(self) -> Any: ...
    @classmethod
    async def connect_to(cls, addr: Any, **kwargs: Any) -> MsgTransport: ...
    @classmethod
    def get_stream_addrs(cls, stream: Any) -> tuple[Any, Any]: ...


class MsgpackTransport:
    """
    Messages over a `trio` stream.

    Args:
        stream: a connected stream; a `trio.SocketStream` is read and written without intermediate copies.
        prefix_size: size of the length prefix in bytes; always 4, kept for compatibility.
        codec: not used, kept for compatibility: each task sends with its own current codec.

    One task may receive at a time, any number may send. Cancelling either leaves the stream usable: the next
    `recv()` resumes in the middle of a frame, so does the next `send()`.
    """

    address_type: ClassVar[type]
    codec_key: ClassVar[str] = 'msgpack'
    layer_key: ClassVar[int] = 4

    # sending needs no more of an instance than its stream and what its repr shows
    _writer: FrameWriter | None = None
    _writing: bool = False
    _turns: list[tuple[int, trio.Event]] | None = None
    _rx_lost: TransportClosed | None = None
    # the last read took all there was
    _is_drained: bool = False
    _tx_lost: TransportClosed | None = None

    # who is at the other end, for people; known after the handshake
    peer: str = ''

    def __init__(self, stream: Any, prefix_size: int = 4, codec: Any = None) -> None:
        self.stream = stream
        self.prefix_size = prefix_size
        self.drained: list[Any] = []
        self._laddr, self._raddr = self.get_stream_addrs(stream)
        self._task = trio.lowlevel.current_task()
        self._reader = FrameReader()
        self._ready: deque[Any] = deque()
        self._garbage = 0

    @classmethod
    def key(cls) -> MsgTransportKey:
        """`(codec_key, proto_key)`, which names a transport class."""
        return cls.codec_key, cls.address_type.proto_key  # type: ignore[attr-defined]

    @classmethod
    def get_stream_addrs(cls, stream: Any) -> tuple[Any, Any]:
        """Local and remote address of a connected stream; each transport knows how."""
        raise TypeError(f'{cls.__name__} does not say how to read the addresses of {stream!r}')

    @classmethod
    async def connect_to(cls, addr: Any, **kwargs: Any) -> MsgpackTransport:
        """Connect to an address; each transport knows how."""
        raise TypeError(f'{cls.__name__} does not say how to connect to {addr!r} with {kwargs}')

    @property
    def maddr(self) -> Any:
        """The peer's address as a multiaddr; as text where the transport has none."""
        return str(self._raddr)

    @property
    def laddr(self) -> Any:
        """Our end's address."""
        return self._laddr

    @property
    def raddr(self) -> Any:
        """The peer's address."""
        return self._raddr

    @property
    def max_frame_size(self) -> int:
        """Largest accepted incoming frame, in bytes."""
        return self._reader.max_size

    @max_frame_size.setter
    def max_frame_size(self, size: int) -> None:
        self._reader.max_size = size

    def connected(self) -> bool:
        """Whether our end is open, and more may come. A peer that went away is noticed by reading only."""
        if self._rx_lost is not None:
            return False
        sock = getattr(self.stream, 'socket', None)
        return sock is None or sock.fileno() != -1

    def __repr__(self) -> str:
        who = f' of {self.peer}' if self.peer else ''
        return f'<{type(self).__name__} {self._laddr} <-> {self._raddr}{who}>'

    # -- writing ------------------------------------------------------------------------------------------------

    def push(self, msg: Any) -> int:
        """
        Encode a message and queue its frame without writing; returns the queue position it ends at.

        Raises:
            MsgTypeError: the message cannot be encoded, or is too large; nothing was queued.
        """
        codec = _codec._ctxvar_MsgCodec.get()
        try:
            body = codec.enc.encode(msg)
        except Exception as err:
            raise _mk_send_mte(msg=msg, codec=codec, src_type_error=err) from err
        if len(body) > MAX_FRAME_SIZE:
            raise _too_large(msg, len(body))
        if self._writer is None:
            self._writer = FrameWriter()
        return self._writer.push(body)

    async def send(self, msg: Any, strict_types: bool = True, hide_tb: bool = True) -> None:
        """
        Send one message; returns once the kernel has taken it.

        Args:
            msg: a message struct, or plain builtins.
            strict_types, hide_tb: kept for compatibility.

        Raises:
            MsgTypeError: it cannot be encoded, or is too large; nothing was sent.
            TransportClosed: the stream is gone, here or at the peer.
            trio.BrokenResourceError: it failed, and not (only) because it was closed.

        Cancelled: the message was not sent and will not be; if it was on its way, it goes with the next one.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._tx_lost is not None:
            raise _faults.again(self._tx_lost)
        end = self.push(msg)
        if not self.flush_nowait():
            await self._flush_own(end)
            return
        # who comes meanwhile queues its frame: one of them then writes all
        self._writing = True
        try:
            await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            self._writing = False
            assert self._writer is not None
            self._next_turn(self._writer)

    async def post(self, msg: Any) -> None:
        """
        Like `send()`, but a checkpoint only if the kernel cannot take the message at once.

        For the runtime, where something else is waited for next anyway.
        """
        if self._tx_lost is not None:
            raise _faults.again(self._tx_lost)
        end = self.push(msg)
        if self.flush_nowait():
            return
        await self._flush_own(end)

    async def _flush_own(self, end: int) -> None:
        """Wait until the frame that ends at a position has been written; cancelled, take it back."""
        try:
            await self.flush(end)
        except trio.Cancelled:
            assert self._writer is not None
            self._writer.withdraw(end)
            raise

    async def flush(self, upto: int | None = None) -> None:
        """
        Wait until everything queued (or everything up to position `upto`) has been written.

        Raises:
            As `send()`.
        """
        writer = self._writer
        goal = 0 if writer is None else writer.pushed if upto is None else upto
        if writer is None or writer.written >= goal:
            await trio.lowlevel.checkpoint()
            return
        while writer.written < goal:
            if self._tx_lost is not None:
                # a task that is just writing will do that, once it knows how far it came
                if not self._writing:
                    writer.discard()
                raise _faults.again(self._tx_lost)
            if self._writing:
                await self._wait_turn(writer, goal)
            else:
                await self._write(writer, goal)

    def flush_nowait(self) -> bool:
        """Write what can be written without waiting; whether nothing is left."""
        writer = self._writer
        if writer is None or not writer.unwritten:
            return True
        if self._writing or self._tx_lost is not None:
            return False
        try:
            while (data := writer.current()) is not None:
                writer.wrote(self._send_nowait(data))
        except OSError:
            # full, or broken: the flush that waits will find out which and say so
            return False
        # the one whose turn it is may have been served by this: it would not write, nor pass the turn on
        self._next_turn(writer)
        return True

    async def _write(self, writer: FrameWriter, goal: int) -> None:
        self._writing = True
        try:
            while writer.written < goal and self._tx_lost is None:
                data = writer.current()
                if data is None:
                    break
                writer.wrote(await self._send_some(data))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as err:
            if self._tx_lost is None:
                self._tx_lost = _faults.from_send(self, err)
            if not _faults.is_closure(err):
                log.error('%r failed while sending: %r', self, err)
                raise
        finally:
            self._writing = False
            self._next_turn(writer)

    async def _wait_turn(self, writer: FrameWriter, goal: int) -> None:
        if self._turns is None:
            self._turns = []
        turn = goal, trio.Event()
        self._turns.append(turn)
        try:
            await turn[1].wait()
        except trio.Cancelled:
            if turn in self._turns:
                self._turns.remove(turn)
            elif not self._writing:
                # it was this one's turn already, cancelled in the same instant: the next one writes on
                self._next_turn(writer)
            raise

    def _next_turn(self, writer: FrameWriter) -> None:
        """Wake those who have been served, and of the others the first: it writes on. A loss wakes all."""
        lost = self._tx_lost is not None
        if lost:
            writer.discard()
        if not self._turns:
            return
        unserved = []
        for turn in self._turns:
            if lost or turn[0] <= writer.written:
                turn[1].set()
            else:
                unserved.append(turn)
        if unserved:
            unserved.pop(0)[1].set()
        self._turns = unserved

    def _send_nowait(self, data: memoryview) -> int:
        """
        Give the stream as much as it takes without waiting; returns how many bytes, at least one.

        A transport whose streams can do that, and are no `trio.SocketStream`, has its own.

        Raises:
            OSError: it takes nothing now, for whatever reason.
        """
        if not isinstance(self.stream, trio.SocketStream):
            raise BlockingIOError
        return _fdio.send_nowait(self.stream, data)

    async def _send_some(self, data: memoryview) -> int:
        """
        Give the stream a part of the data once it takes any; returns how many bytes, none if it is cancelled.

        A transport whose streams can do that, and are no `trio.SocketStream`, has its own: this one can only give up
        such a stream once a write was cancelled.
        """
        stream = self.stream
        if isinstance(stream, trio.SocketStream):
            return await _fdio.send_some(stream, data)
        # other streams cannot tell how far a cancelled write got: after one the stream is of no use any more
        try:
            await stream.send_all(data)
        except trio.Cancelled:
            self._tx_lost = _faults.half_written(self)
            await trio.aclose_forcefully(stream)
            raise
        return len(data)

    # -- reading ------------------------------------------------------------------------------------------------

    async def recv_batch(self) -> deque[Any]:
        """
        Wait until at least one message is here; return the queue of all that arrived with it.

        The caller empties the queue. A frame that violates the message spec is in it as a `MsgTypeError` value.

        Raises:
            TransportClosed: no further message will come.
        """
        ready = self._ready
        while not ready:
            if self._rx_lost is not None:
                raise _faults.again(self._rx_lost)
            for body in await self._read_some():
                self._decode(body)
                if self._garbage > _MAX_GARBAGE:
                    break
        return ready

    async def recv(self) -> Any:
        """
        The next message, or a `MsgTypeError` value for a frame that violates the message spec.

        Raises:
            TransportClosed: no further message will come.
        """
        if self._ready:
            await trio.lowlevel.checkpoint()
        else:
            await self.recv_batch()
        return self._ready.popleft()

    def __aiter__(self) -> MsgpackTransport:
        return self

    async def __anext__(self) -> Any:
        return await self.recv()

    async def drain(self) -> AsyncIterator[Any]:
        """Read until the stream ends, keep it all in `drained`, then yield it."""
        try:
            while True:
                self.drained.append(await self.recv())
        except TransportClosed as closed:
            log.transport('drained %s: %s', self, closed)
        for msg in self.drained:
            yield msg

    async def _read_some(self) -> list[bytes | bytearray]:
        """The bodies that some more bytes completed, maybe none. A stream that ended is marked as lost."""
        stream, reader = self.stream, self._reader
        try:
            if reader.held:
                return reader.feed(b'')
            hole = reader.hole() if isinstance(stream, trio.SocketStream) else None
            if hole is not None:
                return await self._fill(hole)
            if isinstance(stream, trio.SocketStream):
                data = await _fdio.receive_some(stream, _READ_SIZE, self._is_drained)
                self._is_drained = len(data) < _READ_SIZE
            else:
                data = await stream.receive_some(_READ_SIZE)
            if data:
                return reader.feed(data)
            self._lose(_faults.eof(self))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as err:
            self._lose(_faults.from_recv(self, err))
        except FrameTooLarge as err:
            self._lose(_faults.refused(self, err))
        return []

    async def _fill(self, hole: memoryview) -> list[bytes | bytearray]:
        with hole:
            try:
                count = await self.stream.socket.recv_into(hole)
            except OSError as err:
                raise _faults.as_stream_error(err) from err
        if not count:
            self._lose(_faults.eof(self))
            return []
        body = self._reader.filled(count)
        return [] if body is None else [body]

    def _decode(self, body: bytes | bytearray) -> None:
        codec = _codec._ctxvar_MsgCodec.get()
        try:
            self._ready.append(codec.dec.decode(body))
        except msgspec.ValidationError as err:
            self._ready.append(_mk_recv_mte(msg=bytes(body), codec=codec, src_validation_error=err))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
            self._garbage += 1
            log.warning(
                '%r sent a frame of %s bytes that is not msgpack: %s', self._raddr, len(body), err
            )
            if self._garbage > _MAX_GARBAGE:
                self._lose(_faults.refused(self, err))

    def _lose(self, closed: TransportClosed) -> None:
        """Nothing more will be read: remember why, and tell whoever waits to send."""
        self._rx_lost = closed
        if self._tx_lost is None:
            self._tx_lost = _faults.to_sender(closed)
        # a task that is just writing will see for itself what became of its frame
        if self._writer is not None and not self._writing:
            self._next_turn(self._writer)

    async def aclose(self) -> None:
        """Close our end. What was still queued is dropped; a blocked reader or writer gets `TransportClosed`."""
        await self.stream.aclose()


def _too_large(msg: Any, size: int) -> MsgTypeError:
    # without the message, which would make its report to the other end too large as well
    return MsgTypeError.from_decode(
        f'a {type(msg).__name__} of {size} bytes is above the {MAX_FRAME_SIZE} that fit one message: '
        'send it in parts, or share the memory\n',
        cid=getattr(msg, 'cid', None),
    )
