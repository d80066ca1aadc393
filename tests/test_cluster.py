"""end to end: a flat cluster of equal actors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor import _clustering
from tractor._code_load import load_module_from_path
from tractor._testing import deaths, run_bounded
from tractor.runtime import _supervise

pytestmark = pytest.mark.spawns

# under the name by which the actors import it
supervised = sys.modules.get('supervised') or load_module_from_path(
    Path(__file__).with_name('supervised.py')
)

HERE = ['supervised']
Options = dict[str, Any]


def test_the_portals_of_a_cluster(options: Options) -> None:
    async def main() -> set[Any]:
        places = set()
        async with tractor.open_actor_cluster(HERE, count=3, **options) as portals:
            assert sorted(portals) == ['root.worker_0', 'root.worker_1', 'root.worker_2']
            for key, portal in portals.items():
                told = await portal.run(supervised.whoami)
                assert told['name'] == key == portal.chan.aid.name
                places.add(tuple(told['place']))
        assert not any(portal.chan.connected() for portal in portals.values())
        return places

    places = run_bounded(main)
    assert len(places) == 3
    assert not any(map(deaths.is_there, places))


def test_given_names(options: Options) -> None:
    async def main() -> None:
        async with tractor.open_actor_cluster(
            HERE, count=2, names=['left', 'right'], name='boss', **options
        ) as portals:
            assert set(portals) == {'boss.left', 'boss.right'}

    run_bounded(main)


def test_one_actor_per_cpu(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_clustering.os, 'cpu_count', lambda: 2)

    async def main() -> None:
        async with tractor.open_actor_cluster(HERE, **options) as portals:
            assert len(portals) == 2

    run_bounded(main)


@pytest.mark.parametrize('names', [[], ['one'], ['a', 'b', 'c']])
def test_as_many_names_as_actors(options: Options, names: list[str]) -> None:
    async def main() -> None:
        async with tractor.open_actor_cluster(HERE, count=2, names=names, **options):
            pytest.fail('it must not get here')

    with pytest.raises(ValueError, match='2 actors need as many names'):
        run_bounded(main)


def test_the_actors_of_the_same_name_are_refused(options: Options) -> None:
    async def main() -> None:
        async with tractor.open_actor_cluster(HERE, count=2, names=['a', 'a'], **options):
            pytest.fail('it must not get here')

    with pytest.raises(ValueError, match='differ'):
        run_bounded(main)


@pytest.mark.parametrize('error', [ValueError('boom'), KeyboardInterrupt()])
def test_an_error_in_the_block_is_bare(options: Options, error: BaseException) -> None:
    begin: list[float] = []

    async def main() -> None:
        try:
            async with tractor.open_actor_cluster(HERE, count=3, **options):
                begin.append(trio.current_time())
                raise error
        finally:
            begin.append(trio.current_time())

    with pytest.raises(type(error)) as caught:
        run_bounded(main)
    assert caught.value is error
    assert begin[1] - begin[0] < 3


@pytest.mark.parametrize('hard_kill', [False, True])
def test_how_it_is_ended(
    options: Options, hard_kill: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    real = _supervise.ActorNursery.cancel

    async def cancel(self: tractor.ActorNursery, hard_kill: bool = False) -> None:
        seen.append(hard_kill)
        await real(self, hard_kill)

    monkeypatch.setattr(_supervise.ActorNursery, 'cancel', cancel)

    async def main() -> None:
        async with tractor.open_actor_cluster(HERE, count=2, hard_kill=hard_kill, **options):
            pass

    run_bounded(main)
    assert seen == [hard_kill]


def test_a_cluster_in_a_running_runtime(options: Options) -> None:
    async def main() -> None:
        async with tractor.open_root_actor(name='boss', **options) as root:
            async with tractor.open_actor_cluster(HERE, count=1) as portals:
                assert list(portals) == ['boss.worker_0']
            assert tractor.current_actor() is root

    run_bounded(main)


def test_a_module_that_cannot_be_imported(options: Options) -> None:
    async def main() -> None:
        async with tractor.open_actor_cluster(['no.such.module'], count=2, **options):
            pytest.fail('it must not get here')

    with pytest.raises(ModuleNotFoundError):
        run_bounded(main)
    assert tractor.current_actor(err_on_no_runtime=False) is None
