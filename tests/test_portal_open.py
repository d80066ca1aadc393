"""collaboration: what a portal leads to: results of main tasks, connections, the actor itself, many calls at once."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

import tractor
from tractor._exceptions import MessagingError, ModuleNotExposed, NoResult
from tractor._testing.memory import MemoryAddress
from tractor._testing.peer import (
    Calling,
    PeerListener,
    RawPeer,
    open_listener,
    portal_to,
)
from tractor.discovery._registry import Registrar
from tractor.ipc import Channel
from tractor.msg.types import Return, Start, StartAck, Stop, Yield
from tractor.runtime import _portal
from tractor.runtime._portal import LocalPortal, Portal, open_portal

Play = Callable[[Callable[[tractor.Actor, RawPeer], Awaitable[None]]], None]

HERE = __name__


@pytest.fixture
def addr() -> Any:
    """Where a peer may listen."""
    return MemoryAddress.get_random().unwrap()


# -- endpoints ------------------------------------------------------------------------------------


async def ping(n: int = 0) -> int:
    return n


async def slow_ping(n: int) -> int:
    await trio.lowlevel.checkpoint()
    return n


async def fail(text: str) -> None:
    raise ValueError(text)


async def count(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


async def count_forever() -> AsyncIterator[int]:
    n = 0
    while True:
        yield n
        n += 1
        await trio.lowlevel.checkpoint()


@tractor.stream
async def wait_stream(stream: tractor.Context) -> None:
    await trio.sleep_forever()


@tractor.context
async def double(ctx: tractor.Context) -> str:
    await ctx.started('up')
    async with ctx.open_stream() as stream:
        async for item in stream:
            await stream.send(2 * item)
    return 'done'


@tractor.context
async def wait_context(ctx: tractor.Context) -> None:
    await ctx.started()
    await trio.sleep_forever()


# -- the main task of a one-shot actor ------------------------------------------------------------


async def portal_with_main_task(portal: Portal, peer: RawPeer) -> Start:
    async with trio.open_nursery() as tn:
        submit = Calling(tn, functools.partial(portal._submit_for_result, HERE, 'ping', n=1))
        start: Start = await peer.recv()
        assert (start.ns, start.func, start.kwargs) == (HERE, 'ping', {'n': 1})
        await peer.send(StartAck(cid=start.cid, functype='asyncfunc'))
        assert await submit.outcome() is None
    return start


@pytest.mark.parametrize('value', [None, 0, 'text'])
def test_result_of_the_main_task_is_kept(play: Play, value: Any) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        start = await portal_with_main_task(portal, peer)
        with pytest.raises(RuntimeError, match='already expected'):
            await portal._submit_for_result(HERE, 'ping')
        async with trio.open_nursery() as tn:
            waiting = [Calling(tn, portal.wait_for_result) for _ in range(3)]
            await trio.testing.wait_all_tasks_blocked()
            waiting[0].scope.cancel()
            await peer.send(Return(cid=start.cid, pld=value))
            for call in waiting[1:]:
                assert await call.outcome() == value
        assert await portal.wait_for_result() == value
        assert await portal.result() == value
        assert portal._final_result_pld == value
        assert root._contexts == {}
        # also when the actor is gone, as it is by the time its nursery was left
        await peer.aclose()
        while portal.chan.connected():
            await trio.testing.wait_all_tasks_blocked()
        assert await portal.wait_for_result() == value

    play(main)


def test_error_of_the_main_task_is_one_object(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        start = await portal_with_main_task(portal, peer)
        await peer.send(peer.error(start.cid, 'ValueError'))
        errors = []
        for _ in range(2):
            with pytest.raises(tractor.RemoteActorError) as raised:
                await portal.wait_for_result()
            errors.append(raised.value)
        assert errors[0] is errors[1]
        assert errors[0].boxed_type is ValueError
        assert root._contexts == {}

    play(main)


def test_main_task_of_a_lost_actor_has_no_result(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        await portal_with_main_task(portal, peer)
        await peer.aclose()
        for _ in range(2):
            with pytest.raises(tractor.TransportClosed):
                await portal.wait_for_result()
        assert root._contexts == {}

    play(main)


def test_without_a_main_task_there_is_no_result(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(_portal.log, 'warning', lambda text, *args: warnings.append(text % args))

    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        assert await portal.wait_for_result() is NoResult
        assert 'has no main task' in warnings[-1]
        assert await portal.result() is NoResult
        assert any('deprecated' in text for text in warnings)

    play(main)


# -- a portal over a connection -------------------------------------------------------------------


async def connect_to_peer(listener: PeerListener) -> tuple[Channel, RawPeer]:
    chan = await Channel.from_addr(listener.addr)
    return chan, await listener.accept()


def test_portal_over_a_new_connection_closes_it(play: Play, addr: Any) -> None:
    async def main(root: tractor.Actor, _: RawPeer) -> None:
        async with open_listener(addr) as listener, trio.open_nursery() as tn:
            chan, peer = await connect_to_peer(listener)
            tn.start_soon(peer.handshake)
            async with open_portal(chan) as portal:
                assert portal.chan is portal.channel is chan
                assert portal.actor is root
                assert chan.aid == peer.aid
                call = Calling(tn, functools.partial(portal.run, ping))
                start = await peer.recv()
                await peer.send(
                    StartAck(cid=start.cid, functype='asyncfunc'), Return(cid=start.cid, pld=5)
                )
                assert await call.outcome() == 5
            assert peer.other == root.aid
            assert not chan.connected()
            assert await peer.wait_closed() == []
            # a peer that somebody connected to is none of the server's
            assert peer.uid not in root.ipc_server._peers

    play(main)


def test_portal_leaves_alone_what_it_was_given(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        chan = (await portal_to(root, peer)).chan
        async with open_portal(chan, start_msg_loop=False) as portal, trio.open_nursery() as tn:
            call = Calling(tn, functools.partial(portal.run, ping))
            start = await peer.recv()
            await peer.send(
                StartAck(cid=start.cid, functype='asyncfunc'), Return(cid=start.cid, pld=6)
            )
            assert await call.outcome() == 6
        assert chan.connected()
        assert root.ipc_server._peers[peer.uid] == [chan]
        assert (await peer.call(HERE, 'ping', n=3)).pld == 3

    play(main)


def test_portal_reads_a_connection_with_its_handshake_done(play: Play, addr: Any) -> None:
    async def main(root: tractor.Actor, _: RawPeer) -> None:
        async with open_listener(addr) as listener, trio.open_nursery() as tn:
            chan, peer = await connect_to_peer(listener)
            async with peer.stream:
                tn.start_soon(peer.handshake)
                await chan._do_handshake(aid=root.aid)
                for n in range(2):
                    async with open_portal(chan):
                        assert (await peer.call(HERE, 'ping', n=n)).pld == n
                    assert chan.connected()
                await chan.aclose()

    play(main)


def test_portal_needs_a_handshake(play: Play, addr: Any) -> None:
    async def main(root: tractor.Actor, _: RawPeer) -> None:
        async with open_listener(addr) as listener:
            chan, peer = await connect_to_peer(listener)
            await peer.send(Stop(cid='x'))
            with pytest.raises(tractor.TransportClosed, match='invalid actor handshake'):
                async with open_portal(chan):
                    pytest.fail('there is nobody to talk to')
            assert not chan.connected()
            assert isinstance((await peer.wait_closed())[0], tractor.msg.types.Aid)

    play(main)


def test_error_in_the_block_leaves_it_bare(play: Play, addr: Any) -> None:
    async def main(root: tractor.Actor, _: RawPeer) -> None:
        async with open_listener(addr) as listener, trio.open_nursery() as tn:
            chan, peer = await connect_to_peer(listener)
            tn.start_soon(peer.handshake)
            error = ValueError('of the user')
            with pytest.raises(ValueError, match='of the user') as raised:
                async with open_portal(chan):
                    raise error
            assert raised.value is error
            assert not chan.connected()
            assert await peer.wait_closed() == []

    play(main)


@pytest.mark.parametrize('error', [None, ValueError('of the user')])
def test_connection_is_closed_although_closing_a_stream_fails(
    play: Play, addr: Any, error: Exception | None
) -> None:
    class BadStream:
        async def aclose(self) -> None:
            raise OSError('of the stream')

    async def main(root: tractor.Actor, _: RawPeer) -> None:
        async with open_listener(addr) as listener, trio.open_nursery() as tn:
            chan, peer = await connect_to_peer(listener)
            tn.start_soon(peer.handshake)
            with pytest.raises(OSError, match='of the stream'):
                async with open_portal(chan, tn=tn) as portal:
                    portal._streams.add(BadStream())  # type: ignore[arg-type]
                    if error is not None:
                        raise error
            assert not chan.connected()
            assert await peer.wait_closed() == []

    play(main)


@pytest.mark.parametrize('shield', [False, True])
def test_loop_in_another_nursery(play: Play, addr: Any, shield: bool) -> None:
    async def main(root: tractor.Actor, _: RawPeer) -> None:
        async with open_listener(addr) as listener, trio.open_nursery() as outer:
            chan, peer = await connect_to_peer(listener)
            outer.start_soon(peer.handshake)
            async with (
                trio.open_nursery() as loop_tn,
                open_portal(chan, tn=loop_tn, shield=shield) as portal,
            ):
                call = Calling(outer, functools.partial(portal.run, ping))
                start = await peer.recv()
                loop_tn.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked()
                    await peer.send(
                        StartAck(cid=start.cid, functype='asyncfunc'),
                        Return(cid=start.cid, pld=7),
                    )
                    outcome = await call.outcome()
                assert outcome == 7 if shield else isinstance(outcome, tractor.TransportClosed)
            # the block ended, and with it the loop
            assert not chan.connected()

    play(main)


def test_failure_of_the_peer_ends_the_block(play: Play, addr: Any) -> None:
    async def main(root: tractor.Actor, _: RawPeer) -> None:
        async with open_listener(addr) as listener, trio.open_nursery() as tn:
            chan, peer = await connect_to_peer(listener)
            tn.start_soon(peer.handshake)
            with pytest.raises(tractor.RemoteActorError) as raised:
                async with open_portal(chan):
                    await peer.send(peer.error(None, 'ImportError'))
                    await trio.sleep_forever()
            assert raised.value.boxed_type is ImportError
            assert not chan.connected()

    play(main)


# -- an actor's portal to itself ------------------------------------------------------------------


def test_local_portal_calls_directly(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        assert isinstance(root, Registrar)
        async with tractor.get_registry() as portal:
            assert isinstance(portal, LocalPortal)
            assert portal.actor is root
            assert portal.chan is portal.channel
            assert 'Channel' in repr(portal.channel)
            assert await portal.run_from_ns('self', 'find_actor', name='root') == [root.accept_addr]
            assert await portal.run_from_ns(HERE, 'ping', n=4) == 4
            with pytest.raises(ModuleNotExposed):
                await portal.run_from_ns('os', 'getpid')
            with pytest.raises(AttributeError):
                await portal.run_from_ns('self', 'no_such_method')

    play(main)


def test_actor_may_call_itself_over_a_connection(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        async with tractor.find_actor('root') as portal:
            assert portal.chan.aid == root.aid
            assert await portal.run(ping, n=1) == 1
            with pytest.raises(tractor.RemoteActorError) as raised:
                await portal.run(fail, text='boom')
            assert raised.value.boxed_type is ValueError
            assert raised.value.src_uid == root.aid.uid
            async with (
                portal.open_context(double) as (ctx, first),
                ctx.open_stream() as stream,
            ):
                assert first == 'up'
                await stream.send(4)
                assert await stream.receive() == 8
            assert await ctx.wait_for_result() == 'done'
            async with portal.open_context(wait_context) as (ctx, _):
                await ctx.cancel()
            assert ctx.cancel_acked
            async with portal.open_stream_from(count, n=3) as items:
                assert [item async for item in items] == [0, 1, 2]
        await trio.testing.wait_all_tasks_blocked()
        assert root._contexts == root._rpc_tasks == {}

    play(main)


# -- one-way streams ------------------------------------------------------------------------------


def test_one_way_stream_of_what_is_none_sends_nothing(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        for func in (ping, double, 3):
            with pytest.raises(TypeError):
                async with portal.open_stream_from(func):  # type: ignore[arg-type]
                    pass
        for func in (ping, count, wait_stream, 3):
            with pytest.raises(TypeError):
                async with portal.open_context(func):  # type: ignore[arg-type]
                    pass
        assert root._contexts == {}

    play(main)


def test_leaving_a_one_way_stream_cancels_the_generator(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        async with tractor.find_actor('root') as portal:
            async with portal.open_stream_from(count_forever) as items:
                assert [await items.receive() for _ in range(3)] == [0, 1, 2]
                assert portal._streams == {items}
            assert portal._streams == set()
            await trio.testing.wait_all_tasks_blocked()
            assert root._contexts == root._rpc_tasks == {}

    play(main)


def test_leaving_a_one_way_stream_of_a_lost_peer(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        async with trio.open_nursery() as tn:
            entered = trio.Event()

            async def read() -> None:
                async with portal.open_stream_from(count_forever) as items:
                    assert await items.receive() == 0
                    entered.set()
                    while portal.chan.connected():
                        await trio.testing.wait_all_tasks_blocked()

            reading = Calling(tn, read)
            start = await peer.recv()
            await peer.send(
                StartAck(cid=start.cid, functype='asyncgen'), Yield(cid=start.cid, pld=0)
            )
            await entered.wait()
            await peer.aclose()
            assert await reading.outcome() is None
        assert root._contexts == {}

    play(main)


def test_function_of_another_kind_is_no_stream(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        async with trio.open_nursery() as tn:
            stream = portal.open_stream_from(count, n=1)
            reading = Calling(tn, stream.__aenter__)
            start = await peer.recv()
            await peer.send(StartAck(cid=start.cid, functype='asyncfunc'))
            assert isinstance(await reading.outcome(), MessagingError)
        assert root._contexts == {}

    play(main)


# -- many calls -----------------------------------------------------------------------------------


def test_no_call_leaves_anything_behind(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        async with tractor.find_actor('root') as portal:
            for n in range(100):
                assert await portal.run(ping, n=n) == n
                with pytest.raises(tractor.RemoteActorError):
                    await portal.run(fail, text='boom')
                with pytest.raises(tractor.RemoteActorError):
                    await portal.run_from_ns('no.such.module', 'ping')
                assert await portal.run_from_ns('self', 'find_actor', name='nobody') is None
            await trio.testing.wait_all_tasks_blocked()
            assert root._contexts == root._rpc_tasks == {}
            assert root._ongoing_rpc_tasks.is_set()
            assert portal._streams == set()

    play(main)


@pytest.mark.parametrize('func', [ping, slow_ping])
def test_a_thousand_calls_at_once(play: Play, func: Callable[..., Any]) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        results: dict[int, int] = {}
        async with tractor.find_actor('root') as portal:

            async def call(n: int) -> None:
                results[n] = await portal.run(func, n=n)

            async with trio.open_nursery() as tn:
                for n in range(1000):
                    tn.start_soon(call, n)
            assert results == {n: n for n in range(1000)}
            await trio.testing.wait_all_tasks_blocked()
            assert root._contexts == root._rpc_tasks == {}

    play(main)
