"""
The first words of a connection, as the listening and as the connecting end hear them, with and without a key.

Whatever comes, the listener's handler returns and leaves nothing in any table, and the connecting end gets an identity
or a `TransportClosed`. Who has not proved to have the key learns no more than that there is one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio

from fuzz._actor import FuzzPeer, aid_of, channel, open_actor, socket_pair
from fuzz._choices import Choices
from fuzz._harness import run, watched
from fuzz._script import WAIT, framed, raw, sent, steps
from tractor._exceptions import TransportClosed
from tractor.ipc import _auth
from tractor.ipc._access import KEY_MAGIC
from tractor.ipc._auth import HELLO_SIZE, NONCE_SIZE, PROOF_SIZE, KeyExchange
from tractor.ipc._framing import MAX_FRAME_SIZE, MAX_GREETING_SIZE
from tractor.ipc._server import handle_stream_from_peer
from tractor.msg.types import Aid

KEY = b'a key for fuzzing, 32 bytes long'
OUR_NONCE, THEIR_NONCE = b'o' * NONCE_SIZE, b't' * NONCE_SIZE

_NAMES = ('Aid', 'Aid', 'Aid', 'SpawnSpec', 'Start', 'Error', 'Yield')
_TIMEOUTS = (None, 1.0, 0.0)


def one_input(data: bytes) -> None:
    """Two bytes of options, then how the peer begins, then what it writes."""
    c = Choices(data)
    options = c.byte()
    accepted, keyed = bool(options & 2), bool(options & 4)
    start = _Start(c, accepted) if keyed else None
    timeout = c.pick(_TIMEOUTS)
    pieces = [*(start.pieces if start else ()), *steps(c, _NAMES)]
    with watched(everything=bool(options & 1)), _key_held(keyed):
        meeting = _Meeting(start, pieces, leaves=bool(options & 8))
        if accepted:
            run(meeting.at_listener)
        else:
            run(meeting.at_connector, timeout)


def seeds() -> list[bytes]:
    """Each end, with and without the key, with a good greeting and with others."""
    aid = sent({'msg_type': 'Aid', 'name': 'a', 'uuid': 'b', 'pid': 1})
    probe = sent({'msg_type': 'Aid', 'name': 'a', 'uuid': 'b', 'is_probe': True})
    found = []
    for end in (0, 2, 8, 10):
        found += [bytes([end, 0]) + aid + WAIT + aid, bytes([end, 1]) + probe, bytes([end, 0])]
        found += [
            bytes([end, 0]) + framed(b'\xc1') * 5,
            bytes([end, 0]) + raw(b'AuTr\x01' + bytes(60)),
        ]
        found += [bytes([end | 4, how, 0]) + aid for how in range(8)]
    return found


class _Start:
    """How the peer begins when there is a key: by the book, or not quite."""

    def __init__(self, c: Choices, accepted: bool) -> None:
        us = KeyExchange(KEY, accepted=accepted, nonce=OUR_NONCE)
        peer = KeyExchange(KEY, accepted=not accepted, nonce=THEIR_NONCE)
        stranger = KeyExchange(KEY[::-1], accepted=not accepted, nonce=THEIR_NONCE)
        answers = [_replies(peer, us), _replies(stranger, us)]
        right, wrong = [peer.hello, answers[0]], [stranger.hello, answers[1]]
        how = c.below(8)
        self.proves = how in {0, 1}
        self.pieces: list[bytes | None]
        if how < 2:
            self.pieces = [right[0], None, right[1]] if how else [b''.join(right)]
        elif how == 2:
            self.pieces = [b''.join(wrong)]
        elif how == 3:
            self.pieces = [us.hello, None, right[1]]
        elif how == 4:
            self.pieces = [b''.join(right)[: -1 - c.below(PROOF_SIZE)], None, c.blob()]
        elif how == 5:
            changed = bytearray(b''.join(right))
            changed[c.below(len(changed))] ^= 1 + c.below(255)
            self.pieces = [bytes(changed)]
        elif how == 6:
            self.pieces = [c.blob()]
        else:
            self.pieces = [peer.hello + us.hello[-NONCE_SIZE:]]
        if how == 4 and (b''.join(filter(None, self.pieces)))[
            : HELLO_SIZE + PROOF_SIZE
        ] == b''.join(right):
            self.proves = True


def _replies(peer: KeyExchange, us: KeyExchange) -> bytes:
    """The proof that a peer makes of our hello, which is to be sent once it has it."""
    if not peer._accepted:
        return peer.feed(us.hello)
    peer.feed(us.hello)
    peer._got = b''
    peer._other = OUR_NONCE
    return peer._proof(_auth._LISTENS)


@contextmanager
def _key_held(keyed: bool) -> Iterator[None]:
    """Hold the key, and let our random bytes be the known ones."""

    class Known(KeyExchange):
        def __init__(self, key: bytes, *, accepted: bool) -> None:
            super().__init__(key, accepted=accepted, nonce=OUR_NONCE)

    before, _auth.KeyExchange = _auth.KeyExchange, Known  # type: ignore[misc, assignment]
    try:
        with _auth.current.holding(KEY if keyed else None):
            yield
    finally:
        _auth.KeyExchange = before  # type: ignore[misc]


class _Meeting:
    def __init__(self, start: _Start | None, pieces: list[bytes | None], leaves: bool) -> None:
        self.start = start
        self.pieces = pieces
        self.leaves = leaves
        self.tracked: list[Any] = []

    async def with_peer(self, body: Any) -> FuzzPeer:
        """Run our end of the connection against the peer."""
        with socket_pair() as (ours, theirs):
            peer = FuzzPeer(theirs)
            async with trio.open_nursery() as tn:
                tn.start_soon(peer.listen)
                tn.start_soon(self.play, peer)
                await body(ours)
                assert ours.socket.fileno() == -1, 'the stream is left open'
                tn.cancel_scope.cancel()
            return peer

    async def play(self, peer: FuzzPeer) -> None:
        await peer.say(iter(self.pieces))
        if self.leaves:
            await peer.hang_up()

    async def at_listener(self) -> None:
        async with open_actor() as actor:
            server = actor.ipc_server
            server._track = self.track  # type: ignore[method-assign, assignment]

            async def serve(stream: trio.SocketStream) -> None:
                await handle_stream_from_peer(stream, server=server)

            peer = await self.with_peer(serve)
            assert not server._half_open
            assert not server._peers
            assert not server.has_peers()
            assert not actor.cancel_called
        self.check_heard(peer.heard, accepted=True)

    def track(self, _uid: Any, chan: Any) -> None:
        # who is let in gets no further: the messages of a conversation are another target's
        self.tracked.append(chan.aid)
        chan.transport._lose(TransportClosed('the test ends here'))

    async def at_connector(self, timeout: float | None) -> None:
        # who connects to a listener that says nothing at all waits, unless there is a key
        if timeout is None and self.start is None:
            self.leaves = True

        async def connect(stream: trio.SocketStream) -> None:
            chan = channel(stream)
            chan._accepted = False
            assert chan.transport is not None
            try:
                aid = await chan._do_handshake(aid=aid_of(('me', '1')), timeout=timeout)
            except TransportClosed as closed:
                assert str(closed)
                assert chan.aid is None
                assert chan.transport.max_frame_size in {MAX_GREETING_SIZE, MAX_FRAME_SIZE}
            else:
                self.tracked.append(aid)
                assert chan.aid is aid
                assert chan.transport.max_frame_size == MAX_FRAME_SIZE
                assert repr(chan)
            await chan.aclose()

        if timeout is None and self.start is not None and self.start.proves:
            self.leaves = True
        peer = await self.with_peer(connect)
        self.check_heard(peer.heard, accepted=False)

    def check_heard(self, heard: bytes, accepted: bool) -> None:
        for aid in self.tracked:
            _check_aid(aid)
        if self.start is None:
            return
        if not self.start.proves:
            assert not self.tracked, 'let in without the key'
            # our hello, and where we connect the proof for a listener whose hello was right
            assert len(heard) <= HELLO_SIZE + (0 if accepted else PROOF_SIZE)
        hello = KEY_MAGIC + struct.pack('B', _auth.VERSION) + OUR_NONCE
        assert heard[:HELLO_SIZE] == hello[: len(heard)]


def _check_aid(aid: Any) -> None:
    assert isinstance(aid, Aid)
    assert isinstance(aid.name, str)
    assert isinstance(aid.uuid, str)
    assert repr(aid)
    assert aid.reprol(sin_uuid=False)
    assert hash(aid) == hash(aid.uuid)
    assert aid.uid == (aid.name, aid.uuid)
