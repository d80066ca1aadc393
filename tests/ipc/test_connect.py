"""contract: how a channel is connected and closed."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tractor._code_load import load_module_from_path
from tractor.ipc import (
    Channel,
    _connect_chan,
    _tcp,
    transport_from_addr,
    transport_from_stream,
)
from tractor.ipc._tcp import TCPAddress

wires = sys.modules.get('wires') or load_module_from_path(Path(__file__).with_name('wires.py'))
item, logged, run, value = wires.item, wires.logged, wires.run, wires.value


@asynccontextmanager
async def listening(addr: Any) -> AsyncIterator[tuple[Any, trio.SocketListener]]:
    listener = await addr.open_listener()
    bound = listener.socket.getsockname()
    if not isinstance(bound, str):
        addr = type(addr).from_addr(bound[:2])
    try:
        yield addr, listener
    finally:
        addr.close_listener(listener)


@pytest.mark.parametrize('addr', [object(), ('a', 'b', 'c'), ('h', 1.5)])
def test_no_address(addr: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        run(Channel.from_addr, addr)


def test_no_stream_of_a_transport() -> None:
    async def main() -> None:
        one, _ = trio.testing.memory_stream_pair()
        with pytest.raises(NotImplementedError, match='StapledStream'):
            Channel.from_stream(one)

    run(main)


class SlowToClose:
    """A transport whose closing takes for ever."""

    laddr = raddr = 'somewhere'

    def __init__(self) -> None:
        self.cancelled = False

    def connected(self) -> bool:
        return False

    async def aclose(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled = True


@pytest.mark.parametrize('timeout', [0, 2])
def test_closing_is_bounded_and_only_complains(
    timeout: float, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    tpt = SlowToClose()

    async def from_addr(addr: Any) -> Channel:
        chan = Channel()
        chan._transport = tpt  # type: ignore[assignment]
        return chan

    monkeypatch.setattr(Channel, 'from_addr', from_addr)

    async def main() -> None:
        begun = trio.current_time()
        async with _connect_chan('x', close_timeout=timeout):
            pass
        assert trio.current_time() - begun == pytest.approx(timeout)

    # virtual time
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert tpt.cancelled
    assert f'took more than {timeout} s' in logged.text


def test_closing_happens_although_cancelled() -> None:
    async def main() -> None:
        async with listening(TCPAddress('127.0.0.1', 0)) as (addr, _):
            with trio.CancelScope() as scope:
                async with _connect_chan(addr) as chan:
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
            assert scope.cancelled_caught
            assert chan.closed
            assert chan.stream.socket.fileno() == -1

    run(main)


def test_a_socket_that_met_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """It happens where nobody listens, when our end is given the port that it is to connect to."""
    met: list[trio.SocketStream] = []

    async def connect(host: str, port: int) -> trio.SocketStream:
        sock = trio.socket.socket()
        await sock.bind((host, 0))
        await sock.connect(sock.getsockname())
        met.append(trio.SocketStream(sock))
        return met[0]

    monkeypatch.setattr(_tcp, '_connect', connect)
    with pytest.raises(ConnectionRefusedError, match='nobody listens there'):
        run(Channel.from_addr, ('127.0.0.1', 1))
    assert met[0].socket.fileno() == -1


@pytest.mark.parametrize('addr', [TCPAddress('127.0.0.1', 1), object()])
def test_no_transport_for_an_address(addr: Any) -> None:
    with pytest.raises(NotImplementedError, match='no transport'):
        transport_from_addr(addr, codec_key='json')


def test_no_transport_for_a_codec() -> None:
    async def main() -> None:
        async with wires.socket_pair() as (_tpt, other):
            with pytest.raises(NotImplementedError, match="'json' over 'uds'"):
                transport_from_stream(other, codec_key='json')

    run(main)
