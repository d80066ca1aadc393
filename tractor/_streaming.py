"""
`MsgStream`: one side's end of the two-way stream of a dialog, and the decorator of the older one-way kind.

| how it ends | `receive()` | `send()` |
|---|---|---|
| we closed it | the stored `trio.EndOfChannel` | the stored `trio.EndOfChannel` |
| the peer sent `Stop` | `trio.EndOfChannel` after what was sent before it | the stored `trio.EndOfChannel` |
| the dialog failed | what was sent before, then the dialog's remote error | the dialog's remote error |
| the connection was lost | waits for the dialog's outcome | `TransportClosed` |
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from tractor import log as _log
from tractor._exceptions import MsgTypeError, TransportClosed
from tractor.msg._typed import encode_payload
from tractor.msg.types import Stop, Yield
from tractor.runtime._flow import Credit
from tractor.runtime._queue import StreamQueue
from tractor.trionics._broadcast import BroadcastReceiver, broadcast_receiver

if TYPE_CHECKING:
    from tractor._context import Context
    from tractor.ipc import Channel

log = _log.get_logger()

F = TypeVar('F', bound=Callable[..., Any])

# seconds for telling the peer that a stream ended; a peer that does not read must not hold us up
STOP_TIMEOUT: float = 0.5


class MsgStream(trio.abc.Channel[Any]):
    """
    One side's end of a two-way stream; made by `Context.open_stream()`.

    Messages of one direction arrive in the order they were sent. A cancelled `receive()` loses nothing and leaves
    the stream usable, by another task too.
    """

    def __init__(self, ctx: Context, rx_chan: StreamQueue, _broadcaster: Any = None) -> None:
        self._ctx = ctx
        self._rx_chan = rx_chan
        self._broadcaster = _broadcaster
        self._stop_msg: Stop | bool = False
        self._eoc: trio.EndOfChannel | bool = False
        self._closed: BaseException | bool = False
        self._shut = False
        self._credit: Credit | None = None

    def __repr__(self) -> str:
        return f'<MsgStream {"closed" if self.closed else "open"} of {self._ctx.cid}>'

    @property
    def ctx(self) -> Context:
        """The dialog it belongs to."""
        return self._ctx

    @property
    def chan(self) -> Channel:
        """The connection it runs over."""
        return self._ctx.chan

    @property
    def closed(self) -> bool:
        """Whether nothing more can be received."""
        return bool(self._rx_chan.closed or self._eoc or self._closed)

    def receive_nowait(self, expect_msg: type = Yield) -> Any:
        """
        The next value if one is here.

        Raises:
            trio.WouldBlock: none is here.
            the same as `receive()` otherwise.
        """
        self._check_open()
        try:
            msg = self._rx_chan.get_nowait()
        except trio.EndOfChannel as eoc:
            raise self._ended(eoc) from None
        except trio.ClosedResourceError as err:
            raise self._torn(err) from None
        return self._decode(msg)

    async def receive(self, hide_tb: bool = False) -> Any:
        """
        Wait for the next value.

        Raises:
            trio.EndOfChannel: the stream ended, here or at the peer.
            RemoteActorError: the peer's task failed or was cancelled.
            StreamOverrun: values were lost because this side did not read them in time.
            MsgTypeError: the value does not match the dialog's payload spec.
            trio.ClosedResourceError: the dialog is over.
        """
        if self._eoc or self._closed:
            self._check_open()
        try:
            msg = await self._get()
        except trio.EndOfChannel as eoc:
            await self._learn_why()
            raise self._ended(eoc) from None
        except trio.ClosedResourceError as err:
            raise self._torn(err) from None
        return self._decode(msg)

    async def _learn_why(self) -> None:
        """A sender that was told off fails for it, unless it had ended before: which of them, its outcome tells."""
        ctx = self._ctx
        if ctx._overrun is not None and ctx._portal is not None and not ctx._dialog.done:
            await ctx._wait(_is_over)

    async def _get(self) -> Any:
        ctx = self._ctx
        if trio.lowlevel.current_task() is not ctx._task:
            return await self._rx_chan.get()
        # the scope of the dialog is not cancelled for an answer that this very wait will deliver
        ctx._owner_waits += 1
        try:
            msg = await self._rx_chan.get()
        except trio.Cancelled:
            if ctx._remote_error is None:
                raise
            raise trio.EndOfChannel from None
        finally:
            ctx._owner_waits -= 1
        if ctx._remote_error is not None:
            # it came together with this message, which is what the owner goes on with
            ctx._interrupt()
        return msg

    def _decode(self, msg: Any) -> Any:
        ctx = self._ctx
        try:
            return ctx._pld_rx.decode(msg)
        except MsgTypeError as mte:
            ctx._set_remote_error(mte)
            raise

    def _check_open(self) -> None:
        for ending in (self._eoc, self._closed):
            if isinstance(ending, BaseException):
                raise ending

    def _ended(self, eoc: trio.EndOfChannel) -> BaseException:
        """What a reader gets at the end: the dialog's error, or that it missed something, or just the end."""
        if not self._eoc:
            self._eoc = eoc
        error = self._ctx._remote_error or self._ctx._overrun
        assert isinstance(self._eoc, trio.EndOfChannel)
        if error is None:
            return self._eoc
        error.__cause__ = error.__cause__ or self._eoc
        return error

    def _torn(self, err: trio.ClosedResourceError) -> BaseException:
        error = self._ctx._remote_error
        if error is None and isinstance(self._eoc, trio.EndOfChannel):
            return self._eoc
        if not self._closed:
            self._closed = err
        return error if error is not None else err

    async def __anext__(self) -> Any:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def send(self, data: Any, hide_tb: bool = True) -> None:
        """
        Send one value; returns once the kernel has taken it. With back-pressure it waits first until it fits.

        Raises:
            RemoteActorError: the peer's task failed or was cancelled.
            trio.EndOfChannel: the stream ended.
            MsgTypeError: the value cannot be encoded; nothing was sent.
            TransportClosed: the connection is gone.
        """
        self._check_may_send()
        if self._credit is not None:
            await self._credit.take()
            self._check_may_send()
        ctx = self._ctx
        await ctx.chan.send(encode_payload(ctx._pld_codec, Yield, ctx.cid, data))

    def _check_may_send(self) -> None:
        error = self._ctx._remote_error
        if error is not None:
            self._ctx._maybe_raise_remote_err(error)
        if self._eoc or self._closed:
            self._check_open()

    async def aclose(self) -> list[Any]:  # type: ignore[override]
        """
        End the stream: tell the peer unless it told us, and drop what was not read.

        Returns:
            The messages that were dropped; `[]` if it was closed already.

        Shielded, at most half a second; a lost connection is no error here. Whoever waits in `receive()` gets the
        end of the channel.
        """
        dropped = await self._close()
        await trio.lowlevel.checkpoint()
        return dropped

    async def _close(self) -> list[Any]:
        """The same without being interrupted by a cancellation, so that it hides no error on its way out."""
        if self._shut:
            return []
        self._shut = True
        if not self._eoc:
            self._eoc = trio.EndOfChannel('this end of the stream was closed')
        dropped = self._drop_unread()
        self._rx_chan.close()
        if not self._ctx._peer_stopped and not self._ctx._dialog.done:
            await self._send_stop()
        return dropped

    def _drop_unread(self) -> list[Any]:
        dropped = []
        while True:
            try:
                dropped.append(self._rx_chan.get_nowait())
            except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                return dropped

    async def _send_stop(self) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_TIMEOUT) as scope:
            try:
                await self._ctx.send_stop()
            except TransportClosed as closed:
                self._closed = closed
                log.runtime('the peer of %s is gone, it gets no `Stop`: %s', self._ctx.cid, closed)
        if scope.cancelled_caught:
            log.cancel('the peer of %s does not read: its `Stop` is still queued', self._ctx.cid)

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[BroadcastReceiver[Any]]:
        """
        A receiver that gets every value from now on, for the block, however many others there are.

        Yields:
            A `tractor.trionics.BroadcastReceiver`, which can `send()` too.

        Raises (when receiving):
            tractor.trionics.Lagged: it is more than the stream's buffer size behind the fastest one.
            the same as `receive()` otherwise.

        From the first call on the stream itself is one more subscriber, which can lag.
        """
        if self._broadcaster is None:
            window = max(1, self._rx_chan.max_buffer_size)
            self._broadcaster = broadcast_receiver(self, window, self.receive)
            self.receive = self._broadcaster.receive  # type: ignore[method-assign]
        async with self._broadcaster.subscribe() as receiver:
            receiver.send = self.send
            yield receiver


def _is_over(ctx: Context) -> bool:
    return ctx._dialog.done


@asynccontextmanager
async def open_stream_from_ctx(
    ctx: Context,
    allow_overruns: bool = False,
    msg_buffer_size: int | None = None,
    backpressure: bool = False,
) -> AsyncIterator[MsgStream]:
    """The block of `Context.open_stream()`."""
    _check_may_stream(ctx)
    queue = ctx._rx_chan
    if msg_buffer_size is not None:
        queue.max_buffer_size = msg_buffer_size
    ctx._allow_overruns = allow_overruns
    stream = MsgStream(ctx, queue)
    if backpressure:
        stream._credit = Credit(ctx)
    if ctx._peer_stopped:
        # the peer was faster: it had opened, and closed, its end already
        stream._stop_msg = Stop(cid=ctx.cid)
    ctx._stream_opened = True
    ctx._stream = stream
    if ctx._portal is not None:
        ctx._portal._streams.add(stream)
    try:
        yield stream
    except trio.EndOfChannel as eoc:
        if eoc is not stream._eoc:
            raise
    finally:
        await stream._close()
        if ctx._portal is not None:
            ctx._portal._streams.discard(stream)


def _check_may_stream(ctx: Context) -> None:
    if ctx._cancel_called:
        if ctx._remote_error is not None:
            raise ctx._remote_error
        raise RuntimeError(f'Stream opened after `Context.cancel()` was called\n{ctx}')
    if ctx._portal is None and not ctx._started_called:
        raise RuntimeError(f'`Context.started()` must be called before opening a stream\n{ctx}')
    over = ctx._rx_chan.closed or (ctx._portal is None and ctx._dialog.done)
    if ctx._stream_opened or over:
        raise trio.ClosedResourceError('this context is over, or had its one stream already')


def stream(func: F) -> F:
    """
    Mark an async function as a one-way stream of values, to be opened with `Portal.open_stream_from()`.

    Args:
        func: declares a parameter `stream`, `ctx` or `to_trio`.

    Raises:
        TypeError: it declares none of these.
    """
    func._tractor_stream_function = True  # type: ignore[attr-defined]
    params = inspect.signature(func).parameters
    if 'ctx' in params and not {'stream', 'to_trio'} & params.keys():
        warnings.warn(
            f'`{func.__qualname__}(ctx)` is deprecated, name the parameter `stream`',
            DeprecationWarning,
            stacklevel=2,
        )
    if not {'stream', 'ctx', 'to_trio'} & params.keys():
        raise TypeError(
            'The first argument to the stream function '
            f'{func.__qualname__} must be `ctx: tractor.Context`'
        )
    return func
