"""
Messages: any bytes, in any pieces, into the transport over a real socket, against one that decodes frame by frame.

The reader never waits for what does not come and raises nothing but `TransportClosed`. It yields the same messages,
whether it is cancelled at times or not; one that breaks the spec comes as a `MsgTypeError` that can be shown and sent.
"""

from __future__ import annotations

from typing import Any

import msgspec
import trio
import trio.testing

from fuzz import _errors
from fuzz._actor import channel, socket_pair
from fuzz._choices import Choices
from fuzz._harness import run, watched
from fuzz._script import WAIT, frame, framed, raw, sent, steps
from fuzz._values import encode
from tractor._exceptions import MsgTypeError, RemoteActorError, TransportClosed
from tractor.ipc import Channel
from tractor.ipc._framing import MAX_FRAME_SIZE, MAX_GREETING_SIZE
from tractor.ipc._transport import _MAX_GARBAGE
from tractor.msg import _codec
from tractor.msg._errors import unpack_error
from tractor.msg._ops import PldRx
from tractor.msg.types import Aid, Error, Return, Started, Yield

_CODEC = _codec._def_tractor_codec
_LIMITS = (MAX_FRAME_SIZE, MAX_GREETING_SIZE, 100, 1 << 17)
_NOT_MSGPACK = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_SPECS = (Any, int, str | None, dict[str, Any], list[int], bytes, float, None)


def one_input(data: bytes) -> None:
    """One byte of options, then what the peer writes."""
    c = Choices(data)
    options = c.byte()
    with watched(everything=bool(options & 1)):
        reading = _Reading(limit=c.pick(_LIMITS), cancels=bool(options & 2), spec=c.pick(_SPECS))
        run(reading.main, list(steps(c)))


def seeds() -> list[bytes]:
    """Messages of every kind, and what is none."""
    aid = {'msg_type': 'Aid', 'name': 'a', 'uuid': 'b', 'pid': 1}
    item = {'msg_type': 'Yield', 'cid': 'c0', 'pld': {'a': [1, 'x', None]}}
    error = {
        'msg_type': 'Error',
        'src_uid': ['a', 'b'],
        'src_type_str': 'ValueError',
        'boxed_type_str': 'ValueError',
        'relay_path': [['a', 'b']],
        'tb_str': 'tb',
        'cid': 'c0',
    }
    head = bytes(3)
    return [
        head + sent(aid) + sent(item) + WAIT + sent(error),
        b'\x03\0\0' + sent(item) * 3 + WAIT + raw(frame(encode(item))[:9]) + WAIT + raw(b'\xff'),
        b'\0\0\x01' + sent(item) + sent({**item, 'msg_type': 'Return'}),
        head + sent([1]) + sent({}) + sent({'msg_type': 'Nonsense'}) + sent({'msg_type': 'Yield'}),
        head + framed(b'\xc1') * 5,
        b'\0\x02\0' + raw(b'\xff\xff\xff\xff'),
        head + bytes([12, 0, 0, 3, 0]) + bytes([13, 255, 127, 0, 0]),
        *[head + bytes([kind, kind]) for kind in range(10)],
        bytes(200),
    ]


class _Reading:
    def __init__(self, limit: int, cancels: bool, spec: Any) -> None:
        self.limit, self.cancels, self.spec = limit, cancels, spec
        self.scope = trio.CancelScope()
        self.items: list[Any] = []

    async def main(self, pieces: list[bytes | None]) -> None:
        with socket_pair() as (ours, theirs):
            chan = channel(ours, ('peer', '2'))
            assert chan.transport is not None
            chan.transport.max_frame_size = self.limit
            async with trio.open_nursery() as tn:
                tn.start_soon(self.write, theirs, pieces)
                await self.read(chan)
                # a refused peer may still be writing
                tn.cancel_scope.cancel()
            await self.check_closed(chan)
        self.compare(b''.join(piece for piece in pieces if piece is not None))
        for item in self.items:
            self.examine(item, chan)

    async def write(self, stream: trio.SocketStream, pieces: list[bytes | None]) -> None:
        for piece in pieces:
            if piece is not None:
                await stream.send_all(piece)
                continue
            await trio.testing.wait_all_tasks_blocked()
            if self.cancels:
                self.scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
        await stream.send_eof()

    async def read(self, chan: Channel) -> None:
        while True:
            with trio.CancelScope() as self.scope:
                try:
                    self.items.append(await chan.recv())
                except TransportClosed as closed:
                    assert str(closed)
                    assert repr(closed)
                    return

    async def check_closed(self, chan: Channel) -> None:
        assert not chan.connected()
        for again in (chan.recv, lambda: chan.send(Aid(name='x', uuid='y'))):
            try:
                await again()
            except TransportClosed:
                continue
            raise AssertionError('a lost channel works')

    def compare(self, stream: bytes) -> None:
        """With what a decoder makes of the frames one by one."""
        expected: list[Any] = []
        garbage = 0
        for body in _bodies(stream, self.limit):
            try:
                expected.append(_CODEC.decode(body))
            except msgspec.ValidationError:
                expected.append(MsgTypeError)
            except _NOT_MSGPACK:
                garbage += 1
                if garbage > _MAX_GARBAGE:
                    break
        assert len(self.items) == len(expected)
        for item, wanted in zip(self.items, expected, strict=True):
            if wanted is MsgTypeError:
                assert type(item) is MsgTypeError
            else:
                assert type(item) is type(wanted)
                assert _CODEC.encode(item) == _CODEC.encode(wanted)

    def examine(self, item: Any, chan: Channel) -> None:
        if isinstance(item, MsgTypeError):
            _errors.check(item)
            _errors.check_relay(item)
            item = _CODEC.decode(_CODEC.encode(chan.as_msg(item)))
            assert isinstance(item, Error)
        if isinstance(item, Error):
            error = unpack_error(item, chan)
            assert error is not None
            _errors.check(error)
            _errors.check_relay(error)
        elif isinstance(item, Started | Yield | Return):
            self.examine_payload(item)
        assert repr(item)

    def examine_payload(self, msg: Any) -> None:
        receiver = PldRx()
        receiver.set_spec(self.spec) if self.spec is not None else None
        try:
            value = receiver.decode(msg)
        except RemoteActorError as err:
            assert type(err) is MsgTypeError
            _errors.check(err)
            _errors.check_relay(err)
        else:
            assert repr(value)


def _bodies(stream: bytes, limit: int) -> list[bytes]:
    bodies, at = [], 0
    while len(stream) - at >= 4:
        size = int.from_bytes(stream[at : at + 4], 'little')
        if size > limit or at + 4 + size > len(stream):
            break
        bodies.append(stream[at + 4 : at + 4 + size])
        at += 4 + size
    return bodies
