"""collaboration: the name registry: its requests, the lookups, the election; peers are played by hand."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

import tractor
from tractor._exceptions import NoRuntime
from tractor._testing import run_bounded
from tractor._testing.addr import get_rando_addr
from tractor._testing.peer import (
    Calling,
    PeerListener,
    RawPeer,
    open_listener,
    open_peer,
    play_with_peer,
)
from tractor.discovery import _api
from tractor.discovery._addr import mk_uuid, wrap_address
from tractor.discovery._registry import Arbiter, Registrar
from tractor.msg.types import Return, StartAck
from tractor.runtime import _runtime, _state
from tractor.runtime._portal import LocalPortal, Portal

Play = Callable[[Callable[[Any, RawPeer], Awaitable[None]]], None]
Addr = tuple[str, Any]

HERE = __name__


async def ping(n: int = 0) -> int:
    return n


@pytest.fixture
def play(tpt_proto: str, reg_addr: Any) -> Play:
    """Run `main(root, peer)` with a registrar that exposes this module and a peer connected to it."""
    return functools.partial(play_with_peer, module=HERE, reg_addr=reg_addr, tpt_proto=tpt_proto)


@pytest.fixture
def addrs(tpt_proto: str) -> list[Addr]:
    """Addresses which nobody uses."""
    return [get_rando_addr(tpt_proto) for _ in range(4)]


@asynccontextmanager
async def open_root(reg_addrs: list[Addr], **options: Any) -> AsyncIterator[tractor.Actor]:
    proto = 'tcp' if isinstance(reg_addrs[0][1], int) else 'uds'
    async with tractor.open_root_actor(
        registry_addrs=reg_addrs, enable_transports=[proto], loglevel='critical', **options
    ) as root:
        yield root


async def serve_peer(listener: PeerListener, peer_name: str, answers: dict[str, Any]) -> None:
    """Be an actor which answers requests from a table, by function, on any number of connections."""

    async def serve(peer: RawPeer) -> None:
        try:
            await peer.handshake()
            while True:
                start = await peer.recv()
                await peer.send(StartAck(cid=start.cid, functype='asyncfunc'))
                await peer.send(Return(cid=start.cid, pld=answers[start.func]))
        except EOFError:
            return

    async with trio.open_nursery() as tn:
        while True:
            tn.start_soon(serve, await listener.accept(peer_name, is_registrar=True))


# -- the requests ---------------------------------------------------------------------------------


def test_fresh_registrar_knows_itself_only(play: Play) -> None:
    async def main(root: Registrar, peer: RawPeer) -> None:
        assert isinstance(root, Registrar)
        assert Arbiter is _runtime.Arbiter is _runtime.Registrar is Registrar
        assert root.is_registrar
        assert root.is_registry()
        assert root._registry == {root.aid.uid: [root.accept_addr]}
        assert peer.other is not None
        assert peer.other.is_registrar is True
        answer = await peer.call('self', 'get_registry')
        assert answer.pld == {'.'.join(root.aid.uid): [list(root.accept_addr)]}

    play(main)


def test_registering_and_unregistering(play: Play, addrs: list[Addr]) -> None:
    async def main(root: Registrar, peer: RawPeer) -> None:
        me = {root.aid.uid: [root.accept_addr]}
        for addr in (addrs[0], addrs[1], addrs[0]):
            answer = await peer.call('self', 'register_actor', uid=peer.uid, addr=addr)
            assert answer.pld is None
        assert root._registry == {**me, peer.uid: [addrs[0], addrs[1]]}
        assert all(type(addr) is tuple for addr in root._registry[peer.uid])
        for name in peer.uid:
            answer = await peer.call('self', 'find_actor', name=name)
            assert answer.pld == [list(addrs[0]), list(addrs[1])]
        assert (await peer.call('self', 'find_actor', name='nobody')).pld is None
        for _ in range(2):
            assert (await peer.call('self', 'unregister_actor', uid=peer.uid)).pld is None
            assert root._registry == me

    play(main)


def test_address_belongs_to_the_last_who_claims_it(play: Play, addrs: list[Addr]) -> None:
    async def main(root: Registrar, peer: RawPeer) -> None:
        old, new = ('old', 'a'), ('new', 'b')
        await root.register_actor(old, addrs[0])
        await root.register_actor(old, addrs[1])
        await root.register_actor(new, addrs[0])
        assert root._registry[old] == [addrs[1]]
        await root.register_actor(new, addrs[1])
        assert old not in root._registry
        assert root._registry[new] == [addrs[0], addrs[1]]

    play(main)


def test_name_of_several_actors(play: Play, addrs: list[Addr]) -> None:
    async def main(root: Registrar, peer: RawPeer) -> None:
        for uuid, addr in zip('abc', addrs, strict=False):
            await root.register_actor(('same', uuid), addr)
        assert len(root._registry) == 4
        assert await root.find_actor('same') == [addrs[2]]
        assert await root.find_actor('b') == [addrs[1]]
        assert await root.wait_for_actor('same') == addrs[:3]
        # what is handed out is no part of the registry
        found = await root.find_actor('same')
        assert found is not None
        found.clear()
        assert await root.find_actor('same') == [addrs[2]]
        await root.unregister_actor(('same', 'c'))
        assert await root.find_actor('same') == [addrs[1]]

    play(main)


def test_deleting_an_address(play: Play, addrs: list[Addr]) -> None:
    async def main(root: Registrar, peer: RawPeer) -> None:
        await root.register_actor(('some', 'a'), addrs[0])
        await root.register_actor(('some', 'a'), addrs[1])
        for addr, left in ((addrs[0], [addrs[1]]), (addrs[1], None)):
            answer = await peer.call('self', 'delete_addr', addr=addr)
            assert answer.pld == ['some', 'a']
            assert root._registry.get(('some', 'a')) == left
        assert (await peer.call('self', 'delete_addr', addr=addrs[0])).pld is None

    play(main)


def test_waiting_for_a_name(play: Play, addrs: list[Addr]) -> None:
    async def main(root: Registrar, peer: RawPeer) -> None:
        waiting = [await peer.request('self', 'wait_for_actor', name='late') for _ in range(3)]
        other = await peer.request('self', 'wait_for_actor', name='later')
        for cid in (*waiting, other):
            assert isinstance(await peer.recv_of(cid), StartAck)
        await trio.testing.wait_all_tasks_blocked()
        # one that gives up leaves the others waiting
        await peer.call('self', '_cancel_task', cid=waiting.pop())
        assert set(root._waiters) == {'late', 'later'}
        await root.register_actor(('late', 'a'), addrs[0])
        for cid in waiting:
            assert (await peer.recv_of(cid)).pld == [list(addrs[0])]
        assert set(root._waiters) == {'later'}
        await peer.call('self', '_cancel_task', cid=other)
        assert root._waiters == {}
        assert (await peer.call('self', 'wait_for_actor', name='late')).pld == [list(addrs[0])]

    play(main)


def test_waiting_for_who_is_gone_again_goes_on(play: Play, addrs: list[Addr]) -> None:
    async def main(root: Registrar, peer: RawPeer) -> None:
        async with trio.open_nursery() as tn:
            waiting = Calling(tn, functools.partial(root.wait_for_actor, 'late'))
            await trio.testing.wait_all_tasks_blocked()
            await root.register_actor(('late', 'a'), addrs[0])
            await root.unregister_actor(('late', 'a'))
            await trio.testing.wait_all_tasks_blocked()
            assert not waiting.done.is_set()
            await root.register_actor(('late', 'b'), addrs[1])
            assert await waiting.outcome() == [addrs[1]]

    play(main)


@pytest.mark.parametrize(
    ('func', 'kwargs'),
    [
        ('register_actor', {'uid': ['only one'], 'addr': ['x', 1]}),
        ('register_actor', {'uid': ['a', 'b'], 'addr': 3}),
        ('unregister_actor', {'uid': None}),
        ('delete_addr', {'addr': []}),
    ],
)
def test_nonsense_is_refused(play: Play, func: str, kwargs: dict[str, Any]) -> None:
    async def main(root: Registrar, peer: RawPeer) -> None:
        before = dict(root._registry)
        error = await peer.call('self', func, **kwargs)
        assert error.boxed_type_str in {'ValueError', 'TypeError'}
        assert root._registry == before

    play(main)


def test_unregistering_needs_nobody_to_read_the_answer(play: Play, addrs: list[Addr]) -> None:
    async def main(root: Registrar, peer: RawPeer) -> None:
        await root.register_actor(('some', 'a'), addrs[0])
        async with open_peer(root.accept_addr, 'hasty') as hasty:
            await hasty.request('self', 'unregister_actor', uid=('some', 'a'))
        while ('some', 'a') in root._registry:
            await trio.testing.wait_all_tasks_blocked()
        await root.register_actor(('some', 'a'), addrs[0])
        # not even the acceptance can be sent
        async with open_peer(root.accept_addr, 'hastier') as hasty:
            await hasty.request('self', 'unregister_actor', uid=('some', 'a'))
            hasty.reset()
        async with open_peer(root.accept_addr, 'later') as later:
            found = await later.call('self', 'find_actor', name='root')
            assert found.pld == [list(root.accept_addr)]

    play(main)


# -- lookups in the registrar itself --------------------------------------------------------------


def test_registrar_asks_itself_directly(play: Play) -> None:
    async def main(root: Registrar, peer: RawPeer) -> None:
        async with tractor.get_registry() as portal:
            assert isinstance(portal, LocalPortal)
            assert portal.actor is root
        async with tractor.query_actor('root') as (addr, portal):
            assert addr == root.accept_addr
            assert isinstance(portal, LocalPortal)
        async with tractor.query_actor('nobody') as (addr, portal):
            assert addr is None
        with pytest.raises(RuntimeError, match='registrar'):
            async with tractor.query_actor('registrar'):
                pass

    play(main)


def test_finding_and_not_finding(play: Play) -> None:
    async def main(root: Registrar, peer: RawPeer) -> None:
        async with tractor.find_actor('root') as portal:
            assert await portal.run(ping, n=2) == 2
            chan = portal.chan
        assert not chan.connected()
        async with tractor.find_actor(root.aid.uuid) as portal:
            assert portal.chan.aid == root.aid
        async with tractor.find_actor('root', only_first=False) as portals:
            assert [p.chan.aid for p in portals] == [root.aid]
        for only_first in (True, False):
            async with tractor.find_actor('nobody', only_first=only_first) as found:
                assert found is None
        with pytest.raises(RuntimeError, match="no actor 'nobody'"):
            async with tractor.find_actor('nobody', raise_on_none=True):
                pass
        async with tractor.wait_for_actor('root') as portal:
            assert portal.chan.aid == root.aid
        async with _api.get_root() as portal:
            assert portal.chan.aid == root.aid
        assert _api.get_peer_by_name('nobody') is None
        peers = _api.get_peer_by_name('peer')
        assert peers is not None
        assert [chan.aid for chan in peers] == [peer.aid]

    play(main)


def test_actor_that_comes_is_found_soon(play: Play, addrs: list[Addr]) -> None:
    async def main(root: Registrar, peer: RawPeer) -> None:
        async with open_listener(addrs[0]) as listener, trio.open_nursery() as tn:
            tn.start_soon(serve_peer, listener, 'peer', {'ping': 8})

            async def wait() -> Any:
                async with tractor.wait_for_actor('peer') as portal:
                    return await portal.run_from_ns('x', 'ping')

            waiting = Calling(tn, wait)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(0.2):
                await peer.call('self', 'register_actor', uid=peer.uid, addr=addrs[0])
                assert await waiting.outcome() == 8
            tn.cancel_scope.cancel()

    play(main)


def test_entry_where_nobody_listens_is_removed(play: Play, addrs: list[Addr]) -> None:
    async def main(root: Registrar, peer: RawPeer) -> None:
        await root.register_actor(('gone', 'a'), addrs[0])
        async with tractor.find_actor('gone') as portal:
            assert portal is None
        assert ('gone', 'a') not in root._registry
        # so are all of its addresses, one after the other
        await root.register_actor(('gone', 'a'), addrs[1])
        await root.register_actor(('gone', 'a'), addrs[0])
        async with _api.maybe_open_portal(root.accept_addr, 'gone') as portal:
            assert portal is None
        assert ('gone', 'a') not in root._registry
        # the rest of the entry, or another actor of that name, may be good
        await root.register_actor(('gone', 'a'), addrs[1])
        await root.register_actor(('gone', 'b'), addrs[2])
        async with open_listener(addrs[1]) as listener, trio.open_nursery() as tn:
            tn.start_soon(serve_peer, listener, 'gone', {})
            async with _api.maybe_open_portal(root.accept_addr, 'gone') as portal:
                assert portal is not None
                assert portal.chan.raddr == wrap_address(addrs[1])
            tn.cancel_scope.cancel()
        assert list(root._registry) == [root.aid.uid, ('gone', 'a')]

    play(main)


def test_waiting_goes_past_an_entry_where_nobody_listens(play: Play, addrs: list[Addr]) -> None:
    async def main(root: Registrar, peer: RawPeer) -> None:
        await root.register_actor(('late', 'a'), addrs[0])
        async with open_listener(addrs[1]) as listener, trio.open_nursery() as tn:
            tn.start_soon(serve_peer, listener, 'late', {})

            async def wait() -> Any:
                async with tractor.wait_for_actor('late') as portal:
                    return portal.chan.raddr

            waiting = Calling(tn, wait)
            while ('late', 'a') in root._registry:
                await trio.testing.wait_all_tasks_blocked()
            assert not waiting.done.is_set()
            await root.register_actor(('late', 'b'), addrs[1])
            assert await waiting.outcome() == wrap_address(addrs[1])
            tn.cancel_scope.cancel()

    play(main)


@pytest.mark.parametrize('error', [OSError('of the user'), ValueError('of the user')])
def test_error_in_the_block_removes_nothing(play: Play, error: Exception) -> None:
    async def main(root: Registrar, peer: RawPeer) -> None:
        before = dict(root._registry)
        for lookup in (
            tractor.find_actor('root'),
            tractor.wait_for_actor('root'),
            _api.maybe_open_portal(root.accept_addr, 'root'),
        ):
            with pytest.raises(type(error), match='of the user') as raised:
                async with lookup as portal:
                    assert portal is not None
                    raise error
            assert raised.value is error
        assert root._registry == before

    play(main)


def test_lookups_need_a_runtime(addrs: list[Addr]) -> None:
    async def main() -> None:
        for lookup in (
            tractor.get_registry(addrs[0]),
            tractor.find_actor('x'),
            tractor.wait_for_actor('x'),
            tractor.query_actor('x'),
            _api.maybe_open_portal(addrs[0], 'x'),
            _api.get_root(),
        ):
            with pytest.raises(NoRuntime):
                async with lookup:
                    pass

    run_bounded(main, timeout=5)


@pytest.mark.parametrize(
    ('addrs', 'best'),
    [
        ([('10.1.2.3', 1)], ('10.1.2.3', 1)),
        ([('127.0.0.1', 1), ('10.1.2.3', 2)], ('127.0.0.1', 1)),
        ([('127.0.0.1', 1), ('127.0.0.1', 2), ('10.1.2.3', 3)], ('127.0.0.1', 2)),
        ([('/run', 'a.sock'), ('127.0.0.1', 1)], ('/run', 'a.sock')),
        ([('/run', 'a.sock'), ('/run', 'b.sock'), ('::1', 1)], ('/run', 'b.sock')),
        ([['10.1.2.3', 1], ['::1', 2]], ('::1', 2)),
        ([('some.host', 1), ('10.1.2.3', 2)], ('10.1.2.3', 2)),
    ],
)
def test_best_of_several_addresses(addrs: list[Any], best: Addr) -> None:
    assert _api.prefer_addr(addrs) == best


# -- lookups elsewhere ----------------------------------------------------------------------------


def test_plain_root_asks_its_registrar(addrs: list[Addr]) -> None:
    """The registrar is played: what is asked for is known in every detail."""

    async def main() -> None:
        answers: dict[str, Any] = {'register_actor': None, 'unregister_actor': None}
        async with open_listener(addrs[0]) as listener, trio.open_nursery() as tn:
            tn.start_soon(serve_peer, listener, 'registrar', answers)
            async with open_root([addrs[0]], enable_modules=[HERE]) as root:
                assert not isinstance(root, Registrar)
                answers['find_actor'] = answers['wait_for_actor'] = [list(root.accept_addr)]
                async with tractor.get_registry() as portal:
                    assert isinstance(portal, Portal)
                    assert portal.chan.raddr == wrap_address(addrs[0])
                async with tractor.query_actor('registrar') as (addr, portal):
                    assert addr == root.accept_addr
                async with tractor.find_actor('root') as portal:
                    assert portal.chan.aid == root.aid
                    assert await portal.run(ping, n=1) == 1
                async with tractor.wait_for_actor('root') as portal:
                    assert portal.chan.aid == root.aid
                async with _api.get_root() as portal:
                    assert portal.chan.aid == root.aid
                with pytest.raises(OSError):
                    async with tractor.get_registry(addrs[1]):
                        pass
                with pytest.raises(OSError):
                    async with tractor.find_actor('x', registry_addrs=[addrs[1]]):
                        pass
            tn.cancel_scope.cancel()

    run_bounded(main, timeout=10)


def test_several_registrars_are_asked_in_order(addrs: list[Addr]) -> None:
    async def main() -> None:
        common = {'register_actor': None, 'unregister_actor': None}
        first: dict[str, Any] = {**common, 'find_actor': None}
        second: dict[str, Any] = dict(common)
        async with AsyncExitStack() as stack:
            listeners = [await stack.enter_async_context(open_listener(a)) for a in addrs[:2]]
            tn = await stack.enter_async_context(trio.open_nursery())
            for listener, answers in zip(listeners, (first, second), strict=True):
                tn.start_soon(serve_peer, listener, 'registrar', answers)
            async with open_root(addrs[:2]) as root:
                assert root.reg_addrs == addrs[:2]
                second['find_actor'] = [list(root.accept_addr)]
                # the first that knows somebody counts, not the first
                async with tractor.find_actor('root') as portal:
                    assert portal.chan.aid == root.aid
                async with tractor.find_actor('root', only_first=False) as portals:
                    assert len(portals) == 1
                first['find_actor'] = second['find_actor']
                async with tractor.find_actor('root', only_first=False) as portals:
                    assert len(portals) == 2
            tn.cancel_scope.cancel()

    run_bounded(main, timeout=10)


# -- several runtimes, one after the other --------------------------------------------------------


def test_registry_of_a_cancelled_root_cannot_be_reached(play: Play) -> None:
    async def main(root: Registrar, peer: RawPeer) -> None:
        addr = root.accept_addr
        await peer.call('self', 'cancel')
        await peer.wait_closed()
        with pytest.raises(OSError):
            async with open_peer(addr):
                pass

    play(main)


def test_state_of_the_process_is_restored(addrs: list[Addr]) -> None:
    before = _state.get_runtime_vars()

    async def main() -> None:
        for _ in range(2):
            async with open_root([addrs[0]]) as root:
                assert _state._runtime_vars['_registry_addrs'] == [addrs[0]]
                assert _state._runtime_vars['_root_addrs'] == [root.accept_addr]
                assert _state._runtime_vars['_root_mailbox'] == root.accept_addr
            assert _state.get_runtime_vars() == before

    run_bounded(main, timeout=10)


def test_uuid_is_fresh_each_time() -> None:
    assert mk_uuid() != mk_uuid()
