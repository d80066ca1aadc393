"""contract: two-way streams: order, ends, closing, and several readers of one stream."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import tractor
from tractor import MsgTypeError, RemoteActorError, TransportClosed
from tractor._code_load import load_module_from_path
from tractor._testing import tractor_test
from tractor._testing.fault_simulation import break_ipc
from tractor.msg._ops import drain_to_final_msg
from tractor.msg.types import Error, Return, Yield
from tractor.trionics import BroadcastReceiver, Lagged

pytestmark = pytest.mark.spawns

# under the name by which the actors import it
peers = sys.modules.get('stream_peers') or load_module_from_path(
    Path(__file__).with_name('stream_peers.py')
)


@tractor_test
async def test_there_and_back(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with (
        peers.open_peer() as portal,
        portal.open_context(peers.echo_stream) as (ctx, _),
    ):
        async with ctx.open_stream() as stream:
            assert stream.ctx is ctx
            assert stream.chan is ctx.chan is portal.chan
            assert stream in portal._streams
            assert ctx._stream is stream
            assert ctx.repr_state == 'streaming'
            assert 'open' in repr(stream)
            for item in (1, None, [1, 'x'], {'k': 1.5}, b'bytes', ''):
                await stream.send(item)
                assert await stream.receive() == item
            with pytest.raises(trio.WouldBlock):
                stream.receive_nowait()
        assert stream not in portal._streams
        assert stream.closed
        assert await ctx.wait_for_result() == 'done'


@tractor_test
async def test_everything_before_the_end(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with (
        peers.open_peer() as portal,
        portal.open_context(peers.send_many, count=60) as (ctx, _),
        ctx.open_stream() as stream,
    ):
        assert [item async for item in stream] == list(range(60))
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel) as caught:
                await stream.receive()
            assert caught.value is stream._eoc
        with pytest.raises(trio.EndOfChannel) as caught:
            stream.receive_nowait()
        assert caught.value is stream._eoc
        with pytest.raises(trio.EndOfChannel) as caught:
            await stream.send(1)
        assert caught.value is stream._eoc
        assert stream._stop_msg
        # absorbed by the block, being its own
        raise stream._eoc


@tractor_test
async def test_the_end_of_another_channel_is_not_absorbed(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    other = trio.EndOfChannel('another')
    async with peers.open_peer() as portal:
        with pytest.raises(trio.EndOfChannel) as caught:
            async with portal.open_context(peers.echo_stream) as (ctx, _), ctx.open_stream():
                raise other
        assert caught.value is other


@tractor_test
async def test_the_peers_view_of_an_end(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with (
        peers.open_peer() as portal,
        portal.open_context(peers.use_after_end) as (ctx, _),
    ):
        async with ctx.open_stream() as stream:
            await stream.send('one')
        assert await ctx.wait_for_result() == [
            'EndOfChannel',
            'EndOfChannel',
            'EndOfChannel',
            'ClosedResourceError',
        ]


@tractor_test
async def test_a_stream_of_a_context_that_is_over(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with peers.open_peer() as portal:
        async with portal.open_context(peers.leak_context):
            pass
        assert await portal.run(peers.stream_of_leaked_context) == 'ClosedResourceError'


@tractor_test
async def test_only_one_stream(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with (
        peers.open_peer() as portal,
        portal.open_context(peers.echo_stream) as (ctx, _),
    ):
        async with ctx.open_stream():
            with pytest.raises(trio.ClosedResourceError):
                async with ctx.open_stream():
                    raise AssertionError
        with pytest.raises(trio.ClosedResourceError):
            async with ctx.open_stream():
                raise AssertionError


@tractor_test
async def test_closing_it_ourselves(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    """Who waits in it, sends or receives later gets the one end of the channel."""
    woken = []

    async def wait_for_end(stream: tractor.MsgStream) -> None:
        with pytest.raises(trio.EndOfChannel) as caught:
            await stream.receive()
        woken.append(caught.value)

    async with (
        peers.open_peer() as portal,
        portal.open_context(peers.echo_stream) as (ctx, _),
    ):
        async with ctx.open_stream() as stream, trio.open_nursery() as tn:
            tn.start_soon(wait_for_end, stream)
            tn.start_soon(wait_for_end, stream)
            await trio.testing.wait_all_tasks_blocked()
            assert await stream.aclose() == []
            with pytest.raises(trio.EndOfChannel) as caught:
                await stream.send(1)
            assert caught.value is stream._eoc
        assert woken == [stream._eoc] * 2
        assert await ctx.wait_for_result() == 'done'


@tractor_test
async def test_closing_drops_what_is_unread(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with (
        peers.open_peer() as portal,
        portal.open_context(peers.send_many, count=5) as (ctx, _),
        ctx.open_stream() as stream,
    ):
        while not ctx._dialog.done:
            await trio.lowlevel.checkpoint()
        # the result is none of it
        assert len(await stream.aclose()) == 5
        assert await ctx.wait_for_result() == 5


@tractor_test
async def test_a_break_waits_for_the_other_side(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    """However much it still sends, the block does not end before its function has."""
    async with peers.open_peer() as portal:
        async with portal.open_context(peers.keep_sending) as (ctx, _):
            async with ctx.open_stream():
                pass
            await portal.run(peers.set_mark, name='go')
        assert ctx.outcome == 'done'


@tractor_test
async def test_an_end_without_a_result(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with peers.open_peer() as portal:
        async with portal.open_context(peers.stop_then_hang) as (ctx, _):
            async with ctx.open_stream() as stream:
                assert [item async for item in stream] == ['last']
            assert ctx.repr_state == 'streaming-finished'
            assert not ctx.has_outcome
            await portal.run(peers.set_mark, name='go')
        assert ctx.outcome == 'done'


@tractor_test
async def test_a_cancelled_reader_loses_nothing(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with (
        peers.open_peer() as portal,
        portal.open_context(peers.echo_stream) as (ctx, _),
        ctx.open_stream() as stream,
        trio.open_nursery() as tn,
    ):
        got: list[int] = []
        for number in range(20):
            with trio.CancelScope() as scope:
                if number % 2:
                    scope.cancel()
                else:
                    tn.start_soon(_cancel_when_blocked, scope)
                got.append(await stream.receive())
            await stream.send(number)
        while len(got) < 20:
            got.append(await stream.receive())
        assert got == list(range(20))
        assert not stream.closed


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await trio.lowlevel.checkpoint()
    scope.cancel()


async def read_after_outcome(stream: tractor.MsgStream, got: list[Any]) -> None:
    """Read all there is when the outcome is known, though the scope has been cancelled for it."""
    with trio.CancelScope(shield=True):
        while not stream.ctx.has_outcome:
            await trio.lowlevel.checkpoint()
        async for item in stream:
            got.append(item)


@tractor_test
async def test_an_error_after_the_items(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with peers.open_peer() as portal:
        got: list[Any] = []
        with pytest.raises(RemoteActorError) as caught:
            async with (
                portal.open_context(peers.send_and_fail, count=10) as (ctx, _),
                ctx.open_stream() as stream,
            ):
                await read_after_outcome(stream, got)
        assert got == list(range(10))
        assert caught.value is ctx.outcome
        assert caught.value.boxed_type is ValueError
        assert stream._eoc
        with pytest.raises(RemoteActorError) as again:
            await stream.send(1)
        assert again.value is caught.value


@tractor_test
async def test_our_error_beside_theirs(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    """An error of the body leaves the block even if the scope was cancelled for the peer's meanwhile."""
    error = KeyError('ours')
    async with peers.open_peer() as portal:
        with pytest.raises(KeyError) as caught:
            async with (
                portal.open_context(peers.send_and_fail, count=1) as (ctx, _),
                ctx.open_stream() as stream,
            ):
                with pytest.raises(RemoteActorError):
                    await read_after_outcome(stream, [])
                raise error
        assert caught.value is error
        assert isinstance(ctx.outcome, RemoteActorError)
        assert ctx._local_error is error


@tractor_test
async def test_what_cannot_be_sent(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with (
        peers.open_peer() as portal,
        portal.open_context(peers.echo_stream) as (ctx, _),
        ctx.open_stream() as stream,
    ):
        with pytest.raises(MsgTypeError) as caught:
            await stream.send(object())
        assert isinstance(caught.value.__cause__, TypeError)
        await stream.send(1)
        assert await stream.receive() == 1
        with pytest.deprecated_call():
            await ctx.send_yield(2)
        assert await stream.receive() == 2


@pytest.mark.parametrize('pre_close', [False, True])
@tractor_test
async def test_a_broken_connection(
    pre_close: bool, start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    """Sending fails at once; leaving the block by our own error is neither held up nor changed by it."""
    async with peers.open_peer() as portal:
        error = KeyboardInterrupt()
        caught: BaseException | None = None
        try:
            async with (
                tractor.wait_for_actor('peer') as extra,
                extra.open_context(peers.echo_stream) as (ctx, _),
                ctx.open_stream() as stream,
            ):
                await break_ipc(stream, 'socket_eof', pre_close=pre_close)
                with pytest.raises(trio.EndOfChannel if pre_close else TransportClosed):
                    await stream.send(1)
                raise error
        except KeyboardInterrupt as err:
            caught = err
        assert caught is error
        assert ctx._local_error is error
        assert await portal.run(peers.echo, value=1) == 1


# --- several readers


async def collect(receiver: Any, into: list[Any]) -> None:
    async for item in receiver:
        into.append(item)


@tractor_test
async def test_subscribers(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with (
        peers.open_peer() as portal,
        portal.open_context(peers.echo_stream) as (ctx, _),
        ctx.open_stream() as stream,
    ):
        got: list[list[Any]] = [[], [], []]
        async with (
            stream.subscribe() as one,
            stream.subscribe() as two,
            trio.open_nursery() as tn,
        ):
            assert isinstance(one, BroadcastReceiver)
            broadcaster = stream._broadcaster
            assert broadcaster._state.maxlen == 64
            assert one.key != two.key != broadcaster.key
            assert set(broadcaster._state.subs) == {one.key, two.key, broadcaster.key}
            for receiver, into in zip((one, two, stream), got, strict=True):
                tn.start_soon(collect, receiver, into)
            for number in range(30):
                await (one if number % 2 else stream).send(number)
            while any(len(items) < 30 for items in got):
                await trio.lowlevel.checkpoint()
            tn.cancel_scope.cancel()
        assert got == [list(range(30))] * 3
        assert set(broadcaster._state.subs) == {broadcaster.key}
        assert broadcaster._state.recv_ready is None
        # the stream goes on, as one more subscriber
        await stream.send('more')
        assert await stream.receive() == 'more'


@tractor_test
async def test_a_slow_subscriber(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with (
        peers.open_peer() as portal,
        portal.open_context(peers.echo_stream) as (ctx, _),
        ctx.open_stream(msg_buffer_size=4) as stream,
        stream.subscribe() as fast,
        stream.subscribe() as slow,
    ):
        for number in range(6):
            await stream.send(number)
            assert await fast.receive() == number
        for receiver in (slow, stream):
            with pytest.raises(Lagged):
                await receiver.receive()
            assert [await receiver.receive() for _ in range(4)] == [2, 3, 4, 5]


@pytest.mark.parametrize('fails', [False, True])
@tractor_test
async def test_subscribers_at_the_end(
    fails: bool, start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    """All of them get the end, or the error of the dialog, after all that was sent before."""
    ends: list[BaseException] = []
    got: list[list[Any]] = [[], [], []]

    async def read(receiver: Any, into: list[Any]) -> None:
        with trio.CancelScope(shield=True):
            try:
                while True:
                    into.append(await receiver.receive())
            except (trio.EndOfChannel, RemoteActorError) as err:
                ends.append(err)

    async with peers.open_peer() as portal:
        func = peers.send_and_fail if fails else peers.send_many
        outcome = None
        try:
            async with (
                portal.open_context(func, count=20) as (ctx, _),
                ctx.open_stream() as stream,
                stream.subscribe() as one,
                stream.subscribe() as two,
                trio.open_nursery() as tn,
            ):
                for receiver, into in zip((one, two, stream), got, strict=True):
                    tn.start_soon(read, receiver, into)
        except RemoteActorError as err:
            outcome = err
        assert got == [list(range(20))] * 3
        assert len(ends) == 3
        assert set(ends) <= {stream._eoc, ctx._remote_error}
        assert (outcome is not None) is fails
        assert outcome is ctx._remote_error


@tractor_test
async def test_draining_ends_with_the_outcome(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with (
        peers.open_peer() as portal,
        portal.open_context(peers.send_many, count=30) as (ctx, _),
    ):
        final, dropped = await drain_to_final_msg(ctx)
        assert isinstance(final, Return)
        assert await ctx.wait_for_result() == 30
        assert [type(msg) for msg in dropped] == [Yield] * 30
        # again: the same message, and nothing more to drop
        assert await drain_to_final_msg(ctx) == (final, [])


@tractor_test
async def test_draining_a_dialog_that_was_cancelled(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with peers.open_peer() as portal:
        async with portal.open_context(peers.echo_stream) as (ctx, _):
            await ctx.cancel()
            final, _ = await drain_to_final_msg(ctx)
            assert isinstance(final, Error)
        assert ctx.cancel_acked
