"""
What a stream's messages wait in: a bounded queue that the message loop fills without waiting.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import trio

# how many messages beyond its capacity a queue takes for a stream that was opened with `allow_overruns`
OVERFLOW_LIMIT: int = 100_000


class StreamQueue:
    """
    Stream messages of one dialog, oldest first.

    Args:
        capacity: messages it holds before `put()` refuses one.

    After `end()` what is queued can still be read; then readers get `trio.EndOfChannel`. After `close()` they get
    `trio.ClosedResourceError` at once.
    """

    __slots__ = ('_closed', '_ended', '_items', '_readers', '_senders', 'max_buffer_size')

    def __init__(self, capacity: int) -> None:
        self.max_buffer_size = capacity
        self._items: deque[Any] = deque()
        self._readers = trio.lowlevel.ParkingLot()
        self._senders: trio.Event | None = None
        self._ended = False
        self._closed = False

    @property
    def _state(self) -> StreamQueue:
        return self

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        state = 'closed' if self._closed else 'ended' if self._ended else 'open'
        return f'<StreamQueue {state} {len(self._items)}/{self.max_buffer_size}>'

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._closed

    @property
    def ended(self) -> bool:
        """Whether nothing more will be put."""
        return self._ended or self._closed

    def put(self, item: Any, force: bool = False) -> bool:
        """
        Append an item and wake a reader; `False` if the queue is full.

        Args:
            item: the message.
            force: take it beyond the capacity, by at most `OVERFLOW_LIMIT`.
        """
        limit = self.max_buffer_size + OVERFLOW_LIMIT if force else self.max_buffer_size
        # who waits to read stands for a place: a queue without any still hands over
        if len(self._items) >= limit and not self._readers:
            return False
        self._items.append(item)
        if self._readers:
            self._readers.unpark()
        return True

    async def wait_room(self) -> int:
        """Wait until at least half of the capacity is free, or nothing is kept any more; how many items fit."""
        while not self.ended and len(self._items) * 2 > self.max_buffer_size:
            if self._senders is None:
                self._senders = trio.Event()
            await self._senders.wait()
        return max(1, self.max_buffer_size - len(self._items))

    def _wake_senders(self) -> None:
        if self._senders is not None:
            self._senders.set()
            self._senders = None

    def clear(self) -> list[Any]:
        """Drop what is queued, and return it."""
        dropped = list(self._items)
        self._items.clear()
        self._wake_senders()
        return dropped

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._readers.unpark_all()
        self._wake_senders()

    def close(self) -> None:
        """Drop what is queued; readers are woken."""
        self._closed = True
        self.clear()
        self._readers.unpark_all()

    def _pop(self) -> Any:
        item = self._items.popleft()
        if self._senders is not None and len(self._items) * 2 <= self.max_buffer_size:
            self._wake_senders()
        return item

    def get_nowait(self) -> Any:
        """
        The next item.

        Raises:
            trio.WouldBlock: none is here now.
            trio.EndOfChannel: none will come.
            trio.ClosedResourceError: the queue was closed.
        """
        if self._items:
            return self._pop()
        if self._closed:
            raise trio.ClosedResourceError('this dialog is over')
        if self._ended:
            raise trio.EndOfChannel
        raise trio.WouldBlock

    async def get(self) -> Any:
        """
        Wait for the next item; a cancelled wait takes none.

        Raises:
            trio.EndOfChannel: none will come.
            trio.ClosedResourceError: the queue was closed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._items:
            item = self._pop()
            await trio.lowlevel.cancel_shielded_checkpoint()
            return item
        # not in a handler for `WouldBlock`: to a cancellation that would look like an error which it hides
        while not (self._items or self.ended):
            await self._readers.park()
        return self.get_nowait()
