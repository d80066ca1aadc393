"""end to end: trees whose actors run on different backends: processes below interpreters below processes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor import RemoteActorError
from tractor._code_load import load_module_from_path
from tractor._testing import run_bounded

backend = load_module_from_path(Path(__file__).with_name('backend_peers.py'))
peers = backend.load('mixed_peers')

pytestmark = pytest.mark.spawns

HERE = ['mixed_peers']
METHODS = backend.METHODS
PAIRS = [backend.param(*pair) for pair in itertools.product(METHODS, repeat=2)]
# three levels, so that each backend comes below each other one
LINES = [
    ['trio', 'subint', 'trio'],
    ['subint', 'trio', 'subint'],
    ['subint', 'subint', 'subint'],
    ['mp_forkserver', 'subint', 'mp_spawn'],
    ['subint', 'mp_forkserver', 'subint'],
    ['mp_spawn', 'subint', 'mp_forkserver'],
    ['subint', 'mp_spawn', 'trio'],
    ['trio', 'mp_forkserver', 'mp_spawn'],
]
each_line = pytest.mark.parametrize(
    'line',
    [pytest.param(line, id='-'.join(line), marks=backend.param(*line).marks) for line in LINES],
)
each_method = pytest.mark.parametrize('method', [backend.param(method) for method in METHODS])
Run = Callable[..., tractor.ActorNursery]


def check_places(line: list[str], told: list[list[Any]]) -> None:
    """Each actor of a line runs on its backend: an interpreter of its own in the same process, or a new process."""
    assert [method for method, *_ in told] == line
    assert len({(pid, interp) for _, _, pid, interp in told}) == len(line)
    above = os.getpid()
    for method, default, pid, interp in told:
        assert default == method
        assert (pid == above) == (method == 'subint')
        assert (interp != 0) == (method == 'subint')
        above = pid


# --- calls


@pytest.mark.parametrize(('upper', 'lower'), PAIRS)
def test_each_backend_below_each(run: Run, upper: str, lower: str) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('kid', enable_modules=HERE, start_method=upper)
        told = await portal.run(peers.down, methods=[lower])
        check_places([upper, lower], told)
        await an.cancel()

    run(body)


@each_line
def test_a_call_through_three_levels(run: Run, line: list[str]) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        _, *told = await peers.down(line)
        check_places(line, told)

    run(body)


@each_line
def test_one_shot_actors_through_three_levels(run: Run, line: list[str]) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        _, *told = await peers.one_shots_below(line)
        check_places(line, told)

    run(body)


@each_line
def test_a_stream_through_three_levels(run: Run, line: list[str]) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('first', enable_modules=HERE, start_method=line[0])
        opened = portal.open_context(peers.relay, methods=line[1:])
        async with opened as (ctx, _), ctx.open_stream() as stream:
            for n in range(20):
                await stream.send(n)
                assert await stream.receive() == 2 * n
        await an.cancel()

    run(body)


@each_line
def test_an_error_three_hops_away(run: Run, line: list[str]) -> None:
    """It says where it comes from and by which way, whatever lies between."""
    uids: list[Any] = []

    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('level3', enable_modules=HERE, start_method=line[0])
        uids.append(portal.chan.aid.uid)
        await portal.run(peers.fail_below, methods=line[1:])

    with pytest.raises(RemoteActorError) as info:
        run(body)
    err = info.value
    # what was relayed once keeps its origin, and the next relay is an error of its own
    assert err.boxed_type is err.src_type is RemoteActorError
    assert [name for name, _ in err.relay_path] == ['level1', 'level2', 'level3']
    assert err.src_uid == err.relay_uid == uids[0]
    assert 'at the bottom' in str(err)


# --- ends

WIDE = [backend.usable_methods, [m for m in ('trio', 'subint') if m in backend.usable_methods]]


def places_are_gone(found: list[list[Any]]) -> bool:
    """Whether none of these actors is left, of those in this process by their interpreters."""
    here = os.getpid()
    return not any(
        interp in backend.interpreters() if pid == here else backend.is_alive(pid)
        for _, _, pid, interp in found
    )


async def hold_tree(
    portal: tractor.Portal, methods: list[list[str]], task_status: Any = trio.TASK_STATUS_IGNORED
) -> None:
    try:
        async with portal.open_context(peers.tree, methods=methods) as (ctx, found):
            task_status.started(found)
            await ctx.wait_for_result()
    except (tractor.ContextCancelled, tractor.TransportClosed):
        # told to end, or lost
        return


@each_method
@pytest.mark.parametrize('how', ['block cancelled', 'error'])
def test_a_wide_tree_comes_down_from_the_root(
    options: dict[str, Any], method: str, how: str
) -> None:
    """All backends below all, and nothing of them afterwards; spares of the runtime are not counted."""
    found: list[list[Any]] = []

    async def main() -> None:
        with trio.CancelScope() as scope:
            async with tractor.open_nursery(**options) as an, trio.open_nursery() as tn:
                portal = await an.start_actor('top', enable_modules=HERE, start_method=method)
                found.extend(await tn.start(hold_tree, portal, WIDE))
                assert len(found) == 1 + len(WIDE[0]) * (1 + len(WIDE[1]))
                if how == 'error':
                    raise LookupError('mine')
                scope.cancel()

    if how == 'error':
        with pytest.raises(LookupError, match='mine'):
            run_bounded(main, timeout=60)
    else:
        run_bounded(main, timeout=60)
    assert places_are_gone(found)


@each_method
def test_the_middle_one_is_killed(options: dict[str, Any], method: str) -> None:
    """Its children of every backend go with it, the root hears of it, and the others do not mind."""

    async def main() -> None:
        async with tractor.open_nursery(**options) as an, trio.open_nursery() as tn:
            other = await an.start_actor('other', enable_modules=HERE)
            portal = await an.start_actor('middle', enable_modules=HERE, start_method=method)
            found = await tn.start(hold_tree, portal, [backend.usable_methods])
            assert len(found) == 1 + len(backend.usable_methods)
            child = an._children[portal.chan.aid.uid]
            child.proc.kill()
            await child.gone.wait()
            assert child.returncode == -9
            with trio.fail_after(5):
                while not places_are_gone(found):
                    await trio.lowlevel.checkpoint()
            err = await backend.failure_of(portal.run, peers.where)
            assert isinstance(err, tractor.TransportClosed)
            assert (await other.run(peers.where))[0] == options['start_method']
            await an.cancel()

    run_bounded(main, timeout=60)


@pytest.mark.parametrize(('upper', 'lower'), PAIRS)
def test_a_stuck_one_below(options: dict[str, Any], upper: str, lower: str) -> None:
    """The middle one has to end it; the root waits for both, or ends both."""

    async def main() -> None:
        async with tractor.open_nursery(**options) as an, trio.open_nursery() as tn:
            portal = await an.start_actor('middle', enable_modules=HERE, start_method=upper)
            told = await tn.start(hold_stuck, portal, lower)
            scope = trio.CancelScope(deadline=trio.current_time() + 2 * backend.LADDER_WITHIN)
            with scope:
                await an.cancel()
            assert not scope.cancel_called
            assert places_are_gone([[None, None, told['pid'], told['interp_id']]])
            tn.cancel_scope.cancel()

    run_bounded(main, timeout=60)


async def hold_stuck(
    portal: tractor.Portal, lower: str, task_status: Any = trio.TASK_STATUS_IGNORED
) -> None:
    try:
        async with portal.open_context(peers.stuck_below, method=lower) as (ctx, told):
            task_status.started(told)
            await ctx.wait_for_result()
    except (tractor.ContextCancelled, tractor.TransportClosed):
        return
