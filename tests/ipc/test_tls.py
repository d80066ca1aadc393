"""contract: TLS around TCP connections: who gets in, what the others are told, and how connections end."""

from __future__ import annotations

import re
import ssl
import sys
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tractor import TransportClosed
from tractor._code_load import load_module_from_path
from tractor._testing.peer import connect_stream
from tractor.ipc import Channel, _auth, _connect_chan, _server, _tls
from tractor.ipc._access import AuthenticationError, TLSHandshakeError
from tractor.ipc._tls import TLS, TLSStream
from tractor.ipc._uds import HAS_UDS, UDSAddress


def sibling(name: str) -> Any:
    return sys.modules.get(name) or load_module_from_path(Path(__file__).with_name(f'{name}.py'))


wires, certs = sibling('wires'), sibling('certs')
tls = certs.tls
actor, logged, run, serving = wires.actor, wires.logged, wires.run, wires.serving

# not where nothing but the loopback is
SOMEWHERE_ELSE = 'example.org'


async def read_to_the_end(stream: trio.SocketStream) -> bytes:
    data = b''
    with suppress(trio.BrokenResourceError):
        while more := await stream.receive_some():
            data += more
    return data


async def greeted(addr: Any) -> Channel:
    """Connect and shake hands; the channel is closed again."""
    async with _connect_chan(addr) as chan:
        await chan._do_handshake(aid=wires.PEER, timeout=5)
    return chan


# --- who gets in


@pytest.mark.parametrize('host', ['127.0.0.1', '::1'])
def test_both_have_it(host: str, actor: Any, tls: Any, logged: Any) -> None:
    tls.var.set(_tls.choose(certs.pair()))

    async def main() -> None:
        async with serving((host, 0)) as server, wires.connected(server) as chan:
            await wires.wait_for(lambda: actor.served)
            (other,) = actor.served
            assert chan.raddr == other.laddr == server.addrs[0]
            assert chan.laddr == other.raddr
            for end in (chan, other):
                assert isinstance(end.stream, TLSStream)
                assert end.stream.ssl_stream.version() == 'TLSv1.3'
                assert end.connected()
                assert end.raddr.domain == host
            assert chan.stream.ssl_stream.server_hostname == host

    run(main)
    assert logged.records == []


@pytest.mark.parametrize('size', [1, 20_000, 3 << 20])
def test_messages_of_all_sizes_in_both_directions(size: int, actor: Any, tls: Any) -> None:
    tls.var.set(_tls.choose(certs.pair()))

    async def echo(chan: Channel) -> tuple[bool, Any]:
        try:
            while True:
                msg = await chan.recv()
                await chan.send(wires.item(wires.value(msg)))
        except TransportClosed:
            return True, None

    actor.loop = echo

    async def main() -> None:
        async with serving() as server, wires.connected(server) as chan, trio.open_nursery() as tn:
            for number in range(5):
                tn.start_soon(chan.send, wires.item([number, 'x' * size]))
            got = [wires.value(await chan.recv()) for _ in range(5)]
        assert sorted(got) == [[number, 'x' * size] for number in range(5)]

    run(main)


# --- who does not

REFUSED: dict[str, tuple[Any, str, str]] = {
    'another authority': (
        ('good', 'other'),
        'its certificate is not accepted: .*unable to get local issuer certificate',
        'closed the connection in the TLS handshake: it may not trust our certificate',
    ),
    'no TLS': (
        None,
        'it speaks TLS and this actor does not: pass tls=',
        'it speaks no TLS and this actor demands it',
    ),
}


@pytest.mark.parametrize('kind', REFUSED)
def test_a_connector_that_is_refused(kind: str, actor: Any, tls: Any, logged: Any) -> None:
    pair, told, said = REFUSED[kind]
    tls.var.set(_tls.choose(certs.pair()))

    async def main() -> None:
        async with serving() as server:
            with (
                tls.of_client(pair and certs.pair(*pair)),
                pytest.raises(TLSHandshakeError, match=told) as excinfo,
            ):
                await greeted(server.addrs[0])
            assert repr(server.addrs[0]) in str(excinfo.value)
            await wires.wait_for(lambda: not server._half_open)
            assert actor.served == []
            # the listener lives on
            await greeted(server.addrs[0])

    run(main)
    (record,) = logged.records
    assert record.levelname == 'WARNING'
    text = record.getMessage()
    assert re.search(said, text)
    assert text.count('TCPAddress[') == 2


def test_a_certificate_for_another_address(actor: Any, tls: Any) -> None:
    """The client side decides, by the options of its context, whether that matters."""
    server_side, client_side = certs.pair('good', 'good', SOMEWHERE_ELSE)
    tls.var.set(_tls.choose((server_side, client_side)))

    async def main() -> None:
        async with serving() as server:
            with pytest.raises(
                TLSHandshakeError, match=r'not accepted: .*IP address mismatch.*127'
            ):
                await greeted(server.addrs[0])
            careless = ssl.create_default_context()
            certs.authority().configure_trust(careless)
            careless.check_hostname = False
            with tls.of_client((server_side, careless)):
                await greeted(server.addrs[0])

    run(main)


def test_a_connector_with_tls_at_a_plain_listener(
    actor: Any, tls: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """For the listener that is a stranger like any other: port scans do this all day."""
    caplog.set_level('RUNTIME', logger='tractor.ipc')

    async def main() -> None:
        async with serving() as server:
            with (
                tls.of_client(certs.pair()),
                pytest.raises(TLSHandshakeError, match='speaks no TLS: pass the same tls= there'),
            ):
                await greeted(server.addrs[0])
            await wires.wait_for(lambda: not server._half_open)
            await greeted(server.addrs[0])

    run(main)
    said = [record.getMessage() for record in caplog.records if 'no handshake' in record.msg]
    assert any('it speaks TLS and this actor does not' in text for text in said)


def test_a_client_certificate_that_is_demanded(actor: Any, tls: Any, logged: Any) -> None:
    demanding = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certs.authority().issue_cert('127.0.0.1').configure_cert(demanding)
    certs.authority().configure_trust(demanding)
    demanding.verify_mode = ssl.CERT_REQUIRED
    _, without = certs.pair()
    having = ssl.create_default_context()
    certs.authority().configure_trust(having)
    certs.authority().issue_cert('client@example.org').configure_cert(having)
    tls.var.set(_tls.choose((demanding, having)))

    async def main() -> None:
        async with serving() as server:
            await greeted(server.addrs[0])
            # in TLS 1.3 the client side learns of it with the first bytes that it reads
            with tls.of_client((demanding, without)), pytest.raises(TransportClosed):
                await greeted(server.addrs[0])
            await wires.wait_for(lambda: not server._half_open)

    run(main)
    assert 'peer did not return a certificate' in logged.text


# --- garbage and silence


@pytest.mark.parametrize(
    'data', [b'GET / HTTP/1.1\r\n\r\n', b'\x16', b'\x16\x03\x01\x00\x05hello', b'\x16' * 500, b'\0']
)
def test_garbage(data: bytes, actor: Any, tls: Any, logged: Any) -> None:
    tls.var.set(_tls.choose(certs.pair()))

    async def main() -> None:
        async with serving() as server:
            async with await connect_stream(server.addrs[0]) as stream:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(data)
                    await stream.send_eof()
                # nothing of ours, but for an alert
                assert (await read_to_the_end(stream))[:1] in (b'', b'\x15')
            await wires.wait_for(lambda: not server._half_open)
            await greeted(server.addrs[0])

    run(main)
    assert len(logged.records) == 1
    assert 'no connection with TCPAddress' in logged.text


def test_who_only_looks_whether_the_port_is_open(actor: Any, tls: Any, logged: Any) -> None:
    tls.var.set(_tls.choose(certs.pair()))

    async def main() -> None:
        async with serving() as server:
            await (await connect_stream(server.addrs[0])).aclose()
            await greeted(server.addrs[0])
            await wires.wait_for(lambda: not server._half_open)

    run(main)
    assert logged.records == []


@pytest.mark.parametrize('data', [b'', b'\x16', b'\x16\x03\x01\x02\x00\x01'])
def test_silence_at_a_listener(
    data: bytes, actor: Any, tls: Any, logged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_server, '_PRE_REG_HANDSHAKE_TIMEOUT', 0.05)
    tls.var.set(_tls.choose(certs.pair()))

    async def main() -> None:
        async with serving() as server, await connect_stream(server.addrs[0]) as stream:
            await stream.send_all(data)
            assert await read_to_the_end(stream) == b''

    run(main)
    assert 'no TLS handshake within' in logged.text


def test_silence_at_a_connector(actor: Any, tls: Any) -> None:
    tls.var.set(_tls.choose(certs.pair()))

    async def main() -> None:
        (listener,) = await trio.open_tcp_listeners(0, host='127.0.0.1')
        async with listener:
            addr = listener.socket.getsockname()
            async with _connect_chan(addr) as chan:
                with pytest.raises(TLSHandshakeError, match=r'no TLS handshake within 0\.1 s'):
                    await chan._do_handshake(aid=wires.PEER, timeout=0.1)

    run(main)


def test_a_listener_that_goes_away_is_no_refusal(tls: Any) -> None:
    """It may just be ending; who looks for it tries again."""
    tls.var.set(_tls.choose(certs.pair()))

    async def main() -> None:
        (listener,) = await trio.open_tcp_listeners(0, host='127.0.0.1')
        async with listener, _connect_chan(listener.socket.getsockname()) as chan:
            await (await listener.accept()).aclose()
            with pytest.raises(TransportClosed, match='closed the connection') as excinfo:
                await chan._do_handshake(aid=wires.PEER, timeout=5)
            assert type(excinfo.value) is TransportClosed

    run(main)


def test_cancelled_at_every_checkpoint(actor: Any, tls: Any) -> None:
    """Whatever part of the handshakes it is: nothing stays open, and the listener lives on."""
    tls.var.set(_tls.choose(certs.pair()))

    async def cancel_at(server: Any, nth: int) -> bool:
        left = nth

        class Count(trio.abc.Instrument):
            def before_task_step(self, task: Any) -> None:
                nonlocal left
                if task is me:
                    left -= 1
                    if not left:
                        scope.cancel()

        me = trio.lowlevel.current_task()
        count = Count()
        trio.lowlevel.add_instrument(count)
        try:
            with trio.CancelScope() as scope:
                await greeted(server.addrs[0])
        finally:
            trio.lowlevel.remove_instrument(count)
        return scope.cancelled_caught

    async def main() -> None:
        async with serving() as server:
            nth = 1
            while await cancel_at(server, nth):
                nth += 1
            assert nth > 5
            await wires.wait_for(lambda: not server._half_open)
            await greeted(server.addrs[0])

    run(main)


# --- ends


def test_closing_does_not_wait_for_a_peer_that_reads_nothing(actor: Any, tls: Any) -> None:
    tls.var.set(_tls.choose(certs.pair()))

    async def deaf(_chan: Channel) -> tuple[bool, Any]:
        await trio.sleep_forever()
        return True, None

    actor.loop = deaf

    async def main() -> None:
        async with serving() as server:
            async with _connect_chan(server.addrs[0]) as chan:
                await chan._do_handshake(aid=wires.PEER)
                with trio.move_on_after(0.1):
                    await chan.send(wires.item('x' * (16 << 20)))
            assert not chan.connected()
            assert chan.transport is not None
            assert not chan.transport.connected()
            server.cancel()

    run(main, timeout=5)


def test_the_end_of_a_peer_is_an_end(actor: Any, tls: Any) -> None:
    """With or without the closing handshake of TLS, as a process that is killed makes none."""
    tls.var.set(_tls.choose(certs.pair()))

    async def main() -> None:
        async with serving() as server, wires.connected(server) as chan:
            await wires.wait_for(lambda: actor.served)
            await actor.served[0].aclose()
            with pytest.raises(TransportClosed, match='already closed by peer'):
                await chan.recv()
            assert not chan.connected()

    run(main)


def test_closed_here_while_it_reads(actor: Any, tls: Any) -> None:
    tls.var.set(_tls.choose(certs.pair()))

    async def main() -> None:
        async with serving() as server, wires.connected(server) as chan, trio.open_nursery() as tn:
            tn.start_soon(read, chan)
            await trio.testing.wait_all_tasks_blocked()
            await chan.stream.aclose()

    async def read(chan: Channel) -> None:
        with pytest.raises(TransportClosed, match='already closed locally') as excinfo:
            await chan.recv()
        assert excinfo.value._raise_on_report

    run(main)


# --- with a key, and where there is none


@pytest.mark.parametrize('same', [True, False])
def test_tls_and_a_key(
    same: bool, actor: Any, tls: Any, logged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First TLS, then the key: who has but one of them does not get in."""
    tls.var.set(_tls.choose(certs.pair()))
    key: ContextVar[bytes] = ContextVar('key')

    class Held:
        value = property(lambda _self: key.get())

    monkeypatch.setattr(_auth, 'current', Held())
    key.set(b'k' * 20)

    async def main() -> None:
        async with serving() as server:
            if not same:
                key.set(b'o' * 20)
                with pytest.raises(AuthenticationError, match='when it saw our proof'):
                    await greeted(server.addrs[0])
                with tls.of_client(None), pytest.raises(AuthenticationError, match='speaks TLS'):
                    await greeted(server.addrs[0])
                return
            await greeted(server.addrs[0])

    run(main)
    assert bool(logged.records) is not same


@pytest.mark.skipif(not HAS_UDS, reason='no UNIX sockets on this system')
def test_unix_sockets_are_not_concerned(actor: Any, tls: Any, tmp_path: Path) -> None:
    made = []
    tls.var.set(TLS(lambda: made.append(1)))

    async def main() -> None:
        async with serving(UDSAddress(tmp_path, 'x.sock')) as server:
            chan = await greeted(server.addrs[0])
            assert isinstance(chan.stream, trio.SocketStream)

    run(main)
    assert made == []
