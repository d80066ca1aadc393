"""contract: streams whose reader is slower than their sender, with and without back-pressure."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import tractor
from tractor import ContextCancelled, RemoteActorError
from tractor._code_load import load_module_from_path
from tractor._exceptions import StreamOverrun
from tractor._testing import tractor_test

pytestmark = pytest.mark.spawns

# under the name by which the actors import it
peers = sys.modules.get('stream_peers') or load_module_from_path(
    Path(__file__).with_name('stream_peers.py')
)


def own_uid() -> tuple[str, str]:
    return tractor.current_actor().aid.uid


def check_we_overran(err: RemoteActorError, portal: tractor.Portal) -> None:
    assert err.boxed_type is StreamOverrun
    assert err.src_type is StreamOverrun
    assert err.src_uid == portal.chan.aid.uid
    assert err.sender == own_uid()
    assert err.relay_path == [portal.chan.aid.uid]


def check_they_overran(err: RemoteActorError, portal: tractor.Portal) -> None:
    assert err.boxed_type is RemoteActorError
    assert err.is_inception()
    assert err.src_type_str == 'StreamOverrun'
    assert err.relay_path == [own_uid(), portal.chan.aid.uid]
    assert 'StreamOverrun' in err.tb_str
    assert err.tb_str == err.msgdata['tb_str']


async def wait_until_full(ctx: tractor.Context) -> None:
    while len(ctx._rx_chan) < ctx._rx_chan.max_buffer_size:
        await trio.lowlevel.checkpoint()


# --- we send, they do not read


@tractor_test
async def test_the_peer_opens_no_stream(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with peers.open_peer() as portal:
        with pytest.raises(RemoteActorError) as caught:
            async with (
                portal.open_context(peers.open_no_stream) as (ctx, _),
                ctx.open_stream() as stream,
            ):
                for number in range(64):
                    await stream.send(number)
                # so far all is well
                assert await portal.run(peers.echo, value=1) == 1
                assert ctx.maybe_error is None
                await stream.send(64)
                await trio.sleep_forever()
        check_we_overran(caught.value, portal)
        assert caught.value is ctx.outcome
        assert 'no stream' in caught.value.tb_str
        # it was still running, and has been cancelled
        await portal.run(peers.no_task_named, name='open_no_stream')


@pytest.mark.parametrize('excess', [0, 1])
@pytest.mark.parametrize('size', [1, 5])
@tractor_test
async def test_the_peer_has_a_small_buffer(
    size: int, excess: int, start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async def converse(portal: tractor.Portal) -> None:
        async with portal.open_context(
            peers.read_all, go='go', options={'msg_buffer_size': size}
        ) as (ctx, _):
            # its stream is open when a call that came later has been served
            await portal.run(peers.echo, value=None)
            async with ctx.open_stream() as stream:
                for number in range(size + excess):
                    await stream.send(number)
                await portal.run(peers.echo, value=None)
                await portal.run(peers.set_mark, name='go')
            assert await ctx.wait_for_result() == list(range(size))

    async with peers.open_peer() as portal:
        if not excess:
            await converse(portal)
            return
        with pytest.raises(RemoteActorError) as caught:
            await converse(portal)
        check_we_overran(caught.value, portal)


@tractor_test
async def test_the_peer_allows_overruns(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with (
        peers.open_peer() as portal,
        portal.open_context(peers.read_all, go='go', options={'allow_overruns': True}) as (ctx, _),
    ):
        await portal.run(peers.echo, value=None)
        async with ctx.open_stream() as stream:
            for number in range(1000):
                await stream.send(number)
        # the end of the stream went behind all that
        await portal.run(peers.set_mark, name='go')
        assert await ctx.wait_for_result() == list(range(1000))


# --- they send, we do not read


@tractor_test
async def test_we_open_no_stream(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with peers.open_peer() as portal:
        with pytest.raises(RemoteActorError) as caught:
            async with portal.open_context(peers.send_then_hang, count=65) as (ctx, _):
                await trio.sleep_forever()
        check_they_overran(caught.value, portal)
        assert caught.value is ctx.outcome


@tractor_test
async def test_sixty_four_wait_for_a_late_reader(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with (
        peers.open_peer() as portal,
        portal.open_context(peers.send_many, count=64) as (ctx, _),
    ):
        await wait_until_full(ctx)
        async with ctx.open_stream() as stream:
            assert [item async for item in stream] == list(range(64))
        assert await ctx.wait_for_result() == 64


async def read_after_overrun(ctx: tractor.Context, got: list[Any]) -> None:
    while ctx._overrun is None:
        await trio.lowlevel.checkpoint()
    async with ctx.open_stream() as stream:
        while True:
            got.append(await stream.receive())


@tractor_test
async def test_nothing_trickles_in_after_an_overrun(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with peers.open_peer() as portal:
        got: list[Any] = []
        with pytest.raises(RemoteActorError) as caught:
            async with portal.open_context(peers.send_then_hang, count=1000) as (ctx, _):
                with trio.CancelScope(shield=True):
                    await read_after_overrun(ctx, got)
        assert got == list(range(64))
        check_they_overran(caught.value, portal)


@tractor_test
async def test_no_silent_loss_when_the_sender_has_ended(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    """It cannot be told off any more: so the reader is told what it missed."""
    async with peers.open_peer() as portal:
        got: list[Any] = []
        with pytest.raises(StreamOverrun) as caught:
            async with portal.open_context(peers.send_many, count=65) as (ctx, _):
                while not ctx._dialog.done:
                    await trio.lowlevel.checkpoint()
                await read_after_overrun(ctx, got)
        assert got == list(range(64))
        assert caught.value.sender == portal.chan.aid.uid
        assert ctx._result == 65


@tractor_test
async def test_their_own_error_does_not_hide_the_overrun(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with peers.open_peer() as portal:
        with pytest.raises(RemoteActorError) as caught:
            async with portal.open_context(peers.fail_when_told_off) as (ctx, _):
                await trio.sleep_forever()
        check_they_overran(caught.value, portal)
        assert ctx.outcome is caught.value


@pytest.mark.parametrize('where', ['open_context', 'open_stream'])
@tractor_test
async def test_we_allow_overruns(
    where: str, start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    options = {'allow_overruns': True}
    async with (
        peers.open_peer() as portal,
        portal.open_context(
            peers.send_many, count=1000, go='go', **(options if where == 'open_context' else {})
        ) as (ctx, _),
    ):
        if where == 'open_context':
            await portal.run(peers.set_mark, name='go')
            while len(ctx._rx_chan) < 1000:
                await trio.lowlevel.checkpoint()
        async with ctx.open_stream(**options) as stream:
            if where == 'open_stream':
                await portal.run(peers.set_mark, name='go')
                while len(ctx._rx_chan) < 1000:
                    await trio.lowlevel.checkpoint()
            assert [item async for item in stream] == list(range(1000))
        assert await ctx.wait_for_result() == 1000


@tractor_test
async def test_the_stream_overrules_the_context(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with peers.open_peer() as portal:
        with pytest.raises(RemoteActorError) as caught:
            async with (
                portal.open_context(
                    peers.send_then_hang, count=9, go='go', allow_overruns=True
                ) as (ctx, _),
                ctx.open_stream(msg_buffer_size=8),
            ):
                assert ctx._send_chan._state.max_buffer_size == 8
                await portal.run(peers.set_mark, name='go')
                await trio.sleep_forever()
        check_they_overran(caught.value, portal)


# --- back-pressure


@tractor_test
async def test_a_sender_is_held_back(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    """It waits for the reader, nothing is lost, and the connection serves everybody else meanwhile."""
    async with (
        peers.open_peer() as portal,
        portal.open_context(peers.send_many, count=1000, backpressure=True) as (ctx, _),
        ctx.open_stream() as stream,
    ):
        await wait_until_full(ctx)
        for value in range(20):
            assert await portal.run(peers.echo, value=value) == value
        assert len(ctx._rx_chan) == 64
        async with (
            portal.open_context(peers.echo_stream) as (other, _),
            other.open_stream() as echo,
        ):
            for value in range(100):
                await echo.send(value)
                assert await echo.receive() == value
        assert len(ctx._rx_chan) == 64
        most = 0
        for number in range(1000):
            most = max(most, len(ctx._rx_chan))
            assert await stream.receive() == number
        assert most == 64
        with pytest.raises(trio.EndOfChannel):
            await stream.receive()


@asynccontextmanager
async def held_back(portal: tractor.Portal) -> AsyncIterator[tuple[tractor.Context, list[int]]]:
    """Two tasks send to a peer that has not opened its stream, until that is full."""
    sent: list[int] = []

    async def send(numbers: Any) -> None:
        for number in numbers:
            await stream.send(number)
            sent.append(number)

    async with (
        portal.open_context(peers.open_stream_late) as (ctx, _),
        ctx.open_stream(backpressure=True) as stream,
        trio.open_nursery() as tn,
    ):
        tn.start_soon(send, range(0, 200, 2))
        tn.start_soon(send, range(1, 200, 2))
        while len(sent) < 64:
            await trio.testing.wait_all_tasks_blocked()
        yield ctx, sent


@tractor_test
async def test_we_are_held_back(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with peers.open_peer() as portal:
        async with held_back(portal) as (ctx, sent):
            assert await portal.run(peers.echo, value='x') == 'x'
            assert len(sent) == 64
            await portal.run(peers.set_mark, name='go')
        result = await ctx.wait_for_result()
        assert sorted(result) == sorted(sent) == list(range(200))
        for first in (0, 1):
            assert [n for n in result if n % 2 == first] == list(range(first, 200, 2))


@tractor_test
async def test_cancelled_while_held_back(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with peers.open_peer() as portal:
        async with held_back(portal) as (ctx, sent):
            await ctx.cancel()
            assert len(sent) == 64
        assert ctx.cancel_acked
        await portal.run(peers.no_task_named, name='_stream_room')


@tractor_test
async def test_they_are_cancelled_while_held_back(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with peers.open_peer() as portal:
        async with (
            portal.open_context(peers.send_many, count=1000, backpressure=True) as (ctx, _),
            ctx.open_stream(),
        ):
            await wait_until_full(ctx)
            await ctx.cancel()
        assert isinstance(ctx.outcome, ContextCancelled)
        assert ctx.cancel_acked
        while tractor.current_actor()._rpc_tasks:
            await trio.lowlevel.checkpoint()


@tractor_test
async def test_the_reader_leaves(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    """Nothing holds the sender back any more; what it still sends is dropped."""
    async with (
        peers.open_peer() as portal,
        portal.open_context(peers.send_many, count=1000, backpressure=True) as (ctx, _),
    ):
        async with ctx.open_stream() as stream:
            async for number in stream:
                if number == 100:
                    break
            while ctx._rx_chan._senders is None:
                await trio.lowlevel.checkpoint()
        assert await ctx.wait_for_result() == 1000
