"""end to end: every way of choosing a backend, how far each one reaches, and who inherits it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tractor
from tractor._code_load import load_module_from_path
from tractor._testing import run_bounded
from tractor.spawn import _spawn

backend = load_module_from_path(Path(__file__).with_name('backend_peers.py'))
peers = backend.load('mixed_peers')
programs = load_module_from_path(Path(__file__).parents[1] / 'programs.py')

pytestmark = pytest.mark.spawns

HERE = ['mixed_peers']
each_method = pytest.mark.parametrize('method', [backend.param(key) for key in backend.METHODS])
Run = Callable[..., tractor.ActorNursery]
Options = dict[str, Any]


@pytest.fixture
def others(options: Options) -> Options:
    """Options of a runtime without the choice of a backend."""
    return {key: value for key, value in options.items() if key != 'start_method'}


@pytest.fixture(autouse=True)
def chosen_before(monkeypatch: pytest.MonkeyPatch, start_method: str) -> Iterator[str]:
    """Whatever a block chose, afterwards it is as it was."""
    monkeypatch.delenv('TRACTOR_SPAWN_METHOD', raising=False)
    before = _spawn._spawn_method, _spawn._ctx
    yield before[0]
    _spawn._spawn_method, _spawn._ctx = before


async def methods_below(an: tractor.ActorNursery, depth: int = 2, **options: Any) -> list[str]:
    """The methods by which a child and actors below it were started; only the child may be told one."""
    portal = await an.start_actor('kid', enable_modules=HERE, **options)
    told = [await portal.run(peers.where), *await portal.run(peers.inherited_below, depth=depth)]
    await portal.cancel_actor()
    assert [default for _, default, *_ in told] == [method for method, *_ in told]
    return [method for method, *_ in told]


# --- for a runtime


@each_method
def test_for_a_nursery_with_a_runtime(others: Options, chosen_before: str, method: str) -> None:
    async def main() -> list[str]:
        async with tractor.open_nursery(start_method=method, **others) as an:
            assert _spawn._spawn_method == method
            return await methods_below(an)

    assert run_bounded(main) == [method] * 3
    assert _spawn._spawn_method == chosen_before


@each_method
def test_for_a_root(others: Options, chosen_before: str, method: str) -> None:
    async def main() -> list[str]:
        root = tractor.open_root_actor(start_method=method, **others)
        async with root, tractor.open_nursery() as an:
            return await methods_below(an)

    assert run_bounded(main) == [method] * 3
    assert _spawn._spawn_method == chosen_before


@each_method
def test_before_the_runtime(others: Options, method: str) -> None:
    """It holds for this one and the next."""
    ctx = _spawn.try_set_start_method(method)
    assert ctx is _spawn._ctx

    async def main() -> list[str]:
        async with tractor.open_nursery(**others) as an:
            return await methods_below(an, depth=1)

    assert run_bounded(main) == [method] * 2
    assert run_bounded(main) == [method] * 2
    assert _spawn._spawn_method == method


@each_method
def test_from_the_environment(
    others: Options, chosen_before: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It overrides what the program says."""
    monkeypatch.setenv('TRACTOR_SPAWN_METHOD', method)
    argument = 'mp_spawn' if method == 'trio' else 'trio'

    async def main() -> list[str]:
        async with tractor.open_nursery(start_method=argument, **others) as an:
            return await methods_below(an, depth=1)

    assert run_bounded(main) == [method] * 2
    assert _spawn._spawn_method == chosen_before


@each_method
def test_for_a_daemon(others: Options, start_method: str, method: str) -> None:
    program = (
        f'import sys; sys.path.insert(0, {str(backend.HERE)!r})\n'
        'import tractor\n'
        f'tractor.run_daemon({HERE!r}, name="daemon", start_method={method!r}, **{others!r})\n'
    )

    async def main() -> None:
        async with tractor.open_root_actor(start_method=start_method, **others):
            with programs.started('-c', program, cwd=backend.HERE) as proc:
                async with tractor.wait_for_actor('daemon') as portal:
                    told = await portal.run(peers.inherited_below, depth=2)
                    assert [key for key, *_ in told] == [method] * 2
                check_end(proc)

    run_bounded(main)


def check_end(proc: subprocess.Popen[str]) -> None:
    proc.send_signal(signal.SIGINT)
    _, err = proc.communicate(timeout=20)
    assert proc.returncode in {-signal.SIGINT, 1}, err
    assert 'remaining subinterpreters' not in err


# --- for one child


@each_method
def test_for_one_child(run: Run, start_method: str, method: str) -> None:
    """And for what is below it, but for no other child."""

    async def body(an: tractor.ActorNursery) -> None:
        assert await methods_below(an, start_method=method) == [method] * 3
        assert await methods_below(an, depth=1) == [start_method] * 2
        assert _spawn._spawn_method == start_method

    run(body)


@each_method
def test_for_one_shot_actors(run: Run, start_method: str, method: str) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        told = [
            await an.run_in_actor(peers.where, name='told', start_method=method),
            await an.run_in_actor(peers.where, name='not told'),
        ]
        found = [(await portal.wait_for_result())[0] for portal in told]
        assert found == [method, start_method]

    run(body)


@each_method
def test_for_one_call(run: Run, start_method: str, method: str) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        told = await tractor.to_actor.run(peers.where, an=an, start_method=method)
        assert told[:2] == [method, method]
        told = await tractor.to_actor.run(peers.where, start_method=method)
        assert told[:2] == [method, method]
        told = await tractor.to_actor.run(peers.where)
        assert told[0] == start_method

    run(body)


@each_method
def test_a_child_may_choose_again(run: Run, method: str) -> None:
    """For the children which it starts from then on."""

    async def body(an: tractor.ActorNursery) -> None:
        for own in backend.usable_methods:
            portal = await an.start_actor(own, enable_modules=HERE, start_method=own)
            assert (await portal.run(peers.choose_and_look, method=method))[0] == method
            assert (await portal.run(peers.inherited_below, depth=1))[0][0] == method
            await portal.cancel_actor()

    run(body)


@each_method
def test_two_children_at_once_do_not_mix_their_choices(run: Run, method: str) -> None:
    import trio

    found: dict[str, str] = {}

    async def one(an: tractor.ActorNursery, key: str) -> None:
        portal = await an.start_actor(key, enable_modules=HERE, start_method=key)
        found[key] = (await portal.run(peers.where))[0]
        await portal.cancel_actor()

    async def body(an: tractor.ActorNursery) -> None:
        async with trio.open_nursery() as tn:
            for key in backend.usable_methods:
                tn.start_soon(one, an, key)

    run(body)
    assert found == {key: key for key in backend.usable_methods}


# --- what is no backend


def check_message(err: BaseException) -> None:
    assert 'nonsense' in str(err)
    for method in backend.METHODS:
        assert method in str(err)


@pytest.mark.parametrize('key', ['nonsense', 'fork', ''])
def test_choosing_none_that_exists(key: str, chosen_before: str) -> None:
    with pytest.raises(ValueError, match='unknown spawn method') as info:
        _spawn.try_set_start_method(key)
    assert repr(key) in str(info.value)
    assert all(method in str(info.value) for method in backend.METHODS)
    assert _spawn._spawn_method == chosen_before


def test_a_runtime_with_none_that_exists(others: Options, chosen_before: str) -> None:
    async def main() -> None:
        async with tractor.open_nursery(start_method='nonsense', **others):
            raise AssertionError('it was opened')

    with pytest.raises(ValueError, match='unknown spawn method') as info:
        run_bounded(main)
    check_message(info.value)
    assert _spawn._spawn_method == chosen_before
    assert tractor.current_actor(err_on_no_runtime=False) is None


def test_the_environment_with_none_that_exists(
    others: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('TRACTOR_SPAWN_METHOD', 'nonsense')

    async def main() -> None:
        async with tractor.open_root_actor(start_method='trio', **others):
            raise AssertionError('it was opened')

    with pytest.raises(ValueError, match='unknown spawn method') as info:
        run_bounded(main)
    check_message(info.value)


def test_a_child_with_none_that_exists(run: Run) -> None:
    """The nursery goes on."""

    async def body(an: tractor.ActorNursery) -> None:
        for start in (
            lambda: an.start_actor('kid', start_method='nonsense'),
            lambda: an.run_in_actor(peers.where, start_method='nonsense'),
            lambda: tractor.to_actor.run(peers.where, an=an, start_method='nonsense'),
        ):
            err = await backend.failure_of(start)
            assert type(err) is ValueError
            check_message(err)
            assert an._children == {}
        portal = await an.run_in_actor(peers.where)
        assert await portal.wait_for_result()

    run(body)
