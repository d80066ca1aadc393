"""end to end: real actors in the registry of their tree: they appear, are found, and disappear in time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

import tractor
from tractor._testing import run_bounded
from tractor.discovery import _api
from tractor.discovery._registry import Registrar
from tractor.runtime import _state

pytestmark = pytest.mark.spawns

HERE = __name__

# seconds after the cancellation of a nursery in which its actors must have left the registry
GONE_WITHIN = 0.1


async def who_am_i() -> list[str]:
    return list(tractor.current_actor().aid.uid)


async def who_is_root() -> dict[str, Any]:
    """The root as a child finds it."""
    parent = tractor.current_actor()._parent_chan
    assert parent is not None
    async with _api.get_root() as portal:
        assert portal.chan.aid is not None
        return {
            'uid': portal.chan.aid.uid,
            'parent_addr': parent.raddr.unwrap(),
            'root_addrs': _state._runtime_vars['_root_addrs'],
            'own_name': await portal.run(name_of_root),
        }


async def name_of_root() -> str:
    return tractor.current_actor().name


async def stop_listening() -> None:
    """Leaves the actor alive, and served by its parent's connection."""
    tractor.current_actor().ipc_server.stop_listening()
    await tractor.current_actor().ipc_server.wait_for_shutdown()


async def find(name: str) -> list[str] | None:
    async with tractor.find_actor(name) as portal:
        return None if portal is None else list(portal.chan.aid.uid)


async def cancel_nursery_below(names: list[str]) -> None:
    """A nursery of its own, in another actor than the registrar."""
    async with tractor.open_nursery() as an:
        for name in names:
            await an.start_actor(name)
            async with tractor.wait_for_actor(name):
                pass
        await an.cancel()


@pytest.fixture
def options(start_method: str, tpt_proto: str, reg_addr: Any) -> dict[str, Any]:
    """For `open_nursery()`."""
    return {
        'start_method': start_method,
        'enable_transports': [tpt_proto],
        'registry_addrs': [reg_addr],
        'enable_modules': [HERE],
        'loglevel': 'critical',
    }


@asynccontextmanager
async def open_tree(
    options: dict[str, Any],
) -> AsyncIterator[tuple[Registrar, tractor.ActorNursery]]:
    async with tractor.open_nursery(**options) as an:
        root = tractor.current_actor()
        assert isinstance(root, Registrar)
        yield root, an


async def wait_gone(root: Registrar) -> None:
    with trio.fail_after(GONE_WITHIN):
        while len(root._registry) > 1:
            await trio.lowlevel.checkpoint()
    assert list(root._registry) == [root.aid.uid]


def test_actors_appear_and_disappear(options: dict[str, Any]) -> None:
    async def main() -> None:
        async with open_tree(options) as (root, an):
            for name in ('one', 'two'):
                portal = await an.start_actor(name, enable_modules=[HERE])
                # a first answer proves the registration
                uid = tuple(await portal.run(who_am_i))
                assert uid[0] == name
                assert len(root._registry[uid]) == 1
                async with tractor.find_actor(name) as found:
                    assert found.chan.aid.uid == uid
            await an.cancel()
            await wait_gone(root)

    run_bounded(main)


def test_actors_below_another_one_disappear_too(options: dict[str, Any]) -> None:
    async def main() -> None:
        async with open_tree(options) as (root, an):
            portal = await an.start_actor('middle', enable_modules=[HERE])
            await portal.run(cancel_nursery_below, names=['low', 'lower'])
            assert [uid[0] for uid in root._registry] == ['root', 'middle']
            await an.cancel()
            await wait_gone(root)

    run_bounded(main)


def test_several_actors_of_one_name(options: dict[str, Any]) -> None:
    async def main() -> None:
        async with open_tree(options) as (root, an):
            uids = []
            for _ in range(2):
                portal = await an.start_actor('same', enable_modules=[HERE])
                uids.append(tuple(await portal.run(who_am_i)))
            assert uids[0] != uids[1]
            assert [uid for uid in root._registry if uid[0] == 'same'] == uids
            async with tractor.find_actor('same') as found:
                assert tuple(await found.run(who_am_i)) == uids[1]
            async with tractor.find_actor(uids[0][1]) as found:
                assert tuple(await found.run(who_am_i)) == uids[0]
            await an.cancel()
            await wait_gone(root)

    run_bounded(main)


def test_root_as_its_children_see_it(options: dict[str, Any]) -> None:
    async def main() -> None:
        async with open_tree(options) as (root, an):
            portal = await an.start_actor('child', enable_modules=[HERE])
            seen = await portal.run(who_is_root)
            assert tuple(seen['uid']) == root.aid.uid
            assert seen['parent_addr'] in seen['root_addrs']
            assert seen['own_name'] == 'root'
            assert await portal.run(find, name='child') == await portal.run(who_am_i)
            assert await portal.run(find, name='nobody') is None
            await an.cancel()

    run_bounded(main)


def test_actor_that_stopped_listening_is_dropped_when_it_is_looked_for(
    options: dict[str, Any],
) -> None:
    async def main() -> None:
        async with open_tree(options) as (root, an):
            portal = await an.start_actor('deaf', enable_modules=[HERE])
            await portal.run(stop_listening)
            uid = tuple(await portal.run(who_am_i))
            assert uid in root._registry
            async with tractor.find_actor('deaf') as found:
                assert found is None
            assert uid not in root._registry
            assert await portal.cancel_actor()

    run_bounded(main)
