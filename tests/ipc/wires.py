"""Streams for the tests of this directory: in memory, over real sockets, and with scripted sockets; a server."""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar

import pytest
import trio
import trio.testing

from tractor import TransportClosed
from tractor.ipc import Channel, Server, _connect_chan, open_ipc_server
from tractor.ipc._transport import MsgpackTransport
from tractor.ipc._uds import MsgpackUDSStream
from tractor.msg import _codec
from tractor.msg.types import Aid, Yield
from tractor.runtime import _state

LOCAL = ('127.0.0.1', 0)
PEER = Aid(name='peer', uuid='2', pid=2)


class Address:
    proto_key = 'mem'


class MemTransport(MsgpackTransport):
    address_type: ClassVar[type] = Address

    @classmethod
    def get_stream_addrs(cls, stream: Any) -> tuple[Any, Any]:
        return 'here', 'there'


def run(fn: Any, *args: Any, timeout: float = 10) -> Any:
    async def main() -> Any:
        with trio.fail_after(timeout):
            return await fn(*args)

    return trio.run(main)


def encoded(msg: Any) -> bytes:
    return _codec._def_tractor_codec.encode(msg)


def frame(body: bytes) -> bytes:
    return struct.pack('<I', len(body)) + body


def framed(msg: Any) -> bytes:
    return frame(encoded(msg))


def item(pld: Any, cid: str = 'c') -> Yield[Any]:
    return Yield(cid=cid, pld=pld)


def value(msg: Any) -> Any:
    """The payload of a message that was received."""
    return _codec._def_msgspec_codec.decode(encoded(msg)).pld


@asynccontextmanager
async def socket_pair() -> AsyncIterator[tuple[MsgpackUDSStream, trio.SocketStream]]:
    """A transport, and the stream at its other end."""
    one, two = trio.socket.socketpair()
    with one, two:
        yield MsgpackUDSStream(trio.SocketStream(one)), trio.SocketStream(two)


@asynccontextmanager
async def socket_transports() -> AsyncIterator[tuple[MsgpackUDSStream, MsgpackUDSStream]]:
    """Both ends of a connection."""
    async with socket_pair() as (one, stream):
        yield one, MsgpackUDSStream(stream)


def memory_transports() -> tuple[MemTransport, MemTransport]:
    one, two = trio.testing.memory_stream_pair()
    return MemTransport(one), MemTransport(two)


class ScriptedSocket:
    """
    Stands for the socket of a `trio.SocketStream`.

    Args:
        incoming: what it receives, piece by piece; then the end.
        step: how many bytes it takes or gives at once.
        gate: awaited by each operation before anything happens.
        error: raised by each operation in its place.
    """

    def __init__(
        self,
        incoming: bytes = b'',
        step: int = 1 << 30,
        gate: Callable[[], Any] = trio.lowlevel.checkpoint,
        error: BaseException | None = None,
    ) -> None:
        self.incoming = incoming
        self.step = step
        self.gate = gate
        self.error = error
        self.sent: list[bytes] = []

    async def _begin(self) -> None:
        await self.gate()
        if self.error is not None:
            raise self.error

    async def send(self, data: memoryview) -> int:
        await self._begin()
        self.sent.append(bytes(data[: self.step]))
        return len(self.sent[-1])

    async def recv(self, size: int) -> bytes:
        await self._begin()
        count = min(size, self.step)
        data, self.incoming = self.incoming[:count], self.incoming[count:]
        return data

    async def recv_into(self, hole: memoryview) -> int:
        data = await self.recv(len(hole))
        hole[: len(data)] = data
        return len(data)

    def fileno(self) -> int:
        # nothing can be written to it behind the back of the script
        return -1

    def close(self) -> None:
        self.error = trio.ClosedResourceError('this socket was already closed')


@asynccontextmanager
async def scripted(*args: Any, **kwargs: Any) -> AsyncIterator[tuple[Any, ScriptedSocket]]:
    """A transport whose socket does what the script says."""
    async with socket_pair() as (tpt, _other):
        sock = ScriptedSocket(*args, **kwargs)
        tpt.stream.socket = sock  # type: ignore[assignment]
        yield tpt, sock


# --- a server


class Actor:
    """What the server needs of an actor: an identity, a message loop, and a hook for the end."""

    def __init__(self) -> None:
        self.aid = Aid(name='me', uuid='1', pid=os.getpid())
        self.served: list[Channel] = []
        self.gone: list[tuple[Any, Channel, bool]] = []
        self.loop: Callable[[Channel], Any] = self.read_to_the_end

    async def read_to_the_end(self, chan: Channel) -> tuple[bool, Any]:
        with suppress(TransportClosed):
            while True:
                await chan.recv()
        return True, None

    async def serve_channel(self, chan: Channel) -> tuple[bool, Any]:
        self.served.append(chan)
        result: tuple[bool, Any] = await self.loop(chan)
        return result

    async def on_peer_gone(self, uid: Any, chan: Channel, disconnected: bool) -> None:
        self.gone.append((uid, chan, disconnected))


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> Actor:
    actor = Actor()
    monkeypatch.setattr(_state, 'current_actor', lambda err_on_no_runtime=True: actor)
    return actor


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What this layer logs from WARNING on, whatever levels an actor of another test has chosen."""
    caplog.set_level('WARNING', logger='tractor.ipc')
    return caplog


@asynccontextmanager
async def serving(*addrs: Any) -> AsyncIterator[Server]:
    async with open_ipc_server() as server:
        await server.listen_on(accept_addrs=list(addrs) or [LOCAL])
        yield server


@asynccontextmanager
async def connected(server: Server, aid: Aid = PEER) -> AsyncIterator[Channel]:
    """A peer of the server, for the block."""
    async with _connect_chan(server.accept_addrs[0]) as chan:
        await chan._do_handshake(aid=aid)
        yield chan


async def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.lowlevel.checkpoint()
