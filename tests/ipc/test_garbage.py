"""collaboration: whatever arrives at the listener of a live actor, nobody else is harmed by it."""

from __future__ import annotations

import contextlib
import random
import re
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

import tractor
from tractor._testing import run_bounded
from tractor._testing.peer import RawPeer, connect_stream, frame, open_peer
from tractor.ipc import _connect_chan, _server
from tractor.ipc._framing import FrameWriter
from tractor.msg.types import Aid, Return, Yield
from tractor.runtime import _rpc

HERE = __name__

# connections that say nothing: more than the actor keeps
SILENT = 300

encode = msgspec.msgpack.encode

Play = Callable[[Callable[[tractor.Actor, RawPeer], Awaitable[None]]], None]


async def ping(n: int = 0) -> int:
    return n


@pytest.fixture
def play(
    reg_addr: Any, tpt_proto: str, start_method: Any, caplog: pytest.LogCaptureFixture
) -> Play:
    """Run `main(root, friend)`, the friend being a peer that is connected before; then all is as it was."""
    caplog.set_level('RUNTIME', logger='tractor.ipc')

    def run(main: Callable[[tractor.Actor, RawPeer], Awaitable[None]]) -> None:
        async def all_of_it() -> None:
            async with (
                tractor.open_root_actor(
                    enable_transports=[tpt_proto],
                    registry_addrs=[reg_addr],
                    enable_modules=[HERE],
                    start_method=start_method,
                    loglevel='critical',
                ) as root,
                open_peer(root.accept_addr, 'friend') as friend,
            ):
                await check_ping(friend)
                peers = dict(root.ipc_server._peers)
                await main(root, friend)
                await check_unharmed(root, friend, peers)

        run_bounded(all_of_it, timeout=20)

    return run


async def check_ping(peer: RawPeer) -> None:
    reply = await peer.call(HERE, 'ping', n=7)
    assert isinstance(reply, Return)
    assert reply.pld == 7


async def check_unharmed(root: tractor.Actor, friend: RawPeer, peers: dict[Any, Any]) -> None:
    """The connection of before, the actor, its listener and its tables."""
    await check_ping(friend)
    async with open_peer(root.accept_addr, 'late') as late:
        await check_ping(late)
    server = root.ipc_server
    while server._half_open or server.len_peers() > len(peers):
        await trio.lowlevel.checkpoint()
    assert server._peers == peers
    assert not root.cancel_called
    assert not server.is_shutdown()


async def read_to_the_end(stream: trio.SocketStream) -> bytes:
    """What the actor sends until it hangs up."""
    data = b''
    with contextlib.suppress(trio.BrokenResourceError):
        while more := await stream.receive_some():
            data += more
    return data


async def say(root: tractor.Actor, data: bytes, *, leave: bool) -> bytes:
    """Connect and send, then leave or wait until the actor hangs up; what it answered."""
    async with await connect_stream(root.accept_addr) as stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(data)
            if leave:
                await stream.send_eof()
        return await read_to_the_end(stream)


# what was sent, and what the log must say of it
REFUSED: dict[str, tuple[bytes, str]] = {
    'http': (b'GET / HTTP/1.1\r\nHost: x\r\n\r\n', '542393671 bytes, more than the 65536'),
    'tls': (b'\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03' + b'\x55' * 500, r'\d+ bytes, more than'),
    '4 GiB': (b'\xff\xff\xff\xff', '4294967295 bytes, more than the 65536'),
    'no map': (frame(encode([1, 2])), 'invalid actor handshake.*not a map'),
    'empty map': (frame(encode({})), 'invalid actor handshake.*untagged'),
    'unknown tag': (frame(encode({'msg_type': 'Nonsense'})), 'invalid actor handshake.*Nonsense'),
    'wrong field': (frame(encode({'msg_type': 'Aid', 'name': 1})), 'invalid actor handshake.*name'),
    'another message': (frame(encode(Yield(cid='c', pld=1))), 'expected an Aid, got .*Yield'),
    'garbage frames': (frame(b'\xc1') * 5, 'refuses what the peer sends'),
    'deep nesting': (
        frame(b'\x82\xa8msg_type\xa5Start\xa6kwargs\x81\xa1a' + b'\x91' * 60_000) * 5,
        'refuses what the peer sends',
    ),
}

# what never becomes a message, and then ends
BROKEN_OFF: dict[str, tuple[bytes, str]] = {
    'nothing': (b'', 'already closed by peer'),
    'half a header': (b'\x10\0', 'in the middle of a frame, after 2 bytes'),
    'a header': (b'\x10\0\0\0', 'in the middle of a frame, after 4 bytes'),
    'half a frame': (b'\x10\0\0\0\x83\xa8msg', 'in the middle of a frame, after 9 bytes'),
    'garbage': (frame(b'\xc1') * 4, 'already closed by peer'),
}


def check_log(caplog: pytest.LogCaptureFixture, root: tractor.Actor, text: str) -> None:
    """One record says who, where, and why."""
    (record,) = [
        record.getMessage()
        for record in caplog.records
        if 'no handshake' in record.getMessage() and record.levelname == 'RUNTIME'
    ]
    assert re.search(text, record, re.DOTALL), record
    assert repr(root.ipc_server.addrs[0]) in record


@pytest.mark.parametrize('kind', REFUSED)
def test_who_breaks_the_rules_is_dropped(
    kind: str, play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    data, text = REFUSED[kind]

    async def main(root: tractor.Actor, _friend: RawPeer) -> None:
        # our identity, and nothing more
        answer = await say(root, data, leave=False)
        # a reset may overtake it
        assert answer in {frame(encode(root.aid)), b''}
        check_log(caplog, root, text)

    play(main)


@pytest.mark.parametrize('kind', BROKEN_OFF)
def test_who_leaves_in_the_middle_is_forgotten(
    kind: str, play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    data, text = BROKEN_OFF[kind]

    async def main(root: tractor.Actor, _friend: RawPeer) -> None:
        await say(root, data, leave=True)
        check_log(caplog, root, text)

    play(main)


def test_a_storm_of_noise(play: Play) -> None:
    rng = random.Random(7)
    aid = frame(encode(Aid(name='x', uuid='y', pid=1)))

    def noise() -> bytes:
        data = bytearray(rng.choice([aid, aid * 3, rng.randbytes(rng.randrange(300))]))
        for _ in range(rng.randrange(1, 8)):
            if data:
                data[rng.randrange(len(data))] = rng.choice([rng.randrange(256), 0, 0xC1, 0xDF])
        return bytes(data)

    async def main(root: tractor.Actor, friend: RawPeer) -> None:
        for _ in range(10):
            async with trio.open_nursery() as tn:
                for _ in range(30):
                    tn.start_soon(send_and_leave, root, noise())
                await check_ping(friend)

    play(main)


async def send_and_leave(root: tractor.Actor, data: bytes) -> None:
    await say(root, data, leave=True)


def test_noise_from_a_peer_that_is_known(play: Play) -> None:
    """It harms its own connection at most."""
    cases = [
        frame(b'\xc1') * 5,
        b'\xff\xff\xff\xff',
        frame(encode([1])) + frame(encode({'msg_type': 'Nonsense', 'cid': 'x'})),
        frame(encode(Aid(name='x', uuid='y'))),
        frame(encode(Yield(cid='nobody', pld=1)))[:-1],
        struct.pack('<I', 1 << 30) + b'x' * 100_000,
    ]

    async def main(root: tractor.Actor, friend: RawPeer) -> None:
        for data in cases:
            async with open_peer(root.accept_addr, 'noisy') as peer:
                with contextlib.suppress(trio.BrokenResourceError):
                    await peer.send_bytes(data)
                await check_ping(friend)

    play(main)


# --- silence


def test_silence_is_ended(
    play: Play, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(root: tractor.Actor, _friend: RawPeer) -> None:
        monkeypatch.setattr(_server, '_PRE_REG_HANDSHAKE_TIMEOUT', 0.05)
        await say(root, b'\x40\0\0\0half a frame', leave=False)
        monkeypatch.undo()
        check_log(caplog, root, 'invalid actor handshake.*TooSlowError')

    play(main)


def test_a_greeting_that_drips_in_is_ended(
    play: Play, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(root: tractor.Actor, _friend: RawPeer) -> None:
        monkeypatch.setattr(_server, '_PRE_REG_HANDSHAKE_TIMEOUT', 0.05)
        async with await connect_stream(root.accept_addr) as stream:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(struct.pack('<I', 60_000))
                for _ in range(50_000):
                    await stream.send_all(b'x')
                pytest.fail('it listens for ever')
        monkeypatch.undo()
        check_log(caplog, root, 'invalid actor handshake.*TooSlowError')

    play(main)


def test_a_peer_that_does_not_read_is_ended(
    play: Play, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It asks, and asks, and takes no answer: what the actor keeps for it is bounded."""

    async def main(root: tractor.Actor, friend: RawPeer) -> None:
        async with open_peer(root.accept_addr, 'greedy') as greedy:
            big = b'x' * 1_000_000
            with trio.move_on_after(0.3):
                while True:
                    await greedy.request(HERE, 'echo', data=big)
            (chan,) = root.ipc_server._peers[greedy.uid]
            assert chan.transport is not None
            assert chan.transport._writer is not None
            assert chan.transport._writer.unwritten < 50 * len(big)
            await check_ping(friend)

    play(main)


BIG = bytes(1 << 20)


def test_a_peer_that_only_asks_is_given_up(
    play: Play, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is kept for it is bounded; one that reads, however slowly, goes on."""
    caplog.set_level('ERROR', logger='tractor.runtime')
    monkeypatch.setattr(_rpc, '_MAX_UNWRITTEN', 1 << 20)
    monkeypatch.setattr(_rpc, '_MAX_UNREAD', 1 << 22)
    monkeypatch.setattr(_rpc, '_UNREAD_PAUSE', 0.001)
    monkeypatch.setattr(_rpc, '_UNREAD_FOR', 0.2)

    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        async with open_peer(root.accept_addr, 'greedy') as greedy:
            with pytest.raises((trio.BrokenResourceError, tractor.TransportClosed)):
                while True:
                    await greedy.request(HERE, 'echo', data=BIG)
            while greedy.uid in root.ipc_server._peers:
                await trio.testing.wait_all_tasks_blocked()
        assert 'has read nothing for 0 s, and' in caplog.text
        assert repr(greedy.uid) in caplog.text
        async with open_peer(root.accept_addr, 'slow') as slow:
            start = trio.current_time()
            while trio.current_time() < start + 0.5:
                asked = [await slow.request(HERE, 'echo', data=BIG) for _ in range(8)]
                for cid in asked:
                    await slow.recv_of(cid)
            assert slow.uid in root.ipc_server._peers
        await check_ping(peer)

    play(main)


def test_a_peer_that_reads_one_long_answer_slowly_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not one frame is complete for long, and yet it reads."""
    monkeypatch.setattr(_rpc, '_MAX_UNREAD', 1 << 20)
    writer = FrameWriter()
    writer.push(bytes(1 << 23))

    class Slow:
        async def flush(self) -> None:
            if writer.current() is not None:
                writer.wrote(1000)
            await trio.sleep(20)

    async def main() -> None:
        loop = _rpc.MessageLoop.__new__(_rpc.MessageLoop)
        loop.progress = -1, 0.0
        monkeypatch.setattr(_rpc, '_UNREAD_PAUSE', 20.0)
        for _ in range(10):
            assert not await loop._pause(Slow(), writer)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def echo(data: bytes) -> bytes:
    return data


async def check_door(root: tractor.Actor) -> None:
    """It is open, and not only after the ten seconds which silent connections have."""
    with trio.fail_after(5):
        async with open_peer(root.accept_addr, 'good') as good:
            await check_ping(good)


def test_silent_connections_do_not_keep_others_out(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(root: tractor.Actor, _friend: RawPeer) -> None:
        server = root.ipc_server
        async with contextlib.AsyncExitStack() as stack:
            streams = []
            for number in range(SILENT):
                stream = await stack.enter_async_context(await connect_stream(root.accept_addr))
                streams.append(stream)
                assert len(server._half_open) <= _server._MAX_HALF_OPEN
                if number % 50 == 49:
                    await check_door(root)
            await trio.testing.wait_all_tasks_blocked()
            assert len(server._half_open) > _server._MAX_HALF_OPEN - 10
            # the oldest ones had to go
            assert await read_to_the_end(streams[0]) == frame(encode(root.aid))
            # the newest may still speak
            newest = RawPeer(streams[-1])
            await newest.handshake()
            await check_ping(newest)
        assert 'too many others say nothing' in caplog.text

    play(main)


def test_a_crowd_of_actors_gets_in(play: Play) -> None:
    """More than may say nothing; none of these does."""

    async def main(root: tractor.Actor, _friend: RawPeer) -> None:
        pinged: list[int] = []

        async def one(number: int) -> None:
            async with _connect_chan(root.accept_addr) as chan:
                peer = RawPeer(chan.stream, f'actor-{number}')
                await peer.handshake()
                await check_ping(peer)
                pinged.append(number)

        async with trio.open_nursery() as tn:
            for number in range(SILENT):
                tn.start_soon(one, number)
        assert len(pinged) == SILENT

    play(main)


# --- connections that are gone before anybody looks


def test_reset_right_after_connecting(play: Play) -> None:
    async def main(root: tractor.Actor, friend: RawPeer) -> None:
        for number in range(100):
            peer = RawPeer(await connect_stream(root.accept_addr))
            if number % 2:
                # so that it has been accepted
                await trio.testing.wait_all_tasks_blocked()
            peer.reset()
        await check_ping(friend)

    play(main)
