"""end to end: an idle actor does not wake up."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import tractor
from tractor._testing.peer import open_peer

# seconds, and the switches of a thread in that time which are not the runtime's doing
IDLE, SWITCHES = 2.0, 2


@tractor.context
async def idle(ctx: tractor.Context) -> None:
    await ctx.started()
    async with ctx.open_stream():
        await trio.sleep_forever()


async def whereabouts() -> tuple[int, int]:
    """The process, and the thread in it, which this actor runs in."""
    return os.getpid(), threading.get_native_id()


class Steps(trio.abc.Instrument):
    """The steps of all tasks but one."""

    def __init__(self, but: trio.lowlevel.Task) -> None:
        self.but = but
        self.tasks: list[str] = []

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is not self.but:
            self.tasks.append(task.name)


def test_no_timer_runs_in_an_idle_runtime(within_one_run: Any) -> None:
    """With an open context, an open stream, and other actors connected."""
    clock = trio.testing.MockClock()

    async def main(root: tractor.Actor, portal: tractor.Portal) -> None:
        async with (
            open_peer(root.accept_addr),
            portal.open_context(idle) as (ctx, _),
            ctx.open_stream(),
        ):
            await trio.testing.wait_all_tasks_blocked()
            seen = Steps(trio.lowlevel.current_task())
            trio.lowlevel.add_instrument(seen)
            # an hour goes by; virtual time
            clock.jump(3600)
            await trio.testing.wait_all_tasks_blocked()
            trio.lowlevel.remove_instrument(seen)
            assert seen.tasks == []
            await ctx.cancel()

    within_one_run(main, tpt='mem', timeout=2 * 3600, clock=clock)


def switches(pid: int, tid: int) -> int:
    """How often a thread has gone to sleep by itself, and so was woken again."""
    status = Path(f'/proc/{pid}/task/{tid}/status').read_text()
    (line,) = (line for line in status.splitlines() if line.startswith('voluntary_ctxt'))
    return int(line.split()[1])


# stuck on purpose
@pytest.mark.spawns
@pytest.mark.skipif(sys.platform != 'linux', reason='the counters are in /proc')
def test_the_thread_of_an_idle_actor_is_not_woken(run: Any) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('idle', enable_modules=[__name__])
        async with portal.open_context(idle) as (ctx, _), ctx.open_stream():
            where = await portal.run(whereabouts)
            await trio.sleep(IDLE / 4)
            before = switches(*where)
            await trio.sleep(IDLE)
            assert switches(*where) - before <= SWITCHES
            # it was idle, not gone
            assert await portal.run(whereabouts) == where
            await ctx.cancel()
        await portal.cancel_actor()

    run(body)
