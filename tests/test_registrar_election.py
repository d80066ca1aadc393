"""collaboration: who becomes the registrar: what is found at an address, and what a root makes of it."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

import tractor
from tractor._testing import run_bounded
from tractor._testing.addr import get_rando_addr
from tractor._testing.peer import PeerListener, RawPeer, open_listener, open_peer
from tractor.discovery import _api
from tractor.discovery._addr import wrap_address
from tractor.discovery._registry import Registrar
from tractor.msg.types import Aid, Return, StartAck, Stop

Addr = tuple[str, Any]
Answer = Callable[[RawPeer], Awaitable[None]]

HERE = __name__


@pytest.fixture
def addrs(tpt_proto: str) -> list[Addr]:
    """Addresses which nobody uses."""
    return [get_rando_addr(tpt_proto) for _ in range(3)]


@asynccontextmanager
async def open_root(reg_addrs: list[Addr], **options: Any) -> AsyncIterator[tractor.Actor]:
    proto = 'tcp' if isinstance(reg_addrs[0][1], int) else 'uds'
    async with tractor.open_root_actor(
        registry_addrs=reg_addrs, enable_transports=[proto], loglevel='critical', **options
    ) as root:
        yield root


# -- what may be at an address --------------------------------------------------------------------


async def say_registrar(peer: RawPeer) -> None:
    peer.aid.is_registrar = True
    await peer.handshake()


async def say_nothing_about_it(peer: RawPeer) -> None:
    peer.aid.is_registrar = None
    await peer.handshake()


async def say_no_registrar(peer: RawPeer) -> None:
    peer.aid.is_registrar = False
    await peer.handshake()


async def say_nothing(peer: RawPeer) -> None:
    await peer.wait_closed()


async def hang_up(peer: RawPeer) -> None:
    await peer.aclose()


async def say_something_else(peer: RawPeer) -> None:
    await peer.send(Stop(cid='x'))
    await peer.wait_closed()


async def say_garbage(peer: RawPeer) -> None:
    await peer.send_bytes(b'HTTP/1.1 400 Bad Request\r\n\r\n')
    await peer.wait_closed()


async def answer(listener: PeerListener, how: Answer, seen: list[RawPeer]) -> None:
    while True:
        peer = await listener.accept()
        seen.append(peer)
        await how(peer)


@pytest.mark.parametrize(
    ('how', 'verdict', 'attempts'),
    [
        (say_registrar, 'registrar', 1),
        (say_nothing_about_it, 'registrar', 1),
        (say_no_registrar, 'occupied', 1),
        (say_nothing, 'occupied', 3),
        (hang_up, 'occupied', 3),
        (say_something_else, 'occupied', 3),
        (say_garbage, 'occupied', 3),
    ],
)
def test_probe_tells_what_is_there(
    addrs: list[Addr], how: Answer, verdict: str, attempts: int
) -> None:
    async def main() -> None:
        seen: list[RawPeer] = []
        async with open_listener(addrs[0]) as listener, trio.open_nursery() as tn:
            tn.start_soon(answer, listener, how, seen)
            found = await _api._probe_registry(
                wrap_address(addrs[0]), attempt_timeout=0.05, retry_delay=0
            )
            tn.cancel_scope.cancel()
        assert found == verdict
        assert len(seen) == attempts
        if verdict == 'registrar':
            assert seen[0].other is not None
            assert seen[0].other.is_probe
            assert seen[0].other.name == 'registry-probe'

    run_bounded(main, timeout=5)


def test_probe_of_nothing(addrs: list[Addr]) -> None:
    async def main() -> None:
        assert await _api._probe_registry(wrap_address(addrs[0])) == 'absent'

    run_bounded(main, timeout=5)


@pytest.mark.parametrize(
    ('fails', 'verdict', 'attempts'),
    [
        (['os'], 'absent', 1),
        (['connect'], 'absent', 1),
        (['closed', 'os'], 'occupied', 2),
        (['handshake', 'os'], 'occupied', 2),
        (['handshake', 'handshake', 'closed'], 'occupied', 3),
        (['closed', 'good'], 'registrar', 2),
    ],
)
def test_probe_tries_again_what_may_get_better(
    monkeypatch: pytest.MonkeyPatch, fails: list[str], verdict: str, attempts: int
) -> None:
    """Every failure at its moment; in virtual time."""
    made: list[str] = []

    class Chan:
        async def _do_handshake(self, aid: Aid, timeout: float) -> Aid:
            assert aid.is_probe
            assert timeout == 1
            match made[-1]:
                case 'handshake':
                    await trio.sleep_forever()
                case 'closed':
                    raise tractor.TransportClosed('gone')
            return Aid(name='x', uuid='y', is_registrar=True)

    @asynccontextmanager
    async def connect(addr: Any, close_timeout: float) -> AsyncIterator[Chan]:
        assert close_timeout == 0.2
        made.append(fails[len(made)])
        if made[-1] == 'os':
            raise ConnectionRefusedError
        if made[-1] == 'connect':
            await trio.sleep_forever()
        yield Chan()

    monkeypatch.setattr(_api, '_connect_chan', connect)

    async def main() -> str:
        return await _api._probe_registry(wrap_address(('127.0.0.1', 1)))

    clock = trio.testing.MockClock(autojump_threshold=0)
    assert trio.run(main, clock=clock) == verdict
    assert made == fails[:attempts]


def test_probe_as_a_whole_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In virtual time."""

    @asynccontextmanager
    async def connect(addr: Any, close_timeout: float) -> AsyncIterator[Any]:
        await trio.sleep_forever()
        yield

    monkeypatch.setattr(_api, '_connect_chan', connect)

    async def main() -> tuple[str, float]:
        start = trio.current_time()
        found = await _api._probe_registry(
            wrap_address(('127.0.0.1', 1)), timeout=3, attempt_timeout=100
        )
        return found, trio.current_time() - start

    found, took = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert found == 'absent'
    assert took == pytest.approx(3)


def test_probes_of_several_addresses_keep_their_order(addrs: list[Addr]) -> None:
    async def main() -> None:
        async with (
            open_listener(addrs[0]) as slow,
            open_listener(addrs[2]) as quick,
            trio.open_nursery() as tn,
        ):

            async def answer_late() -> None:
                peer = await slow.accept()
                while not peers:
                    await trio.testing.wait_all_tasks_blocked()
                await say_registrar(peer)

            peers: list[RawPeer] = []
            tn.start_soon(answer, quick, say_registrar, peers)
            tn.start_soon(answer_late)
            found, occupied = await _api._probe_registry_addrs(addrs, timeout=3)
            assert found == [wrap_address(addrs[0]), wrap_address(addrs[2])]
            assert occupied == []
            tn.cancel_scope.cancel()

    run_bounded(main, timeout=5)


def test_probe_of_an_actor_leaves_no_trace(addrs: list[Addr]) -> None:
    async def main() -> None:
        async with open_root([addrs[0]]) as root:
            for _ in range(3):
                assert await _api._probe_registry(wrap_address(addrs[0])) == 'registrar'
            async with open_peer(addrs[0], handshake=False) as peer:
                peer.aid.is_probe = True
                assert await peer.handshake() == root.aid
                assert await peer.wait_closed() == []
            assert root.ipc_server._peers == {}
            assert root.ipc_server._no_more_peers.is_set()

    run_bounded(main, timeout=5)


# -- what a root makes of it ----------------------------------------------------------------------


def test_first_root_becomes_the_registrar(addrs: list[Addr]) -> None:
    async def main() -> None:
        async with open_root([addrs[0], addrs[1]], tpt_bind_addrs=[addrs[1], addrs[2]]) as root:
            assert isinstance(root, Registrar)
            assert root.name == 'root'
            assert root.aid.is_registrar
            # all of them, each once
            assert sorted(root.accept_addrs) == sorted(addrs)
            assert root.reg_addrs == [addrs[0], addrs[1]]
            assert sorted(root._registry[root.aid.uid]) == sorted(addrs)

    run_bounded(main, timeout=5)


@pytest.mark.parametrize('name', ['given', None])
def test_later_root_joins(addrs: list[Addr], name: str | None) -> None:
    async def main() -> None:
        async with open_listener(addrs[0]) as listener, trio.open_nursery() as tn:
            requests: list[Any] = []

            async def be_registrar(peer: RawPeer) -> None:
                await say_registrar(peer)
                try:
                    while True:
                        start = await peer.recv()
                        requests.append((start.func, start.kwargs))
                        await peer.send(
                            StartAck(cid=start.cid, functype='asyncfunc'),
                            Return(cid=start.cid, pld=None),
                        )
                except EOFError:
                    return

            tn.start_soon(answer, listener, be_registrar, [])
            # the second address does not answer: it is none of this tree's
            async with open_root([addrs[0], addrs[1]], name=name) as root:
                assert type(root) is tractor.Actor
                assert root.name == (name or 'anonymous')
                assert root.reg_addrs == [addrs[0]]
                (mine,) = root.accept_addrs
                assert mine not in addrs
                uid = list(root.aid.uid)
                assert requests == [('register_actor', {'uid': uid, 'addr': list(mine)})]
            assert requests[1:] == [('unregister_actor', {'uid': uid})]
            tn.cancel_scope.cancel()

    run_bounded(main, timeout=5)


def test_root_that_must_be_the_registrar_does_not_join(addrs: list[Addr]) -> None:
    async def main() -> None:
        async with open_listener(addrs[0]) as listener, trio.open_nursery() as tn:
            tn.start_soon(answer, listener, say_registrar, [])
            with pytest.raises(RuntimeError, match=r'socket\(s\) already bound'):
                async with open_root([addrs[0]], ensure_registry=True):
                    pass
            tn.cancel_scope.cancel()

    run_bounded(main, timeout=5)


@pytest.mark.parametrize('how', [say_nothing, say_no_registrar, hang_up, say_garbage])
def test_root_does_not_displace_what_is_no_registrar(
    addrs: list[Addr], how: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = functools.partial(_api._probe_registry, attempt_timeout=0.05)
    monkeypatch.setattr(_api, '_probe_registry', probe)

    async def main() -> None:
        async with open_listener(addrs[0]) as listener, trio.open_nursery() as tn:
            tn.start_soon(answer, listener, how, [])
            with pytest.raises(RuntimeError, match='occupied but did not answer'):
                async with open_root([addrs[0]]):
                    pass
            tn.cancel_scope.cancel()

    run_bounded(main, timeout=5)


def test_registrar_without_a_name_is_called_one(addrs: list[Addr]) -> None:
    async def main() -> None:
        async with open_root([addrs[0]], name=None) as root:
            assert root.name == 'registrar'

    run_bounded(main, timeout=5)
