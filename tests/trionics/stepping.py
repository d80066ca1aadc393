"""A trio run that goes on one step at a time, for state machines whose rules are no async functions."""

from __future__ import annotations

import queue
from collections.abc import Awaitable, Callable
from typing import Any

import outcome
import trio
import trio.testing

# seconds for a step; none of them waits for anything but other tasks
STEP_WITHIN = 10


class Stepper:
    """A trio run in guest mode: it advances during the calls of its methods only."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], Any]] = queue.SimpleQueue()
        self._over: outcome.Outcome[Any] | None = None
        self._stop: trio.Event
        self.tn: trio.Nursery
        self._ready = False
        trio.lowlevel.start_guest_run(
            self._main, run_sync_soon_threadsafe=self._queue.put, done_callback=self._done
        )
        self._pump(lambda: self._ready)

    async def _main(self) -> None:
        async with trio.open_nursery() as self.tn:
            self._stop = trio.Event()
            self._ready = True
            await self._stop.wait()
            self.tn.cancel_scope.cancel()

    def _done(self, result: outcome.Outcome[Any]) -> None:
        self._over = result

    def _pump(self, until: Callable[[], bool]) -> None:
        while not until() and self._over is None:
            self._queue.get(timeout=STEP_WITHIN)()

    def settle(self) -> None:
        """Let every task go on until all of them wait for the next step."""
        blocked: list[bool] = []

        async def wait() -> None:
            await trio.testing.wait_all_tasks_blocked()
            blocked.append(True)

        self.tn.start_soon(wait)
        self._pump(lambda: bool(blocked))
        if self._over is not None:
            self._over.unwrap()

    def start(self, fn: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Start a task, and let it come as far as it can."""
        self.tn.start_soon(fn, *args)
        self.settle()

    def close(self) -> None:
        """End the run; what it raised is raised."""
        if self._over is None:
            self._stop.set()
            self._pump(lambda: False)
        assert self._over is not None
        self._over.unwrap()
