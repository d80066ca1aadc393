"""contract: what every backend guarantees of a child that lives: its boot, its identity, what it answers, and how it ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor import ContextCancelled, RemoteActorError
from tractor._code_load import load_module_from_path
from tractor._testing import expect_ctxc, run_bounded
from tractor.spawn import _spawn

backend = load_module_from_path(Path(__file__).with_name('backend_peers.py'))
peers = backend.load('contract_peers')

pytestmark = [pytest.mark.spawns, backend.on_each_backend]

HERE = ['contract_peers']
Run = Callable[..., tractor.ActorNursery]


# --- 1: the boot


def test_what_a_child_is_told(run: Run, options: dict[str, Any], tpt_proto: str) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        root = tractor.current_actor()
        portal = await an.start_actor('kid', enable_modules=HERE, inherit_parent_main=False)
        told = await portal.run(peers.spawn_spec)
        assert told['modules'] == {'contract_peers': peers.__file__}
        assert told['main'] == {}
        assert [tuple(addr) for addr in told['reg_addrs']] == root.reg_addrs
        assert told['bind_addrs'] is None
        expected = tractor.get_runtime_vars() | {
            '_is_root': False,
            '_is_infected_aio': False,
            _spawn.METHOD_VAR: options['start_method'],
        }
        assert plain(told['vars']) == plain(expected)
        assert plain(told['live_vars']) == plain(expected)
        assert told['live_vars']['_enable_tpts'] == [tpt_proto]
        await an.cancel()

    run(body)


def plain(value: Any) -> Any:
    """The same with lists for tuples: these travel as arrays."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def test_variables_of_the_application_travel(run: Run) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        variables = tractor.get_runtime_vars()
        tractor.runtime._state._runtime_vars['of_the_application'] = {'depth': [1, 2]}
        portal = await an.start_actor('kid', enable_modules=HERE)
        tractor.runtime._state.set_runtime_vars(variables)
        told = await portal.run(peers.spawn_spec)
        assert told['live_vars']['of_the_application'] == {'depth': [1, 2]}
        await an.cancel()

    run(body)


def test_where_a_child_listens(run: Run, tpt_proto: str) -> None:
    from tractor._testing.addr import get_rando_addr

    async def body(an: tractor.ActorNursery) -> None:
        chosen = get_rando_addr(tpt_proto)
        portal = await an.start_actor('kid', enable_modules=HERE, bind_addrs=[chosen])
        told = await portal.run(peers.spawn_spec)
        assert plain(told['accept_addrs']) == plain([chosen])
        async with tractor.find_actor('kid') as found:
            assert await found.run(peers.give, value=1) == 1
        await an.cancel()

    run(body)


@pytest.mark.parametrize('given', [None, 'error', 'CANCEL'])
def test_the_log_level(run: Run, given: str | None) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('kid', enable_modules=HERE, loglevel=given)
        told = await portal.run(peers.whoami)
        assert told['loglevel'] == (given or tractor.current_actor().loglevel)
        await an.cancel()

    run(body)


@pytest.mark.parametrize('infect', [False, True])
def test_asyncio_below(run: Run, infect: bool) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('kid', enable_modules=HERE, infect_asyncio=infect)
        assert (await portal.run(peers.whoami))['infected'] is infect
        assert (await portal.run(peers.spawn_spec))['live_vars']['_is_infected_aio'] is infect
        await an.cancel()

    run(body)


def test_only_enabled_modules_are_exposed(run: Run) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('kid')
        err = await backend.failure_of(portal.run, peers.whoami)
        assert isinstance(err, RemoteActorError)
        assert err.boxed_type is tractor.ModuleNotExposed
        assert "enable_modules=['contract_peers']" in str(err)
        await an.cancel()

    run(body)


# --- 6: identity


def test_who_a_child_is(run: Run, start_method: str, tpt_proto: str) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('kid', enable_modules=HERE)
        told = await portal.run(peers.whoami)
        aid = portal.chan.aid
        child = an._children[aid.uid]
        assert (told['name'], told['uuid']) == aid.uid
        assert told['pid'] == told['aid_pid'] == told['actor_pid'] == aid.pid == child.proc.pid
        assert told['method'] == told['default_method'] == start_method
        assert child.subactor.spawn_method == start_method
        assert not told['is_root']
        assert told['transports'] == [tpt_proto]
        assert told['interp_id'] == told['real_interp_id']
        is_interpreter = start_method == 'subint'
        assert (told['pid'] == os.getpid()) == is_interpreter
        assert (told['interp_id'] != 0) == is_interpreter
        if is_interpreter:
            assert told['interp_id'] == child.proc.interp_id
            assert told['interp_id'] in backend.interpreters()
        await an.cancel()

    run(body)


def test_the_handle_of_a_child(run: Run) -> None:
    """It has the verbs of a process, and tells whose it is; the record unpacks as before."""

    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('kid', enable_modules=HERE)
        [(subactor, proc, same_portal)] = an._children.values()
        assert same_portal is portal
        assert subactor.aid.name == 'kid'
        assert proc.poll() is proc.returncode is None
        assert str(proc.pid) in repr(proc)
        await an.cancel()
        assert proc.poll() == proc.returncode == 0
        assert await proc.wait() == 0

    run(body)


def test_the_header_of_the_log(run: Run, start_method: str) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('kid', enable_modules=HERE)
        told = await portal.run(peers.whoami)
        line = await portal.run(peers.log_line)
        assert line.endswith('here I am\n')
        where = f'.i{told["interp_id"]}' if start_method == 'subint' else ''
        assert f'(kid[{told["uuid"][:6]}{where}], {told["pid"]}, ' in line
        await an.cancel()

    run(body)


# --- 3: errors, cancellation, order


@pytest.mark.parametrize(
    ('kind', 'boxed'),
    [
        ('ValueError', ValueError),
        ('group', ExceptionGroup),
        ('nursery', ExceptionGroup),
        ('exit', SystemExit),
    ],
)
def test_an_error_of_a_call(run: Run, kind: str, boxed: type[BaseException]) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('kid', enable_modules=HERE)
        err = await backend.failure_of(portal.run, peers.fail, kind=kind)
        assert type(err) is RemoteActorError
        assert err.boxed_type is err.src_type is boxed
        assert err.src_uid == portal.chan.aid.uid
        # the actor goes on
        assert await portal.run(peers.give, value=[1]) == [1]
        await an.cancel()

    run(body)


def test_an_error_of_a_one_shot_actor_leaves_the_block(run: Run) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        await an.start_actor('bystander')
        await an.run_in_actor(peers.fail, kind='KeyError')

    with pytest.raises(RemoteActorError) as info:
        run(body)
    assert info.value.boxed_type is KeyError


def test_an_error_of_the_block_is_that_very_object(run: Run) -> None:
    mine = ValueError('mine')

    async def body(an: tractor.ActorNursery) -> None:
        await an.start_actor('one')
        await an.run_in_actor(peers.forever)
        raise mine

    with pytest.raises(ValueError, match='mine') as info:
        run(body)
    assert info.value is mine


def test_errors_of_several_tasks_are_a_group(run: Run) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        portals = [await an.start_actor(f'kid{n}', enable_modules=HERE) for n in range(2)]
        errs = [await backend.failure_of(p.run, peers.fail, kind='KeyError') for p in portals]
        raise ExceptionGroup('both', errs)

    with pytest.raises(ExceptionGroup) as info:
        run(body)
    assert [err.boxed_type for err in info.value.exceptions] == [KeyError, KeyError]
    assert [err.src_uid[0] for err in info.value.exceptions] == ['kid0', 'kid1']


def test_a_context_cancelled_here(run: Run) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('kid', enable_modules=HERE)
        async with portal.open_context(peers.hold) as (ctx, _):
            await ctx.cancel()
        assert ctx.cancel_called
        assert isinstance(ctx.maybe_error, ContextCancelled)
        assert ctx.canceller == tractor.current_actor().aid.uid
        assert await portal.run(peers.give, value=1) == 1
        await an.cancel()

    run(body)


def test_an_actor_that_cancels_itself(run: Run) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('kid', enable_modules=HERE)
        uid = portal.chan.aid.uid
        child = an._children[uid]
        err = await backend.failure_of(portal.run, peers.cancel_self)
        assert isinstance(err, ContextCancelled)
        assert err.canceller == uid
        await child.gone.wait()
        assert child.returncode == 0

    run(body)


def test_a_cancelled_block_is_just_cancelled(options: dict[str, Any]) -> None:
    async def main() -> None:
        with trio.CancelScope() as scope:
            async with tractor.open_nursery(**options) as an:
                portal = await an.start_actor('kid', enable_modules=HERE)
                async with portal.open_context(peers.hold):
                    scope.cancel()
                    await trio.sleep_forever()
        assert scope.cancelled_caught
        assert an.cancelled_caught

    run_bounded(main)


def test_the_order_of_an_end(run: Run, tmp_path: Path) -> None:
    """Everything in the child comes before the end of the block."""
    path = tmp_path / 'steps'

    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('kid', enable_modules=HERE)
        async with expect_ctxc(yay=True), portal.open_context(peers.leave_traces, path=str(path)):
            await an.cancel()

    run(body)
    assert path.read_text().splitlines() == ['task', 'lifetime stack']


def test_a_stream(run: Run) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('kid', enable_modules=HERE)
        async with portal.open_context(peers.echo) as (ctx, first):
            assert first == 'ready'
            async with ctx.open_stream() as stream:
                for item in ({'a': [1, None]}, b'\0' * 100_000, 'text'):
                    await stream.send(item)
                    assert await stream.receive() == item
            assert await ctx.wait_for_result() == 3
        await an.cancel()

    run(body)
