"""
The channel of a linked pair.

| how it ended | trio: `receive()` | trio: `send()` | asyncio: `get()` | asyncio: `send_nowait()` |
|---|---|---|---|---|
| the asyncio task returned | `EndOfChannel`, or `AsyncioTaskExited` | `BrokenResourceError` | - | - |
| the asyncio task failed | that error, or `AsyncioCancelled` | `BrokenResourceError` | - | - |
| trio has left | `ClosedResourceError` | `BrokenResourceError` | `QueueShutDown` | `BrokenResourceError` |
| `aclose()` in trio | `ClosedResourceError` | goes on | goes on | `BrokenResourceError` |

Values that are buffered are received first, except by who has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from tractor._aio._link import Link, State
from tractor._aio._queue import Queue
from tractor.trionics._broadcast import BroadcastReceiver, broadcast_receiver

# values that wait unread, each way
BUFFER_SIZE = 256

# Turns of the loop which a trio task that has to wait leaves to the asyncio side before it parks. When nothing of trio
# can run it waits for I/O in a thread, and to be called back from there takes as long as ten of these turns.
_TURNS = 3


class LinkedTaskChannel(trio.abc.Channel[Any]):
    """
    Values between a trio task and the asyncio task it has started; made by `open_channel_from()`.

    Args:
        link: the state of the pair.

    In trio: `send()`, `receive()`, iteration, `subscribe()`, `wait_for_result()`, `cancel_asyncio_task()`, `aclose()`.
    In asyncio: `started_nowait()`, `send_nowait()`, `get()`. At most 256 values wait unread in each direction.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._to_aio: Queue[Any] = Queue(BUFFER_SIZE)
        self._to_trio: trio.MemorySendChannel[Any]
        self._from_aio: trio.MemoryReceiveChannel[Any]
        self._to_trio, self._from_aio = trio.open_memory_channel(BUFFER_SIZE)
        self._scope = trio.CancelScope()
        self._done = trio.Event()
        self._aio_task: asyncio.Task[None]
        self._started = False
        self._aio_started_val: Any = None
        self._closed = False
        self._broadcaster: BroadcastReceiver[Any] | None = None

    def __repr__(self) -> str:
        return f'<LinkedTaskChannel {self._link.state.value}>'

    # -- the trio side --------------------------------------------------------------------------------------------

    async def send(self, value: Any) -> None:
        """
        Send a value to the asyncio task.

        Raises:
            asyncio.QueueFull: 256 values wait there already.
            trio.BrokenResourceError: that task has ended, or this one has left its block.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_reader()
        try:
            self._to_aio.put_nowait(value)
        except asyncio.QueueFull:
            # let the other side read: a sender that tries again must not be the only one to run
            await trio.lowlevel.checkpoint()
            self._check_reader()
            self._to_aio.put_nowait(value)
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _check_reader(self) -> None:
        if not (self._link.runs and self._link.inside):
            raise trio.BrokenResourceError('the asyncio task has ended, or is about to')

    async def receive(self) -> Any:
        """
        The next value from the asyncio task.

        Raises:
            trio.EndOfChannel: that task has returned.
            AsyncioTaskExited: the same, where graceful exits are not suppressed.
            AsyncioCancelled: it was cancelled, and not by this side.
            trio.ClosedResourceError: this side was closed, or its block was left.
            BaseException: what it raised.

        Cancelled, it loses no value. What is buffered comes first, also when the error of the asyncio task cancels
        the block.
        """
        try:
            return await self._receive()
        except trio.EndOfChannel:
            ending = self._link.ending()
        raise ending

    async def _receive(self) -> Any:
        incoming = self._from_aio
        await self._checkpoint_if_cancelled()
        for _ in range(_TURNS):
            await trio.lowlevel.cancel_shielded_checkpoint()
            try:
                return incoming.receive_nowait()
            except trio.WouldBlock:
                pass
        return await incoming.receive()

    async def _wait_done(self) -> None:
        await self._checkpoint_if_cancelled()
        for _ in range(_TURNS):
            await trio.lowlevel.cancel_shielded_checkpoint()
            if self._done.is_set():
                return
        await self._done.wait()

    async def _checkpoint_if_cancelled(self) -> None:
        # After a failure the block is cancelled, but who asks for values gets them, and then the error itself.
        if self._link.state is not State.FAILED:
            await trio.lowlevel.checkpoint_if_cancelled()

    async def wait_for_result(self) -> Any:
        """
        Wait for the end of the asyncio task and return its result.

        Raises:
            AsyncioCancelled: it was cancelled, and not by this side.
            TrioTaskExited: it ended because this side had left.
            BaseException: what it raised.
        """
        await self._wait_done()
        link = self._link
        error = link.failure if link.failure is not None or link.error is None else link.signal
        if error is not None:
            raise error
        return link.result

    def cancel_asyncio_task(self, msg: str = '') -> None:
        """
        Cancel the asyncio task as `asyncio.Task.cancel()` does: this side then gets an `AsyncioCancelled`.

        Args:
            msg: goes with the `CancelledError`.
        """
        self._aio_task.cancel(msg or None)

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[BroadcastReceiver[Any]]:
        """
        A receiver that gets every value from now on, for the block, however many others there are.

        Raises (when receiving):
            tractor.trionics.Lagged: it is more than 256 values behind the fastest one.
            the same as `receive()` otherwise.

        From the first call on the channel itself is one more subscriber, which can lag.
        """
        if self._broadcaster is None:
            self._broadcaster = broadcast_receiver(self, BUFFER_SIZE, self.receive)
            self.receive = self._broadcaster.receive  # type: ignore[method-assign]
        async with self._broadcaster.subscribe() as receiver:
            yield receiver

    async def aclose(self) -> None:
        """Close the receiving side: the asyncio task can send nothing more. A second call does nothing."""
        self._close()
        await trio.lowlevel.checkpoint()

    def closed(self) -> bool:
        """Whether the receiving side was closed."""
        return self._closed

    def _close(self) -> None:
        self._closed = True
        self._from_aio.close()

    # -- the asyncio side -----------------------------------------------------------------------------------------

    def started_nowait(self, val: Any = None) -> None:
        """
        Tell trio that the task is up; `open_channel_from()` yields the value.

        Args:
            val: any object.

        Raises:
            RuntimeError: this was called before.
            the same as `send_nowait()` otherwise.
        """
        if self._started:
            raise RuntimeError('`started_nowait()` can be called once only: use `send_nowait()`')
        self.send_nowait(val)
        self._started = True
        self._aio_started_val = val

    def send_nowait(self, item: Any) -> None:
        """
        Send a value to the trio task.

        Raises:
            trio.WouldBlock: 256 values wait there already.
            trio.BrokenResourceError: the trio task has left, or has closed its side.
            trio.ClosedResourceError: this task has ended.
        """
        self._to_trio.send_nowait(item)

    async def get(self) -> Any:
        """
        The next value from the trio task.

        Raises:
            TrioTaskExited: the trio task has left its block; raised once, wherever the task waits.
            TrioCancelled: the same, by an error or a cancellation.
            QueueShutDown: it had left before.
        """
        return await self._to_aio.get()

    # -- the ends of the asyncio task -----------------------------------------------------------------------------

    def _ended(self, error: BaseException | None, result: Any = None) -> None:
        """The asyncio task has ended; a second call does nothing."""
        link = self._link
        if not link.runs:
            return
        link.ended(error, result)
        self._to_trio.close()
        self._done.set()
        if link.failure is not None and link.inside:
            self._scope.cancel()

    def _shut(self) -> None:
        """Nothing more is sent in either direction."""
        self._close()
        self._to_aio.shutdown()
