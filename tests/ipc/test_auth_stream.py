"""contract: the proof of the key over streams, and what connecting and listening ends with different keys get."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tractor import TransportClosed
from tractor._code_load import load_module_from_path
from tractor._testing.peer import connect_stream
from tractor.ipc import (
    Server,
    _auth,
    _connect_chan,
    _server,
    open_ipc_server,
    transport_from_addr,
)
from tractor.ipc._access import AuthenticationError
from tractor.ipc._auth import HELLO_SIZE, KeyExchange, authenticate

wires = sys.modules.get('wires') or load_module_from_path(Path(__file__).with_name('wires.py'))
actor, logged, run = wires.actor, wires.logged, wires.run

KEY, OTHER = b'k' * 32, b'o' * 32
KEYS = {'no key': None, 'right key': KEY, 'wrong key': OTHER}

ok = 'passes'
need_key = 'it demands a key and this actor has none: pass authkey='
no_key = 'it has no key, or is no actor: give both ends the same key'
closed = 'it closed the connection when it saw our proof'
another = 'it has another key'

# what the connecting end gets, and what the log of the listening end says
OUTCOMES: dict[tuple[str, str], tuple[str, str]] = {
    ('no key', 'no key'): (ok, ok),
    ('no key', 'right key'): (need_key, no_key),
    ('no key', 'wrong key'): (need_key, no_key),
    ('right key', 'no key'): (no_key, need_key),
    ('right key', 'right key'): (ok, ok),
    ('right key', 'wrong key'): (closed, another),
    ('wrong key', 'no key'): (no_key, need_key),
    ('wrong key', 'right key'): (closed, another),
    ('wrong key', 'wrong key'): (ok, ok),
}

SetKey = Callable[[bytes | None], Any]


class KeyOfTask:
    """Stands for the key of an actor, so that both ends can be in one process: each task tree has its own."""

    def __init__(self) -> None:
        self.var: ContextVar[bytes | None] = ContextVar('key', default=None)

    @property
    def value(self) -> bytes | None:
        return self.var.get()


@pytest.fixture
def set_key(monkeypatch: pytest.MonkeyPatch) -> Iterator[SetKey]:
    """Sets the key of the calling task, and of those it starts from then on."""
    keys = KeyOfTask()
    monkeypatch.setattr(_auth, 'current', keys)
    yield keys.var.set


@asynccontextmanager
async def listening(set_key: SetKey, key: bytes | None, addr: Any) -> AsyncIterator[Server]:
    async with open_ipc_server() as server:
        set_key(key)
        await server.listen_on(accept_addrs=[addr])
        yield server


async def plain_stream(addr: Any) -> Any:
    """A connection on which nothing has been said."""
    return (await transport_from_addr(addr).connect_to(addr)).stream


async def read_to_the_end(stream: Any) -> bytes:
    data = b''
    try:
        while more := await stream.receive_some():
            data += more
    except trio.BrokenResourceError:
        pass
    return data


# --- who gets in, over every transport


@pytest.mark.parametrize('listens', KEYS)
@pytest.mark.parametrize('connects', KEYS)
def test_who_gets_in(
    connects: str, listens: str, kit: Any, actor: Any, set_key: SetKey, logged: Any
) -> None:
    told, said = OUTCOMES[connects, listens]

    async def main() -> None:
        async with listening(set_key, KEYS[listens], kit.addr()) as server:
            set_key(KEYS[connects])
            async with _connect_chan(server.addrs[0]) as chan:
                if told is ok:
                    assert await chan._do_handshake(aid=wires.PEER, timeout=5) == actor.aid
                    await chan.send(wires.item(1))
                    await wires.wait_for(lambda: actor.served)
                    return
                with pytest.raises(AuthenticationError, match=told) as excinfo:
                    await chan._do_handshake(aid=wires.PEER, timeout=5)
                assert isinstance(excinfo.value, TransportClosed)
                assert str(chan.raddr) in str(excinfo.value) or 'pid ' in str(excinfo.value)
            while server._half_open:
                await trio.lowlevel.checkpoint()
            assert actor.served == []
            # the listener lives on
            set_key(KEYS[listens])
            async with _connect_chan(server.addrs[0]) as chan:
                assert await chan._do_handshake(aid=wires.PEER) == actor.aid

    run(main)
    if told is ok:
        assert logged.records == []
        return
    (record,) = logged.records
    assert record.levelname == 'WARNING'
    text = record.getMessage()
    assert said in text
    assert re.match(r'(TCP|UDS|Memory)Address\[.*\]: no connection with \S+', text), text
    if kit.key == 'uds':
        assert re.search(r'pid \d+, uid \d+', text)
    for key in (KEY, OTHER):
        assert key.decode()[:8] not in text


def test_nothing_is_decoded_before_both_passed(
    kit: Any, actor: Any, set_key: SetKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole greeting in place of a proof, and right behind it, is never looked at."""
    seen: list[Any] = []
    real = _server.Channel._do_handshake

    async def spied(chan: Any, **kwargs: Any) -> Any:
        tpt = chan.transport
        monkeypatch.setattr(tpt, '_decode', lambda body: seen.append((tpt, body)))
        return await real(chan, **kwargs)

    async def main() -> None:
        async with listening(set_key, KEY, kit.addr()) as server:
            monkeypatch.setattr(_server.Channel, '_do_handshake', spied)
            stream = await plain_stream(server.addrs[0])
            async with stream:
                await stream.send_all(
                    KeyExchange(KEY, accepted=False).hello + wires.framed(wires.PEER) * 3
                )
                answer = await read_to_the_end(stream)
            assert len(answer) == HELLO_SIZE
            while server._half_open:
                await trio.lowlevel.checkpoint()

    run(main)
    assert seen == []


def test_the_first_message_may_come_with_the_proof(kit: Any, actor: Any, set_key: SetKey) -> None:
    """The exchange takes its own bytes from the stream and leaves the rest."""

    async def main() -> None:
        async with (
            listening(set_key, KEY, kit.addr()) as server,
            await plain_stream(server.addrs[0]) as stream,
        ):
            exchange = KeyExchange(KEY, accepted=False)
            await stream.send_all(exchange.hello)
            hello = b''
            while len(hello) < HELLO_SIZE:
                hello += await stream.receive_some(HELLO_SIZE - len(hello))
            await stream.send_all(exchange.feed(hello) + wires.framed(wires.PEER))
            await wires.wait_for(lambda: actor.served)

    run(main)


# --- silence, and an end in the middle


def run_virtual(fn: Any) -> None:
    """Run with virtual time, which jumps to the next deadline when nothing else is left."""
    trio.run(fn, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize('sent', [0, 4, 36, 37, 68])
def test_silence_is_bounded(sent: int, actor: Any, set_key: SetKey, logged: Any) -> None:
    """Whatever part of the exchange it is that does not come."""

    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        exchange = KeyExchange(KEY, accepted=False)
        await theirs.send_all(exchange.hello[:sent])
        if sent > HELLO_SIZE:
            # its random bytes are not known yet: any proof will do
            await theirs.send_all(bytes(sent - HELLO_SIZE))
        start = trio.current_time()
        with pytest.raises(
            AuthenticationError, match=r'did not prove to have the key within 7\.0 s'
        ):
            await authenticate(ours, KEY, accepted=True, who='x', timeout=7)
        assert trio.current_time() - start == 7

    run_virtual(main)


@pytest.mark.parametrize('accepted', [False, True])
def test_one_byte_at_a_time(accepted: bool) -> None:
    """Each byte in time, all of them too late."""

    async def trickle(stream: Any) -> None:
        for byte in KeyExchange(KEY, accepted=not accepted).hello:
            await trio.sleep(1)  # virtual time
            await stream.send_all(bytes([byte]))

    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as tn:
            tn.start_soon(trickle, theirs)
            with pytest.raises(AuthenticationError, match='did not prove'):
                await authenticate(ours, KEY, accepted=accepted, who='x', timeout=10)
            assert trio.current_time() - start == 10
            tn.cancel_scope.cancel()

    start = 0.0

    async def timed() -> None:
        nonlocal start
        start = trio.current_time()
        await main()

    run_virtual(timed)


def test_the_limit_of_a_listener(actor: Any, set_key: SetKey, logged: Any) -> None:
    """The key counts for the time which a connection has to say who it is."""

    async def main() -> None:
        async with (
            listening(set_key, KEY, wires.LOCAL) as server,
            await connect_stream(server.accept_addrs[0]) as stream,
        ):
            assert len(await read_to_the_end(stream)) == HELLO_SIZE
            assert server._half_open == {}

    old = _server._PRE_REG_HANDSHAKE_TIMEOUT
    try:
        _server._PRE_REG_HANDSHAKE_TIMEOUT = 0.05
        run(main)
    finally:
        _server._PRE_REG_HANDSHAKE_TIMEOUT = old
    assert 'did not prove to have the key within' in logged.text


def test_a_connector_without_a_limit_has_one_here(actor: Any, set_key: SetKey) -> None:
    """A child waits for its parent for as long as it takes, but not for the key of something silent."""

    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        set_key(KEY)
        chan = _server.Channel(wires.MemTransport(ours))
        start = trio.current_time()
        with pytest.raises(AuthenticationError, match=r'within 10\.0 s'):
            await chan._do_handshake(aid=wires.PEER)
        assert trio.current_time() - start == 10
        await theirs.aclose()

    run_virtual(main)


def test_connections_that_do_not_prove_are_half_open(
    actor: Any, set_key: SetKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_server, '_MAX_HALF_OPEN', 3)

    async def main() -> None:
        async with listening(set_key, KEY, wires.LOCAL) as server:
            streams = [await connect_stream(server.accept_addrs[0]) for _ in range(8)]
            for stream in streams[:5]:
                assert len(await read_to_the_end(stream)) == HELLO_SIZE
            await wires.wait_for(lambda: len(server._half_open) == 3)
            async with _connect_chan(server.accept_addrs[0]) as chan:
                assert await chan._do_handshake(aid=wires.PEER) == actor.aid
            for stream in streams:
                await stream.aclose()

    run(main)


@pytest.mark.parametrize('accepted', [False, True])
@pytest.mark.parametrize('how', ['end', 'reset'])
@pytest.mark.parametrize('after', [0, 1, 36, 37, 40])
def test_an_end_in_the_middle(accepted: bool, how: str, after: int, logged: Any) -> None:
    """Who goes without a word just went; later it is one that did not prove anything."""

    async def main() -> None:
        async with wires.socket_pair() as (tpt, other):
            exchange = KeyExchange(KEY, accepted=not accepted)
            said = exchange.hello + bytes(32)
            await other.send_all(said[:after])
            if how == 'end':
                await other.send_eof()
            else:
                # with what it was sent unread, closing is a reset
                async with trio.open_nursery() as tn:
                    tn.start_soon(close_when_written, tpt, other)
            error = AuthenticationError if after else TransportClosed
            with pytest.raises(error, match='closed the connection') as excinfo:
                await authenticate(tpt.stream, KEY, accepted=accepted, who='x', timeout=5)
            assert type(excinfo.value) is error

    async def close_when_written(tpt: Any, other: Any) -> None:
        await tpt.stream.send_all(b'')
        await other.aclose()

    run(main)
    assert logged.records == []


def test_a_stream_closed_meanwhile() -> None:
    async def main() -> None:
        ours, _theirs = trio.testing.memory_stream_pair()
        await ours.aclose()
        with pytest.raises(TransportClosed, match='closed the connection'):
            await authenticate(ours, KEY, accepted=True, who='x', timeout=5)

    run(main)


# --- cancellation


class CancelAt(trio.abc.Stream):
    """A stream whose n-th operation is cancelled at its checkpoint."""

    def __init__(self, stream: Any, nth: int) -> None:
        self.stream = stream
        self.left = nth
        self.scope = trio.CancelScope()

    async def _gate(self) -> None:
        self.left -= 1
        if not self.left:
            self.scope.cancel()
        await trio.lowlevel.checkpoint()

    async def send_all(self, data: Any) -> None:
        await self._gate()
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._gate()

    async def receive_some(self, max_bytes: int | None = None) -> Any:
        await self._gate()
        # byte by byte: as many checkpoints as there can be
        return await self.stream.receive_some(min(max_bytes or 1, 1))

    async def aclose(self) -> None:
        await self.stream.aclose()


@pytest.mark.parametrize('accepted', [False, True])
def test_cancel_at_each_checkpoint(accepted: bool) -> None:
    """It ends at once, and the other end is never left with the belief that it passed, but after the last word."""

    async def cancel_at(nth: int) -> bool:
        ours, theirs = trio.testing.memory_stream_pair()
        gate = CancelAt(ours, nth)
        passed = False

        async def other_end() -> None:
            nonlocal passed
            try:
                await authenticate(theirs, KEY, accepted=not accepted, who='x', timeout=5)
                passed = True
            except TransportClosed:
                pass

        async with trio.open_nursery() as tn:
            tn.start_soon(other_end)
            with gate.scope:
                await authenticate(gate, KEY, accepted=accepted, who='y', timeout=5)
            await trio.aclose_forcefully(gate)
        if gate.scope.cancelled_caught and accepted:
            assert not passed
        return gate.scope.cancelled_caught

    async def main() -> None:
        nth = 1
        while await cancel_at(nth):
            nth += 1
        # the bytes that are read, and what is written
        assert nth == HELLO_SIZE + 32 + 2 + 1

    run(main)


def test_a_listener_that_is_cancelled_closes_what_it_examines(
    kit: Any, actor: Any, set_key: SetKey
) -> None:
    async def main() -> None:
        async with listening(set_key, KEY, kit.addr()) as server:
            stream = await plain_stream(server.addrs[0])
            async with stream:
                await wires.wait_for(lambda: server._half_open)
                server.cancel()
                await read_to_the_end(stream)

    run(main)
