"""end to end: warm spares: when there is one, who gets it, and that it never stays."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor._code_load import load_module_from_path
from tractor._testing import run_bounded
from tractor.spawn import _subint_driver, _subint_spares

backend = load_module_from_path(Path(__file__).with_name('backend_peers.py'))
peers = backend.load('subint_life_peers')
parent = backend.load('subint_parent_peers')
in_subint = backend.in_subint

pytestmark = backend.needs_subint

PEERS = 'subint_life_peers'

drivers = _subint_spares.drivers


@pytest.fixture
def run(in_subint: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `body(nursery)` in a runtime whose children are sub-interpreters, with the spares of the default."""
    monkeypatch.delenv('TRACTOR_SUBINT_SPARES', raising=False)

    def run(body: Any) -> None:
        async def main() -> None:
            async with tractor.open_nursery(**in_subint) as an:
                await body(an)
                await an.cancel()

        try:
            run_bounded(main, timeout=parent.PATIENCE)
        finally:
            assert drivers() == ()
            assert [
                one.name for one in threading.enumerate() if one.name.startswith('tractor subint')
            ] == []

    return run


async def start(an: Any, name: str = 'one') -> tuple[Any, Any]:
    portal = await an.start_actor(name, enable_modules=[PEERS])
    return portal, parent.child_of(an, portal).proc


@pytest.mark.parametrize('is_loaded', [True, False])
def test_the_next_spawn_takes_it(run: Any, is_loaded: bool, monkeypatch: Any) -> None:
    """Ready or still loading; and it sees what one made now would."""

    async def body(an: Any) -> None:
        await start(an)
        (spare,) = drivers()
        if is_loaded:
            await parent.until(parent.spares_are_ready)
        monkeypatch.setenv('SUBINT_LIFE_PEERS', 'set later')
        portal, handle = await start(an, 'two')
        assert handle._driver is spare
        facts = await portal.run(peers.whoami)
        assert facts['interp_id'] == handle.interp_id
        assert facts['argv'] == sys.argv
        assert facts['environ'] == 'set later'
        # another in its place
        assert len(drivers()) == 1
        assert drivers() != (spare,)

    run(body)


@pytest.mark.parametrize(('text', 'count'), [('0', 0), ('1', 1), ('2', 2)])
def test_so_many_as_the_environment_says(run: Any, text: str, count: int, monkeypatch: Any) -> None:
    async def body(an: Any) -> None:
        monkeypatch.setenv('TRACTOR_SUBINT_SPARES', text)
        await start(an)
        assert len(drivers()) == count

    run(body)


@pytest.mark.parametrize('text', ['many', '-1', '1.5', ''])
def test_bad_environment(run: Any, text: str, monkeypatch: Any) -> None:
    async def body(an: Any) -> None:
        monkeypatch.setenv('TRACTOR_SUBINT_SPARES', text)
        with pytest.raises(ValueError, match='TRACTOR_SUBINT_SPARES'):
            await start(an)

    run(body)


def test_none_is_made_while_spawns_are_under_way(run: Any) -> None:
    """Two cold starts at once would take twice as long each."""
    seen = []
    real = _subint_spares.Spares.settled

    def settled(self: Any, fill: bool) -> None:
        real(self, fill)
        seen.append((self._starting, len(drivers())))

    async def body(an: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_subint_spares.Spares, 'settled', settled)
            async with trio.open_nursery() as tn:
                for index in range(3):
                    tn.start_soon(start, an, f'actor{index}')

    run(body)
    assert seen == [(2, 0), (1, 0), (0, 1)]


def test_one_that_failed_to_load_is_not_taken(run: Any, monkeypatch: Any) -> None:
    async def body(an: Any) -> None:
        monkeypatch.setenv('TRACTOR_SUBINT_SPARES', '0')
        await start(an)
        monkeypatch.setenv('TRACTOR_SUBINT_SPARES', '1')
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_subint_driver, '_BOOT', 'raise ValueError("as asked")')
            _subint_spares.get()._starting += 1
            _subint_spares.get().settled(fill=True)
            (spare,) = drivers()
            await parent.until(lambda: spare.is_gone)
        assert 'as asked' in spare.error
        portal, handle = await start(an, 'two')
        assert handle._driver is not spare
        await portal.run(peers.nothing)

    run(body)


def test_never_used_again(run: Any) -> None:
    async def body(an: Any) -> None:
        seen = []
        for index in range(3):
            portal, handle = await start(an, f'actor{index}')
            facts = await portal.run(peers.whoami)
            assert facts['seen'] is None
            seen.append(facts['interp_id'])
            await portal.run(peers.leave_a_mark)
            await portal.cancel_actor()
            await handle.wait()
        assert len(set(seen)) == 3

    run(body)


def test_an_actor_from_a_spare_is_killed(run: Any) -> None:
    async def body(an: Any) -> None:
        await start(an)
        (spare,) = drivers()
        _, handle = await start(an, 'two')
        assert handle._driver is spare
        handle.kill()
        with trio.fail_after(parent.GONE_WITHIN):
            assert await handle.wait() == -9

    run(body)


def test_gone_after_a_crash_of_the_runtime(run: Any) -> None:
    async def body(an: Any) -> None:
        await start(an)
        assert len(drivers()) == 1
        raise ValueError('as asked')

    with pytest.raises(ValueError, match='as asked'):
        run(body)


def test_an_interpreter_keeps_none_itself(run: Any) -> None:
    """Its end would have to wait for one that is just loading."""

    async def body(an: Any) -> None:
        portal, _ = await start(an)
        facts = await portal.run(peers.start_one, method='subint')
        assert facts['spares'] == 0

    run(body)
