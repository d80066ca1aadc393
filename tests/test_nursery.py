"""end to end: the life of children in an actor nursery: started, used, brought down."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor._code_load import load_module_from_path
from tractor._exceptions import RuntimeFailure
from tractor._testing import deaths, run_bounded, tractor_test
from tractor.runtime import _supervise

pytestmark = pytest.mark.spawns

# under the name by which the actors import it
supervised = sys.modules.get('supervised') or load_module_from_path(
    Path(__file__).with_name('supervised.py')
)

Options = dict[str, Any]
HERE = ['supervised']


# --- starting


@tractor_test
async def test_the_record_of_a_child(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    root = tractor.current_actor()
    async with tractor.open_nursery() as an:
        portal = await an.start_actor('kid', enable_modules=HERE)
        told = await portal.run(supervised.whoami)
        [(uid, child)] = an._children.items()
        subactor, proc, recorded = child
        assert len(child) == 3
        assert child[0] is subactor
        assert recorded is portal
        assert uid == subactor.aid.uid == portal.chan.aid.uid
        assert uid in root.ipc_server._peers
        assert root._actoruid2nursery == {uid: an}
        assert proc.pid == subactor.pid == told['pid'] == told['aid_pid'] == portal.chan.aid.pid
        assert getattr(proc, 'interp_id', 0) == told['place'][1]
        assert deaths.is_there(told['place'])
        assert (proc.returncode, proc.poll()) == (None, None)
        assert told['method'] == subactor.spawn_method == start_method
        assert (told['name'], told['uuid']) == uid
        assert repr(an) == "<ActorNursery of 'root' children=['kid']>"
        await an.cancel()
    assert an._children == {}
    assert root._actoruid2nursery == {}
    assert proc.returncode == 0
    assert not deaths.is_there(told['place'])
    assert not portal.chan.connected()


@tractor_test
async def test_a_child_gets_the_runtime_variables(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    ours = tractor.get_runtime_vars()
    async with tractor.open_nursery() as an:
        portal = await an.run_in_actor(supervised.whoami)
        told = await portal.wait_for_result()
    assert told['runtime_vars'] == told['spec_vars']
    assert not told['is_root']
    assert ours['_is_root']
    assert told['runtime_vars']['_is_root'] is False
    assert told['runtime_vars']['_enable_tpts'] == [tpt_proto]
    assert [tuple(addr) for addr in told['runtime_vars']['_registry_addrs']] == [tuple(reg_addr)]
    assert [tuple(addr) for addr in told['runtime_vars']['_root_addrs']] == ours['_root_addrs']
    assert told['modules'] == ['supervised']


@pytest.mark.parametrize('level', ['ERROR', 'error', 'CrItIcAl'])
def test_the_log_level_is_passed_verbatim(options: Options, level: str) -> None:
    async def main() -> None:
        async with tractor.open_nursery(**options) as an:
            portal = await an.run_in_actor(supervised.whoami, loglevel=level)
            assert (await portal.wait_for_result())['loglevel'] == level

    run_bounded(main)


def test_children_inherit_the_log_level(options: Options) -> None:
    async def main() -> None:
        async with tractor.open_nursery(**options) as an:
            assert tractor.current_actor().loglevel == 'CRITICAL'
            portal = await an.run_in_actor(supervised.whoami)
            assert (await portal.wait_for_result())['loglevel'] == 'CRITICAL'

    run_bounded(main)


@tractor_test
async def test_names_need_not_be_unique(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with tractor.open_nursery() as an:
        portals = [await an.start_actor('twin', enable_modules=HERE) for _ in range(2)]
        told = [await portal.run(supervised.whoami) for portal in portals]
        assert [answer['name'] for answer in told] == ['twin', 'twin']
        assert len({tuple(answer['place']) for answer in told}) == 2
        assert len(an._children) == 2
        await an.cancel()


@tractor_test
async def test_a_one_shot_is_gone_when_its_result_is_there(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with tractor.open_nursery() as an:
        one_shot = await an.run_in_actor(supervised.whoami, name='other name')
        daemon = await an.start_actor('daemon', enable_modules=HERE)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as tn:
                tn.start_soon(end_daemon_after, an, one_shot, daemon)
    assert not scope.cancelled_caught
    told = await one_shot.wait_for_result()
    assert told['name'] == 'other name'
    assert not deaths.is_there(told['place'])
    # again, and without waiting for anybody
    assert await one_shot.wait_for_result() is told
    assert an.exited.is_set()
    assert not an.cancel_called


async def end_daemon_after(
    an: tractor.ActorNursery, one_shot: tractor.Portal, daemon: tractor.Portal
) -> None:
    await one_shot.wait_for_result()
    assert await daemon.cancel_actor()


@tractor_test
async def test_sixteen_at_once(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    told = {}

    async def start(an: tractor.ActorNursery, index: int) -> None:
        portal = await an.start_actor(f'kid{index}', enable_modules=HERE)
        told[index] = await portal.run(supervised.whoami)

    async with tractor.open_nursery() as an:
        async with trio.open_nursery() as tn:
            for index in range(16):
                tn.start_soon(start, an, index)
        assert len(an._children) == 16
        await an.cancel()
    assert {index: answer['name'] for index, answer in told.items()} == {
        index: f'kid{index}' for index in range(16)
    }
    assert not any(deaths.is_there(answer['place']) for answer in told.values())


# --- several nurseries


@tractor_test
async def test_nurseries_side_by_side_and_nested(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    root = tractor.current_actor()
    caught = []

    async def one(name: str, fails: bool) -> None:
        try:
            async with tractor.open_nursery() as an:
                await an.start_actor(name)
                await barrier.wait()
                if fails:
                    raise ValueError(name)
                async with tractor.open_nursery() as inner:
                    portal = await inner.run_in_actor(supervised.give, value=name)
                assert inner.exited.is_set()
                assert not an.exited.is_set()
                assert await portal.wait_for_result() == name
                await an.cancel()
        except ValueError as err:
            caught.append(str(err))

    barrier = Barrier(3)
    async with trio.open_nursery() as tn:
        for name in ('a', 'b', 'c'):
            tn.start_soon(one, name, name == 'b')
    assert caught == ['b']
    assert root._actoruid2nursery == {}


class Barrier:
    """Lets nobody pass before all have come."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._open = trio.Event()

    async def wait(self) -> None:
        self._missing -= 1
        if not self._missing:
            self._open.set()
        await self._open.wait()


@tractor_test
async def test_options_of_the_runtime_are_ignored_in_a_running_one(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with tractor.open_nursery(
        registry_addrs=[('nowhere', 1)], start_method='no such', debug_mode=True
    ) as an:
        assert not an._implicit_runtime_started
        portal = await an.run_in_actor(supervised.whoami)
        assert (await portal.wait_for_result())['method'] == start_method


def test_the_runtime_is_opened_and_closed_with_the_nursery(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    for module in ('tractor._root', 'tractor.runtime._supervise'):
        monkeypatch.setattr(f'{module}.log.info', lambda text, *args: logged.append(text % args))

    async def main(fails: bool) -> None:
        async with tractor.open_nursery(**options) as an:
            assert an._implicit_runtime_started
            assert tractor.current_actor().is_root
            assert tractor.is_root_process()
            if fails:
                raise ValueError
        assert tractor.current_actor(err_on_no_runtime=False) is None

    assert _supervise._shutdown_msg == 'Actor-runtime-shutdown'
    run_bounded(main, False)
    assert logged == ['Root actor terminated', 'Actor-runtime-shutdown']
    with pytest.raises(ValueError):
        run_bounded(main, True)
    assert logged == ['Root actor terminated', 'Actor-runtime-shutdown'] * 2


# --- closed nurseries


@tractor_test
async def test_a_block_that_has_ended_starts_nobody(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with tractor.open_nursery() as an:
        pass
    with pytest.raises(RuntimeError, match='has ended'):
        await an.start_actor('late')
    # and there is nobody to cancel
    await an.cancel()


@tractor_test
async def test_a_cancelled_nursery_starts_nobody(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with tractor.open_nursery() as an:
        await an.cancel()
        with pytest.raises(RuntimeFailure, match='has been cancelled'):
            await an.run_in_actor(supervised.nothing)


@tractor_test
async def test_one_that_is_being_started_is_cancelled_too(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    portals = []

    async def start(an: tractor.ActorNursery) -> None:
        portals.append(await an.start_actor('half-born', enable_modules=HERE))

    async with tractor.open_nursery() as an:
        async with trio.open_nursery() as tn:
            tn.start_soon(start, an)
            while not an._starting:
                await trio.lowlevel.checkpoint()
            await an.cancel()
            assert an._children == {}
        assert not portals[0].chan.connected()
    assert an.errors == {}


# --- what a nursery refuses to leave behind


@tractor_test
async def test_a_refused_one_shot_is_no_daemon(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with tractor.open_nursery() as an:
        with pytest.raises(tractor.RemoteActorError) as caught:
            await an.run_in_actor(supervised.give, no_such_argument=1)
        assert caught.value.boxed_type is TypeError
        assert an._children == {}
    assert an.errors == {}


@tractor_test
async def test_a_one_shot_cancelled_while_it_is_started_is_no_daemon(
    start_method: str, tpt_proto: str, reg_addr: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def submit(self: tractor.Portal, *args: Any, **kwargs: Any) -> None:
        scope.cancel()
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(tractor.Portal, '_submit_for_result', submit)
    async with tractor.open_nursery() as an:
        with trio.CancelScope() as scope:
            await an.run_in_actor(supervised.nothing)
        assert scope.cancelled_caught
        assert an._children == {}


@tractor_test
async def test_children_of_a_foreign_nursery(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with trio.open_nursery() as tn:
        async with tractor.open_nursery() as an:
            portal = await an.start_actor('kid', enable_modules=HERE, nursery=tn)
            place = (await portal.run(supervised.whoami))['place']
            await an.cancel()
            assert not deaths.is_there(place)
        assert not tn.child_tasks


def test_the_deprecated_name(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr('tractor.runtime._supervise.log.warning', warned.append)

    async def main() -> None:
        async with tractor.open_nursery(**options) as an:
            assert an.cancelled is False
            await an.cancel()
            assert an.cancelled is True

    run_bounded(main)
    assert len(warned) == 2
    assert 'cancel_called' in warned[0]


def test_no_nursery_in_a_foreign_child_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('tractor.runtime._state.is_main_process', lambda: False)

    async def main() -> None:
        async with tractor.open_nursery():
            pass

    with pytest.raises(RuntimeFailure, match='no runtime'):
        run_bounded(main)
