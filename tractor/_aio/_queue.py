"""The queue from trio to asyncio: `asyncio.Queue`, with the `shutdown()` that Python 3.13 brought."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from typing import Any

if sys.version_info >= (3, 13):
    from asyncio import Queue, QueueShutDown
else:

    class QueueShutDown(Exception):
        """The queue is empty, and nothing more will be put into it."""

    class Queue(asyncio.Queue[Any]):
        """
        Args:
            maxsize: items it holds; a further one is refused.
        """

        def __init__(self, maxsize: int = 0) -> None:
            super().__init__(maxsize)
            self._is_shut = False
            self._readers: deque[asyncio.Future[None]] = deque()

        def put_nowait(self, item: Any) -> None:
            """Put an item; raises `QueueShutDown`, `asyncio.QueueFull`."""
            if self._is_shut:
                raise QueueShutDown
            super().put_nowait(item)
            self._wake_one()

        def get_nowait(self) -> Any:
            """Get an item; raises `QueueShutDown`, `asyncio.QueueEmpty`."""
            if self._is_shut and self.empty():
                raise QueueShutDown
            return super().get_nowait()

        async def get(self) -> Any:
            """Wait for an item; raises `QueueShutDown`."""
            while self.empty() and not self._is_shut:
                reader = asyncio.get_running_loop().create_future()
                self._readers.append(reader)
                try:
                    await reader
                except BaseException:
                    reader.cancel()
                    with contextlib.suppress(ValueError):
                        self._readers.remove(reader)
                    if not self.empty() and not reader.cancelled():
                        # it was woken for an item which it does not take
                        self._wake_one()
                    raise
            return self.get_nowait()

        def shutdown(self) -> None:
            """Take no more items; who waits for one, or asks when none is left, gets `QueueShutDown`."""
            self._is_shut = True
            while self._readers:
                self._wake_one()

        def _wake_one(self) -> None:
            while self._readers:
                reader = self._readers.popleft()
                if not reader.done():
                    reader.set_result(None)
                    return


__all__ = ['Queue', 'QueueShutDown']
