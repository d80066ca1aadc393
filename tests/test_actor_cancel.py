"""collaboration: cancellation of a whole actor, asked for by peers that speak the protocol by hand, or by itself."""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

import tractor
from tractor._code_load import load_module_from_path
from tractor._testing import dialogs, run_bounded
from tractor._testing.memory import MemoryAddress
from tractor._testing.peer import RawPeer, open_listener, open_peer
from tractor.discovery._addr import mk_uuid
from tractor.ipc import Channel
from tractor.msg.types import CancelAck, Return, StartAck, Started
from tractor.runtime import _cancel
from tractor.runtime._portal import open_portal

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


async def cancel_own_actor() -> None:
    async with noting():
        with trio.CancelScope(shield=True):
            STAGE.log.append(await tractor.current_actor().cancel(None))
        await trio.sleep_forever()


async def cancel_own_actor_below() -> None:
    async with trio.open_nursery() as tn:
        tn.start_soon(cancel_own_actor)
        await trio.sleep_forever()


async def cancel_own_actor_soon() -> None:
    tractor.current_actor().cancel_soon()
    await trio.sleep_forever()


# -- the whole actor ------------------------------------------------------------------------------


def test_cancelled_root_tells_everybody_and_its_main_task_goes_on(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        assert not root.cancel_called
        async with open_peer(root.accept_addr, 'other') as other:
            theirs = await accepted(other, 'wait_context', Started)
            mine = await accepted(peer, 'wait_plain')
            cancel = await peer.request('self', 'cancel')
            assert await peer.recv() == StartAck(cid=cancel, functype='asyncfunc')
            error = await peer.recv()
            assert error.cid == mine
            assert dialogs.is_ctxc(error, peer.uid)
            assert await peer.recv() == CancelAck(cid=cancel, pld=True)
            assert await peer.wait_closed() == []
            assert dialogs.is_ctxc(await other.recv_of(theirs), peer.uid)
            assert await other.wait_closed() == []
        assert root.cancel_called
        assert root.cancel_complete
        assert root.cancel_caller == peer.aid
        with pytest.raises(OSError):
            async with open_peer(root.accept_addrs[0] if root.accept_addrs else root.reg_addrs[0]):
                pass
        # this task was not cancelled
        await trio.lowlevel.checkpoint()
        assert await root.cancel(None)
        assert root.cancel_caller == peer.aid

    play(main)


def test_first_of_two_cancellers_is_kept_and_both_are_told(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        async with open_peer(root.accept_addr, 'other') as other:
            mine = await accepted(peer, 'until_released')
            first = await peer.request('self', 'cancel')
            assert isinstance(await peer.recv_of(first), StartAck)
            second = await other.request('self', 'cancel')
            assert isinstance(await other.recv_of(second), StartAck)
            again = await peer.request('self', 'cancel')
            assert isinstance(await peer.recv_of(again), StartAck)
            assert root.cancel_caller == peer.aid
            assert not root.cancel_complete
            # cancelling a single task goes on meanwhile, everything else is refused
            ack = await other.call('self', '_cancel_task', cid='none')
            assert ack == CancelAck(cid=ack.cid, pld=True)
            refused = await other.request(HERE, 'ping')
            assert dialogs.is_ctxc(await other.recv_of(refused), peer.uid)
            STAGE.release.set()
            assert dialogs.is_ctxc(await peer.recv_of(mine), peer.uid)
            assert await other.recv_of(second) == CancelAck(cid=second, pld=True)
            assert await peer.recv_of(first) == CancelAck(cid=first, pld=True)
        assert root.cancel_caller == peer.aid

    play(main)


def test_canceller_that_goes_away_stops_nothing(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        mine = await accepted(peer, 'until_released')
        async with open_peer(root.accept_addr, 'other') as other:
            cancel = await other.request('self', 'cancel')
            assert isinstance(await other.recv_of(cancel), StartAck)
        await trio.testing.wait_all_tasks_blocked()
        STAGE.release.set()
        assert dialogs.is_ctxc(await peer.recv_of(mine), other.uid)
        assert await peer.wait_closed() == []
        await root._cancel_complete.wait()
        assert root.cancel_caller == other.aid

    play(main)


@pytest.mark.parametrize('func', ['cancel_own_actor', 'cancel_own_actor_below'])
def test_task_may_cancel_its_own_actor(play: Play, func: str) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        async with open_peer(root.accept_addr, 'other') as other:
            theirs = await accepted(other, 'wait_context', Started)
            mine = await accepted(peer, func)
            assert dialogs.is_ctxc(await other.recv_of(theirs), root.aid.uid)
            assert dialogs.is_ctxc(await peer.recv_of(mine), root.aid.uid)
            assert await peer.wait_closed() == []
        # it went on under its shield: to wait for itself would have taken forever
        assert STAGE.log.count(True) == 1
        assert STAGE.log[-1] == ('cancelled', root.aid.uid)
        assert root.cancel_caller == root.aid

    play(main)


def test_two_tasks_may_cancel_their_own_actor(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        first, second = peer.start(HERE, 'cancel_own_actor'), peer.start(HERE, 'cancel_own_actor')
        await peer.send(first, second)
        for start in (first, second):
            assert isinstance(await peer.recv_of(start.cid), StartAck)
            assert dialogs.is_ctxc(await peer.recv_of(start.cid), root.aid.uid)
        assert await peer.wait_closed() == []

    play(main)


@pytest.mark.parametrize('where', ['in a task', 'in the main task'])
def test_cancel_soon_ends_the_main_task_of_a_root(
    play: Play, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(_cancel.log, 'cancel', lambda text, *args: said.append(text))

    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        if where == 'in a task':
            await peer.request(HERE, 'cancel_own_actor_soon')
        else:
            root.cancel_soon()
        try:
            await trio.sleep_forever()
        finally:
            STAGE.log.append((root.cancel_complete, root.cancel_caller == root.aid))

    play(main)
    assert STAGE.log == [(True, True)]
    assert any('`Actor.cancel_soon()` was called!' in text for text in said)


def test_actor_that_never_ran_can_be_cancelled() -> None:
    async def main() -> None:
        actor = tractor.Actor('nobody', mk_uuid())
        assert await actor.cancel(None) is True
        assert await actor.cancel(None) is True
        assert actor.cancel_caller == actor.aid
        assert actor.cancel_complete
        assert await actor._cancel_task('x', Channel()) is True
        await actor.cancel_rpc_tasks(actor.aid, None)

    run_bounded(main, timeout=5)


def test_only_the_tasks_of_one_connection_are_cancelled(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        async with open_peer(root.accept_addr, 'other') as other:
            theirs = [await accepted(other, 'wait_plain') for _ in range(3)]
            mine = await accepted(peer, 'until_released')
            (chan,) = root.ipc_server._peers[other.uid]
            await root.cancel_rpc_tasks(root.aid, chan)
            for cid in theirs:
                assert dialogs.is_ctxc(await other.recv_of(cid), root.aid.uid)
            assert [cid for _, cid in root._rpc_tasks] == [mine]
            STAGE.release.set()
            assert await peer.recv() == Return(cid=mine, pld='released')
        await still_serves(root, peer)

    play(main)


def test_request_after_the_services_have_ended_is_refused(play: Play) -> None:
    """Over a connection of the main task, which is read on when the listeners are closed."""

    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        async with open_listener(MemoryAddress.get_random().unwrap()) as listener:
            chan = await Channel.from_addr(listener.addr)
            caller = await listener.accept('caller')
            async with caller.stream, trio.open_nursery() as tn:
                tn.start_soon(caller.handshake)
                async with open_portal(chan):
                    root.ipc_server.cancel()
                    await root.ipc_server.wait_for_shutdown()
                    cid = await caller.request(HERE, 'ping')
                    assert dialogs.is_ctxc(await caller.recv(), root.aid.uid)
                    assert root._contexts == root._rpc_tasks == {}
                    assert cid

    play(main)
