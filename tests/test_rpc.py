"""collaboration: requests to a real root actor, made by a peer that speaks the wire protocol by hand.

What is answered to which request, in which order, and what the actor keeps of it. All in one process.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

import tractor
from tractor._testing import dialogs
from tractor._testing.dialogs import shown, was_refused
from tractor._testing.peer import RawPeer, frame, open_peer, play_with_peer
from tractor.discovery._addr import mk_uuid
from tractor.msg.types import (
    CancelAck,
    Error,
    Return,
    SpawnSpec,
    Start,
    StartAck,
    Started,
    Stop,
    Yield,
)

Play = Callable[[Callable[[tractor.Actor, RawPeer], Awaitable[None]]], None]

HERE = __name__

still_serves = functools.partial(dialogs.still_serves, ns=HERE)
whole_dialog = functools.partial(dialogs.whole_dialog, ns=HERE)

CONSTANT = 3


@pytest.fixture
def play(tpt_proto: str, reg_addr: Any) -> Play:
    """Run `main(root, peer)` with a root that exposes this module and a peer connected to it."""
    return functools.partial(play_with_peer, module=HERE, reg_addr=reg_addr, tpt_proto=tpt_proto)


# -- endpoints ------------------------------------------------------------------------------------


async def ping(n: int = 0) -> int:
    return n


async def slow_ping(n: int = 0) -> int:
    await trio.lowlevel.checkpoint()
    return n


def lazy(n: int = 0) -> Awaitable[int]:
    """Returns a coroutine, but is no coroutine function."""
    return ping(n)


def logged(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await func(*args, **kwargs)

    return wrapper


@logged
async def decorated(n: int) -> int:
    return n + 1


async def count(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


@inspect.markcoroutinefunction
def proxied_count(n: int) -> AsyncIterator[int]:
    """A generator behind a decorator that calls it a coroutine function."""
    return count(n)


@tractor.stream
async def send_all(stream: tractor.Context, n: int) -> None:
    for i in range(n):
        await stream.chan.send(Yield(cid=stream.cid, pld=i))


@tractor.context
async def add_one(ctx: tractor.Context, n: int) -> int:
    await ctx.started('up')
    return n + 1


@tractor.context
async def double_all(renamed: tractor.Context) -> str:
    await renamed.started()
    async with renamed.open_stream() as stream:
        async for item in stream:
            await stream.send(2 * item)
    return 'done'


async def takes_anything(**kwargs: Any) -> None:
    await kwargs['ctx'].chan.send(Yield(cid=kwargs['ctx'].cid, pld=sorted(kwargs)))


takes_anything._tractor_stream_function = True  # type: ignore[attr-defined]


async def takes_stream(stream: Any) -> None:
    await stream.chan.send(Yield(cid=stream.cid, pld='as stream'))


takes_stream._tractor_stream_function = True  # type: ignore[attr-defined]


# -- requests which are refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ('ns', 'func', 'kwargs', 'boxed'),
    [
        ('no.such.module', 'ping', {}, 'ModuleNotExposed'),
        ('os', 'getpid', {}, 'ModuleNotExposed'),
        (HERE, 'no_such_function', {}, 'AttributeError'),
        (HERE, 'CONSTANT', {}, 'TypeError'),
        (HERE, 'was_refused', {}, 'TypeError'),
        (HERE, 'lazy', {'n': 1}, 'TypeError'),
        (HERE, 'ping', {'m': 1}, 'TypeError'),
        (HERE, 'count', {}, 'TypeError'),
        (HERE, 'send_all', {}, 'TypeError'),
        (HERE, 'add_one', {}, 'TypeError'),
        ('self', 'no_such_method', {}, 'AttributeError'),
        ('self', 'cancel_soon', {}, 'AttributeError'),
        ('self', 'cancel_rpc_tasks', {'req_aid': None}, 'AttributeError'),
        ('self', 'load_modules', {}, 'AttributeError'),
        ('self', '__init__', {'name': 'x', 'uuid': 'y'}, 'AttributeError'),
        ('self', 'find_actor', {'nom': 'x'}, 'TypeError'),
    ],
)
def test_refused_request_is_answered_by_an_error_only(
    play: Play, ns: str, func: str, kwargs: dict[str, Any], boxed: str
) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        cid = await peer.request(ns, func, **kwargs)
        error = await peer.recv()
        assert was_refused(error, cid, boxed)
        assert error.src_uid == root.aid.uid
        await still_serves(root, peer)

    play(main)


def test_refused_module_names_the_cure(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        await peer.request('os', 'getpid')
        error = await peer.recv()
        assert "enable_modules=['os']" in error.tb_str

    play(main)


def test_request_in_the_name_of_somebody_else_is_refused(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        for ns, func in ((HERE, 'ping'), ('self', 'cancel'), ('self', '_cancel_task')):
            msg = peer.start(ns, func)
            msg.uid = root.aid.uid
            await peer.send(msg)
            assert was_refused(await peer.recv(), msg.cid, 'RuntimeError')
        assert not root.cancel_called
        await still_serves(root, peer)

    play(main)


def test_id_of_a_running_dialog_is_refused(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        first = peer.start(HERE, 'double_all')
        await peer.send(first)
        assert await peer.recv() == StartAck(cid=first.cid, functype='context')
        assert isinstance(await peer.recv(), Started)
        second = Start(cid=first.cid, ns=HERE, func='ping', kwargs={}, uid=peer.uid)
        await peer.send(second)
        assert was_refused(await peer.recv(), first.cid, 'RuntimeError')
        # the first one is not harmed
        await peer.send(Yield(cid=first.cid, pld=4), Stop(cid=first.cid))
        assert await peer.recv() == Yield(cid=first.cid, pld=8)
        assert await peer.recv() == Return(cid=first.cid, pld='done')
        await still_serves(root, peer)

    play(main)


# -- messages which do not belong here ------------------------------------------------------------


@pytest.mark.parametrize(
    'msg',
    [
        tractor.msg.types.Aid(name='x', uuid='y'),
        SpawnSpec(
            _parent_main_data={}, _runtime_vars={}, enable_modules={}, reg_addrs=[], bind_addrs=None
        ),
    ],
    ids=['Aid', 'SpawnSpec'],
)
def test_boot_message_in_mid_conversation_drops_the_connection(play: Play, msg: Any) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        await still_serves(root, peer)
        assert root.ipc_server._peers[peer.uid]
        await peer.send(msg)
        assert await peer.wait_closed() == []
        await trio.testing.wait_all_tasks_blocked()
        assert peer.uid not in root.ipc_server._peers
        async with open_peer(root.accept_addr, 'other') as other:
            await still_serves(root, other)

    play(main)


def test_messages_of_unknown_dialogs_are_dropped(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        cid = mk_uuid()
        await peer.send(
            StartAck(cid=cid, functype='asyncfunc'),
            Started(cid=cid, pld=1),
            Yield(cid=cid, pld=1),
            Stop(cid=cid),
            Return(cid=cid, pld=1),
            CancelAck(cid=cid, pld=True),
            Error(
                src_uid=peer.uid,
                src_type_str='ValueError',
                boxed_type_str='ValueError',
                relay_path=[],
                cid=cid,
            ),
        )
        await still_serves(root, peer)

    play(main)


def test_messages_a_caller_may_not_send_are_dropped(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        cid = await peer.request(HERE, 'double_all')
        await peer.recv()
        await peer.recv()
        await peer.send(
            StartAck(cid=cid, functype='asyncfunc'),
            Started(cid=cid, pld=1),
            Return(cid=cid, pld=1),
            CancelAck(cid=cid, pld=True),
            Yield(cid=cid, pld=5),
            Stop(cid=cid),
        )
        assert await peer.recv() == Yield(cid=cid, pld=10)
        assert await peer.recv() == Return(cid=cid, pld='done')
        await still_serves(root, peer)

    play(main)


def test_error_without_dialog_ends_the_connection_only(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        await still_serves(root, peer)
        (chan,) = root.ipc_server._peers[peer.uid]
        await peer.send(
            Error(
                src_uid=peer.uid,
                src_type_str='ImportError',
                boxed_type_str='ImportError',
                relay_path=[peer.uid],
                message='no module',
            )
        )
        assert await peer.wait_closed() == []
        assert isinstance(chan._exc, tractor.RemoteActorError)
        assert chan._exc.boxed_type is ImportError
        # whoever calls through that connection now is told why it ended
        with pytest.raises(tractor.RemoteActorError) as raised:
            await tractor.Portal(chan).run(ping)
        assert raised.value is chan._exc
        async with open_peer(root.accept_addr, 'other') as other:
            await still_serves(root, other)

    play(main)


def test_frame_that_is_no_message_is_answered_where_it_names_a_dialog(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        bad = {'msg_type': 'Start', 'cid': 'some-id', 'ns': 3}
        await peer.send_bytes(frame(msgspec.msgpack.encode(bad)))
        assert was_refused(await peer.recv(), 'some-id', 'MsgTypeError')
        for body in ({'msg_type': 'Nonsense'}, ['no', 'map'], 7):
            await peer.send_bytes(frame(msgspec.msgpack.encode(body)))
        await still_serves(root, peer)

    play(main)


# -- kinds of functions ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('func', 'kwargs', 'expected'),
    [
        ('ping', {'n': 4}, [('StartAck', 'asyncfunc'), ('Return', 4)]),
        ('ping', {}, [('StartAck', 'asyncfunc'), ('Return', 0)]),
        ('slow_ping', {'n': None}, [('StartAck', 'asyncfunc'), ('Return', None)]),
        ('decorated', {'n': 1}, [('StartAck', 'asyncfunc'), ('Return', 2)]),
        (
            'count',
            {'n': 2},
            [('StartAck', 'asyncgen'), ('Yield', 0), ('Yield', 1), ('Stop', None)],
        ),
        ('count', {'n': 0}, [('StartAck', 'asyncgen'), ('Stop', None)]),
        ('proxied_count', {'n': 1}, [('StartAck', 'asyncgen'), ('Yield', 0), ('Stop', None)]),
        ('send_all', {'n': 1}, [('StartAck', 'asyncgen'), ('Yield', 0), ('Stop', None)]),
        (
            'takes_anything',
            {'x': 1},
            [('StartAck', 'asyncgen'), ('Yield', ['ctx', 'x']), ('Stop', None)],
        ),
        (
            'takes_stream',
            {},
            [('StartAck', 'asyncgen'), ('Yield', 'as stream'), ('Stop', None)],
        ),
        ('add_one', {'n': 1}, [('StartAck', 'context'), ('Started', 'up'), ('Return', 2)]),
    ],
)
def test_dialog_of_each_kind(
    play: Play, func: str, kwargs: dict[str, Any], expected: list[Any]
) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        assert shown(await whole_dialog(peer, func, **kwargs)) == expected
        await still_serves(root, peer)

    play(main)


# -- order ----------------------------------------------------------------------------------------


def test_requests_of_one_write_are_accepted_in_order(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        msgs = [peer.start(HERE, ('ping', 'slow_ping', 'no_such')[i % 3], n=i) for i in range(300)]
        await peer.send(*msgs)
        first: list[str] = []
        outcomes: dict[str, Any] = {}
        while len(outcomes) < len(msgs):
            msg = await peer.recv()
            if msg.cid not in first:
                first.append(msg.cid)
            if not isinstance(msg, StartAck):
                assert msg.cid not in outcomes
                outcomes[msg.cid] = msg
        assert first == [msg.cid for msg in msgs]
        for i, msg in enumerate(msgs):
            if i % 3 < 2:
                assert outcomes[msg.cid] == Return(cid=msg.cid, pld=i)
            else:
                assert was_refused(outcomes[msg.cid], msg.cid, 'AttributeError')
        await still_serves(root, peer)

    play(main)


def test_messages_may_follow_their_request_at_once(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        start = peer.start(HERE, 'double_all')
        items = [Yield(cid=start.cid, pld=i) for i in range(20)]
        await peer.send(start, *items, Stop(cid=start.cid))
        assert await peer.recv() == StartAck(cid=start.cid, functype='context')
        assert await peer.recv() == Started(cid=start.cid, pld=None)
        for i in range(20):
            assert await peer.recv() == Yield(cid=start.cid, pld=2 * i)
        assert await peer.recv() == Return(cid=start.cid, pld='done')
        await still_serves(root, peer)

    play(main)


def test_request_in_single_bytes_is_served(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        msg = peer.start(HERE, 'ping', n=6)
        for byte in frame(msgspec.msgpack.encode(msg)):
            await peer.send_bytes(bytes([byte]))
        assert await peer.recv() == StartAck(cid=msg.cid, functype='asyncfunc')
        assert await peer.recv() == Return(cid=msg.cid, pld=6)
        await still_serves(root, peer)

    play(main)
