"""collaboration: the messages of a dialog taken one by one, from a peer played by hand."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

import tractor
from tractor import MsgTypeError, RemoteActorError
from tractor._exceptions import MessagingError
from tractor._testing.peer import RawPeer, play_with_peer, portal_to
from tractor.msg.types import Error, Return, Start, StartAck, Started, Stop, Yield
from tractor.trionics import collapse_eg

Play = Callable[[Callable[[tractor.Actor, RawPeer], Awaitable[None]]], None]


@pytest.fixture
def play(tpt_proto: str, reg_addr: Any) -> Play:
    return functools.partial(
        play_with_peer, module=__name__, reg_addr=reg_addr, tpt_proto=tpt_proto
    )


@tractor.context(pld_spec=int)
async def dialog(ctx: tractor.Context) -> None:
    """Never run: the peer plays it."""


@asynccontextmanager
async def opened(root: tractor.Actor, peer: RawPeer) -> AsyncIterator[tractor.Context]:
    """A dialog that the peer has accepted; it ends with the block, whatever is said in it."""
    portal = await portal_to(root, peer)
    async with collapse_eg(), trio.open_nursery() as tn:

        async def accept() -> None:
            cid = (await peer.recv()).cid
            await peer.send(StartAck(cid=cid, functype='context'), Started(cid=cid, pld=1))

        tn.start_soon(accept)
        async with portal.open_context(dialog) as (ctx, _):
            yield ctx


async def told(ctx: tractor.Context, peer: RawPeer, *msgs: Any) -> None:
    await peer.send(*msgs)
    await trio.testing.wait_all_tasks_blocked()


def test_in_the_order_of_the_protocol(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        async with opened(root, peer) as ctx:
            rx, cid = ctx.pld_rx, ctx.cid
            with pytest.raises(trio.WouldBlock):
                rx.recv_msg_nowait(ctx, expect_msg=Yield)
            first = await rx.recv_msg(ctx, expect_msg=Started)
            assert (type(first[0]), first[1]) == (Started, 1)
            sent = [Yield(cid, 2), Yield(cid, 3), Yield(cid, 4), Stop(cid), Return(cid, 5)]
            await told(ctx, peer, *sent)
            msg, pld = rx.recv_msg_nowait(ctx, expect_msg=Yield)
            assert (type(msg), pld) == (Yield, 2)
            assert rx.recv_msg_nowait(ctx, msg, expect_msg=Yield) == (msg, 2)
            assert await rx.recv_pld(ctx, msg, expect_msg=Yield) == 2
            assert await rx.recv_pld(ctx, expect_msg=Yield) == 3
            assert (await rx.recv_msg(ctx, expect_msg=Return))[1] == 4
            assert await rx.recv_msg(ctx, expect_msg=Return) == (Stop(cid), None)
            msg, pld = await rx.recv_msg(ctx, expect_msg=Return)
            assert (type(msg), pld) == (Return, 5)
            # the outcome stays
            assert rx.recv_msg_nowait(ctx, expect_msg=Return) == (msg, 5)

    play(main)


def test_waiting(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        async with opened(root, peer) as ctx:
            rx, cid = ctx.pld_rx, ctx.cid
            got: list[Any] = []

            async def take() -> None:
                for _ in range(3):
                    got.append(await rx.recv_msg(ctx, expect_msg=Yield))

            async with trio.open_nursery() as tn:
                tn.start_soon(take)
                for msg in (Yield(cid, 2), Stop(cid), Return(cid, 5)):
                    await trio.testing.wait_all_tasks_blocked()
                    await told(ctx, peer, msg)
            assert [(type(msg), pld) for msg, pld in got] == [(Yield, 2), (Stop, None), (Return, 5)]

            with trio.CancelScope() as scope:
                scope.cancel()
                await rx.recv_msg(ctx, expect_msg=Return)
            assert scope.cancelled_caught

    play(main)


def test_a_stop_where_no_stream_is_open(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        async with opened(root, peer) as ctx:
            await told(ctx, peer, Stop(ctx.cid))
            assert await ctx.pld_rx.recv_pld(ctx, expect_msg=Yield) == Stop(ctx.cid)
            await told(ctx, peer, Return(ctx.cid, 5))
            assert await ctx.pld_rx.recv_pld(ctx, expect_msg=Return) == 5

    play(main)


@pytest.mark.parametrize('kind', ['payload', 'error'])
def test_the_one_error(play: Play, kind: str) -> None:
    """Whoever takes the outcome gets the very exception which the context has recorded."""

    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        with pytest.raises(RemoteActorError) as caught:
            async with opened(root, peer) as ctx:
                cid = ctx.cid
                bad = Return(cid, 'x') if kind == 'payload' else peer.error(cid, 'ValueError')
                await told(ctx, peer, bad)
                for _ in range(2):
                    with pytest.raises(RemoteActorError) as inner:
                        ctx.pld_rx.recv_msg_nowait(ctx, expect_msg=Return)
                    assert inner.value is ctx._remote_error
                msg = ctx._outcome_msg
                with pytest.raises(RemoteActorError) as inner:
                    await ctx.pld_rx.recv_pld(ctx, msg, expect_msg=Return)
                assert inner.value is ctx._remote_error
                if kind == 'error':
                    assert isinstance(msg, Error)
                    value = ctx.pld_rx.decode_pld(msg, ctx, Return, raise_error=False)
                    assert isinstance(value, MessagingError)
        assert type(caught.value) is (MsgTypeError if kind == 'payload' else RemoteActorError)

    play(main)


def test_a_connection_that_is_lost(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        with pytest.raises(tractor.TransportClosed):
            async with opened(root, peer) as ctx:
                await told(ctx, peer, Yield(ctx.cid, 2))
                await peer.aclose()
                assert await ctx.pld_rx.recv_pld(ctx, expect_msg=Yield) == 2
                await ctx.pld_rx.recv_pld(ctx, expect_msg=Yield)

    play(main)


def test_the_other_side_takes_them_too(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        start = peer.start(__name__, 'take')
        await peer.send(start)
        assert isinstance(await peer.recv_of(start.cid), StartAck)
        assert isinstance(await peer.recv_of(start.cid), Started)
        await peer.send(Yield(start.cid, 1), Yield(start.cid, 2), Stop(start.cid))
        assert (await peer.recv_of(start.cid)).pld == [1, 2]

    play(main)


@tractor.context
async def take(ctx: tractor.Context) -> list[Any]:
    await ctx.started()
    taken: list[Any] = []
    while True:
        msg, pld = await ctx.pld_rx.recv_msg(ctx, expect_msg=Yield)
        if isinstance(msg, Stop):
            return taken
        taken.append(pld)


def test_start_is_what_a_peer_gets(play: Play) -> None:
    """The hooks of a context encode its arguments too."""

    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        async with trio.open_nursery() as tn:

            async def call() -> None:
                async with portal.open_context(hooked, value={1j}) as (_, first):
                    assert first == 2j

            tn.start_soon(call)
            start = await peer.recv()
            assert isinstance(start, Start)
            assert start.kwargs == {'value': ['1j']}
            cid = start.cid
            await peer.send(StartAck(cid, 'context'), Started(cid, '2j'), Return(cid, None))

    play(main)


@tractor.context(pld_spec=complex | None, enc_hook=str, dec_hook=lambda kind, value: kind(value))
async def hooked(ctx: tractor.Context, value: set[complex]) -> None:
    """Never run."""
