"""collaboration: how an actor stays registered with a registrar that dies and returns; the registrar is played."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tractor._code_load import load_module_from_path
from tractor._testing import run_bounded
from tractor._testing.addr import get_rando_addr
from tractor._testing.peer import RawPeer, open_peer
from tractor.discovery import _api
from tractor.discovery._registry import Registrar
from tractor.runtime import _registration

played = sys.modules.get('played') or load_module_from_path(Path(__file__).with_name('played.py'))
places, open_root = played.places, played.open_root

Addr = tuple[str, Any]

# seconds after the return of a registrar within which everybody is in its registry again
BACK_WITHIN = 2.0


@pytest.fixture
def addrs(tpt_proto: str) -> list[Addr]:
    """Addresses which nobody uses."""
    return [get_rando_addr(tpt_proto) for _ in range(2)]


def test_one_connection_is_kept_and_says_nothing(addrs: list[Addr]) -> None:
    async def main() -> None:
        async with places(addrs[0]) as (place,):
            registrar = await place.up()
            async with open_root([addrs[0]]) as root:
                await registrar.until(lambda: len(registrar.asked) == 1)
                (start,) = registrar.asked
                assert start.func == 'register_actor'
                assert start.kwargs == {'uid': list(root.aid.uid), 'addr': list(root.accept_addr)}
                (peer,) = registrar.peers
                # a lookup has its own connection, closed after it
                async with _api.query_actor('nobody'):
                    assert len(registrar.peers) == 2
                await registrar.until(lambda: len(registrar.peers) == 1)
                assert registrar.peers == [peer]
                assert registrar.functions == ['register_actor', 'find_actor']

    run_bounded(main, timeout=5)


def test_actor_registers_again_when_its_registrar_is_back(
    addrs: list[Addr], monkeypatch: pytest.MonkeyPatch
) -> None:
    send, attempts = trio.open_memory_channel[Addr](100)
    connect = _registration._connect_chan

    @asynccontextmanager
    async def noting(addr: Any) -> AsyncIterator[Any]:
        send.send_nowait(addr)
        async with connect(addr) as chan:
            yield chan

    monkeypatch.setattr(_registration, '_connect_chan', noting)

    async def main() -> None:
        async with places(*addrs) as (steady, place):
            other = await steady.up()
            await place.up()
            async with open_root(addrs) as root:
                entries = ['register_actor'] * len(root.accept_addrs)
                for away_for in (0, 1, 3):
                    await place.down()
                    while attempts.statistics().current_buffer_used:
                        attempts.receive_nowait()
                    for _ in range(away_for):
                        assert await attempts.receive() == addrs[1]
                    again = await place.up()
                    with trio.fail_after(BACK_WITHIN):
                        await again.until(lambda again=again: len(again.asked) == len(entries))
                    assert again.functions == entries
                    assert {tuple(start.uid) for start in again.asked} == {root.aid.uid}
                # the one which did not die was not asked again
                assert other.functions == entries
            assert again.functions == [*entries, 'unregister_actor']
            assert other.functions == [*entries, 'unregister_actor']

    run_bounded(main, timeout=20)


def test_every_address_is_registered_again(addrs: list[Addr], tpt_proto: str) -> None:
    binds = [get_rando_addr(tpt_proto) for _ in range(3)]

    async def main() -> None:
        async with places(addrs[0]) as (place,):
            first = await place.up()
            async with open_root([addrs[0]], tpt_bind_addrs=binds):
                assert [tuple(start.kwargs['addr']) for start in first.asked] == binds
                await place.down()
                again = await place.up()
                await again.until(lambda: len(again.asked) == len(binds))
                assert [tuple(start.kwargs['addr']) for start in again.asked] == binds

    run_bounded(main, timeout=10)


@pytest.mark.parametrize('how', [{'is_registrar': False}, {'silent': True}])
def test_somebody_else_at_the_address_is_no_registrar(
    addrs: list[Addr], how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with places(addrs[0]) as (place,):
            await place.up()
            async with open_root([addrs[0]]):
                await place.down()
                with monkeypatch.context() as patch:
                    patch.setattr(_registration, '_ANSWER_WITHIN', 0.05)
                    other = await place.up(**how)
                    # tried again and again, and each time given up
                    await other.until(lambda: other.greeted >= 3 and not other.peers)
                asked = {'register_actor', '_cancel_task'} if how.get('silent') else set()
                assert set(other.functions) == asked
                await place.down()
                back = await place.up()
                with trio.fail_after(BACK_WITHIN):
                    await back.until(lambda: bool(back.asked))

    run_bounded(main, timeout=15)


@pytest.mark.parametrize('how', ['away', 'silent'])
def test_actor_ends_without_its_registrar(addrs: list[Addr], how: str) -> None:
    async def main() -> None:
        async with places(addrs[0]) as (place,):
            await place.up()
            async with open_root([addrs[0]]):
                await place.down()
                if how == 'silent':
                    stuck = await place.up(silent=True)
                    await stuck.until(lambda: bool(stuck.asked))
                start = trio.current_time()
            assert trio.current_time() - start < 2 * _registration._UNREGISTER_TIMEOUT
            if how == 'silent':
                # it was told, and not waited for
                assert 'unregister_actor' in stuck.functions

    run_bounded(main, timeout=10)


def test_several_silent_registrars_cost_the_time_of_one(addrs: list[Addr], tpt_proto: str) -> None:
    many = [*addrs, *(get_rando_addr(tpt_proto) for _ in range(3))]

    async def main() -> None:
        async with places(*many) as them:
            registrars = [await place.up() for place in them]
            async with open_root(many):
                for registrar in registrars:
                    registrar.silent = True
                start = trio.current_time()
            assert trio.current_time() - start < 2 * _registration._UNREGISTER_TIMEOUT

    run_bounded(main, timeout=10)


# -- at the registrar -----------------------------------------------------------------------------


def test_registrar_waits_for_no_link_when_it_ends(addrs: list[Addr]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as tn:
            peers: list[RawPeer] = []

            async def keep(name: str, ready: trio.Event) -> None:
                async with open_peer(addrs[0], name) as peer:
                    await peer.call('self', 'register_actor', uid=peer.uid, addr=addrs[1])
                    peers.append(peer)
                    ready.set()
                    assert await peer.wait_closed() == []

            async with open_root([addrs[0]]) as root:
                assert isinstance(root, Registrar)
                for number in range(20):
                    ready = trio.Event()
                    tn.start_soon(keep, f'peer{number}', ready)
                    await ready.wait()
                assert root.ipc_server.len_peers() == 20
                start = trio.current_time()
            assert trio.current_time() - start < 0.5

    run_bounded(main, timeout=10)


def test_somebody_else_cannot_be_registered(addrs: list[Addr]) -> None:
    async def main() -> None:
        async with open_root([addrs[0]]) as root, open_peer(addrs[0]) as peer:
            assert isinstance(root, Registrar)
            before = dict(root._registry)
            error = await peer.call('self', 'register_actor', uid=('other', 'x'), addr=addrs[1])
            assert error.boxed_type_str == 'PermissionError'
            # not even with one's own name, nor by taking one's own address for another
            for uid in (('peer', 'x'), ('x', peer.aid.uuid)):
                error = await peer.call('self', 'register_actor', uid=uid, addr=addrs[1])
                assert error.boxed_type_str == 'PermissionError'
            assert root._registry == before
            # an actor's own code may register whom it likes
            await root.register_actor(('other', 'x'), addrs[1])
            assert root._registry[('other', 'x')] == [addrs[1]]

    run_bounded(main, timeout=5)


@pytest.mark.parametrize(
    ('addr', 'error'),
    [
        (['localhost', 80], 'ValueError'),
        (['no.such.host.example', 80], 'ValueError'),
        (['127.0.0.1', 0], 'ValueError'),
        (['0.0.0.0', 80], 'ValueError'),
        ('/ip4/127.0.0.1/udp/80', 'ValueError'),
        ('/ip4/nonsense', 'StringParseError'),
        ('127.0.0.1:80', 'TypeError'),
        (['127.0.0.1', 80, 'more'], 'TypeError'),
        (None, 'TypeError'),
        ([None, None], 'TypeError'),
    ],
)
def test_nobody_can_be_found_there(addrs: list[Addr], addr: Any, error: str) -> None:
    async def main() -> None:
        async with open_root([addrs[0]]) as root, open_peer(addrs[0]) as peer:
            assert isinstance(root, Registrar)
            before = dict(root._registry)
            answer = await peer.call('self', 'register_actor', uid=peer.uid, addr=addr)
            assert answer.boxed_type_str == error
            assert root._registry == before

    run_bounded(main, timeout=5)


def test_descriptors_are_asked_for_in_time(
    addrs: list[Addr], monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    raised: list[tuple[int, int]] = []
    limits = (220, 500)
    monkeypatch.setattr(resource, 'getrlimit', lambda kind: raised[-1] if raised else limits)
    monkeypatch.setattr(resource, 'setrlimit', lambda kind, to: raised.append(to))

    async def main() -> None:
        async with open_root([addrs[0]]) as root:
            assert isinstance(root, Registrar)
            place, which = addrs[1]
            for number in range(300):
                addr = (place, 2000 + number) if isinstance(which, int) else (place, f'{number}')
                await root.register_actor(('x', str(number)), addr)

    run_bounded(main, timeout=5)
    # twice as many each time, and never more than allowed
    assert raised == [(440, 500), (500, 500)]
