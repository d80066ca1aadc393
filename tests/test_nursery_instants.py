"""end to end: a cancellation, or an interrupt, at any instant of a nursery's life: only that comes out.

The instants are steps of the scheduler: an instrument counts the steps of all tasks of the run and
strikes before the n-th. A first run without that tells how many there are.
"""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.abc import Instrument

import tractor
from tractor._code_load import load_module_from_path
from tractor._testing import run_bounded
from tractor.runtime import _outcome

pytestmark = pytest.mark.spawns

# under the name by which the actors import it
supervised = sys.modules.get('supervised') or load_module_from_path(
    Path(__file__).with_name('supervised.py')
)

HERE = ['supervised']
Options = dict[str, Any]
Body = Callable[[tractor.ActorNursery], Awaitable[object]]

# how many are tried in a test: a process by fork is ready much sooner
INSTANTS = {'mp_forkserver': 24}
INSTANTS_ELSEWHERE = 6


class StrikeAt(Instrument):
    """Call `strike()` before the n-th step which any task makes while it is armed."""

    def __init__(self, n: int | None, strike: Callable[[], object]) -> None:
        self.n = n
        self.steps = 0
        self._strike = strike

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.steps == self.n:
            self.n = None
            self._strike()
        self.steps += 1

    def __enter__(self) -> StrikeAt:
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(self, *exc: object) -> None:
        trio.lowlevel.remove_instrument(self)


def chosen_instants(steps: int, start_method: str) -> list[int]:
    """The first ones, where a child is born, and some of the rest, other ones in each run."""
    count = min(steps, INSTANTS.get(start_method, INSTANTS_ELSEWHERE))
    first = range(0, count, 2)
    return sorted({*first, *random.sample(range(steps), count)})


# --- what is struck


async def start_one(an: tractor.ActorNursery) -> None:
    await an.start_actor('kid', enable_modules=HERE)
    await an.cancel()


async def call_one(an: tractor.ActorNursery) -> None:
    portal = await an.run_in_actor(supervised.give, value=1)
    assert await portal.wait_for_result() == 1


async def leave_it_to_the_block(an: tractor.ActorNursery) -> None:
    await an.run_in_actor(supervised.nothing, name='one')
    await an.run_in_actor(supervised.nothing, name='two')


async def start_side_by_side(an: tractor.ActorNursery) -> None:
    async with trio.open_nursery() as tn:
        for index in range(3):
            tn.start_soon(an.start_actor, f'kid{index}')
    await an.cancel()


async def hold_a_sub_tree(an: tractor.ActorNursery) -> None:
    portal = await an.start_actor('top', enable_modules=HERE)
    async with portal.open_context(supervised.tree, depth=1) as (ctx, _):
        await ctx.cancel()
    await portal.cancel_actor()


BODIES = [start_one, call_one, leave_it_to_the_block, start_side_by_side, hold_a_sub_tree]


@pytest.fixture(params=BODIES, ids=[body.__name__ for body in BODIES])
def body(request: pytest.FixtureRequest) -> Body:
    return request.param  # type: ignore[no-any-return]


async def count_steps(body: Body) -> int:
    with StrikeAt(None, lambda: None) as counter:
        async with tractor.open_nursery() as an:
            await body(an)
    return counter.steps


async def nothing_stays(root: tractor.Actor) -> None:
    """Wait until the connections of the last run have ended; whatever else is left is a leak."""
    server = root.ipc_server
    with trio.fail_after(3):
        await server.wait_for_no_more_peers()
    assert server._peers == {}
    assert server._peer_connected == {}
    assert root._actoruid2nursery == {}
    assert root._contexts == {}
    assert root._rpc_tasks == {}


# --- cancelled


async def cancel_at(n: int, body: Body) -> bool:
    """Whether the cancellation arrived before all was done."""
    with trio.CancelScope() as scope:
        async with tractor.open_nursery() as an:
            with StrikeAt(n, scope.cancel):
                await body(an)
    assert an.exited.is_set()
    assert an._children == {}
    assert [err for err in an.errors.values() if not _outcome.is_cancellation(err)] == []
    return scope.cancelled_caught


def test_cancelled_at_any_instant(options: Options, body: Body) -> None:
    async def main() -> None:
        async with tractor.open_root_actor(**options) as root:
            instants = chosen_instants(await count_steps(body), options['start_method'])
            caught = 0
            for n in instants:
                caught += await cancel_at(n, body)
                await nothing_stays(root)
        assert caught

    run_bounded(main, timeout=120)


@pytest.mark.parametrize('depth', [0, 1])
def test_a_call_that_starts_actors_is_cancelled_at_any_instant(
    options: Options, depth: int, start_method: str
) -> None:
    """The spawner is itself a child here: it gets the cancellation as a request."""

    rounds, longest = (12, 0.15) if start_method == 'mp_forkserver' else (4, 0.6)

    async def main() -> None:
        async with tractor.open_root_actor(**options), tractor.open_nursery() as an:
            spawner = await an.start_actor('spawner', enable_modules=HERE)
            call = supervised.whoami_below if depth else supervised.whoami_once_below
            for _ in range(rounds):
                with trio.move_on_after(random.uniform(0, longest)):
                    await spawner.run(call)
                # it is well, and has nothing left of what it was asked for
                assert await spawner.run(supervised.left_behind, within=3) == []
            await an.cancel()
        assert an.errors == {}

    run_bounded(main, timeout=120)


# --- interrupted


def test_interrupted_at_any_instant(options: Options, body: Body) -> None:
    async def counted() -> int:
        async with tractor.open_root_actor(**options):
            return await count_steps(body)

    async def main(n: int) -> None:
        strike = StrikeAt(n, lambda: signal.raise_signal(signal.SIGINT))
        async with tractor.open_nursery(**options) as an:
            nurseries.append(an)
            with strike:
                await body(an)
        if strike.n is None:
            # it was pending when the last task had done its work
            await trio.lowlevel.checkpoint()

    interrupted = 0
    instants = chosen_instants(run_bounded(counted), options['start_method'])
    for n in instants:
        nurseries: list[tractor.ActorNursery] = []
        try:
            run_bounded(main, n)
        except KeyboardInterrupt:
            interrupted += 1
        assert all(an._children == {} for an in nurseries)
        assert tractor.current_actor(err_on_no_runtime=False) is None
    assert interrupted
