"""contract: a channel: its messages, its handshake, its end, and what it shows of itself."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

import tractor
from tractor import MsgTypeError, TransportClosed
from tractor._code_load import load_module_from_path
from tractor.ipc import (
    Channel,
    _chan,
)
from tractor.ipc._framing import MAX_FRAME_SIZE, MAX_GREETING_SIZE
from tractor.log import get_logger
from tractor.msg.types import Aid, Error

wires = sys.modules.get('wires') or load_module_from_path(Path(__file__).with_name('wires.py'))
framed, item, run, value = wires.framed, wires.item, wires.run, wires.value
logged = wires.logged

ME, PEER = Aid(name='me', uuid='1', pid=1), Aid(name='peer', uuid='2', pid=2)


@asynccontextmanager
async def channel() -> AsyncIterator[tuple[Channel, trio.SocketStream]]:
    """A channel, and the stream at its other end."""
    async with wires.socket_pair() as (tpt, other):
        yield Channel(tpt), other


# --- messages


def test_messages_go_both_ways() -> None:
    async def main() -> None:
        async with wires.socket_transports() as ends:
            one, two = map(Channel, ends)
            await one.send(item(1))
            assert value(await two.recv()) == 1
            await two.send(item(2))
            async for msg in one:
                assert value(msg) == 2
                break

    run(main)


def test_a_wrong_message_is_a_value_for_recv_and_an_error_message_in_iteration() -> None:
    wrong = wires.frame(msgspec.msgpack.encode({'msg_type': 'Yield', 'cid': 'c'}))

    async def main() -> None:
        async with channel() as (chan, other):
            await other.send_all(wrong * 2)
            got = await chan.recv()
            assert isinstance(got, MsgTypeError)
            error = await anext(chan)
            # nobody has said who he is: packing copes without
            assert isinstance(error, Error)
            assert (error.cid, error.boxed_type_str) == ('c', 'MsgTypeError')
            chan._aid = PEER
            await other.send_all(wrong + wires.frame(msgspec.msgpack.encode([1])))
            assert tuple((await anext(chan)).src_uid) == PEER.uid
            assert (await anext(chan)).cid is None

    run(main)


def test_iteration_never_just_ends() -> None:
    async def main() -> None:
        async with channel() as (chan, other):
            stream = aiter(chan)
            with trio.move_on_after(0) as scope:
                await anext(stream)
            assert scope.cancelled_caught
            await other.send_all(framed(item(1)))
            assert value(await anext(stream)) == 1
            await other.aclose()
            for _ in range(2):
                with pytest.raises(TransportClosed):
                    await anext(stream)

    run(main)


def test_errors_of_sending_come_through_unchanged() -> None:
    async def main() -> None:
        async with channel() as (chan, other):
            with pytest.raises(MsgTypeError):
                await chan.send(item(object()))
            await chan.send(item(1))
            assert await other.receive_some() == framed(item(1))
            other.socket.close()
            with pytest.raises(TransportClosed):
                await chan.send(item(1))

    run(main)


class Refuse:
    """Stands for a transport whose `send()` raises."""

    def __init__(self, err: BaseException) -> None:
        self.err = err

    async def send(self, payload: Any, hide_tb: bool = False) -> None:
        assert hide_tb is True
        raise self.err


@pytest.mark.parametrize('err', [MsgTypeError('x'), TransportClosed('x'), KeyError('x')])
def test_whatever_the_transport_raises(err: BaseException) -> None:
    async def main() -> None:
        with pytest.raises(type(err)) as excinfo:
            await Channel(Refuse(err)).send('x', hide_tb=True)  # type: ignore[arg-type]
        assert excinfo.value is err

    run(main)


def test_without_a_transport() -> None:
    async def main() -> None:
        chan = Channel()
        assert not chan.connected()
        assert chan.laddr is chan.raddr is chan.stream is chan.transport is chan.aid is None
        assert chan.maddr == '<no-tpt>'
        assert '<no-tpt>' in str(chan)
        for use in (chan.send(1), chan.recv(), chan._do_handshake(aid=ME)):
            with pytest.raises(TransportClosed, match='no transport'):
                await use
        await chan.aclose()
        assert chan.closed

    run(main)


# --- what is logged


@pytest.mark.parametrize('silence', ['level', 'disabled', 'disable', 'none'])
def test_payloads_are_rendered_only_for_a_record_that_is_emitted(
    silence: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rendered: list[Any] = []

    def pformat(payload: Any) -> str:
        rendered.append(payload)
        return 'RENDERED'

    log = get_logger('test_channel_payloads')
    logger = log.logger
    monkeypatch.setattr(_chan, 'log', log)
    monkeypatch.setattr(_chan, 'pformat', pformat)
    monkeypatch.setattr(logger, 'disabled', silence == 'disabled')
    logger.setLevel(10 if silence == 'level' else 5)
    try:
        with caplog.at_level(1):
            if silence == 'disable':
                logging.disable(5)

            async def main() -> None:
                async with channel() as (chan, other):
                    await chan.send(item(1))
                    await other.send_all(framed(item(2)))
                    await chan.recv()

            run(main)
    finally:
        logging.disable(logging.NOTSET)
    assert len(rendered) == (2 if silence == 'none' else 0)
    assert caplog.text.count('RENDERED') == len(rendered)


# --- handshake


@asynccontextmanager
async def greeted_by(data: bytes, end: bool = False) -> AsyncIterator[Channel]:
    async with channel() as (chan, other):
        await other.send_all(data)
        if end:
            await other.send_eof()
        yield chan


def test_handshake() -> None:
    async def main() -> None:
        async with wires.socket_transports() as ends, trio.open_nursery() as tn:
            one, two = map(Channel, ends)
            tn.start_soon(one._do_handshake, ME)
            assert await two._do_handshake(aid=PEER, timeout=5) is two.aid
            assert two.aid == ME
            assert two.aid is not ME
        assert one.aid == PEER
        assert one.transport is not None
        assert one.transport.max_frame_size == MAX_FRAME_SIZE

    run(main)


def test_our_identity_goes_first() -> None:
    async def main() -> None:
        async with channel() as (chan, other), trio.open_nursery() as tn:
            tn.start_soon(chan._do_handshake, ME)
            assert await other.receive_some() == framed(ME)
            await other.send_all(framed(PEER))
        assert chan.aid == PEER

    run(main)


BAD_GREETINGS = {
    'another message': (framed(item(1)), TypeError, 'Yield'),
    'wrong map': (wires.frame(b'\x80'), MsgTypeError, 'untagged'),
    'wrong tag': (wires.frame(b'\x81\xa8msg_type\xa1X'), MsgTypeError, 'X'),
    'wrong fields': (wires.frame(b'\x81\xa8msg_type\xa3Aid'), MsgTypeError, 'name'),
    'no map': (wires.frame(b'\x01'), MsgTypeError, 'not a map'),
}


@pytest.mark.parametrize('kind', BAD_GREETINGS)
def test_a_bad_greeting(kind: str) -> None:
    data, cause, text = BAD_GREETINGS[kind]

    async def main() -> None:
        async with greeted_by(data) as chan:
            with pytest.raises(TransportClosed) as excinfo:
                await chan._do_handshake(aid=ME)
            closed = excinfo.value
            assert closed.message.startswith('Peer sent an invalid actor handshake!\n')
            assert repr(chan.transport) in closed.message
            assert text in closed.message
            assert closed._loglevel == 'warning'
            assert type(closed.src_exc) is cause
            assert chan.aid is None

    run(main)


@pytest.mark.parametrize(
    ('data', 'text'),
    [
        (wires.frame(b'\xc1') * 5, 'refuses what the peer sends'),
        (b'GET / HTTP/1.1\r\nHost: x\r\n\r\n', '542393671 bytes, more than the 65536'),
        (b'\xff\xff\xff\xff', '4294967295 bytes, more than the 65536'),
        (b'', 'already closed by peer'),
        (framed(PEER)[:7], 'in the middle of a frame, after 7 bytes'),
    ],
)
def test_a_greeting_that_ends_the_connection(data: bytes, text: str) -> None:
    async def main() -> None:
        async with greeted_by(data, end=True) as chan:
            with pytest.raises(TransportClosed, match=text):
                await chan._do_handshake(aid=ME)

    run(main)


@pytest.mark.parametrize('data', [b'', b'\x10\0', framed(PEER)[:-1]])
def test_a_greeting_that_never_comes(data: bytes) -> None:
    async def main() -> None:
        async with greeted_by(data) as chan:
            with pytest.raises(TransportClosed, match='invalid actor handshake') as excinfo:
                await chan._do_handshake(aid=ME, timeout=3)
            assert isinstance(excinfo.value.src_exc, trio.TooSlowError)

    # virtual time
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_cancelled_handshake_is_no_bad_one() -> None:
    async def main() -> None:
        async with channel() as (chan, _):
            with trio.move_on_after(0) as scope:
                await chan._do_handshake(aid=ME, timeout=3)
            assert scope.cancelled_caught

    run(main)


def test_large_messages_are_for_those_who_are_known() -> None:
    async def main() -> None:
        aid = Aid(name='x' * MAX_GREETING_SIZE, uuid='2')
        async with channel() as (chan, other), trio.open_nursery() as tn:
            tn.start_soon(other.send_all, framed(aid))
            with pytest.raises(TransportClosed, match='more than the 65536'):
                await chan._do_handshake(aid=ME)
            tn.cancel_scope.cancel()
        # also if the first one comes together with the greeting
        async with channel() as (chan, other), trio.open_nursery() as tn:
            tn.start_soon(other.send_all, framed(PEER) + framed(item(b'x' * MAX_GREETING_SIZE)))
            await chan._do_handshake(aid=ME)
            assert len(value(await chan.recv())) == MAX_GREETING_SIZE

    run(main)


# --- what it is


def test_properties_and_text() -> None:
    async def main() -> None:
        async with channel() as (chan, _):
            assert (chan._exc, chan.closed, chan.cancel_called) == (None, False, False)
            assert chan.stream is chan.transport.stream  # type: ignore[union-attr]
            chan._aid = PEER
            chan._cancel_called = True
            assert chan.cancel_called
            text = str(chan)
            assert text == repr(chan) == chan.pformat()
            for part in ('connected', 'peer@2', 'MsgpackUDSStream', 'laddr', 'raddr'):
                assert part in text, text
            assert '_exc' not in text
            for part in ('maddr: <unnamed socket pair>', '_exc: None', '_cancel_called: True'):
                assert part in chan.pformat(privates=True)
            with pytest.warns(DeprecationWarning, match=r'Channel\.aid\.uid'):
                assert chan.uid == PEER.uid
            chan._aid = None
            with pytest.warns(DeprecationWarning):
                assert chan.uid is None
            await chan.aclose()
            assert 'state: closed' in str(chan)

    run(main)


def test_it_is_exported() -> None:
    assert tractor.Channel is Channel
