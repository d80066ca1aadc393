"""contract: what every backend guarantees of births and deaths: nothing is left, nothing hangs, nothing else comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor._code_load import load_module_from_path
from tractor._exceptions import ActorFailure
from tractor._testing import _leaks, run_bounded
from tractor._testing._session import SESSION
from tractor._testing.checkpoints import Run, at_each_checkpoint, cancelled_at

backend = load_module_from_path(Path(__file__).with_name('backend_peers.py'))
peers = backend.load('contract_peers')

pytestmark = [pytest.mark.spawns, backend.on_each_backend]

HERE = ['contract_peers']
Options = dict[str, Any]


# --- 4: nothing is left


async def by_itself(an: tractor.ActorNursery) -> None:
    await an.run_in_actor(peers.give, value=1)


async def cancelled(an: tractor.ActorNursery) -> None:
    portal = await an.start_actor('kid', enable_modules=HERE)
    await portal.run(peers.give, value=1)
    await an.cancel()


async def killed(an: tractor.ActorNursery) -> None:
    portal = await an.start_actor('kid', enable_modules=HERE)
    child = an._children[portal.chan.aid.uid]
    child.proc.kill()
    await child.gone.wait()
    assert child.returncode == -9


async def with_threads_and_processes(an: tractor.ActorNursery) -> None:
    await an.run_in_actor(peers.use_everything)


async def several(an: tractor.ActorNursery) -> None:
    for n in range(3):
        await an.start_actor(f'kid{n}')
    await an.cancel()


@pytest.mark.parametrize(
    'body', [by_itself, cancelled, killed, with_threads_and_processes, several]
)
def test_nothing_is_left_when_the_block_has_ended(
    options: Options, body: Any, request: pytest.FixtureRequest
) -> None:
    """Looked at in that very moment, without giving anything time to end."""
    session = request.config.stash[SESSION]
    run_bounded(once, options, by_itself)
    before = _leaks.Snapshot.take(session.tag, session.runtime_dir)
    numbers = backend.counts()
    run_bounded(once, options, body)
    left = _leaks.find(before)
    assert list(left.describe()) == []
    assert backend.counts() == numbers


async def once(options: Options, body: Callable[..., Any]) -> None:
    async with tractor.open_nursery(**options) as an:
        await body(an)


def test_a_child_is_gone_when_its_own_end_is_told(options: Options) -> None:
    """Within a runtime that goes on; spares, which are nobody's child, are left out."""

    async def main() -> None:
        async with tractor.open_root_actor(**options) as root, tractor.open_nursery() as an:
            await cancelled_child(an)
            numbers = await backend.settled_counts(root)
            for _ in range(3):
                await cancelled_child(an)
                assert await backend.settled_counts(root) == numbers

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TRACTOR_SUBINT_SPARES', '0')
        run_bounded(main)


async def cancelled_child(an: tractor.ActorNursery) -> None:
    portal = await an.start_actor('kid')
    child = an._children[portal.chan.aid.uid]
    await portal.cancel_actor()
    await child.gone.wait()


# --- 5: dying, and being cancelled, before it is up


def test_one_that_fails_before_it_connects(options: Options) -> None:
    async def main() -> None:
        async with tractor.open_nursery(**options) as an:
            err = await backend.failure_of(an.start_actor, 'kid', loglevel='nonsense')
            assert type(err) is ActorFailure
            assert 'exited with code 1 before it was up' in str(err)
            assert 'kid' in str(err)
            assert an._children == {}
            # the nursery goes on
            portal = await an.start_actor('kid', enable_modules=HERE)
            assert await portal.run(peers.give, value=1) == 1
            await an.cancel()

    run_bounded(main)


def test_one_that_is_killed_before_it_connects(options: Options) -> None:
    """Whoever waits for its portal hears of it at once."""

    async def main() -> None:
        failed = trio.Event()

        async def start(an: tractor.ActorNursery) -> None:
            err = await backend.failure_of(an.start_actor, 'kid')
            assert type(err) is ActorFailure
            assert 'was killed by SIGKILL before it was up' in str(err)
            failed.set()

        async with tractor.open_nursery(**options) as an, trio.open_nursery() as tn:
            tn.start_soon(start, an)
            while not an._children:
                await trio.lowlevel.checkpoint()
            [child] = an._children.values()
            child.proc.kill()
            await child.proc.wait()
            with trio.fail_after(1):
                await failed.wait()
            assert an._children == {}

    run_bounded(main)


@pytest.mark.parametrize('of_all_tasks', [True, False], ids=['all tasks', 'its task'])
def test_a_spawn_cancelled_at_each_checkpoint(options: Options, of_all_tasks: bool) -> None:
    async def main() -> None:
        async with tractor.open_root_actor(**options) as root:
            async with tractor.open_nursery() as an:
                await cancelled_child(an)
            numbers = await backend.settled_counts(root)

            async def check(nth: int) -> Run:
                async with tractor.open_nursery() as an:
                    run = await cancelled_at(nth, an.start_actor, 'kid', of_all_tasks=of_all_tasks)
                    if run.cancelled:
                        assert an._children == {}
                        assert an._starting == 0
                    await an.cancel()
                assert an.errors == {}
                assert await backend.settled_counts(root) == numbers
                assert root.ipc_server._peer_connected == {}
                return run

            await at_each_checkpoint(check, least=5 if of_all_tasks else 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TRACTOR_SUBINT_SPARES', '0')
        run_bounded(main, timeout=120)


def test_a_call_with_its_actor_cancelled_at_each_checkpoint(options: Options) -> None:
    async def main() -> None:
        async with tractor.open_root_actor(**options) as root:

            async def call(an: tractor.ActorNursery) -> Any:
                portal = await an.run_in_actor(peers.give, value=1)
                return await portal.wait_for_result()

            async def check(nth: int) -> Run:
                async with tractor.open_nursery() as an:
                    run = await cancelled_at(nth, call, an, of_all_tasks=True)
                    assert run.cancelled or run.value == 1
                    # one that was started for nothing is left to the block
                    await an.cancel()
                assert an.errors == {}
                await root.ipc_server.wait_for_no_more_peers()
                assert root._contexts == {}
                return run

            await at_each_checkpoint(check, least=5)

    run_bounded(main, timeout=180)


# --- 7: children that do not react


# what answers, but does not end, is given all the seconds of the first step: one of that kind is enough
@pytest.mark.parametrize(
    ('kind', 'how'),
    [
        ('spin', 'asked'),
        ('shielded', 'asked'),
        *((kind, how) for kind in peers.STUCK for how in ('terminated', 'killed')),
    ],
)
def test_one_that_is_stuck_is_ended(options: Options, kind: str, how: str) -> None:
    async def main() -> None:
        async with tractor.open_nursery(**options) as an:
            portal = await an.start_actor('kid', enable_modules=HERE)
            child = an._children[portal.chan.aid.uid]
            async with trio.open_nursery() as tn:
                told = await tn.start(wait_until_stuck, portal, kind)
                await end(an, child, how)
                assert child.proc.poll() is not None
                tn.cancel_scope.cancel()
        if options['start_method'] == 'subint':
            assert told['interp_id'] not in backend.interpreters()
        else:
            assert not backend.is_alive(told['pid'])

    run_bounded(main)


async def wait_until_stuck(
    portal: tractor.Portal, kind: str, task_status: Any = trio.TASK_STATUS_IGNORED
) -> None:
    try:
        async with portal.open_context(peers.stuck, kind=kind) as (ctx, told):
            task_status.started(told)
            await ctx.wait_for_result()
    except (tractor.ContextCancelled, tractor.TransportClosed, ActorFailure):
        # it was told to go, or its connection was lost
        return


async def end(an: tractor.ActorNursery, child: Any, how: str) -> None:
    within = backend.LADDER_WITHIN if how == 'asked' else backend.HARD_KILL_WITHIN
    # the ladder is shielded, so the deadline is looked at and not waited for
    with trio.CancelScope(deadline=trio.current_time() + within) as scope:
        if how == 'killed':
            with trio.CancelScope(shield=True):
                child.proc.kill()
                await child.gone.wait()
        else:
            await an.cancel(hard_kill=how == 'terminated')
    assert not scope.cancel_called, f'it took more than {within} seconds'


# --- 8: many, and again and again


def test_sixteen_at_once(options: Options) -> None:
    async def main() -> None:
        told: list[dict[str, Any]] = []

        async def one(an: tractor.ActorNursery, n: int) -> None:
            portal = await an.start_actor(f'kid{n}', enable_modules=HERE)
            told.append(await portal.run(peers.whoami))

        async with tractor.open_nursery(**options) as an:
            async with trio.open_nursery() as tn:
                for n in range(16):
                    tn.start_soon(one, an, n)
            assert len({t['uuid'] for t in told}) == 16
            assert len({(t['pid'], t['interp_id']) for t in told}) == 16
            assert {t['name'] for t in told} == {f'kid{n}' for n in range(16)}
            await an.cancel()

    run_bounded(main, timeout=60)


def test_thirty_starts_and_stops_leave_the_numbers_where_they_were(options: Options) -> None:
    async def main() -> None:
        async with tractor.open_root_actor(**options) as root, tractor.open_nursery() as an:
            for _ in range(10):
                await cancelled_child(an)
            numbers = await backend.settled_counts(root)
            for _ in range(20):
                await cancelled_child(an)
            assert await backend.settled_counts(root) == numbers

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TRACTOR_SUBINT_SPARES', '0')
        run_bounded(main, timeout=120)


def test_ten_runtimes_leave_the_numbers_where_they_were(options: Options) -> None:
    """With their spares."""
    for _ in range(3):
        run_bounded(once, options, by_itself)
    numbers = backend.counts()
    for _ in range(7):
        run_bounded(once, options, by_itself)
    assert backend.counts() == numbers
