"""contract: a task that shares a resource is cancelled at each of its checkpoints in turn."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from tractor.trionics import _cache, maybe_open_context


class Log:
    """A resource that notes what becomes of it."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @asynccontextmanager
    # virtual time
    async def resource(self) -> Any:
        self.said.append('enter')
        try:
            await trio.sleep(1)
            yield
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            self.said.append('left')


class CancelAt(trio.abc.Instrument):
    """Cancels a scope at the n-th step of a task."""

    def __init__(self, step: int) -> None:
        self.left = step
        self.task: trio.lowlevel.Task | None = None
        self.scope = trio.CancelScope()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.left -= 1
            if not self.left:
                self.scope.cancel()


@pytest.mark.parametrize('others', [0, 1, 2])
def test_cancelled_at_every_checkpoint(others: int) -> None:
    """Nobody else is disturbed, and nothing stays behind."""
    steps = 0
    while True:
        steps += 1
        if not _cancelled_at(steps, others):
            break
    assert steps > 1


# virtual time
def _cancelled_at(step: int, others: int) -> bool:
    canceller = CancelAt(step)
    used: list[bool] = []

    async def use(tn: trio.Nursery, log: Log) -> None:
        async with maybe_open_context(log.resource, tn=tn):
            await trio.sleep(1)
        used.append(True)

    async def victim(tn: trio.Nursery, log: Log) -> None:
        canceller.task = trio.lowlevel.current_task()
        with canceller.scope:
            await use(tn, log)

    async def main() -> None:
        log = Log()
        async with trio.open_nursery() as tn:
            if others > 1:
                tn.start_soon(use, tn, log)
                await trio.testing.wait_all_tasks_blocked()
            tn.start_soon(victim, tn, log)
            for _ in range(others):
                tn.start_soon(use, tn, log)
        cache = _cache._get_cache()
        assert not cache.entries
        assert not cache.locks
        # one after the other, each of them closed
        assert log.said == ['enter', 'left'] * (len(log.said) // 2)

    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(main, clock=clock, instruments=[canceller])
    hit = canceller.scope.cancelled_caught
    assert len(used) == others + (others > 1) + (not hit)
    return canceller.left <= 0
