"""end to end: interrupts and cancellations of an actor nursery's block, and what leaves it then."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor import RemoteActorError
from tractor._code_load import load_module_from_path
from tractor._testing import deaths, raised_by, run_bounded

pytestmark = pytest.mark.spawns

# under the name by which the actors import it
supervised = sys.modules.get('supervised') or load_module_from_path(
    Path(__file__).with_name('supervised.py')
)

Options = dict[str, Any]


# --- interrupts


@pytest.mark.parametrize('how', ['raised', 'signal'])
def test_an_interrupt_is_bare(run: Any, how: str) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        await an.start_actor('daemon')
        await an.run_in_actor(supervised.forever)
        if how == 'raised':
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()

    assert type(raised_by(run, body)) is KeyboardInterrupt


def test_an_interrupt_beside_errors_is_bare(run: Any) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.run_in_actor(supervised.fail)
        with pytest.raises(RemoteActorError):
            await portal.wait_for_result()
        raise KeyboardInterrupt

    assert type(raised_by(run, body)) is KeyboardInterrupt


def test_an_interrupt_while_the_block_waits(options: Options) -> None:
    async def main() -> float:
        async with trio.open_nursery() as tn:
            begin = 0.0
            try:
                async with tractor.open_nursery(**options) as an:
                    await an.start_actor('daemon')
                    tn.start_soon(_raise_sigint_when, an._join_procs)
                    begin = trio.current_time()
            except KeyboardInterrupt:
                return trio.current_time() - begin
        return float('inf')

    assert run_bounded(main) < 2.9


@trio.lowlevel.enable_ki_protection
async def _raise_sigint_when(event: trio.Event) -> None:
    await event.wait()
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize('when', ['at once', 'when asked'])
def test_a_second_interrupt_kills(options: Options, when: str) -> None:
    times: dict[str, Any] = {}

    async def main() -> None:
        async with tractor.open_nursery(**options) as an, trio.open_nursery() as tn:
            portal = await an.start_actor('slow', enable_modules=['supervised'])
            times['place'] = await tn.start(open_slow_context, portal)
            trio.lowlevel.spawn_system_task(interrupt_again, an)
            signal.raise_signal(signal.SIGINT)

    async def open_slow_context(portal: tractor.Portal, task_status: Any) -> None:
        async with portal.open_context(supervised.slow_cleanup, delay=30) as (_, place):
            task_status.started(place)
            await trio.sleep_forever()

    async def interrupt_again(an: tractor.ActorNursery) -> None:
        while not (an.cancel_called and (when == 'at once' or was_asked(an._actor))):
            await trio.lowlevel.checkpoint()
        times['again'] = trio.current_time()
        signal.raise_signal(signal.SIGINT)

    async def timed() -> None:
        try:
            await main()
        finally:
            times['over'] = trio.current_time()

    with pytest.raises(KeyboardInterrupt):
        run_bounded(timed)
    assert times['over'] - times['again'] < 1
    assert not deaths.is_there(times['place'])


def was_asked(actor: tractor.Actor) -> bool:
    """Whether a child has accepted the request to cancel itself."""
    return any(
        ctx._nsf == 'self:cancel' and ctx._remote_func_type is not None
        for ctx in actor._contexts.values()
    )


# --- cancellation


def test_cancelled_from_around(options: Options) -> None:
    async def main() -> None:
        with trio.CancelScope() as scope:
            async with tractor.open_nursery(**options) as an:
                await an.start_actor('daemon')
                await an.run_in_actor(supervised.forever)
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert an.cancel_called
        assert an._children == {}

    run_bounded(main)


def test_cancelled_from_around_while_the_block_waits(options: Options) -> None:
    async def main() -> None:
        async with trio.open_nursery() as tn:
            with trio.CancelScope() as scope:
                async with tractor.open_nursery(**options) as an:
                    await an.start_actor('daemon')
                    tn.start_soon(_cancel_when, an._join_procs, scope)
            assert scope.cancelled_caught
            assert an.cancel_called

    run_bounded(main)


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def test_a_cancellation_beside_errors_does_not_hide_them(run: Any) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        boom = ValueError('boom')
        async with trio.open_nursery() as tn:
            tn.start_soon(trio.sleep_forever)
            await an.start_actor('daemon')
            raise boom

    err = raised_by(run, body)
    assert type(err) is ValueError
