"""end to end: actors in which trio is a guest of asyncio, on every backend."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor import RemoteActorError
from tractor._code_load import load_module_from_path
from tractor._testing import expect_ctxc, tractor_test
from tractor.to_asyncio import AsyncioCancelled, AsyncioTaskExited

pytestmark = pytest.mark.spawns

# under the name by which the actors import it
targets = sys.modules.get('aio_targets') or load_module_from_path(
    Path(__file__).with_name('aio_targets.py')
)


@pytest.mark.parametrize('infect', [True, False])
def test_who_is_infected(infect: bool, start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    @tractor_test
    async def main(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
        async with tractor.open_nursery() as nursery:
            portal = await nursery.run_in_actor(targets.infection, infect_asyncio=infect)
            assert await portal.wait_for_result() == [infect, infect, False]

    main(start_method=start_method, tpt_proto=tpt_proto, reg_addr=reg_addr)


@pytest.mark.parametrize('infect', [True, False])
def test_infection_is_not_inherited(
    infect: bool, start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    @tractor_test
    async def main(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
        async with tractor.open_nursery() as nursery:
            portal = await nursery.run_in_actor(
                targets.child_infection, infect_asyncio=not infect, infect_child=infect
            )
            assert await portal.wait_for_result() == [infect, infect, False]

    main(start_method=start_method, tpt_proto=tpt_proto, reg_addr=reg_addr)


@tractor_test
async def test_run_task(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with tractor.open_nursery() as nursery:
        portal = await nursery.start_actor(
            'infected', enable_modules=['aio_targets'], infect_asyncio=True
        )
        for value in (1, None, 'text'):
            assert await portal.run(targets.run_aio, how='value', value=value) == value
        with pytest.raises(RemoteActorError, match='boom') as info:
            await portal.run(targets.run_aio, how='fail', value='boom')
        assert info.value.boxed_type is ValueError
        with pytest.raises(RemoteActorError) as info:
            await portal.run(targets.run_aio, how='cancel', value='enough')
        assert info.value.boxed_type is AsyncioCancelled
        # asyncio code that interrupts itself; nobody has pressed a key
        with pytest.raises(RemoteActorError) as info:
            await portal.run(targets.run_aio, how='interrupt', value='now')
        assert info.value.boxed_type is KeyboardInterrupt
        # the actor lives on
        assert await portal.run(targets.run_aio, how='value', value=2) == 2
        await portal.cancel_actor()


@tractor_test
async def test_not_in_a_plain_actor(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with tractor.open_nursery() as nursery:
        portal = await nursery.start_actor('plain', enable_modules=['aio_targets'])
        with pytest.raises(RemoteActorError, match='infect_asyncio') as info:
            await portal.run(targets.run_aio_anywhere)
        assert info.value.boxed_type is RuntimeError
        await portal.cancel_actor()


@tractor_test
async def test_a_one_shot_that_fails(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    with pytest.raises(RemoteActorError) as info:
        async with tractor.open_nursery() as nursery:
            await nursery.run_in_actor(
                targets.run_aio, infect_asyncio=True, how='fail', value='boom'
            )
    assert info.value.boxed_type is ValueError


@tractor_test
async def test_a_stream_through_asyncio(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with tractor.open_nursery() as nursery:
        portal = await nursery.start_actor(
            'infected', enable_modules=['aio_targets'], infect_asyncio=True
        )
        async with portal.open_context(targets.echo) as (ctx, first):
            assert first == 'up'
            async with ctx.open_stream() as stream:
                for n in range(300):
                    await stream.send(n)
                    assert await stream.receive() == n
            assert await ctx.wait_for_result() == 'over'
        await portal.cancel_actor()


@pytest.mark.parametrize(
    ('endpoint', 'kwargs', 'kind'),
    [
        ('expect', {'command': 'fail'}, ValueError),
        ('expect', {'command': 'cancel'}, AsyncioCancelled),
        ('fail_in_trio', {}, KeyError),
        ('enter_early_exit', {}, AsyncioTaskExited),
    ],
)
def test_errors_reach_the_parent(
    endpoint: str,
    kwargs: dict[str, Any],
    kind: type[Exception],
    start_method: str,
    tpt_proto: str,
    reg_addr: Any,
) -> None:
    @tractor_test
    async def main(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
        async with tractor.open_nursery() as nursery:
            portal = await nursery.start_actor(
                'infected', enable_modules=['aio_targets'], infect_asyncio=True
            )
            with pytest.raises(RemoteActorError) as info:
                async with portal.open_context(getattr(targets, endpoint), **kwargs) as (ctx, _):
                    await ctx.wait_for_result()
            assert info.value.boxed_type is kind
            await portal.cancel_actor()

    main(start_method=start_method, tpt_proto=tpt_proto, reg_addr=reg_addr)


@pytest.mark.parametrize('by', ['context', 'actor', 'nursery', 'scope'])
def test_cancelled_from_the_parent(
    by: str, start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    """The asyncio task ends with its trio task, else the assertion in the child would be what comes back."""

    @tractor_test
    async def main(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
        async with tractor.open_nursery() as nursery:
            portal = await nursery.start_actor(
                'infected', enable_modules=['aio_targets'], infect_asyncio=True
            )
            with trio.CancelScope() as scope:
                async with (
                    expect_ctxc(yay=by in ('actor', 'nursery')),
                    portal.open_context(targets.expect, command='echo me') as (ctx, _),
                ):
                    match by:
                        case 'context':
                            await ctx.cancel()
                        case 'actor':
                            await portal.cancel_actor()
                            await ctx.wait_for_result()
                        case 'nursery':
                            await nursery.cancel()
                        case 'scope':
                            scope.cancel()
                            await trio.sleep_forever()
            if by in ('context', 'scope'):
                assert await portal.run(targets.run_aio, how='value', value=1) == 1
                await portal.cancel_actor()

    main(start_method=start_method, tpt_proto=tpt_proto, reg_addr=reg_addr)


@pytest.mark.parametrize('linked', [False, True])
def test_an_interrupted_child(
    linked: bool, tmp_path: Path, start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    """It cancels itself: says so, does not leave shielded work, and runs its callbacks."""
    mark = tmp_path / 'mark'

    @tractor_test(timeout=20)
    async def main(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
        async with tractor.open_nursery() as nursery:
            portal = await nursery.start_actor(
                'infected', enable_modules=['aio_targets'], infect_asyncio=True
            )
            assert portal.chan.aid is not None
            uid = portal.chan.aid.uid
            child = nursery._children[uid]
            with pytest.raises(tractor.ContextCancelled) as info:
                async with portal.open_context(
                    targets.work_shielded, path=str(mark), linked=linked
                ) as (ctx, pid):
                    if start_method == 'subint':
                        # its process is the one of the test, so this is its interrupt
                        child.proc.terminate()
                    else:
                        os.kill(pid, signal.SIGINT)
                    with trio.fail_after(5):
                        await ctx.wait_for_result()
            assert info.value.canceller == uid
            await child.gone.wait()
            assert child.returncode == 0
        assert mark.exists()

    main(start_method=start_method, tpt_proto=tpt_proto, reg_addr=reg_addr)
