"""collaboration: the parent side of a dialog against a peer that answers with whatever it likes.

The connection is real; the peer is a task of the test.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import tractor
from tractor import MsgTypeError, RemoteActorError
from tractor._code_load import load_module_from_path
from tractor._exceptions import MessagingError, StreamOverrun
from tractor.msg._errors import pack_error
from tractor.msg.types import CancelAck, Return, Start, StartAck, Started, Stop, Yield

# under the names by which they import each other
peers = sys.modules.get('dialog_peers') or load_module_from_path(
    Path(__file__).with_name('dialog_peers.py')
)
evil_mod = sys.modules.get('dialog_evil') or load_module_from_path(
    Path(__file__).with_name('dialog_evil.py')
)


@pytest.fixture
def evil(tpt_proto: str, reg_addr: Any) -> Callable[[Any], None]:
    """Run a body with such a peer."""
    return partial(evil_mod.run, tpt_proto=tpt_proto, reg_addr=reg_addr)


@tractor.context(pld_spec=int)
async def ints(ctx: tractor.Context) -> None:
    """Named in requests only."""


def test_everything_is_said_twice(evil: Any) -> None:
    async def body(peer: Any) -> None:
        async def answer() -> None:
            cid = await peer.accept(
                lambda cid: Started(cid=cid, pld=5),
                lambda cid: StartAck(cid=cid, functype='asyncfunc'),
                lambda cid: Started(cid=cid, pld=6),
                lambda cid: Yield(cid=cid, pld='a'),
                lambda cid: Stop(cid=cid),
                lambda cid: Stop(cid=cid),
                lambda cid: Return(cid=cid, pld='x'),
                lambda cid: Return(cid=cid, pld='y'),
                lambda cid: Yield(cid=cid, pld='b'),
                lambda cid: Started(cid=cid, pld=7),
                lambda cid: CancelAck(cid=cid, pld=True),
            )
            await peer.say(Return(cid=cid, pld='z'))

        async with trio.open_nursery() as tn:
            tn.start_soon(answer)
            async with peer.portal.open_context(peers.give) as (ctx, first):
                assert first == 5
                async with ctx.open_stream() as stream:
                    assert [item async for item in stream] == ['a']
                assert await ctx.wait_for_result() == 'x'
        assert ctx.outcome == 'x'
        assert ctx._remote_func_type == 'context'
        await peer.settle()

    evil(body)


def test_started_before_accepted_and_no_start_at_all(evil: Any) -> None:
    async def body(peer: Any) -> None:
        async def answer() -> None:
            cid = (await peer.hear(Start)).cid
            await peer.say(
                Started(cid=cid, pld=1),
                Yield(cid=cid, pld=1),
                StartAck(cid=cid, functype='context'),
                Return(cid=cid, pld='x'),
            )

        async with trio.open_nursery() as tn:
            tn.start_soon(answer)
            with pytest.raises(MessagingError, match='started'):
                async with peer.portal.open_context(peers.give):
                    raise AssertionError('it did not start')

    evil(body)


def test_a_boolean_is_no_result(evil: Any) -> None:
    """Only a request for cancellation is answered with `CancelAck`, whose payload nobody checks."""

    async def body(peer: Any) -> None:
        async def answer() -> None:
            cid = await peer.accept(lambda cid: Started(cid=cid, pld=1))
            await peer.say(CancelAck(cid=cid, pld=True))
            await peer.settle()
            await peer.say(Return(cid=cid, pld=2))

        async with trio.open_nursery() as tn:
            tn.start_soon(answer)
            async with peer.portal.open_context(ints) as (ctx, _):
                assert await ctx.wait_for_result() == 2

    evil(body)


def test_a_result_is_no_stream_item(evil: Any) -> None:
    async def body(peer: Any) -> None:
        async def answer() -> None:
            await peer.accept(
                lambda cid: Started(cid=cid, pld=None),
                lambda cid: Yield(cid=cid, pld=1),
                lambda cid: Return(cid=cid, pld='result'),
            )

        async with trio.open_nursery() as tn:
            tn.start_soon(answer)
            async with peer.portal.open_context(peers.give) as (ctx, _):
                async with ctx.open_stream() as stream:
                    assert await stream.receive() == 1
                    with pytest.raises(trio.EndOfChannel) as caught:
                        await stream.receive()
                    assert caught.value is stream._eoc
                    with pytest.raises(trio.EndOfChannel) as caught:
                        await stream.receive()
                    assert caught.value is stream._eoc
                assert await ctx.wait_for_result() == 'result'

    evil(body)


@pytest.mark.parametrize('kind', [Started, Yield, Return])
def test_a_payload_of_the_wrong_type(evil: Any, kind: Any) -> None:
    async def body(peer: Any) -> None:
        requests: list[Start] = []

        async def answer() -> None:
            cid = await peer.accept(
                *[
                    lambda cid, each=each: each(cid=cid, pld='bad' if each is kind else 1)
                    for each in [Started, Yield]
                ]
            )
            if kind is Return:
                await peer.say(Return(cid=cid, pld='bad'))
            else:
                if kind is Yield:
                    await peer.hear(Stop)
                # the task has not ended: it is asked to
                requests.append(await peer.hear(Start))

        async def converse() -> tractor.Context:
            async with peer.portal.open_context(ints) as (ctx, first):
                held.append(ctx)
                assert first == 1
                if kind is Yield:
                    async with ctx.open_stream() as stream:
                        with pytest.raises(MsgTypeError) as inner:
                            await stream.receive()
                        assert inner.value is ctx._remote_error
                        assert ctx._local_error is None
                        raise inner.value
                with pytest.raises(MsgTypeError) as inner:
                    await ctx.wait_for_result()
                assert ctx._local_error is None

        held: list[tractor.Context] = []
        async with trio.open_nursery() as tn:
            tn.start_soon(answer)
            with pytest.raises(MsgTypeError) as caught:
                await converse()
        mte = caught.value
        assert mte.src_uid == peer.aid.uid
        assert mte.expected_msg_type is kind
        assert mte.tb_str
        text = repr(mte)
        assert f'invalid `{kind.__name__}` msg payload' in text
        assert "'bad'" in text
        assert "has type <class 'str'>" in text
        assert 'not match type-spec' in text
        assert f'`{kind.__name__}.pld: ' in text
        for ctx in held:
            assert mte is ctx._remote_error is ctx._local_error is ctx.outcome
            assert mte.cid == ctx.cid
        if kind is not Return:
            assert (requests[0].func, requests[0].ns) == ('_cancel_task', 'self')

    evil(body)


def test_somebody_else_guesses_the_id(evil: Any) -> None:
    """Another peer, and the same peer over another connection, cannot reach a dialog."""

    async def body(peer: Any) -> None:
        async def answer() -> None:
            cid = await peer.accept(lambda cid: Started(cid=cid, pld=None))
            async with (
                evil_mod.evil_peer('other') as other,
                evil_mod.evil_peer('evil', peer.aid.uuid) as again,
            ):
                for one in (other, again):
                    await one.say(
                        Yield(cid=cid, pld='theirs'),
                        Stop(cid=cid),
                        Return(cid=cid, pld='theirs'),
                        pack_error(ValueError('theirs'), cid=cid),
                        Start(
                            cid='c',
                            ns='self',
                            func='_cancel_task',
                            kwargs={'cid': cid},
                            uid=one.aid.uid,
                        ),
                    )
                    await one.hear(StartAck)
                    assert (await one.hear(CancelAck)).pld is True
            await peer.say(Yield(cid=cid, pld='mine'), Return(cid=cid, pld='mine'))

        async with trio.open_nursery() as tn:
            tn.start_soon(answer)
            async with peer.portal.open_context(peers.give) as (ctx, _):
                async with ctx.open_stream() as stream:
                    assert [item async for item in stream] == ['mine']
                assert await ctx.wait_for_result() == 'mine'

    evil(body)


def test_the_acknowledgement_comes_with_an_item(evil: Any) -> None:
    """The owner goes on with the item, so only its scope can tell it that it was cancelled."""

    async def body(peer: Any) -> None:
        async def answer() -> None:
            cid = await peer.accept(lambda cid: Started(cid=cid, pld=None))
            await opened.wait()
            await trio.testing.wait_all_tasks_blocked()
            asked = await peer.hear(Start)
            await peer.say(
                StartAck(cid=asked.cid, functype='asyncfunc'),
                Yield(cid=cid, pld='last'),
                evil_mod.cancelled(peer, cid),
                CancelAck(cid=asked.cid, pld=True),
            )

        async def cancel() -> None:
            await opened.wait()
            await trio.testing.wait_all_tasks_blocked()
            await ctx.cancel()

        opened = trio.Event()
        async with trio.open_nursery() as tn:
            tn.start_soon(answer)
            async with (
                peer.portal.open_context(peers.give) as (ctx, _),
                ctx.open_stream() as stream,
            ):
                tn.start_soon(cancel)
                opened.set()
                assert await stream.receive() == 'last'
                await trio.sleep_forever()
        assert ctx.cancel_acked
        assert ctx.cancelled_caught

    evil(body)


def test_everything_comes_with_the_acceptance(evil: Any) -> None:
    """There is no scope yet when the error arrives."""

    async def body(peer: Any) -> None:
        async def answer() -> None:
            await peer.accept(
                lambda cid: Started(cid=cid, pld='first'),
                lambda cid: pack_error(ValueError('boom'), cid=cid, src_uid=peer.aid.uid),
            )

        async with trio.open_nursery() as tn:
            tn.start_soon(answer)
            with pytest.raises(RemoteActorError) as caught:
                async with peer.portal.open_context(peers.give) as (ctx, first):
                    assert first == 'first'
                    await trio.sleep_forever()
        assert caught.value.boxed_type is ValueError
        assert caught.value is ctx._remote_error is ctx._local_error

    evil(body)


@pytest.mark.parametrize('how', ['nothing', 'cancel', 'allow'])
def test_a_complaint_about_our_sending(evil: Any, how: str) -> None:
    """It fails the dialog, but neither a cancellation nor who allows overruns; the peer's task is ended."""

    async def body(peer: Any) -> None:
        async def answer() -> None:
            cid = await peer.accept(lambda cid: Started(cid=cid, pld=None))
            await peer.say(evil_mod.overrun(peer, cid))
            asked = await peer.hear(Start)
            assert (asked.func, asked.kwargs) == ('_cancel_task', {'cid': cid})
            await peer.say(
                StartAck(cid=asked.cid, functype='asyncfunc'),
                evil_mod.cancelled(peer, cid),
                CancelAck(cid=asked.cid, pld=True),
            )

        async def converse() -> None:
            async with peer.portal.open_context(peers.give, allow_overruns=how == 'allow') as (
                ctx,
                _,
            ):
                held.append(ctx)
                if how == 'cancel':
                    with trio.CancelScope(shield=True):
                        await ctx._wait(lambda ctx: ctx.has_outcome)
                        await ctx.cancel()
                await trio.sleep_forever()

        held: list[tractor.Context] = []
        async with trio.open_nursery() as tn:
            tn.start_soon(answer)
            if how == 'nothing':
                with pytest.raises(RemoteActorError) as caught:
                    await converse()
                assert caught.value.boxed_type is StreamOverrun
                assert caught.value.sender == peer.actor.aid.uid
            else:
                await converse()
        (ctx,) = held
        assert ctx.outcome.boxed_type is StreamOverrun
        assert ctx._local_error is ctx.outcome
        assert ctx.cancelled_caught
        assert ctx.cancel_called is (how == 'cancel')

    evil(body)


def test_a_peer_that_knows_no_back_pressure(evil: Any) -> None:
    """It is asked once, and then sent to as fast as we like."""

    async def body(peer: Any) -> None:
        async def answer() -> None:
            cid = await peer.accept(lambda cid: Started(cid=cid, pld=None))
            asked = await peer.hear(Start)
            assert (asked.ns, asked.func, asked.kwargs) == ('self', '_stream_room', {'cid': cid})
            refusal = AttributeError('_stream_room')
            await peer.say(pack_error(refusal, cid=asked.cid, src_uid=peer.aid.uid))
            for _ in range(100):
                await peer.hear(Yield)
            await peer.hear(Stop)
            await peer.say(Return(cid=cid, pld='done'))

        async with trio.open_nursery() as tn:
            tn.start_soon(answer)
            async with peer.portal.open_context(peers.give) as (ctx, _):
                async with ctx.open_stream(backpressure=True) as stream:
                    for number in range(100):
                        await stream.send(number)
                assert await ctx.wait_for_result() == 'done'

    evil(body)
