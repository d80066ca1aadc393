"""collaboration: lookups with registrars that are silent, dying or several, and with actors that are not there."""

from __future__ import annotations

import errno
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor._code_load import load_module_from_path
from tractor._testing import run_bounded
from tractor._testing.addr import get_rando_addr
from tractor._testing.peer import PeerListener, RawPeer, open_listener
from tractor.discovery import _api, mk_maddr
from tractor.discovery._addr import wrap_address
from tractor.discovery._registry import Registrar
from tractor.runtime import _registration

played = sys.modules.get('played') or load_module_from_path(Path(__file__).with_name('played.py'))
places = played.places
open_root, played_root = played.open_root, played.played_root

Addr = tuple[str, Any]


@pytest.fixture
def addrs(tpt_proto: str) -> list[Addr]:
    """Addresses which nobody uses."""
    return [get_rando_addr(tpt_proto) for _ in range(2)]


# -- one that does not answer ---------------------------------------------------------------------


async def say_nothing(peer: RawPeer) -> None:
    await peer.wait_closed()


async def say_hello_only(peer: RawPeer) -> None:
    await peer.handshake()
    await peer.wait_closed()


async def listen(listener: PeerListener, how: Callable[[RawPeer], Any], tn: trio.Nursery) -> None:
    while True:
        tn.start_soon(how, await listener.accept('r', is_registrar=True))


@pytest.mark.parametrize('how', [say_nothing, say_hello_only])
def test_registrar_that_accepts_and_never_answers(
    addrs: list[Addr], how: Callable[[RawPeer], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _registration._ANSWER_WITHIN == 10

    async def main() -> None:
        async with (
            places(addrs[0]) as (place,),
            open_listener(addrs[1]) as silent,
            played_root(place, addrs[0]),
            trio.open_nursery() as tn,
        ):
            monkeypatch.setattr(_registration, '_ANSWER_WITHIN', 0.05)
            tn.start_soon(listen, silent, how, tn)
            for lookup in (
                tractor.query_actor('x', addrs[1]),
                tractor.find_actor('x', registry_addrs=[addrs[1]]),
                tractor.find_actor('x', registry_addrs=[addrs[1]], only_first=False),
                tractor.wait_for_actor('x', addrs[1]),
                _api.maybe_open_portal(addrs[1], 'x'),
            ):
                with pytest.raises(TimeoutError, match=r'did not answer within 0\.05 s'):
                    await lookup.__aenter__()
            tn.cancel_scope.cancel()

    run_bounded(main, timeout=10)


def test_one_silent_registrar_does_not_hide_the_others(
    addrs: list[Addr], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with (
            places(addrs[0]) as (place,),
            open_listener(addrs[1]),
            played_root(place, addrs[0]) as root,
        ):
            await place.down()
            knowing = await place.up()
            knowing.answers['find_actor'] = [list(root.accept_addr)]
            monkeypatch.setattr(_registration, '_ANSWER_WITHIN', 0.05)
            regs = [addrs[1], addrs[0]]
            async with tractor.find_actor('root', registry_addrs=regs) as portal:
                assert portal.chan.aid == root.aid
            async with tractor.find_actor('root', registry_addrs=regs, only_first=False) as portals:
                assert [portal.chan.aid for portal in portals] == [root.aid]
            # who did not answer may know more
            knowing.answers['find_actor'] = None
            with pytest.raises(TimeoutError):
                async with tractor.find_actor('root', registry_addrs=regs):
                    pass

    run_bounded(main, timeout=10)


@pytest.mark.parametrize('lookup', ['find_actor', 'wait_for_actor', 'query_actor'])
def test_lookup_whose_registrar_dies(addrs: list[Addr], lookup: str) -> None:
    async def main() -> None:
        async with places(addrs[0]) as (place,), played_root(place, addrs[0]):
            await place.down()
            dying = await place.up()
            await dying.until(lambda: bool(dying.asked))
            dying.silent = True
            async with trio.open_nursery() as tn:
                tn.start_soon(dying.hang_up_when_asked)
                with pytest.raises(tractor.TransportClosed):
                    async with getattr(tractor, lookup)('x'):
                        pass

    run_bounded(main, timeout=10)


@pytest.mark.parametrize('lookup', ['find_actor', 'wait_for_actor', 'query_actor'])
def test_cancelled_lookup_is_just_cancelled(addrs: list[Addr], lookup: str) -> None:
    async def main() -> None:
        async with places(addrs[0]) as (place,), played_root(place, addrs[0]):
            await place.down()
            silent = await place.up()
            await silent.until(lambda: bool(silent.asked))
            silent.silent = True
            # the request and the reading of its connection end in any order
            for _ in range(20):
                async with trio.open_nursery() as tn:
                    with trio.CancelScope() as scope:
                        tn.start_soon(cancel_when_asked, silent, scope)
                        await getattr(tractor, lookup)('x').__aenter__()
                assert scope.cancelled_caught

    run_bounded(main, timeout=10)


async def cancel_when_asked(registrar: Any, scope: trio.CancelScope) -> None:
    count = len(registrar.asked)
    await registrar.until(lambda: len(registrar.asked) > count)
    scope.cancel()


# -- who is found ---------------------------------------------------------------------------------


def test_another_actor_at_the_address_is_not_who_was_looked_for(addrs: list[Addr]) -> None:
    async def main() -> None:
        async with open_root([addrs[0]]) as root:
            assert isinstance(root, Registrar)
            await root.register_actor(('gone', 'x'), addrs[1])
            async with places(addrs[1]) as (place,):
                # it did not register here, or not yet
                await place.up()
                async with tractor.find_actor('gone') as portal:
                    assert portal is None
                # its own entry, which may be made just now, is not to be lost
                assert root._registry[('gone', 'x')] == [addrs[1]]
                with trio.move_on_after(0.3) as scope:
                    async with tractor.wait_for_actor('gone'):
                        pass
                assert scope.cancelled_caught

    run_bounded(main, timeout=10)


def test_who_hangs_up_is_called_again(addrs: list[Addr]) -> None:
    async def main() -> None:
        async with (
            open_root([addrs[0]]) as root,
            open_listener(addrs[1]) as listener,
            trio.open_nursery() as tn,
        ):
            assert isinstance(root, Registrar)
            await root.register_actor(('busy', 'x'), addrs[1])

            async def answer_the_third_time() -> None:
                for _ in range(2):
                    peer = await listener.accept()
                    await peer.aclose()
                peer = await listener.accept('busy')
                await peer.handshake()
                await peer.wait_closed()

            tn.start_soon(answer_the_third_time)
            async with tractor.find_actor('busy') as portal:
                assert portal.chan.aid.name == 'busy'
            assert root._registry[('busy', 'x')] == [addrs[1]]

    run_bounded(main, timeout=10)


def test_out_of_descriptors_deletes_nobody(
    addrs: list[Addr], monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def connect(addr: Any, close_timeout: float | None = None) -> AsyncIterator[Any]:
        raise OSError(errno.EMFILE, 'too many open files')
        yield

    async def main() -> None:
        async with open_root([addrs[0]]) as root:
            assert isinstance(root, Registrar)
            with monkeypatch.context() as patch:
                patch.setattr(_api, '_connect_chan', connect)
                with pytest.raises(OSError, match='too many open files'):
                    async with tractor.find_actor('root'):
                        pass
            assert list(root._registry) == [root.aid.uid]

    run_bounded(main, timeout=5)


def test_registrar_of_two_addresses_is_asked_once(addrs: list[Addr]) -> None:
    async def main() -> None:
        async with (
            open_root(addrs) as root,
            tractor.find_actor('root', only_first=False) as portals,
        ):
            assert [portal.chan.aid for portal in portals] == [root.aid]

    run_bounded(main, timeout=5)


# -- forms of addresses ---------------------------------------------------------------------------


def test_addresses_as_text(addrs: list[Addr], tpt_proto: str) -> None:
    registry, own = (str(mk_maddr(wrap_address(addr))) for addr in addrs)

    async def main() -> None:
        async with (
            places(addrs[0]) as (place,),
            tractor.open_root_actor(
                registry_addrs=[await up(place, addrs[1])],
                tpt_bind_addrs=[own],
                enable_transports=[tpt_proto],
                loglevel='critical',
            ) as root,
        ):
            assert root.reg_addrs == [addrs[0]]
            assert root.accept_addrs == [addrs[1]]
            async with tractor.get_registry(registry) as portal:
                assert portal.chan.raddr == wrap_address(addrs[0])
            async with tractor.query_actor('root', registry) as (addr, _):
                assert addr == addrs[1]
            for lookup in (
                tractor.find_actor('root', registry_addrs=[registry]),
                tractor.wait_for_actor('root', registry),
                _api.maybe_open_portal(registry, 'root'),
            ):
                async with lookup as portal:
                    assert portal.chan.aid == root.aid

    async def up(place: Any, knows: Addr) -> str:
        registrar = await place.up()
        registrar.answers['find_actor'] = registrar.answers['wait_for_actor'] = [list(knows)]
        return registry

    run_bounded(main, timeout=5)


@pytest.mark.parametrize(
    ('addr', 'error'),
    [
        ('/ip4/127.0.0.1', ValueError),
        ('/ip4/localhost/tcp/80', ValueError),
        ('/ip4/127.0.0.1/udp/80', ValueError),
        ('/nonsense', ValueError),
        ('127.0.0.1:80', TypeError),
        (('localhost', 80), ValueError),
        (('shop.example', 80), ValueError),
        (80, TypeError),
    ],
)
def test_what_is_no_address_is_refused_at_once(
    addrs: list[Addr], addr: Any, error: type[Exception]
) -> None:
    async def main() -> None:
        async with places(addrs[0]) as (place,), played_root(place, addrs[0]):
            for lookup in (
                tractor.get_registry(addr),
                tractor.query_actor('x', addr),
                tractor.find_actor('x', registry_addrs=[addr]),
                tractor.wait_for_actor('x', addr),
                _api.maybe_open_portal(addr, 'x'),
            ):
                with pytest.raises(error):
                    await lookup.__aenter__()

    run_bounded(main, timeout=5)
