"""contract: whatever strangers do at a listener, it lives on and others get in; on every transport."""

from __future__ import annotations

import random
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from tractor import TransportClosed
from tractor._code_load import load_module_from_path
from tractor._testing.peer import connect_stream, frame, reset
from tractor.ipc import Channel, Server, _connect_chan, _server, open_ipc_server
from tractor.msg.types import Aid, Yield

HERE = Path(__file__)
wires = sys.modules.get('wires') or load_module_from_path(HERE.with_name('wires.py'))
kits = sys.modules.get('kits') or load_module_from_path(HERE.with_name('kits.py'))
actor, connected, serving, wait_for = wires.actor, wires.connected, wires.serving, wires.wait_for
run, PEER = wires.run, wires.PEER

encode = msgspec.msgpack.encode

# what was sent, and what the log must say of it
NOISE: dict[str, tuple[bytes, str]] = {
    'http': (b'GET / HTTP/1.1\r\nHost: x\r\n\r\n', '542393671 bytes, more than the 65536'),
    'tls': (b'\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03' + b'\x55' * 500, r'\d+ bytes, more than'),
    '4 GiB': (b'\xff\xff\xff\xff', '4294967295 bytes, more than the 65536'),
    'no map': (frame(encode([1, 2])), 'invalid actor handshake.*not a map'),
    'unknown tag': (frame(encode({'msg_type': 'Nonsense'})), 'invalid actor handshake.*Nonsense'),
    'wrong field': (frame(encode({'msg_type': 'Aid', 'name': 1})), 'invalid actor handshake.*name'),
    'another message': (frame(encode(Yield(cid='c', pld=1))), 'expected an Aid, got .*Yield'),
    'garbage frames': (frame(b'\xc1') * 5, 'refuses what the peer sends'),
}

BROKEN_OFF: dict[str, tuple[bytes, str]] = {
    'nothing': (b'', 'already closed by peer'),
    'half a header': (b'\x10\0', 'in the middle of a frame, after 2 bytes'),
    'half a frame': (b'\x10\0\0\0\x83\xa8msg', 'in the middle of a frame, after 9 bytes'),
}


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level('RUNTIME', logger='tractor.ipc')
    return caplog


@asynccontextmanager
async def guarded(kit: Any) -> AsyncIterator[Server]:
    """A server with a friend who is there all the time; in the end all is as it should be."""
    friend = Aid(name='friend', uuid='7')
    async with serving(kit.addr()) as server, connected(server, friend):
        await wait_for(server.has_peers)
        yield server
        await wait_for(lambda: not server._half_open and server.len_peers() == 1)
        assert list(server._peers) == [friend.uid]
        assert not server.is_shutdown()
        async with connected(server):
            await server.wait_for_peer(PEER.uid)


async def say(server: Server, data: bytes, leave: bool) -> bytes:
    """Send this as the first thing, then leave or wait until the server hangs up; what it answered."""
    answer = b''
    async with await connect_stream(server.accept_addrs[0]) as stream:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(data)
            if leave:
                await stream.send_eof()
        with suppress(trio.BrokenResourceError):
            while more := await stream.receive_some():
                answer += more
    return answer


@pytest.mark.parametrize('kind', [*NOISE, *BROKEN_OFF])
def test_who_breaks_the_rules_is_dropped_and_nobody_else(
    kit: Any, kind: str, actor: Any, told: pytest.LogCaptureFixture
) -> None:
    data, text = {**NOISE, **BROKEN_OFF}[kind]

    async def main() -> None:
        async with guarded(kit) as server:
            answer = await say(server, data, leave=kind in BROKEN_OFF)
            # our identity and nothing more; a reset may overtake it
            assert answer in {frame(encode(actor.aid)), b''}
            assert len(actor.served) == 1

    run(main)
    assert re.search(f'no handshake with an accepted connection.*{text}', told.text, re.DOTALL)


def test_a_storm_of_noise(kit: Any, actor: Any) -> None:
    rng = random.Random(7)
    aid = frame(encode(Aid(name='x', uuid='y', pid=1)))

    def noise() -> bytes:
        data = bytearray(rng.choice([aid, aid * 3, rng.randbytes(rng.randrange(300))]))
        for _ in range(rng.randrange(1, 8)):
            if data:
                data[rng.randrange(len(data))] = rng.choice([rng.randrange(256), 0, 0xC1, 0xDF])
        return bytes(data)

    async def main() -> None:
        async with guarded(kit) as server, trio.open_nursery() as tn:
            for _ in range(100):
                tn.start_soon(say, server, noise(), True)

    run(main)


def test_connections_that_are_gone_before_anybody_looks(kit: Any, actor: Any) -> None:
    async def main() -> None:
        async with guarded(kit) as server:
            for number in range(50):
                stream = await connect_stream(server.accept_addrs[0])
                if number % 2:
                    # so that it has been accepted
                    await trio.testing.wait_all_tasks_blocked()
                if number % 3:
                    reset(stream)
                await trio.aclose_forcefully(stream)

    run(main)


# --- silence


@pytest.mark.parametrize('first_words', [b'', b'\x10\0', frame(encode(PEER))[:-1]])
def test_the_time_limit_of_a_handshake(
    kit: Any, first_words: bytes, actor: Any, told: pytest.LogCaptureFixture
) -> None:
    clock = trio.testing.MockClock()

    async def main() -> None:
        async with (
            guarded(kit) as server,
            await connect_stream(server.accept_addrs[0]) as stream,
        ):
            await wait_for(lambda: bool(server._half_open))
            await stream.send_all(first_words or b'\x10')
            await trio.testing.wait_all_tasks_blocked()
            clock.jump(_server._PRE_REG_HANDSHAKE_TIMEOUT - 0.1)
            await trio.testing.wait_all_tasks_blocked()
            assert server._half_open
            clock.jump(0.2)
            await wait_for(lambda: not server._half_open)
            with suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass

    trio.run(main, clock=clock)
    assert 'TooSlowError' in told.text


def test_too_many_that_say_nothing(
    kit: Any,
    actor: Any,
    told: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_server, '_MAX_HALF_OPEN', 5)

    async def main() -> None:
        async with guarded(kit) as server, AsyncExitStack() as stack:
            silent = []
            for _ in range(12):
                stream = await connect_stream(server.accept_addrs[0])
                silent.append(await stack.enter_async_context(stream))
                # each has been greeted, so they are in this order at the server, too
                assert await stream.receive_some(1)
                assert len(server._half_open) <= 5
                async with connected(server):
                    await server.wait_for_peer(PEER.uid)
                await wait_for(lambda: server.len_peers() == 1)
            for stream in silent[:7]:
                # the oldest had to go
                with suppress(trio.BrokenResourceError):
                    while await stream.receive_some():
                        pass
            # the newest may still speak
            await silent[-1].send_all(frame(encode(PEER)))
            await server.wait_for_peer(PEER.uid)

    run(main)
    assert 'too many others say nothing' in told.text


def test_a_crowd_that_speaks_gets_in(kit: Any, actor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_server, '_MAX_HALF_OPEN', 20)
    names = [f'peer-{number}' for number in range(60)]

    async def main() -> None:
        async with guarded(kit) as server, AsyncExitStack() as stack:
            for name in names:
                chan = await stack.enter_async_context(_connect_chan(server.accept_addrs[0]))
                await chan._do_handshake(aid=Aid(name=name, uuid=name))
            await wait_for(lambda: server.len_peers() == 1 + len(names))

    run(main)
    assert {chan.aid.name for chan in actor.served} >= set(names)


# --- several transports at once


def test_one_server_on_all_transports(actor: Any) -> None:
    """They share the table of peers, the waiters and the end."""
    names = [param.values[0] for param in kits.params() if not param.marks]

    async def main(addrs: list[Any]) -> None:
        async with open_ipc_server() as server, AsyncExitStack() as stack:
            await server.listen_on(accept_addrs=addrs[:2])
            await server.listen_on(accept_addrs=addrs[2:])
            assert server.proto_keys == [addr.proto_key for addr in addrs]
            chans: list[Channel] = []
            for number, addr in enumerate(server.accept_addrs):
                chan = await stack.enter_async_context(_connect_chan(addr))
                await chan._do_handshake(aid=PEER)
                chans.append(chan)
                await wait_for(lambda count=number + 1: server.len_peers() == count)  # type: ignore[misc]
                _, newest = await server.wait_for_peer(PEER.uid)
                assert type(newest.transport) is type(chan.transport)
            assert len({type(chan.transport) for chan in chans}) == len(set(server.proto_keys))
            # one peer, however it comes
            assert list(server._peers) == [PEER.uid]
            for chan in chans:
                assert server.has_peers()
                await chan.aclose()
            await server.wait_for_no_more_peers()
            server.stop_listening()
            await server.wait_for_shutdown()
            for addr in server.addrs:
                with pytest.raises(OSError, match=r'.'):
                    await Channel.from_addr(addr)

    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        each = [stack.enter_context(kits.opened(name, Path(folder))) for name in names]
        run(main, [kit.addr() for kit in each])


def test_the_end_of_a_server_is_the_end_of_its_connections(kit: Any, actor: Any) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            async with open_ipc_server() as server:
                await server.listen_on(accept_addrs=[kit.addr(), kit.addr()])
                chans = []
                for addr in server.accept_addrs * 2:
                    chan = await stack.enter_async_context(_connect_chan(addr))
                    await chan._do_handshake(aid=PEER)
                    chans.append(chan)
                await wait_for(lambda: server.len_peers() == 4)
            assert server.is_shutdown()
            assert server._peers == {}
            await server.wait_for_no_more_peers()
            for chan in chans:
                with pytest.raises(TransportClosed):
                    await chan.recv()

    run(main)
