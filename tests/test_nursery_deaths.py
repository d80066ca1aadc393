"""end to end: children that die without a word, and what leaves the block of their nursery."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import tractor
from tractor._code_load import load_module_from_path
from tractor._exceptions import ActorFailure
from tractor._testing import deaths, raised_by
from tractor.runtime import _supervise

pytestmark = pytest.mark.spawns

# under the name by which the actors import it
supervised = sys.modules.get('supervised') or load_module_from_path(
    Path(__file__).with_name('supervised.py')
)


# --- silent deaths


def test_a_one_shot_that_dies_at_once(run: Any, start_method: str) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        # whether it is known to have begun is a matter of luck; what is raised is not
        await an.run_in_actor(supervised.die, code=4, at_once=True)

    err = raised_by(run, body)
    assert type(err) is ActorFailure
    assert f'exited with code {deaths.exit_code(start_method, 4)}' in str(err)
    assert isinstance(err.__cause__, tractor.TransportClosed)


@pytest.mark.parametrize('early', [False, True], ids=['in the block', 'before its end'])
def test_a_one_shot_that_dies(run: Any, start_method: str, early: bool) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.run_in_actor(supervised.die, code=3)
        if early:
            children = list(an._children.values())
            with pytest.raises(tractor.TransportClosed):
                await portal.wait_for_result()
            # none, if it was gone before one could look
            for child in children:
                await child.gone.wait()

    err = raised_by(run, body)
    assert type(err) is ActorFailure
    assert f'exited with code {deaths.exit_code(start_method, 3)}' in str(err)
    assert isinstance(err.__cause__, tractor.TransportClosed)


def test_a_one_shot_that_is_killed(run: Any) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        await an.run_in_actor(supervised.get_killed)

    err = raised_by(run, body)
    assert type(err) is ActorFailure
    assert 'was killed by SIGKILL' in str(err)


def test_a_dead_one_shot_beside_a_body_error(run: Any) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.run_in_actor(supervised.get_killed)
        with pytest.raises(tractor.TransportClosed):
            await portal.wait_for_result()
        raise ValueError('boom')

    err = raised_by(run, body)
    assert isinstance(err, ExceptionGroup)
    assert [type(member) for member in err.exceptions] == [ValueError, ActorFailure]


@pytest.mark.parametrize('how', ['die', 'get_killed'])
def test_a_daemon_that_dies_is_logged_and_fails_its_callers(
    run: Any, how: str, start_method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(
        'tractor.spawn._life.log.error', lambda text, *args, **_: logged.append(text % args)
    )

    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('mortal', enable_modules=['supervised'])
        other = await an.start_actor('other', enable_modules=['supervised'])
        [child, _] = an._children.values()
        with pytest.raises(tractor.TransportClosed):
            await portal.run(getattr(supervised, how))
        await child.gone.wait()
        assert list(an._children) == [other.chan.aid.uid]
        assert await other.run(supervised.give, value=1) == 1
        await an.cancel()

    an = run(body)
    assert an.errors == {}
    assert not an.cancelled_caught
    if how == 'die' and deaths.exit_code(start_method, 3) == 1:
        # the code of an actor that told its peers what went wrong
        assert logged == []
    else:
        assert len(logged) == 1
        assert logged[0].startswith('mortal@')


def test_a_dead_daemon_does_not_hold_up_the_block(run: Any) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('mortal', enable_modules=['supervised'])
        with pytest.raises(tractor.TransportClosed):
            await portal.run(supervised.die)

    assert run(body).errors == {}


def test_a_child_that_cannot_be_ended_is_reported(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = _supervise._spawn.end_child

    async def give_up(child: Any, *, ask: bool = True) -> None:
        await real(child, ask=ask)
        raise ActorFailure('it cannot be killed')

    monkeypatch.setattr(_supervise._spawn, 'end_child', give_up)

    async def body(an: tractor.ActorNursery) -> None:
        await an.start_actor('daemon')
        await an.cancel()

    err = raised_by(run, body)
    assert type(err) is ActorFailure
