"""collaboration: cancellation of single tasks, asked for by peers that speak the protocol by hand."""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import tractor
from tractor._code_load import load_module_from_path
from tractor._testing import dialogs
from tractor._testing.peer import RawPeer, open_peer
from tractor.msg.types import CancelAck, Return, StartAck, Started, Stop, Yield

Play = Callable[[Callable[[tractor.Actor, RawPeer], Awaitable[None]]], None]

HERE = __name__

# one module for all that share its state
rpc_stage = sys.modules.get('rpc_stage') or load_module_from_path(
    Path(__file__).with_name('rpc_stage.py')
)

STAGE, stage, noting = rpc_stage.STAGE, rpc_stage.stage, rpc_stage.noting

# endpoints; the others are below
ping, wait_plain, wait_context, until_released = (
    rpc_stage.ping,
    rpc_stage.wait_plain,
    rpc_stage.wait_context,
    rpc_stage.until_released,
)

accepted = functools.partial(dialogs.accepted, ns=HERE)
still_serves = functools.partial(dialogs.still_serves, ns=HERE)


# -- endpoints ------------------------------------------------------------------------------------


@tractor.stream
async def wait_stream(stream: tractor.Context) -> None:
    async with noting():
        await trio.sleep_forever()


async def wait_generator() -> AsyncIterator[int]:
    async with noting():
        yield 0
        await trio.sleep_forever()


async def swallow() -> int:
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        return 5


async def fail_when_cancelled() -> None:
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        raise ValueError('boom') from None


@tractor.context
async def fail_masked(ctx: tractor.Context) -> None:
    """The error is on its way out when the cancellation reaches the checkpoint in `finally`."""
    await ctx.started()
    try:
        await ctx.cancel()
        raise ValueError('boom')
    finally:
        await trio.lowlevel.checkpoint()


@tractor.context
async def needs_one_more(ctx: tractor.Context) -> None:
    """Its clean-up needs a message of the very connection through which it is cancelled."""
    await ctx.started()
    async with ctx.open_stream() as stream:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                STAGE.log.append(await stream.receive())


@tractor.context
async def calls_back(ctx: tractor.Context) -> None:
    """Its clean-up calls its caller."""
    await ctx.started()
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            try:
                await tractor.Portal(ctx.chan).run_from_ns('theirs', 'clean_up')
            except tractor.TransportClosed as closed:
                STAGE.log.append(type(closed))
        STAGE.ended.set()


# -- one task -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('func', 'functype', 'before'),
    [
        ('wait_plain', 'asyncfunc', []),
        ('wait_stream', 'asyncgen', []),
        ('wait_context', 'context', [Started]),
        ('swallow', 'asyncfunc', []),
    ],
)
def test_cancelled_task_tells_before_the_acknowledgement(
    play: Play, func: str, functype: str, before: list[type]
) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        cid = await peer.request(HERE, func)
        assert await peer.recv() == StartAck(cid=cid, functype=functype)
        for kind in before:
            assert isinstance(await peer.recv(), kind)
        await trio.testing.wait_all_tasks_blocked()
        cancel = await peer.request('self', '_cancel_task', cid=cid)
        assert await peer.recv() == StartAck(cid=cancel, functype='asyncfunc')
        error = await peer.recv()
        assert error.cid == cid
        assert dialogs.is_ctxc(error, peer.uid)
        assert await peer.recv() == CancelAck(cid=cancel, pld=True)
        if func != 'swallow':
            assert STAGE.log == ['begun', ('cancelled', peer.uid)]
        await still_serves(root, peer)

    play(main)


def test_cancelled_generator_ends_its_stream(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        cid = await accepted(peer, 'wait_generator', Yield)
        cancel = await peer.request('self', '_cancel_task', cid=cid)
        assert await peer.recv() == StartAck(cid=cancel, functype='asyncfunc')
        assert await peer.recv() == Stop(cid=cid)
        assert await peer.recv() == CancelAck(cid=cancel, pld=True)
        assert STAGE.log == ['begun', ('cancelled', peer.uid)]
        await still_serves(root, peer)

    play(main)


@pytest.mark.parametrize('func', ['wait_plain', 'wait_stream', 'wait_context', 'wait_generator'])
def test_task_can_be_cancelled_before_it_has_begun(play: Play, func: str) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        start = peer.start(HERE, func)
        cancel = peer.start('self', '_cancel_task', cid=start.cid)
        await peer.send(start, cancel)
        seen: list[Any] = []
        while not (seen and isinstance(seen[-1], CancelAck)):
            seen.append(await peer.recv())
        mine = [msg for msg in seen if msg.cid == start.cid]
        assert isinstance(mine[0], StartAck)
        assert (
            isinstance(mine[-1], Stop)
            if func == 'wait_generator'
            else dialogs.is_ctxc(mine[-1], peer.uid)
        )
        assert seen[-2] is mine[-1]
        await still_serves(root, peer)

    play(main)


@pytest.mark.parametrize(
    ('func', 'before', 'boxed'),
    [('fail_when_cancelled', [], 'ValueError'), ('fail_masked', [Started], 'ValueError')],
)
def test_error_of_a_cancelled_task_is_told_as_it_is(
    play: Play, func: str, before: list[type], boxed: str
) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        cid = await accepted(peer, func, *before)
        await peer.send(peer.start('self', '_cancel_task', cid=cid))
        error = await peer.recv_of(cid)
        assert error.boxed_type_str == boxed

    play(main)


def test_task_that_is_unknown_or_over_counts_as_cancelled(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        done = await peer.request(HERE, 'ping')
        await peer.recv()
        await peer.recv()
        for cid in (done, 'never there'):
            ack = await peer.call('self', '_cancel_task', cid=cid)
            assert ack == CancelAck(cid=ack.cid, pld=True)
        await still_serves(root, peer)

    play(main)


def test_task_of_another_connection_is_not_cancelled(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        cid = await accepted(peer, 'until_released')
        async with open_peer(root.accept_addr, 'other') as other:
            ack = await other.call('self', '_cancel_task', cid=cid)
            assert ack == CancelAck(cid=ack.cid, pld=True)
        STAGE.release.set()
        assert await peer.recv() == Return(cid=cid, pld='released')
        await still_serves(root, peer)

    play(main)


def test_cancel_request_cannot_be_cancelled(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        cid = await accepted(peer, 'until_released')
        first = await peer.request('self', '_cancel_task', cid=cid)
        assert isinstance(await peer.recv_of(first), StartAck)
        second = await peer.call('self', '_cancel_task', cid=first)
        assert second == CancelAck(cid=second.cid, pld=True)
        STAGE.release.set()
        assert dialogs.is_ctxc(await peer.recv_of(cid), peer.uid)
        assert await peer.recv_of(first) == CancelAck(cid=first, pld=True)
        await still_serves(root, peer)

    play(main)


@pytest.mark.parametrize(
    ('func', 'kwargs'),
    [
        ('_cancel_task', {}),
        ('_cancel_task', {'cid': ['no', 'id']}),
        ('_cancel_task', {'cid': 'x', 'more': 1}),
        ('cancel', {'more': 1}),
    ],
)
def test_cancel_request_with_wrong_arguments_changes_nothing(
    play: Play, func: str, kwargs: dict[str, Any]
) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        error = await peer.call('self', func, **kwargs)
        assert error.boxed_type_str == 'TypeError'
        assert not root.cancel_called
        await still_serves(root, peer)

    play(main)


def test_cancel_request_may_not_speak_for_others(play: Play) -> None:
    """Who asks, and through which connection, is what the actor knows, not what the request says."""

    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        cid = await accepted(peer, 'wait_plain')
        await peer.request(
            'self', '_cancel_task', cid=cid, requesting_aid=None, parent_chan='x', ipc_msg=3
        )
        assert dialogs.is_ctxc(await peer.recv_of(cid), peer.uid)

    play(main)


# -- no deadlock ----------------------------------------------------------------------------------


def test_cancelled_task_still_gets_its_messages(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        cid = await accepted(peer, 'needs_one_more', Started)
        cancel = await peer.request('self', '_cancel_task', cid=cid)
        assert await peer.recv() == StartAck(cid=cancel, functype='asyncfunc')
        # the connection is read meanwhile
        assert (await peer.call(HERE, 'ping', n=2)).pld == 2
        await peer.send(Yield(cid=cid, pld='the one'))
        error = await peer.recv_of(cid)
        while isinstance(error, Stop):
            error = await peer.recv_of(cid)
        assert dialogs.is_ctxc(error, peer.uid)
        assert await peer.recv_of(cancel) == CancelAck(cid=cancel, pld=True)
        assert STAGE.log == ['the one']
        await still_serves(root, peer)

    play(main)


def test_cancelled_task_may_call_its_caller(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        cid = await accepted(peer, 'calls_back', Started)
        cancel = await peer.request('self', '_cancel_task', cid=cid)
        assert await peer.recv() == StartAck(cid=cancel, functype='asyncfunc')
        call = await peer.recv()
        assert (call.ns, call.func, tuple(call.uid)) == ('theirs', 'clean_up', root.aid.uid)
        await peer.send(StartAck(cid=call.cid, functype='asyncfunc'), Return(cid=call.cid, pld=1))
        assert dialogs.is_ctxc(await peer.recv_of(cid), peer.uid)
        assert await peer.recv_of(cancel) == CancelAck(cid=cancel, pld=True)
        await still_serves(root, peer)

    play(main)


def test_peer_that_goes_away_while_it_is_called_back_is_not_waited_for(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        async with open_peer(root.accept_addr, 'rude') as rude:
            cid = await accepted(rude, 'calls_back', Started)
            await rude.request('self', '_cancel_task', cid=cid)
            assert isinstance(await rude.recv(), StartAck)
            assert (await rude.recv()).func == 'clean_up'
        await STAGE.ended.wait()
        assert STAGE.log == [tractor.TransportClosed]
        await still_serves(root, peer)

    play(main)


def test_peer_that_goes_away_before_its_cancel_request_is_done_is_forgotten(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        async with open_peer(root.accept_addr, 'rude') as rude:
            cid = await accepted(rude, 'until_released')
            await rude.request('self', '_cancel_task', cid=cid)
            assert isinstance(await rude.recv(), StartAck)
        await trio.testing.wait_all_tasks_blocked()
        # while the task itself goes on
        assert rude.uid not in root.ipc_server._peers
        assert len(root._rpc_tasks) == 1
        STAGE.release.set()
        await STAGE.ended.wait()
        await still_serves(root, peer)

    play(main)


# -- callers that go away -------------------------------------------------------------------------


def test_plain_function_outlives_its_caller(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        async with open_peer(root.accept_addr, 'rude') as rude:
            await accepted(rude, 'until_released')
        while rude.uid in root.ipc_server._peers:
            await trio.testing.wait_all_tasks_blocked()
        assert STAGE.log == ['begun']
        STAGE.release.set()
        await STAGE.ended.wait()
        assert STAGE.log == ['begun', 'returned']
        await still_serves(root, peer)

    play(main)


@pytest.mark.parametrize('func', ['wait_context', 'wait_stream', 'wait_generator'])
@pytest.mark.parametrize('how', ['aclose', 'reset'])
def test_dialog_is_cancelled_when_its_caller_goes_away(play: Play, func: str, how: str) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        async with open_peer(root.accept_addr, 'rude') as rude:
            await accepted(rude, func)
            await trio.testing.wait_all_tasks_blocked()
            if how == 'reset':
                rude.reset()
        await STAGE.ended.wait()
        assert STAGE.log == ['begun', ('cancelled', root.aid.uid)]
        await still_serves(root, peer)

    play(main)
