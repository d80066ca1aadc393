"""Broadcast: many tasks each receive every value of one channel.

All receivers share a `BroadcastState`: the values last received, newest first, and for each receiver
the index of the value it gets next. Whoever finds nothing new there receives from the channel
itself, one task at a time, and moves everybody else's index on by one.

| the receiving task | the others, waiting |
|---|---|
| gets a value | find it in the queue |
| is cancelled, or its receiver is closed | one of them receives in its place, no value is lost |
| gets `trio.EndOfChannel` | get it too, after what is queued for them |
| gets any other error | one after the other receive from the channel, and see for themselves |
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import trio

from ..log import get_logger

log = get_logger()

T = TypeVar('T')
T_co = TypeVar('T_co', covariant=True)


class Lagged(trio.TooSlowError):
    """A receiver fell behind so far that values which it has not read were dropped."""


class AsyncReceiver(Protocol[T_co]):
    """What can be received from, iterated over and closed."""

    async def receive(self) -> T_co: ...
    def __aiter__(self) -> AsyncIterator[T_co]: ...
    async def __anext__(self) -> T_co: ...
    async def aclose(self) -> Any: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> Any: ...


@dataclass
class BroadcastState[T]:
    """
    What the receivers of one channel share.

    Args:
        queue: values received, newest first; bounded by `maxlen`.
        maxlen: values that are kept.
        subs: by key of a receiver, the queue index of its next value; -1 when it has them all.
        recv_ready: while a task receives from the channel, the key of its receiver, and an event
            which is set when that is over.
        eoc: whether the channel has ended.
        cancelled: by key, the task whose last receive was cancelled.
    """

    queue: deque[T]
    maxlen: int
    subs: dict[int, int] = field(default_factory=dict)
    recv_ready: tuple[int, trio.Event] | None = None
    eoc: bool = False
    cancelled: dict[int, trio.lowlevel.Task] = field(default_factory=dict)
    _ending: trio.EndOfChannel | None = None

    def statistics(self) -> dict[str, Any]:
        """How many receivers there are, how far each lags, and who waits; for people."""
        key, event = self.recv_ready or (None, None)
        return {
            'open_consumers': len(self.subs),
            'queued_len_by_task': dict(self.subs),
            'max_buffer_size': self.maxlen,
            'tasks_waiting': event.statistics().tasks_waiting if event is not None else 0,
            'tasks_cancelled': len(self.cancelled),
            'next_value_receiver_id': key,
        }

    def push(self, value: T, receiver: int) -> None:
        """Keep a value for all but the receiver that got it."""
        self.queue.appendleft(value)
        for key in self.subs:
            if key != receiver:
                self.subs[key] += 1

    def pop(self, key: int) -> T:
        """
        The next value of a receiver.

        Raises:
            Lagged: it was dropped; the next call returns the oldest one kept.
            trio.WouldBlock: there is none yet.
            trio.EndOfChannel: there will be none.
        """
        index = self.subs[key]
        if index < 0:
            if self._ending is not None:
                raise self._ending
            raise trio.WouldBlock
        if index >= self.maxlen:
            self.subs[key] = self.maxlen - 1
            dropped = index + 1 - self.maxlen
            raise Lagged(f'{dropped} value(s) were dropped: only {self.maxlen} are kept')
        self.subs[key] = index - 1
        return self.queue[index]

    def begin(self, key: int) -> None:
        """A task receives from the channel now."""
        self.recv_ready = key, trio.Event()

    def end(self) -> None:
        """It is over, whatever came of it: one of the waiting tasks may be next."""
        assert self.recv_ready is not None
        _, event = self.recv_ready
        self.recv_ready = None
        event.set()

    def wake(self) -> None:
        """Let all who wait look again; who must go on waiting finds a fresh event."""
        if self.recv_ready is not None:
            key, event = self.recv_ready
            self.recv_ready = key, trio.Event()
            event.set()


class BroadcastReceiver[T](trio.abc.ReceiveChannel[T]):
    """
    One receiver of a broadcast: gets each value that came after it subscribed, once, in order.

    Args:
        rx_chan: what is received from.
        state: shared by all its receivers.
        receive_afunc: receives in place of `rx_chan.receive()`.
        raise_on_lag: raise `Lagged` when values were dropped, otherwise log that and go on.

    Made by `broadcast_receiver()`, further ones by `subscribe()`. The fastest never loses a value.
    """

    def __init__(
        self,
        rx_chan: AsyncReceiver[T],
        state: BroadcastState[T],
        receive_afunc: Callable[[], Awaitable[T]] | None = None,
        raise_on_lag: bool = True,
    ) -> None:
        self._rx = rx_chan
        self._state = state
        self._recv = receive_afunc or rx_chan.receive
        self._raise_on_lag = raise_on_lag
        self._closed = False
        self._receiving: trio.CancelScope | None = None

    @property
    def key(self) -> int:
        """Its key in the shared state."""
        return id(self)

    def __repr__(self) -> str:
        index = self._state.subs.get(self.key)
        return f'<BroadcastReceiver {"closed" if self._closed else "open"} next={index}>'

    def receive_nowait(self) -> T:
        """
        The next value, if it was received already.

        Raises:
            trio.WouldBlock: it was not.
            the same as `receive()` otherwise.
        """
        self._check_open()
        try:
            return self._state.pop(self.key)
        except Lagged as lagged:
            if self._raise_on_lag:
                raise
            log.warning('%r: %s', self, lagged)
            return self._state.pop(self.key)

    async def receive(self) -> T:
        """
        Wait for the next value.

        Raises:
            Lagged: this receiver was too slow; the next call returns the oldest value kept.
            trio.EndOfChannel: the channel has ended.
            trio.ClosedResourceError: this receiver was closed.
            RuntimeError: it was never subscribed.
            BaseException: whatever the channel raises.

        Cancelled, it loses nothing.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                value = self.receive_nowait()
            except trio.WouldBlock:
                pass
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return value
            ready = self._state.recv_ready
            if ready is None:
                return await self._receive_from_channel()
            await ready[1].wait()

    async def _receive_from_channel(self) -> T:
        state, key = self._state, self.key
        state.begin(key)
        try:
            with trio.CancelScope() as self._receiving:
                value = await self._recv()
                state.push(value, key)
                state.cancelled.pop(key, None)
                return value
        except trio.EndOfChannel as eoc:
            state.eoc = True
            state._ending = eoc
            raise
        except trio.Cancelled:
            state.cancelled[key] = trio.lowlevel.current_task()
            raise
        finally:
            self._receiving = None
            state.end()
        raise trio.ClosedResourceError('this receiver was closed meanwhile')

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError('this receiver was closed')
        if self.key not in self._state.subs:
            raise RuntimeError(f'{self!r} is not subscribed: get one with `subscribe()`')

    @asynccontextmanager
    async def subscribe(self, raise_on_lag: bool = True) -> AsyncIterator[BroadcastReceiver[T]]:
        """
        Another receiver of the same channel, for the block.

        Args:
            raise_on_lag: as for the class.

        Raises:
            trio.ClosedResourceError: this one is closed.
        """
        self._check_open()
        state = self._state
        clone = BroadcastReceiver(self._rx, state, self._recv, raise_on_lag)
        state.subs[clone.key] = -1
        try:
            yield clone
        finally:
            clone._close()

    async def aclose(self) -> None:
        """Unsubscribe; a second call does nothing. Tasks that wait in it get `trio.ClosedResourceError`."""
        self._close()
        await trio.lowlevel.checkpoint()

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._state.subs.pop(self.key, None)
        self._state.cancelled.pop(self.key, None)
        if self._receiving is not None:
            self._receiving.cancel()
        self._state.wake()


def broadcast_receiver(
    recv_chan: AsyncReceiver[T],
    max_buffer_size: int,
    receive_afunc: Callable[[], Awaitable[T]] | None = None,
    raise_on_lag: bool = True,
) -> BroadcastReceiver[T]:
    """
    Make the first receiver of a broadcast, subscribed from the start.

    Args:
        recv_chan: what is received from; nobody else may receive from it meanwhile.
        max_buffer_size: values kept for those who are slower than the fastest.
        receive_afunc: receives in place of `recv_chan.receive()`.
        raise_on_lag: raise `Lagged` in who is too slow, otherwise log that and go on.
    """
    state: BroadcastState[T] = BroadcastState(deque(maxlen=max_buffer_size), max_buffer_size)
    receiver = BroadcastReceiver(recv_chan, state, receive_afunc, raise_on_lag)
    state.subs[receiver.key] = -1
    return receiver
