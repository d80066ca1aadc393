"""end to end: bringing the children of a nursery down, also those that do not react."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor._code_load import load_module_from_path
from tractor._testing import deaths, run_bounded, tractor_test
from tractor.spawn import _life

pytestmark = pytest.mark.spawns

# under the name by which the actors import it
supervised = sys.modules.get('supervised') or load_module_from_path(
    Path(__file__).with_name('supervised.py')
)

Options = dict[str, Any]
HERE = ['supervised']


# --- bringing children down


@tractor_test
async def test_cancel_returns_when_all_are_gone(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    root = tractor.current_actor()
    async with tractor.open_nursery() as an:
        places = []
        for index in range(3):
            portal = await an.start_actor(f'kid{index}', enable_modules=HERE)
            places.append((await portal.run(supervised.whoami))['place'])
        assert not an.cancel_called
        await an.cancel()
        assert an.cancel_called
        assert not any(map(deaths.is_there, places))
        assert an._join_procs.is_set()
        await an.cancel()
        assert root.is_registrar
        assert set(root._registry) == {root.aid.uid}
    assert an.cancelled_caught


@tractor_test
async def test_cancelling_one_leaves_the_others(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with tractor.open_nursery() as an:
        first = await an.start_actor('first', enable_modules=HERE)
        second = await an.start_actor('second', enable_modules=HERE)
        [gone, _] = an._children.values()
        assert await first.cancel_actor()
        await gone.gone.wait()
        assert await second.run(supervised.give, value=1) == 1
        assert list(an._children) == [second.chan.aid.uid]
        await second.cancel_actor()
    assert not an.cancel_called


@pytest.mark.parametrize(
    ('how', 'returncode', 'bound'),
    [
        ('slow_cleanup', 0, 2.5),
        ('spin', -signal.SIGTERM, _life.ALIVE_WITHIN + 0.6),
        ('block', -signal.SIGTERM, _life.ALIVE_WITHIN + 0.6),
        ('ignore_sigterm_and_spin', -signal.SIGKILL, _life.ALIVE_WITHIN + 1.6 + 0.6),
        ('swallow_cancellation', -signal.SIGTERM, _life.DONE_WITHIN + 0.6),
    ],
)
def test_a_child_that_does_not_come_down(
    options: Options, how: str, returncode: int, bound: float
) -> None:
    place: Any = None
    if returncode and options['start_method'] == 'subint':
        # to be asked to cancel itself does not end what is stuck
        returncode = -signal.SIGKILL

    async def main() -> None:
        async with tractor.open_nursery(**options) as an:
            portal = await an.start_actor('stuck', enable_modules=HERE)
            [child] = an._children.values()
            kwargs = {'delay': 0.8} if how == 'slow_cleanup' else {}
            ready = trio.Event()

            async def hold() -> None:
                nonlocal place
                async with portal.open_context(getattr(supervised, how), **kwargs) as (_, place):
                    ready.set()
                    await trio.sleep_forever()

            async with trio.open_nursery() as tn:
                tn.start_soon(_ignoring_its_end, hold)
                await ready.wait()
                begin = trio.current_time()
                await an.cancel()
                took = trio.current_time() - begin
                tn.cancel_scope.cancel()
        assert child.returncode == returncode
        assert not deaths.is_there(place)
        assert an.errors == {}
        assert an.cancelled_caught == (returncode == 0)
        assert took < bound

    run_bounded(main)


async def _ignoring_its_end(hold: Any) -> None:
    try:
        await hold()
    except (tractor.TransportClosed, tractor.ContextCancelled):
        return


@tractor_test
async def test_hard_kill_does_not_ask(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with tractor.open_nursery() as an:
        portal = await an.start_actor('kid', enable_modules=HERE)
        await portal.run(supervised.nothing)
        [child] = an._children.values()
        await an.cancel(hard_kill=True)
        # an interpreter is told, past its connection, to cancel itself
        assert child.returncode == (0 if start_method == 'subint' else -signal.SIGTERM)
        assert an._children == {}
    assert an.cancelled_caught == (start_method == 'subint')


@tractor_test
async def test_hard_kill_shortens_an_ongoing_cancellation(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with tractor.open_nursery() as an:
        portal = await an.start_actor('slow', enable_modules=HERE)
        [child] = an._children.values()
        ready = trio.Event()

        async def hold() -> None:
            async with portal.open_context(supervised.slow_cleanup, delay=30):
                ready.set()
                await trio.sleep_forever()

        async with trio.open_nursery() as tn:
            tn.start_soon(_ignoring_its_end, hold)
            await ready.wait()
            begin = trio.current_time()
            tn.start_soon(an.cancel)
            while not child.ending:
                await trio.lowlevel.checkpoint()
            await an.cancel(hard_kill=True)
            assert trio.current_time() - begin < 1
            tn.cancel_scope.cancel()
        killed_by = signal.SIGKILL if start_method == 'subint' else signal.SIGTERM
        assert child.returncode == -killed_by


@pytest.mark.parametrize('stuck', [False, True])
def test_a_sub_tree_comes_down_with_its_top(options: Options, stuck: bool) -> None:
    async def main() -> None:
        async with tractor.open_nursery(**options) as an:
            portal = await an.start_actor('top', enable_modules=HERE)
            with pytest.raises(tractor.ContextCancelled) as caught:
                async with portal.open_context(supervised.tree, depth=2, stuck=stuck) as (
                    _,
                    places,
                ):
                    assert len({*map(tuple, places)}) == 3
                    assert all(map(deaths.is_there, places))
                    begin = trio.current_time()
                    await an.cancel()
                    await trio.sleep_forever()
            assert caught.value.canceller == tractor.current_actor().aid.uid
        assert not any(map(deaths.is_there, places))
        assert trio.current_time() - begin < 3.5

    run_bounded(main)


def test_a_body_error_comes_through_stuck_children(options: Options) -> None:
    boom = ValueError('boom')

    async def main() -> None:
        async with tractor.open_nursery(**options) as an:
            portal = await an.start_actor('stuck', enable_modules=HERE)
            async with trio.open_nursery() as tn:
                tn.start_soon(_ignoring_its_end, lambda: _hold(portal, tn))
            raise boom

    async def _hold(portal: tractor.Portal, tn: trio.Nursery) -> None:
        async with portal.open_context(supervised.spin):
            tn.cancel_scope.cancel()

    with pytest.raises(ValueError) as caught:
        run_bounded(main)
    assert caught.value is boom
