"""contract: messages over a byte stream: order, joined writes, what cannot be sent, what is no message."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from tractor import MsgTypeError, TransportClosed
from tractor._code_load import load_module_from_path
from tractor.ipc import _transport
from tractor.ipc._transport import MsgpackTransport
from tractor.msg import _codec
from tractor.msg.types import Return

wires = sys.modules.get('wires') or load_module_from_path(Path(__file__).with_name('wires.py'))
framed, item, run, value = wires.framed, wires.item, wires.run, wires.value

SIZES = [0, 1, 1000, 64 * 1024 - 50, 64 * 1024, 1 << 20, (3 << 20) + 1]


# --- there and back


@pytest.mark.parametrize('size', SIZES)
def test_round_trip_over_any_stream(size: int) -> None:
    async def main() -> None:
        one, two = wires.memory_transports()
        async with trio.open_nursery() as tn:
            tn.start_soon(one.send, item(b'x' * size))
            assert value(await two.recv()) == b'x' * size
            tn.start_soon(two.send, {'msg_type': 'Return', 'cid': 'c', 'pld': size})
            assert value(await one.recv()) == size

    run(main)


def test_what_each_transport_has_to_say_itself() -> None:
    async def main() -> None:
        memory, _ = wires.memory_transports()
        assert memory.connected()
        assert memory.maddr == memory.raddr == 'there'
        with pytest.raises(TypeError, match='read the addresses'):
            MsgpackTransport.get_stream_addrs(None)
        with pytest.raises(TypeError, match='connect to'):
            await MsgpackTransport.connect_to('x')

    run(main)


def test_iteration_can_be_cancelled_and_resumed() -> None:
    async def main() -> None:
        one, two = wires.memory_transports()
        stream = aiter(two)
        with trio.move_on_after(0) as scope:
            await anext(stream)
        assert scope.cancelled_caught
        await one.send(item(1))
        assert value(await anext(stream)) == 1
        await one.stream.aclose()
        for _ in range(2):
            with pytest.raises(TransportClosed):
                await anext(stream)

    run(main)


# --- many senders


def test_frames_of_concurrent_tasks_are_joined() -> None:
    async def main() -> None:
        gate = trio.Event()
        async with wires.scripted(gate=gate.wait) as (tpt, sock):
            done: list[int] = []

            async def sender(number: int) -> None:
                await tpt.send(item(number))
                done.append(number)

            async with trio.open_nursery() as tn:
                for number in range(50):
                    tn.start_soon(sender, number)
                await trio.testing.wait_all_tasks_blocked()
                assert not done
                gate.set()
            assert sorted(done) == list(range(50))
            # the first one left at once, the others together
            assert len(sock.sent) == 2
            assert len(sock.sent[0]) == len(framed(item(0)))

    run(main)


def test_a_lone_sender_leaves_at_once() -> None:
    async def main() -> None:
        async with wires.scripted() as (tpt, sock):
            for count in range(1, 4):
                await tpt.send(item(count))
                assert len(sock.sent) == count

    run(main)


def test_a_queue_is_written_by_one_task_after_the_other() -> None:
    """Each returns once its own frame is out, however much is queued behind it."""

    async def main() -> None:
        turns = trio.Semaphore(0)
        async with wires.scripted(gate=turns.acquire) as (tpt, sock):
            done: list[int] = []

            async def sender(number: int) -> None:
                await tpt.send(item(b'x' * 100_000))
                done.append(number)

            async with trio.open_nursery() as tn:
                for number in range(5):
                    tn.start_soon(sender, number)
                for count in range(1, 6):
                    # head and rest of a large frame
                    for _ in range(2):
                        turns.release()
                        await trio.testing.wait_all_tasks_blocked()
                    assert len(done) == count
            assert len(sock.sent) == 10

    run(main)


# --- queued without waiting


def test_flushing_without_waiting_is_for_sockets_and_says_nothing_of_errors() -> None:
    async def main() -> None:
        one, _two = wires.memory_transports()
        one.push(item(1))
        assert not one.flush_nowait()
        async with wires.socket_pair() as (tpt, other):
            tpt.push(item(1))
            other.socket.close()
            assert not tpt.flush_nowait()
            with pytest.raises(TransportClosed, match='already closed by peer'):
                await tpt.flush()
            tpt.push(item(1))
            assert not tpt.flush_nowait()

    run(main)


# --- what cannot be encoded


def endless() -> list[Any]:
    top: list[Any] = []
    top.append(top)
    return top


def refuse(_obj: Any) -> Any:
    raise LookupError('no such thing')


@pytest.mark.parametrize(
    ('make', 'codec', 'cause'),
    [
        (object, None, TypeError),
        (lambda: 1 << 70, None, OverflowError),
        (lambda: '\ud800', None, UnicodeEncodeError),
        (endless, None, RecursionError),
        (object, _codec.mk_codec(enc_hook=refuse, ext_types=[object]), LookupError),
    ],
    ids=['type', 'overflow', 'unicode', 'recursion', 'hook'],
)
def test_what_cannot_be_encoded_is_not_sent(make: Any, codec: Any, cause: type) -> None:
    async def main() -> None:
        async with wires.socket_transports() as (one, two):
            applied = _codec.apply_codec(codec) if codec else contextlib.nullcontext()
            with applied, pytest.raises(MsgTypeError) as excinfo:
                await one.send(Return(cid='c', pld=make()))
            assert type(excinfo.value.__cause__) is cause
            assert cause.__name__ in str(excinfo.value)
            # the way out that is shown must lead out
            assert ('enc_hook=' in str(excinfo.value)) is (cause is TypeError)
            await one.send(item('next'))
            assert value(await two.recv()) == 'next'

    run(main)


def test_what_is_too_large_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_transport, 'MAX_FRAME_SIZE', 1000)

    async def main() -> None:
        async with wires.socket_transports() as (one, two):
            with pytest.raises(MsgTypeError, match=r'a Yield of \d+ bytes .* the 1000') as excinfo:
                await one.send(item(b'x' * 1000))
            assert excinfo.value.cid == 'c'
            # its report must fit
            assert excinfo.value.bad_msg is None
            await one.send(item(b'x' * 900))
            assert len(value(await two.recv())) == 900

    run(main)


def test_each_task_sends_with_its_own_codec() -> None:
    class Point(msgspec.Struct):
        x: int

    codec = _codec.mk_codec(enc_hook=lambda obj: [obj.real], ext_types=[complex])

    async def main() -> None:
        async with wires.socket_transports() as (one, two):

            async def with_codec() -> None:
                with _codec.apply_codec(codec):
                    await one.send(item(2j))

            async def without() -> None:
                with pytest.raises(MsgTypeError):
                    await one.send(item(2j))

            async with trio.open_nursery() as tn:
                tn.start_soon(with_codec)
                tn.start_soon(without)
            assert value(await two.recv()) == [0.0]

    run(main)


# --- what is no message


WRONG: list[tuple[Any, str]] = [
    ({'msg_type': 'Nonsense', 'cid': 'c'}, 'Nonsense'),
    ({'msg_type': 'Yield', 'cid': 7, 'pld': 1}, 'cid'),
    ({'msg_type': 'Yield', 'cid': 'c'}, 'pld'),
    ({'cid': 'c', 'pld': 1}, 'untagged'),
    ([1, 2], 'not a map'),
    (None, 'not a map'),
    ('text', 'not a map'),
]


@pytest.mark.parametrize(('wrong', 'text'), WRONG)
def test_a_wrong_message_comes_as_a_value(wrong: Any, text: str) -> None:
    async def main() -> None:
        async with wires.socket_pair() as (tpt, other):
            frames = wires.frame(msgspec.msgpack.encode(wrong)) * 2 + framed(item(1))
            await other.send_all(frames)
            got = await tpt.recv()
            assert isinstance(got, MsgTypeError)
            assert isinstance(got.__cause__, msgspec.ValidationError)
            assert text in str(got)
            assert got.cid == ('c' if isinstance(wrong, dict) and wrong.get('cid') == 'c' else None)
            assert isinstance(await anext(tpt), MsgTypeError)
            assert value(await tpt.recv()) == 1

    run(main)


# the last one is nested too deeply
GARBAGE = [
    b'',
    b'\xc1',
    b'\x83\xa8msg',
    framed(item(1))[4:] + b'\0',
    b'\x82\xa8msg_type\xa5Yield\xa3pld' + b'\x91' * 1_000_000 + b'\0',
]


@pytest.mark.parametrize('body', GARBAGE)
def test_a_little_garbage_is_skipped(body: bytes) -> None:
    async def main() -> None:
        async with wires.socket_pair() as (tpt, other):
            async with trio.open_nursery() as tn:
                tn.start_soon(other.send_all, (wires.frame(body) + framed(item(1))) * 4)
                assert [value(await tpt.recv()) for _ in range(4)] == [1] * 4
                last = framed(item(2)) + wires.frame(body) + framed(item(3))
                tn.start_soon(other.send_all, last)
                # what came before is delivered, what comes after is not
                assert value(await tpt.recv()) == 2
                with pytest.raises(TransportClosed, match='refuses what the peer') as excinfo:
                    await tpt.recv()
            assert excinfo.value._loglevel == 'warning'
            assert not excinfo.value._raise_on_report
            assert excinfo.value.src_exc is not None
            with pytest.raises(TransportClosed, match='refuses'):
                await tpt.recv()
            with pytest.raises(TransportClosed, match='refuses'):
                await tpt.send(item(1))

    run(main)


def test_drain_keeps_all_before_it_gives_any() -> None:
    async def main() -> None:
        one, two = wires.memory_transports()
        got: list[Any] = []

        async def drain() -> None:
            got.extend([value(msg) async for msg in two.drain()])

        async with trio.open_nursery() as tn:
            tn.start_soon(drain)
            for number in range(3):
                await one.send(item(number))
            await trio.testing.wait_all_tasks_blocked()
            assert not got
            assert len(two.drained) == 3
            await one.stream.aclose()
        assert got == [0, 1, 2]

    run(main)
