"""
Conversations: a real actor, with calls and contexts of its own, against a peer that says anything in any order.

Every call ends with a value or a named error, nothing of any dialog is left, what the actor writes follows the
protocol, and another peer of it notices nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import trio
import trio.testing

from fuzz import _errors, _served
from fuzz._actor import PEER, SERVED, FuzzPeer, channel, open_actor, socket_pair
from fuzz._choices import Choices
from fuzz._harness import run, the_error, watched
from fuzz._script import WAIT, frame, framed, raw, sent, steps
from fuzz._values import encode
from tractor import Portal
from tractor._exceptions import RemoteActorError
from tractor.ipc import Channel
from tractor.ipc._server import _serve_peer
from tractor.msg.types import CancelAck, Return, Start, StartAck, mk_msg_spec

_DECODER: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(mk_msg_spec(Any)[0])

_NAMES = (
    'Start',
    'Start',
    'Start',
    'StartAck',
    'Started',
    'Yield',
    'Stop',
    'Return',
    'Error',
    'CancelAck',
    'Yield',
    'Aid',
)
_FRIEND = ('friend', '3')

# calls of our own at a time
_MAX_CALLS = 4


def one_input(data: bytes) -> None:
    """Two bytes of options, our own calls, then what the peer writes."""
    c = Choices(data)
    options = c.byte()
    calls = [c.pick(_CALLS) for _ in range(c.below(_MAX_CALLS + 1))]
    with watched(everything=bool(options & 1)):
        talk = _Talk(calls, list(steps(c, _NAMES)), leaves=bool(options & 2))
        run(talk.main)


def seeds() -> list[bytes]:
    """Each kind of call, answered as it should be, and each kind of request."""
    found = []
    starts = [
        _start(func) for func in ('echo', 'fail', 'numbers', 'talk', 'answer_all', 'typed', 'hang')
    ]
    starts += [_start('cancel', ns='self'), _start('_cancel_task', ns='self', cid='c2')]
    item, stop = {'msg_type': 'Yield', 'cid': 'c0', 'pld': 1}, {'msg_type': 'Stop', 'cid': 'c0'}
    for start in starts:
        found += [b'\0\0' + sent(start), b'\2\0' + sent(start) + sent(item) * 3 + sent(stop)]
    found.append(b'\0\0' + sent(starts[3]) + sent(item) * 100 + WAIT + sent(stop))
    for number in range(len(_CALLS)):
        for kind in ('asyncfunc', 'context', 'asyncgen'):
            ack = {'msg_type': 'StartAck', 'cid': 'c0', 'functype': kind}
            first, last = (
                {'msg_type': name, 'cid': 'c0', 'pld': 2} for name in ('Started', 'Return')
            )
            head = bytes([2, 1, number]) + WAIT + sent(ack)
            found.append(head + sent(first) + sent(item) * 2 + WAIT + sent(stop) + sent(last))
            found.append(head + sent(last))
            found.append(head + sent(first) + WAIT + sent(item) * 100)
            found.append(head + sent({'msg_type': 'CancelAck', 'cid': 'c0', 'pld': True}))
    error = {
        'msg_type': 'Error',
        'src_uid': list(PEER),
        'src_type_str': 'ValueError',
        'boxed_type_str': 'ValueError',
        'relay_path': [list(PEER)],
        'tb_str': 'tb',
        'cid': 'c0',
    }
    overrun = {**error, 'boxed_type_str': 'StreamOverrun', 'sender': ['me', '1']}
    for made in (error, overrun, {**error, 'cid': None}):
        found += [bytes([2, 1, number]) + WAIT + sent(made) for number in range(len(_CALLS))]
    rooms: list[Any] = [40, 'abc', None, 0, {}]
    found += map(_answered_room, rooms)
    return [*found, b'\0\0' + raw(frame(encode(item))[:7]), b'\0\1\1' + framed(b'\xc1') * 5]


def _answered_room(room: Any) -> bytes:
    """A stream with back-pressure, and what the peer says of its room."""
    ack = {'msg_type': 'StartAck', 'cid': 'c0', 'functype': 'context'}
    made = bytes([2, 1, _CALLS.index(_talk_politely)]) + WAIT + sent(ack)
    made += sent({'msg_type': 'Started', 'cid': 'c0', 'pld': 1}) + WAIT
    for cid in ('c1', 'c2', 'c3'):
        answer = {'msg_type': 'Return', 'cid': cid, 'pld': room}
        made += sent({**ack, 'cid': cid, 'functype': 'asyncfunc'}) + sent(answer) + WAIT
    return made


def _start(func: str, ns: str = SERVED, **kwargs: Any) -> dict[str, Any]:
    return {
        'msg_type': 'Start',
        'cid': 'c0',
        'ns': ns,
        'func': func,
        'kwargs': kwargs,
        'uid': list(PEER),
    }


# --- calls of our own


async def _call(portal: Portal) -> None:
    await portal.run(_served.echo, value=1)


async def _talk(portal: Portal) -> None:
    async with (
        portal.open_context(_served.talk, value='x') as (ctx, _first),
        ctx.open_stream() as stream,
    ):
        await stream.send(1)
        async for _ in stream:
            pass


async def _talk_politely(portal: Portal) -> None:
    async with (
        portal.open_context(_served.talk) as (ctx, _first),
        ctx.open_stream(backpressure=True) as stream,
    ):
        for number in range(70):
            await stream.send(number)


async def _talk_typed(portal: Portal) -> None:
    async with portal.open_context(_served.typed, value=1) as (ctx, first):
        assert first is None or isinstance(first, int)
        async with ctx.open_stream() as stream:
            assert isinstance(await stream.receive(), int | None)
        result = await ctx.wait_for_result()
        assert result is None or isinstance(result, int)


async def _do_not_read(portal: Portal) -> None:
    async with portal.open_context(_served.answer_all) as (ctx, _first):
        await ctx.wait_for_result()


async def _cancel_context(portal: Portal) -> None:
    async with portal.open_context(_served.talk) as (ctx, _first):
        await ctx.cancel()


async def _read_numbers(portal: Portal) -> None:
    async with portal.open_stream_from(_served.numbers) as stream:
        async for _ in stream:
            pass


async def _read_some(portal: Portal) -> None:
    async with portal.open_stream_from(_served.stream_some) as stream:
        await stream.receive()


async def _cancel_actor(portal: Portal) -> None:
    assert isinstance(await portal.cancel_actor(), bool)


async def _give_up(portal: Portal) -> None:
    with trio.move_on_after(1):
        await portal.run(_served.hang)


_CALLS: tuple[Callable[[Portal], Awaitable[None]], ...] = (
    _call,
    _talk,
    _talk_politely,
    _talk_typed,
    _do_not_read,
    _cancel_context,
    _read_numbers,
    _read_some,
    _cancel_actor,
    _give_up,
)


# --- both sides


class _Talk:
    def __init__(
        self,
        calls: list[Callable[[Portal], Awaitable[None]]],
        pieces: list[bytes | None],
        leaves: bool,
    ) -> None:
        self.calls = calls
        self.pieces = pieces
        self.leaves = leaves

    async def main(self) -> None:
        async with open_actor() as actor:
            with socket_pair() as (ours, theirs), socket_pair() as (for_friend, friend):
                tn = actor._service_tn
                assert tn is not None
                served = [channel(ours, PEER), channel(for_friend, _FRIEND)]
                for chan in served:
                    tn.start_soon(self.serve, chan, actor)
                peer = FuzzPeer(theirs)
                async with trio.open_nursery() as talk:
                    talk.start_soon(peer.listen)
                    for call in self.calls:
                        talk.start_soon(self.call, call, Portal(served[0]))
                    await peer.say(iter(self.pieces))
                    await trio.testing.wait_all_tasks_blocked()
                    if not actor.cancel_called:
                        await _check_friend(friend)
                    await self.end(peer)
                cancelled = actor.cancel_called
                assert not any(ctx.is_requester for ctx in actor._contexts.values()), (
                    'a call is left'
                )
                tn.cancel_scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert cancelled or not actor.cancel_called
        assert not actor._contexts
        assert not actor._rpc_tasks
        assert not actor.ipc_server._peers
        _check_said(peer.heard)

    async def serve(self, chan: Channel, actor: Any) -> None:
        """As the listener does once the peer has said who it is."""
        try:
            assert chan.aid is not None
            await _serve_peer(chan, chan.aid, actor, actor.ipc_server)
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(chan.stream)

    async def end(self, peer: FuzzPeer) -> None:
        await peer.hang_up()
        if self.leaves:
            await trio.testing.wait_all_tasks_blocked()
            await peer.stream.aclose()

    async def call(self, call: Callable[[Portal], Awaitable[None]], portal: Portal) -> None:
        try:
            await call(portal)
        except Exception as err:
            error = the_error(err)
            if not _errors.is_named(error):
                raise
            assert str(error) or repr(error)
            if isinstance(error, RemoteActorError):
                _errors.check(error)


async def _check_friend(stream: trio.SocketStream) -> None:
    """Somebody else calls, and is answered, or told that the actor goes down."""
    ask = Start(cid='f', ns=SERVED, func='echo', kwargs={'value': 7}, uid=_FRIEND)
    await stream.send_all(frame(msgspec.msgpack.encode(ask)))
    heard = b''
    while len(msgs := _messages(heard)[0]) < 2:
        data = await stream.receive_some(1 << 16)
        assert data, 'the connection of somebody else was closed'
        heard += data
    assert msgs == [StartAck(cid='f', functype='asyncfunc'), Return(cid='f', pld=7)]


def _messages(stream: bytes) -> tuple[list[Any], bytes]:
    msgs = []
    while len(stream) >= 4:
        end = 4 + int.from_bytes(stream[:4], 'little')
        if len(stream) < end:
            break
        msgs.append(_DECODER.decode(stream[4:end]))
        stream = stream[end:]
    return msgs, stream


def _check_said(stream: bytes) -> None:
    """What the actor wrote: valid messages, and for each request at most one outcome, after its acceptance."""
    accepted: Counter[str] = Counter()
    for msg in _messages(stream)[0]:
        if isinstance(msg, StartAck):
            accepted[msg.cid] += 1
        elif isinstance(msg, Return | CancelAck):
            accepted[msg.cid] -= 1
            assert accepted[msg.cid] >= 0, msg
