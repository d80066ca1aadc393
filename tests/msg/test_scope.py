"""collaboration: where a codec, or a limit on payloads, applies: to one task, to one dialog, and no further."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import tractor
from tractor import MsgTypeError
from tractor._testing import run_bounded
from tractor._testing.peer import RawPeer, open_peer, play_with_peer, portal_to
from tractor.msg import _codec, apply_codec, current_codec, limit_plds, mk_codec
from tractor.msg._ops import maybe_limit_plds
from tractor.msg.types import Error, Return, Start, StartAck, Started, Stop, Yield

Play = Callable[[Callable[[tractor.Actor, RawPeer], Awaitable[None]]], None]


@pytest.fixture
def play(tpt_proto: str, reg_addr: Any) -> Play:
    return functools.partial(
        play_with_peer, module=__name__, reg_addr=reg_addr, tpt_proto=tpt_proto
    )


# --- endpoints


async def is_default() -> bool:
    return current_codec() is _codec._def_tractor_codec


async def apply_and_leave() -> None:
    """A codec that is applied for good, as far as this task goes."""
    _codec._ctxvar_MsgCodec.set(mk_codec(enc_hook=str, ext_types=[Path]))


@tractor.context
async def dialog(ctx: tractor.Context) -> None:
    """Never run: the peer plays it."""


@tractor.context(pld_spec=int)
async def numbers(ctx: tractor.Context) -> int:
    await ctx.started(0)
    async with ctx.open_stream() as stream:
        async for value in stream:
            await stream.send(value + 1)
    return 1


@tractor.context(pld_spec=int)
async def patient(ctx: tractor.Context) -> str:
    """A child which is not cancelled for a bad payload."""
    ctx._cancel_on_msgerr = False
    await ctx.started(0)
    async with ctx.open_stream() as stream:
        with pytest.raises(MsgTypeError) as caught:
            await stream.receive()
        assert caught.value is ctx._remote_error is ctx.maybe_error
        assert ctx._local_error is None
        await trio.lowlevel.checkpoint()
    assert not ctx._scope.cancel_called
    raise caught.value


# --- codecs


def test_what_arrives_does_not_depend_on_who_asked(tpt_proto: str, reg_addr: Any) -> None:
    """A runtime that is opened while a codec is applied still decodes, and serves, with the default one."""

    async def main() -> None:
        with _codec.limit_msg_spec(int) as codec:
            async with tractor.open_root_actor(
                registry_addrs=[reg_addr],
                enable_transports=[tpt_proto],
                enable_modules=[__name__],
                loglevel='critical',
            ) as root:
                async with open_peer(root.accept_addr) as peer:
                    assert (await peer.call(__name__, 'is_default')).pld is True
                    cid = await peer.request(__name__, 'numbers')
                    await peer.send(Yield(cid=cid, pld=1), Stop(cid=cid))
                    kinds = [await peer.recv_of(cid) for _ in range(4)]
                    assert [type(each) for each in kinds] == [StartAck, Started, Yield, Return]
                assert current_codec() is codec

    run_bounded(main, timeout=10)


def test_every_call_begins_with_the_default(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        await peer.call(__name__, 'apply_and_leave')
        assert (await peer.call(__name__, 'is_default')).pld is True

    play(main)


def test_a_codec_is_for_the_task_and_its_children(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        go = trio.Event()

        async def send_late() -> None:
            await go.wait()
            with pytest.raises(MsgTypeError):
                await portal.chan.send(Yield(cid='c', pld=Path('sibling')))

        async def send_now() -> None:
            await portal.chan.send(Yield(cid='c', pld=Path('child')))

        async with trio.open_nursery() as tn:
            tn.start_soon(send_late)
            with apply_codec(mk_codec(enc_hook=str, ext_types=[Path])):
                async with trio.open_nursery() as inner:
                    inner.start_soon(send_now)
                go.set()
                await portal.chan.send(Yield(cid='c', pld=Path('self')))
            with pytest.raises(MsgTypeError):
                await portal.chan.send(Yield(cid='c', pld=Path('after')))
        assert [(await peer.recv()).pld for _ in range(2)] == ['child', 'self']
        await portal.chan.send(Yield(cid='c', pld='nothing was written in between'))
        assert (await peer.recv()).pld == 'nothing was written in between'

    play(main)


# --- limits


async def accept(peer: RawPeer) -> str:
    cid: str = (await peer.recv()).cid
    await peer.send(StartAck(cid=cid, functype='context'), Started(cid=cid, pld=1))
    return cid


def test_a_limit_is_for_one_dialog_and_one_block(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)

        async def answer() -> None:
            one, two = await accept(peer), await accept(peer)
            for value in (1, 'text', 2):
                await peer.send(Yield(cid=one, pld=value), Yield(cid=two, pld=value))
            for cid in (one, two):
                await peer.send(Stop(cid=cid), Return(cid=cid, pld=None))

        with pytest.raises(RuntimeError, match='no IPC context'), limit_plds(int):
            raise AssertionError
        async with trio.open_nursery() as tn:
            tn.start_soon(answer)
            async with (
                portal.open_context(dialog) as (one, _),
                portal.open_context(dialog) as (two, _),
                one.open_stream() as first,
                two.open_stream() as second,
            ):
                with pytest.raises(AssertionError, match='current context'):
                    async with maybe_limit_plds(one, int):
                        raise AssertionError('not reached')
                with limit_plds(int) as dec:
                    assert dec is two.pld_rx._pld_dec is two._pld_rx.pld_dec
                    assert [await first.receive() for _ in range(3)] == [1, 'text', 2]
                    assert await second.receive() == 1
                assert await second.receive() == 'text'
                async with maybe_limit_plds(two, int) as dec:
                    assert dec.spec is int
                    assert await second.receive() == 2

    play(main)


@pytest.mark.parametrize('early', [True, False])
@pytest.mark.parametrize('where', ['inside', 'outside'])
def test_a_result_is_decoded_where_it_is_asked_for(play: Play, early: bool, where: str) -> None:
    """Whether it arrived before the block of the limit, within or after it, makes no difference."""

    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)

        async def answer() -> None:
            cid = await accept(peer)
            if not early:
                await go.wait()
            await peer.send(Return(cid=cid, pld='text'))

        async def converse() -> tractor.Context:
            async with portal.open_context(dialog) as (ctx, _):
                if early:
                    await trio.testing.wait_all_tasks_blocked()
                with limit_plds(int):
                    go.set()
                    await trio.testing.wait_all_tasks_blocked()
                    assert type(ctx._outcome_msg) is Return
                    if where == 'inside':
                        with pytest.raises(MsgTypeError, match=r'`Return\.pld: int`') as caught:
                            await ctx.wait_for_result()
                        assert caught.value is ctx._remote_error
                if where == 'outside':
                    assert await ctx.wait_for_result() == 'text'
                    assert ctx.outcome == 'text'
            return ctx

        go = trio.Event()
        async with trio.open_nursery() as tn:
            tn.start_soon(answer)
            if where == 'outside':
                assert (await converse()).outcome == 'text'
            else:
                with pytest.raises(MsgTypeError):
                    await converse()

    play(main)


# --- errors


def test_an_error_of_a_child_goes_to_its_parent(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        cid = await peer.request(__name__, 'numbers')
        other = await peer.request(__name__, 'numbers')
        for each in (cid, other):
            assert isinstance(await peer.recv_of(each), StartAck)
            assert (await peer.recv_of(each)).pld == 0
        await peer.send(Yield(cid=cid, pld='text'))
        assert isinstance(await peer.recv_of(cid), Stop)
        error = await peer.recv_of(cid)
        assert isinstance(error, Error)
        assert error.boxed_type_str == 'MsgTypeError'
        assert "invalid `Yield` msg payload\n\n'text'" in error.message
        # it is told as if the sender had found it out itself, and then relayed
        assert error.relay_path == [peer.uid, root.aid.uid] or error.src_uid == root.aid.uid
        await peer.send(Yield(cid=other, pld=1))
        assert (await peer.recv_of(other)).pld == 2

    play(main)


def test_a_child_need_not_be_cancelled_for_it(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        cid = await peer.request(__name__, 'patient')
        await peer.send(Yield(cid=cid, pld='text'))
        kinds = [await peer.recv_of(cid) for _ in range(4)]
        assert [type(each) for each in kinds] == [StartAck, Started, Stop, Error]
        assert kinds[-1].boxed_type_str == 'MsgTypeError'

    play(main)


def test_an_error_of_a_parent_cancels_the_child(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        requests: list[Any] = []

        async def answer() -> None:
            cid = (await peer.recv()).cid
            await peer.send(StartAck(cid=cid, functype='context'), Started(cid=cid, pld='text'))
            requests.append(await peer.recv())

        async def one_call() -> None:
            with pytest.raises(MsgTypeError) as caught:
                async with portal.open_context(numbers):
                    raise AssertionError
            assert caught.value.expected_msg_type is Started
            assert caught.value.src_uid == peer.uid

        async with trio.open_nursery() as tn:
            tn.start_soon(answer)
            await one_call()
        (request,) = requests
        assert isinstance(request, Start)
        assert (request.ns, request.func) == ('self', '_cancel_task')
        assert not root._contexts

    play(main)


@pytest.mark.parametrize('value', [object(), 1 << 70, '\ud800', Path('/')])
def test_nothing_is_sent_of_what_cannot_be(play: Play, value: Any) -> None:
    """An error of the sender has no box: it never crossed."""

    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        with pytest.raises(MsgTypeError) as caught:
            await portal.run(is_default, value=value)
        mte = caught.value
        assert mte.tb_str == ''
        for text in (repr(mte), str(mte), mte.message, mte.tb_str):
            assert '------ - ------' not in text
        assert all(line in repr(mte) for line in mte.message.splitlines())
        assert mte.expected_msg_type is Start
        assert mte.__cause__ is not None
        assert mte.cid == mte.bad_msg.cid
        assert not root._contexts
        await peer.send(peer.start(__name__, 'is_default'))
        assert isinstance(await peer.recv(), StartAck)

    play(main)
