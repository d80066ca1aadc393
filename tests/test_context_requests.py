"""collaboration: the child side of a dialog against a peer that asks and sends whatever it likes.

The connection is real; the peer is a task of the test.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

import tractor
from tractor._code_load import load_module_from_path
from tractor._context import Unresolved
from tractor.msg._errors import pack_error
from tractor.msg.types import CancelAck, Return, StartAck, Started, Stop, Yield

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


def test_messages_for_nothing_do_no_harm(evil: Any) -> None:
    async def body(peer: Any) -> None:
        await peer.say(
            Yield(cid='none', pld=1),
            Return(cid='none', pld=1),
            Started(cid='none', pld=1),
            Stop(cid='none'),
            StartAck(cid='none', functype='context'),
            CancelAck(cid='none', pld=True),
            pack_error(ValueError(), cid='none'),
        )
        await peer.settle()

    evil(body)


def test_messages_which_only_the_child_side_sends(evil: Any) -> None:
    async def body(peer: Any) -> None:
        await peer.say(peer.ask(peers.idle))
        await peer.hear(StartAck)
        await peer.hear(Started)
        (ctx,) = peer.actor._contexts.values()
        await peer.say(
            StartAck(cid='mine', functype='context'),
            Started(cid='mine', pld=1),
            Return(cid='mine', pld=1),
            CancelAck(cid='mine', pld=True),
        )
        await peer.settle()
        assert ctx._dialog.phase == 'running'
        assert ctx._result is Unresolved
        assert not ctx.has_outcome

    evil(body)


def test_a_request_with_an_id_in_use(evil: Any) -> None:
    """Neither a dialog of theirs nor one of ours is touched by it."""

    async def body(peer: Any) -> None:
        await peer.say(peer.ask(peers.idle), peer.ask(peers.give))
        heard = [await peer.chan.recv() for _ in range(3)]
        assert [type(msg).__name__ for msg in heard if msg.cid == 'mine'] in (
            ['StartAck', 'Error', 'Started'],
            ['StartAck', 'Started', 'Error'],
            ['Error', 'StartAck', 'Started'],
        )
        assert await running() == ['idle']

        async def answer() -> None:
            cid = await peer.accept(lambda cid: Started(cid=cid, pld=None))
            await peer.say(peer.ask(peers.give, cid=cid))
            await peer.hear(type(heard[1]))
            await peer.say(Return(cid=cid, pld='ours'))

        async with trio.open_nursery() as tn:
            tn.start_soon(answer)
            async with peer.portal.open_context(peers.give) as (ctx, _):
                assert await ctx.wait_for_result() == 'ours'
            assert ctx.side == 'parent'

    async def running() -> list[str]:
        calls = tractor.current_actor()._rpc_tasks.values()
        return [func.__name__ for _, func, _ in calls]

    evil(body)


def test_a_flood(evil: Any) -> None:
    """What waits unread stays within its bounds, and one complaint is enough."""

    async def body(peer: Any) -> None:
        await peer.say(peer.ask(peers.idle))
        await peer.hear(StartAck)
        await peer.hear(Started)
        (ctx,) = peer.actor._contexts.values()
        for count in range(100):
            await peer.say(*[Yield(cid='mine', pld=count * 100 + i) for i in range(100)])
        complaint = await peer.chan.recv()
        assert complaint.boxed_type_str == 'StreamOverrun'
        assert tuple(complaint.sender) == peer.aid.uid
        assert 'no stream' in complaint.message
        await peer.settle()
        assert len(ctx._rx_chan) == 64
        assert [msg.pld for msg in ctx._rx_chan._items] == [_raw(i) for i in range(64)]

    evil(body)


def _raw(value: int) -> Any:
    return msgspec.Raw(msgspec.msgpack.encode(value))


def test_sixty_four_are_fine(evil: Any) -> None:
    async def body(peer: Any) -> None:
        await peer.say(peer.ask(peers.idle))
        await peer.hear(StartAck)
        await peer.hear(Started)
        await peer.say(*[Yield(cid='mine', pld=i) for i in range(64)])
        await peer.settle()
        await peer.say(Yield(cid='mine', pld=64))
        assert (await peer.chan.recv()).boxed_type_str == 'StreamOverrun'

    evil(body)


def test_a_request_in_another_name(evil: Any) -> None:
    async def body(peer: Any) -> None:
        start = peer.ask(peers.give)
        start.uid = ('root', 'x')
        await peer.say(start)
        refusal = await peer.chan.recv()
        assert (refusal.cid, refusal.boxed_type_str) == ('mine', 'RuntimeError')
        await peer.settle()

    evil(body)
