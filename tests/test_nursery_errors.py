"""end to end: what leaves the block of an actor nursery, for every way in which it can end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor import RemoteActorError
from tractor._code_load import load_module_from_path
from tractor._exceptions import ContextCancelled
from tractor._testing import raised_by, run_bounded

pytestmark = pytest.mark.spawns

# under the name by which the actors import it
supervised = sys.modules.get('supervised') or load_module_from_path(
    Path(__file__).with_name('supervised.py')
)

Options = dict[str, Any]


# --- nothing


def test_no_error(run: Any) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.run_in_actor(supervised.give, value=[1, 'two', None])
        assert await portal.wait_for_result() == [1, 'two', None]

    an = run(body)
    assert not an.cancel_called
    assert not an.cancelled_caught
    assert an.errors == {}


def test_results_may_be_left_to_the_block(run: Any) -> None:
    portals = []

    async def body(an: tractor.ActorNursery) -> None:
        for value in range(3):
            portals.append(await an.run_in_actor(supervised.give, name=f'a{value}', value=value))
        assert an._cancel_after_result_on_exit == set(portals)

    assert not run(body).cancel_called
    values = [run_bounded(portal.wait_for_result) for portal in portals]
    assert values == [0, 1, 2]
    assert not any(portal.chan.connected() for portal in portals)


def test_cancelled_in_the_body(run: Any) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        await an.start_actor('daemon')
        await an.run_in_actor(supervised.forever)
        await an.cancel()
        assert an._children == {}

    an = run(body)
    assert an.cancel_called
    assert an.cancelled_caught
    assert an.errors == {}


def test_a_cancelled_one_shot_contributes_nothing(run: Any) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.run_in_actor(supervised.forever)
        assert await portal.cancel_actor()
        with pytest.raises(ContextCancelled) as caught:
            await portal.wait_for_result()
        assert caught.value.canceller == tractor.current_actor().aid.uid

    an = run(body)
    assert an.errors == {}


# --- one error


def test_the_body_error_itself(run: Any) -> None:
    boom = ValueError('boom')

    async def body(an: tractor.ActorNursery) -> None:
        await an.start_actor('daemon')
        await an.run_in_actor(supervised.forever)
        raise boom

    assert raised_by(run, body) is boom


def test_state_after_a_body_error(options: Options) -> None:
    boom = ValueError('boom')

    async def main() -> None:
        async with tractor.open_root_actor(**options) as root:
            with pytest.raises(ValueError) as caught:
                async with tractor.open_nursery() as an:
                    await an.start_actor('daemon')
                    raise boom
            assert caught.value is boom
            assert an.cancel_called
            assert an.cancelled_caught
            assert an._children == {}
            assert an.errors == {root.aid.uid: boom}
            assert an._scope_error is boom
            assert root._actoruid2nursery == {}
            assert not an._implicit_runtime_started

    run_bounded(main)


def test_one_failing_one_shot(run: Any) -> None:
    portals = []

    async def body(an: tractor.ActorNursery) -> None:
        await an.start_actor('daemon')
        portals.append(await an.run_in_actor(supervised.fail, text='so'))

    err = raised_by(run, body)
    assert type(err) is RemoteActorError
    assert err.boxed_type is ValueError
    assert 'ValueError: so' in err.tb_str
    # the very object that the portal raises too
    with pytest.raises(RemoteActorError) as caught:
        run_bounded(portals[0].wait_for_result)
    assert caught.value is err


def test_an_error_raised_by_the_body_too_is_counted_once(run: Any) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.run_in_actor(supervised.fail)
        await portal.wait_for_result()

    err = raised_by(run, body)
    assert type(err) is RemoteActorError
    assert err.boxed_type is ValueError


def test_errors_raised_by_the_body_in_a_group_are_counted_once(run: Any) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        portals = [await an.run_in_actor(supervised.fail, name=f'a{i}') for i in range(2)]
        errors = []
        for portal in portals:
            with pytest.raises(RemoteActorError) as caught:
                await portal.wait_for_result()
            errors.append(caught.value)
        raise ExceptionGroup('mine', errors)

    err = raised_by(run, body)
    assert isinstance(err, ExceptionGroup)
    assert err.message == 'mine'
    assert [type(member) for member in err.exceptions] == [RemoteActorError] * 2


def test_an_error_that_the_body_handled_is_raised_all_the_same(run: Any) -> None:
    seen = []

    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.run_in_actor(supervised.fail)
        with pytest.raises(RemoteActorError) as caught:
            await portal.wait_for_result()
        seen.append(caught.value)

    assert raised_by(run, body) is seen[0]


# --- several


def test_body_error_first_then_the_children_in_order(run: Any) -> None:
    boom = ValueError('boom')

    async def body(an: tractor.ActorNursery) -> None:
        first = await an.run_in_actor(supervised.fail, name='first', text='1')
        second = await an.run_in_actor(supervised.fail, name='second', text='2')
        for portal in (first, second):
            with pytest.raises(RemoteActorError):
                await portal.wait_for_result()
        raise boom

    err = raised_by(run, body)
    assert type(err) is ExceptionGroup
    assert err.message == 'tractor.ActorNursery errored with'
    assert err.exceptions[0] is boom
    members = err.exceptions[1:]
    assert [type(member) for member in members] == [RemoteActorError] * 2
    assert {member.src_uid[0] for member in members} == {'first', 'second'}


def test_25_delayed_failures_are_a_group_of_25(run: Any, start_method: str) -> None:
    count = 8 if start_method == 'mp_spawn' else 25

    async def body(an: tractor.ActorNursery) -> None:
        for index in range(count):
            await an.run_in_actor(supervised.fail, name=f'f{index}', text=str(index), delay=0.3)

    err = raised_by(run, body)
    assert type(err) is ExceptionGroup
    assert err.message == 'tractor.ActorNursery errored with'
    assert [type(member) for member in err.exceptions] == [RemoteActorError] * count
    assert {member.src_uid[0] for member in err.exceptions} == {f'f{i}' for i in range(count)}
    assert all(member.boxed_type is ValueError for member in err.exceptions)


def test_a_failing_one_shot_does_not_cancel_the_others(run: Any) -> None:
    portals = []

    async def body(an: tractor.ActorNursery) -> None:
        await an.start_actor('daemon')
        await an.run_in_actor(supervised.fail)
        portals.append(await an.run_in_actor(supervised.fail, name='late', text='l', delay=0.5))
        portals.append(await an.run_in_actor(supervised.give, value='kept'))

    err = raised_by(run, body)
    assert isinstance(err, ExceptionGroup)
    assert [member.src_uid[0] for member in err.exceptions] == ['fail', 'late']
    assert run_bounded(portals[1].wait_for_result) == 'kept'


def test_the_body_is_not_interrupted_by_errors_it_does_not_await(run: Any) -> None:
    log = []

    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.run_in_actor(supervised.fail)
        with pytest.raises(RemoteActorError):
            await portal.wait_for_result()
        await trio.lowlevel.checkpoint()
        later = await an.start_actor('later', enable_modules=['supervised'])
        log.append(await later.run(supervised.give, value=1))

    assert type(raised_by(run, body)) is RemoteActorError
    assert log == [1]


# --- sub-trees


def test_an_error_two_levels_down(run: Any) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        await an.run_in_actor(supervised.fail_below, count=1)

    err = raised_by(run, body)
    assert type(err) is RemoteActorError
    assert err.boxed_type is RemoteActorError
    assert err.src_type is ValueError


def test_one_error_for_each_direct_child(run: Any) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        for index in range(2):
            await an.run_in_actor(supervised.fail_below, name=f'branch{index}', count=2)

    err = raised_by(run, body)
    assert type(err) is ExceptionGroup
    assert [type(member) for member in err.exceptions] == [RemoteActorError] * 2
    assert [member.boxed_type for member in err.exceptions] == [ExceptionGroup] * 2
    assert {member.src_uid[0] for member in err.exceptions} == {'branch0', 'branch1'}


def test_a_group_raised_by_a_function(run: Any) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        await an.run_in_actor(supervised.fail_in_a_group)

    err = raised_by(run, body)
    assert type(err) is RemoteActorError
    assert err.boxed_type is ExceptionGroup
