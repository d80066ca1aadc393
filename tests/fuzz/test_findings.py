"""contract: what the fuzzer has found, each told by a test of its own; `inputs` beside this file has the bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import tractor
from tractor._child import parse_addr, parse_uid
from tractor._exceptions import MsgTypeError, RemoteActorError, TransportClosed
from tractor.discovery import mk_maddr, parse_maddr
from tractor.discovery._addr import wrap_address
from tractor.ipc import Channel
from tractor.ipc._uds import MsgpackUDSStream, UDSAddress
from tractor.msg._errors import pack_error, unpack_error
from tractor.msg.types import Error, Yield
from tractor.runtime import _flow


def run(fn: Callable[[], Any]) -> None:
    async def main() -> None:
        with trio.fail_after(10):
            await fn()

    trio.run(main)


# --- errors whose fields nobody has checked

WRONG: list[Any] = [True, 7, 1.5, b'x', 'text', {'a': 1}, [None], [['a']]]


def error_with(**fields: Any) -> Error:
    made: dict[str, Any] = {
        'src_uid': ('a', '1'),
        'src_type_str': 'ValueError',
        'boxed_type_str': 'ValueError',
        'relay_path': [('a', '1')],
        'tb_str': 'Traceback\n',
        'cid': 'c',
    }
    return Error(**{**made, **fields})


def unpacked(**fields: Any) -> RemoteActorError:
    error = unpack_error(error_with(**fields))
    assert error is not None
    return error


@pytest.mark.parametrize('wrong', WRONG, ids=repr)
def test_an_error_with_any_relay_path_can_be_sent_on(wrong: Any) -> None:
    error = unpacked(relay_path=wrong)
    assert all(isinstance(uid, tuple) for uid in error.relay_path)
    sent_on = pack_error(error, cid='c', src_uid=('us', '2'))
    assert sent_on.relay_path[-1] == ('<unknown>', '')
    assert len(sent_on.relay_path) <= 1 + len(error.relay_path)


@pytest.mark.parametrize('wrong', [w for w in WRONG if not isinstance(w, str)], ids=repr)
def test_a_type_name_that_is_none_counts_as_absent(wrong: Any) -> None:
    error = unpacked(src_type_str=wrong, boxed_type_str=wrong)
    assert error.src_type_str is None
    assert error.src_type is None
    assert error.boxed_type_str == '<unknown>'
    assert error.boxed_type is None
    assert 'Traceback' in repr(error)
    assert isinstance(error.unwrap(), RuntimeError)


@pytest.mark.parametrize('wrong', [w for w in WRONG if not isinstance(w, dict)], ids=repr)
def test_a_bad_message_that_is_no_map_counts_as_absent(wrong: Any) -> None:
    error = unpacked(boxed_type_str='MsgTypeError', _bad_msg_as_dict=wrong)
    assert isinstance(error, MsgTypeError)
    assert error.bad_msg_as_dict is None
    assert error.bad_msg is None
    assert error.expected_msg_type is None
    assert error.cid == 'c'


# --- addresses


@pytest.mark.parametrize('text', ['{[]: 1}', '{{}}', '[' * 500, '-[1]', '1 +', '(1', 'a b'])
def test_what_is_no_literal_is_taken_as_a_text(text: str) -> None:
    assert parse_addr(text) == text
    with pytest.raises(ValueError, match='not a pair of two texts'):
        parse_uid(text)


@pytest.mark.parametrize('text', ['1', 'None', "('a',)", "('a', 'b', 'c')"])
def test_what_is_no_pair_is_no_uid(text: str) -> None:
    with pytest.raises(ValueError, match=r'not a pair|unpack'):
        parse_uid(text)


def test_multiaddr_of_a_relative_path() -> None:
    addr = wrap_address(('some/where', 'x.sock'))
    again = parse_maddr(str(mk_maddr(addr)))
    assert again == UDSAddress.from_addr((str(Path.cwd() / 'some/where'), 'x.sock'))


def test_a_multiaddr_has_no_backslash() -> None:
    addr = wrap_address(('/run', 'a\\b.sock'))
    with pytest.raises(ValueError, match='backslash'):
        mk_maddr(addr)
    with pytest.raises(ValueError, match='backslash'):
        parse_maddr('/unix/run/a\\b.sock')


@pytest.mark.parametrize(
    'name', ['a\\b.sock', os.fsdecode(b'\xff.sock')], ids=['backslash', 'bytes']
)
def test_a_channel_can_be_shown_wherever_its_listener_is(tmp_path: Path, name: str) -> None:
    async def main() -> None:
        addr = UDSAddress(tmp_path, name)
        listener = await addr.open_listener()
        try:
            chan = Channel(await MsgpackUDSStream.connect_to(addr))
            assert chan.maddr == repr(addr)
            assert repr(addr) in chan.pformat(privates=True)
            await chan.aclose()
        finally:
            addr.close_listener(listener)

    run(main)


# --- a stream that is lost while one task writes and another wants to


def test_a_loss_is_noticed_by_a_second_sender_while_the_first_is_writing() -> None:
    async def main() -> None:
        one, two = trio.socket.socketpair()
        with one, two:
            tpt = MsgpackUDSStream(trio.SocketStream(one))
            outcomes: list[str] = []

            async def send(pld: str) -> None:
                try:
                    await tpt.send(Yield(cid='c', pld=pld))
                except TransportClosed as closed:
                    outcomes.append(type(closed).__name__)
                else:
                    outcomes.append('sent')

            async with trio.open_nursery() as tn:
                # more than the socket takes
                tn.start_soon(send, 'x' * (1 << 22))
                await trio.testing.wait_all_tasks_blocked()
                two.shutdown(trio.socket.SHUT_WR)
                end = tpt.push(Yield(cid='c', pld='late'))
                with pytest.raises(TransportClosed):
                    await tpt.recv()
                with pytest.raises(TransportClosed):
                    await tpt.flush(end)
                while await two.recv(1 << 20):
                    if tpt._writer is not None and not tpt._writing:
                        break
            # the kernel took a part of it only, or all
            assert len(outcomes) == 1
            assert tpt._writer is not None
            assert tpt._writer.unwritten == 0

    run(main)


# --- back-pressure


@pytest.mark.parametrize('room', ['abc', None, 0, -1, float('nan'), {}, [1]], ids=repr)
def test_a_peer_that_says_nonsense_of_its_room_is_not_asked_again(
    room: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    async def call(self: Any, *args: Any) -> Any:
        asked.append(args)
        return room

    monkeypatch.setattr(tractor.Portal, '_call', call)

    class Ctx:
        cid = 'c'
        chan = Channel()
        _portal = object.__new__(tractor.Portal)

    async def main() -> None:
        credit = _flow.Credit(Ctx())  # type: ignore[arg-type]
        for _ in range(100):
            await credit.take()

    run(main)
    assert len(asked) == 1
