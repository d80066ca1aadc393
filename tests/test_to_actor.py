"""contract: one-shot calls in other actors, with and without a handle on one."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor import ContextCancelled, RemoteActorError, to_actor
from tractor._code_load import load_module_from_path
from tractor._exceptions import ActorFailure, MsgTypeError
from tractor._testing import deaths, run_bounded, tractor_test

pytestmark = pytest.mark.spawns

NAME = 'to_actor_targets'

# under the name by which the actors import it
there = sys.modules.get(NAME) or load_module_from_path(Path(__file__).with_name(f'{NAME}.py'))

Run = Callable[..., Awaitable[Any]]
HANDLES = ('none', 'an', 'portal')


async def with_handle(handle: str, body: Callable[[Run], Awaitable[None]]) -> None:
    """Run a body with `to_actor.run`, given that handle."""
    async with tractor.open_nursery() as an:
        match handle:
            case 'none':
                await body(to_actor.run)
            case 'an':
                await body(partial(to_actor.run, an=an))
            case 'portal':
                portal = await an.start_actor('given', enable_modules=[NAME])
                await body(partial(to_actor.run, portal=portal))
                assert await portal.run(there.add, one=1) == 6
                await portal.cancel_actor()
        # whatever was started for a call has gone, without the end of the nursery
        while handle == 'portal' and an._children:
            await trio.lowlevel.checkpoint()
        assert not an._children


@pytest.mark.parametrize('handle', HANDLES)
@tractor_test
async def test_results_and_errors(
    handle: str, start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async def body(run: Run) -> None:
        assert await run(there.add, 1) == 6
        assert await run(partial(there.add, 1, three=10), 5) == 16
        assert await run(partial(partial(there.add, three=1), three=2), 0, 0) == 2
        assert await run(partial(there.collect, fn_name=1, portal=2), 'x') == [
            'x',
            {'fn_name': 1, 'portal': 2},
        ]
        with pytest.raises(RemoteActorError) as caught:
            await run(there.fail)
        assert caught.value.boxed_type is ValueError
        with pytest.raises(RemoteActorError) as caught:
            await run(there.unencodable)
        assert caught.value.src_type is MsgTypeError
        with pytest.raises(MsgTypeError):
            await run(there.add, object())

    await with_handle(handle, body)


@pytest.mark.parametrize('handle', HANDLES)
@tractor_test
async def test_where_it_runs(handle: str, start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async def body(run: Run) -> None:
        seen = []
        for _ in range(2):
            name, place, method, modules = await run(there.whoami)
            assert name == ('given' if handle == 'portal' else 'whoami')
            assert method == start_method
            assert modules == [NAME]
            seen.append(tuple(place))
        assert (os.getpid(), 0) not in seen
        assert len(set(seen)) == (1 if handle == 'portal' else 2)
        if handle != 'portal':
            more = partial(run, name='bob', enable_modules=['tractor.msg'], loglevel='critical')
            name, _, _, modules = await more(there.whoami)
            assert name == 'bob'
            assert modules == [NAME, 'tractor.msg']

    await with_handle(handle, body)


@pytest.mark.parametrize('handle', HANDLES)
@tractor_test
async def test_cancelling_the_call(
    handle: str, start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async def cancel_when_running(scope: trio.CancelScope) -> None:
        while not any(
            ctx._nsf.endswith(':forever') and ctx._remote_func_type
            for ctx in tractor.current_actor()._contexts.values()
        ):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async def body(run: Run) -> None:
        async with trio.open_nursery() as tn:
            with trio.CancelScope() as scope:
                tn.start_soon(cancel_when_running, scope)
                await run(there.forever)
        assert scope.cancelled_caught

    await with_handle(handle, body)


@pytest.mark.parametrize('handle', ['none', 'an'])
@tractor_test
async def test_the_actor_dies(
    handle: str, start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async def body(run: Run) -> None:
        with pytest.raises(ActorFailure, match=f'code {deaths.exit_code(start_method, 7)}'):
            await run(there.die)
        with pytest.raises(ContextCancelled) as caught:
            await run(there.cancel_own_actor)
        assert caught.value.canceller == caught.value.src_uid

    await with_handle(handle, body)


@tractor_test
async def test_nested(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    assert await to_actor.run(there.calls_another) == 15


@tractor_test
async def test_several_at_once(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    results = {}

    async def one(an: tractor.ActorNursery, number: int) -> None:
        results[number] = await to_actor.run(there.add, number, an=an, name=f'n{number}')

    async with tractor.open_nursery() as an:
        async with trio.open_nursery() as tn:
            for number in range(3):
                tn.start_soon(one, an, number)
        assert results == {0: 5, 1: 6, 2: 7}
        assert not an._children


@pytest.mark.parametrize('name', ['trio', 'mp_spawn'])
@tractor_test
async def test_another_backend(name: str, tpt_proto: str, reg_addr: Any) -> None:
    assert (await to_actor.run(there.whoami, start_method=name))[2] == name


def test_without_a_runtime(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async def main() -> int:
        async with tractor.open_nursery(
            registry_addrs=[reg_addr], enable_transports=[tpt_proto], start_method=start_method
        ):
            pass
        assert tractor.current_actor(err_on_no_runtime=False) is None
        return await to_actor.run(there.add, 1)

    assert run_bounded(main) == 6


async def _never(*_args: object) -> None:
    raise AssertionError('nothing may be started')


class _NoHandle:
    """A nursery, or a portal, that nobody may touch."""

    start_actor = _call = run = _never


@pytest.mark.parametrize(
    ('fn', 'args', 'text'),
    [
        (there.add, (), 'missing'),
        (there.add, (1, 2, 3), 'positional'),
        (partial(there.add, four=4), (1,), 'four'),
        (there.by_position, (1,), 'position only'),
        (there.many, (1, 2), 'position only'),
        (there.not_async, (), 'async function'),
        (there.a_context, (), 'async function'),
        (partial(partial), (), 'async function'),
        (_NoHandle().run, (), 'belongs to an object'),
        (None, (), 'None'),
    ],
)
@pytest.mark.parametrize('handle', ['an', 'portal'])
def test_bad_calls_start_nothing(fn: Any, args: Any, text: str, handle: str) -> None:
    async def main() -> None:
        handles: Any = {handle: _NoHandle()}
        with pytest.raises(TypeError, match=text):
            await to_actor.run(fn, *args, **handles)

    run_bounded(main)


def test_options_of_an_actor_that_is_given() -> None:
    async def main() -> None:
        portal: Any = _NoHandle()
        with pytest.raises(TypeError, match='name'):
            await to_actor.run(there.add, 1, portal=portal, name='x')
        with pytest.raises(TypeError, match='an'):
            await to_actor.run(there.add, 1, portal=portal, an=portal)

    run_bounded(main)
