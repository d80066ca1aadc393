"""What counts the operations of a runtime: frames, system calls, scheduler steps, tasks."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import trio

import tractor
from tractor._testing import memory, run_bounded
from tractor.ipc import _fdio
from tractor.ipc._chan import _connect_chan
from tractor.ipc._transport import MsgpackTransport
from tractor.runtime._portal import open_portal


class Counts(trio.abc.Instrument):
    """What happened in this `trio.run()`, by name; `frames` are also counted by message type."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.seen['tasks'] += 1

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.seen['steps'] += 1

    def after_io_wait(self, timeout: float) -> None:
        self.seen['turns'] += 1

    @contextmanager
    def during(self) -> Iterator[Counter[str]]:
        """Count for the block; the counter is filled at its end."""
        before, result = self.seen.copy(), Counter[str]()
        trio.lowlevel.add_instrument(self)
        try:
            yield result
        finally:
            trio.lowlevel.remove_instrument(self)
            result.update(self.seen - before)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Frames of every transport, reads and writes of its sockets, scheduler steps and tasks."""
    counts = Counts()

    def counted(owner: Any, name: str, key: str) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def call(*args: Any) -> Any:
            counts.seen[key] += 1
            return function(*args)

        monkeypatch.setattr(owner, name, call)

    push = MsgpackTransport.push

    def counting_push(self: MsgpackTransport, msg: Any) -> int:
        counts.seen['frames'] += 1
        counts.seen[type(msg).__name__] += 1
        return push(self, msg)

    monkeypatch.setattr(MsgpackTransport, 'push', counting_push)
    counted(_fdio, '_read', 'reads')
    counted(_fdio, '_write', 'writes')
    for method in ('send_nowait', 'send_some'):
        counted(memory.MemoryStream, method, 'writes')
    counted(memory.MemoryStream, 'receive_some', 'reads')
    return counts


@asynccontextmanager
async def to_ourselves(actor: tractor.Actor) -> AsyncIterator[tractor.Portal]:
    """A portal through a real connection of the actor to itself: both ends can be counted."""
    assert actor.accept_addr is not None
    async with _connect_chan(actor.accept_addr) as chan, open_portal(chan) as portal:
        yield portal


Main = Callable[[tractor.Actor, tractor.Portal], Awaitable[None]]


@pytest.fixture
def within_one_run(
    request: pytest.FixtureRequest, tpt_proto: str, reg_addr: Any
) -> Callable[..., None]:
    """Run `main(root, portal)` with a root that exposes the test module, and its portal to itself."""

    def run(
        main: Main,
        tpt: str | None = None,
        timeout: float = 60,
        clock: trio.abc.Clock | None = None,
    ) -> None:
        async def with_root() -> None:
            tpt_key = tpt or tpt_proto
            addr = memory.MemoryAddress.get_random() if tpt_key == 'mem' else reg_addr
            async with (
                tractor.open_root_actor(
                    enable_transports=[tpt_key],
                    registry_addrs=[addr],
                    enable_modules=[request.module.__name__],
                    loglevel='critical',
                ) as root,
                to_ourselves(root) as portal,
            ):
                await main(root, portal)

        with memory.memory_transport():
            run_bounded(with_root, timeout=timeout, clock=clock)

    return run
