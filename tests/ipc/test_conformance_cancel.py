"""contract: a send or receive cancelled at any of its checkpoints leaves the stream in sync, on every transport."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tractor import TransportClosed
from tractor._code_load import load_module_from_path
from tractor._testing.checkpoints import Run, at_each_checkpoint, cancelled_at
from tractor.ipc import Channel
from tractor.ipc._framing import FrameReader
from tractor.msg.types import Aid

wires = sys.modules.get('wires') or load_module_from_path(Path(__file__).with_name('wires.py'))
actor = wires.actor
framed, item, run, value = wires.framed, wires.item, wires.run, wires.value

ME, PEER = Aid(name='me', uuid='1', pid=1), Aid(name='peer', uuid='2', pid=2)
MUCH = b'x' * (16 << 20)


def payloads(msgs: list[Any]) -> list[Any]:
    return [value(msg) for msg in msgs]


async def recv_all(tpt: Any, count: int, got: list[Any]) -> None:
    while len(got) < count:
        got.append(await tpt.recv())


# --- sending


@pytest.mark.parametrize('size', [1, 900, 70_000, 1 << 20])
@pytest.mark.parametrize('operation', ['send', 'post', 'push and flush', 'channel'])
def test_sending(kit: Any, operation: str, size: int) -> None:
    async def check(nth: int) -> Run:
        async with kit.transports() as (tpt, other), trio.open_nursery() as tn:
            got: list[Any] = []

            async def read() -> None:
                while not got or value(got[-1]) != 'following':
                    got.append(await other.recv())

            tn.start_soon(read)
            outcome = await cancelled_at(nth, OPERATIONS[operation], tpt, item(b'x' * size))
            await tpt.send(item('following'))
        # whole or not at all
        assert payloads(got) in ([b'x' * size, 'following'], ['following'])
        if not outcome.cancelled:
            assert len(got) == 2
        assert tpt._writer.unwritten == 0
        return outcome

    run(at_each_checkpoint, check, 0 if operation == 'post' and size < 1 << 20 else 1, timeout=30)


async def push_and_flush(tpt: Any, msg: Any) -> None:
    await trio.lowlevel.checkpoint()
    await tpt.flush(tpt.push(msg))


async def post(tpt: Any, msg: Any) -> None:
    # what does not wait cannot be cancelled
    await trio.lowlevel.checkpoint_if_cancelled()
    await tpt.post(msg)


OPERATIONS: dict[str, Callable[[Any, Any], Awaitable[None]]] = {
    'send': lambda tpt, msg: tpt.send(msg),
    'post': post,
    'push and flush': push_and_flush,
    'channel': lambda tpt, msg: Channel(tpt).send(msg),
}


def test_several_senders_of_which_one_is_cancelled(kit: Any) -> None:
    """The one that writes, or one that waits for its turn."""

    async def check(nth: int) -> Run:
        async with kit.transports() as (tpt, other), trio.open_nursery() as tn:
            got: list[Any] = []

            async def read() -> None:
                while sorted(map(number_of, got))[-3:] != [97, 98, 99]:
                    got.append(await other.recv())

            async def sender(number: int) -> None:
                await tpt.send(item([number, b'x' * 100_000]))

            tn.start_soon(sender, 97)
            tn.start_soon(sender, 98)
            tn.start_soon(read)
            outcome = await cancelled_at(nth, sender, 0)
            await sender(99)
        numbers = list(map(number_of, got))
        assert set(numbers) - {0} == {97, 98, 99}
        assert len(set(numbers)) == len(numbers)
        return outcome

    def number_of(msg: Any) -> int:
        return int(value(msg)[0])

    run(at_each_checkpoint, check, 1, timeout=30)


def bodies_of(data: bytes) -> list[bytes]:
    reader = FrameReader()
    bodies = [bytes(body) for body in reader.feed(data)]
    assert reader.pending == 0, 'half a frame is left'
    return bodies


@pytest.mark.parametrize('taken', [1, 3, 4, 100, 64 * 1024, 300_000])
def test_sending_to_a_peer_that_does_not_read(kit: Any, taken: int) -> None:
    big = item(MUCH)

    async def main() -> None:
        async with kit.pair() as (tpt, other):
            data = bytearray()
            async with trio.open_nursery() as tn:
                tn.start_soon(tpt.send, big)
                await trio.testing.wait_all_tasks_blocked()
                data += await other.receive_some(taken)
                await trio.testing.wait_all_tasks_blocked()
                tn.cancel_scope.cancel()
            async with trio.open_nursery() as tn:
                for number in range(3):
                    tn.start_soon(tpt.send, item(number))
                while len(data) < len(framed(big)) + 3 * len(framed(item(0))):
                    data += await other.receive_some()
            bodies = bodies_of(bytes(data))
            assert bodies[0] == wires.encoded(big)
            assert sorted(bodies[1:]) == [wires.encoded(item(number)) for number in range(3)]

    run(main, timeout=30)


def test_a_message_which_had_to_wait_is_taken_back(kit: Any) -> None:
    async def main() -> None:
        async with kit.pair() as (tpt, other), trio.open_nursery() as tn:
            big = item(MUCH)
            tn.start_soon(tpt.send, big)
            await trio.testing.wait_all_tasks_blocked()
            # a program that tries again and again while the peer does not read
            for _ in range(50):
                async with trio.open_nursery() as waiting:
                    waiting.start_soon(tpt.send, item(b'y' * 1000))
                    await trio.testing.wait_all_tasks_blocked()
                    waiting.cancel_scope.cancel()
            assert tpt._writer.unwritten < len(framed(big))
            tn.start_soon(tpt.send, item('last'))
            data = bytearray()
            while len(data) < len(framed(big)) + len(framed(item('last'))):
                data += await other.receive_some()
            assert bodies_of(bytes(data)) == [wires.encoded(big), wires.encoded(item('last'))]

    run(main, timeout=30)


def test_cancelling_the_writer_and_its_successor_at_once_strands_nobody(kit: Any) -> None:
    async def main() -> None:
        async with kit.transports() as (tpt, other), trio.open_nursery() as tn:
            scopes = [trio.CancelScope() for _ in range(3)]

            async def doomed(scope: trio.CancelScope) -> None:
                with scope:
                    await tpt.send(item(MUCH))

            for scope in scopes:
                tn.start_soon(doomed, scope)
                await trio.testing.wait_all_tasks_blocked()
            for number in range(3):
                tn.start_soon(tpt.send, item(number))
                await trio.testing.wait_all_tasks_blocked()
            for scope in scopes:
                scope.cancel()
            # the one that was on its way, then those that wait
            got = [value(await other.recv()) for _ in range(4)]
            assert got == [MUCH, 0, 1, 2]

    run(main, timeout=30)


def test_a_lone_sender_that_tries_again_and_again_does_not_fill_the_memory(kit: Any) -> None:
    async def main() -> None:
        async with kit.pair() as (tpt, other):
            for _ in range(100):
                with trio.move_on_after(0):
                    await tpt.send(item(b'y' * 100_000))
            assert tpt._writer is None
            async with trio.open_nursery() as tn:
                tn.start_soon(tpt.send, item('last'))
                data = bytearray()
                while not data.endswith(framed(item('last'))):
                    data += await other.receive_some()
            assert bodies_of(bytes(data))[-1] == wires.encoded(item('last'))

    run(main)


# --- receiving

STREAM = [item(1), item(b'x' * 200), item(b'y' * 150_000), item(2)]


@pytest.mark.parametrize('operation', ['recv', 'recv_batch', 'iterate', 'channel', 'drain'])
@pytest.mark.parametrize('pieces', [1, 7])
def test_receiving(kit: Any, operation: str, pieces: int) -> None:
    data = b''.join(map(framed, STREAM))
    size = len(data) // pieces + 1

    async def check(nth: int) -> Run:
        async with kit.pair() as (tpt, other), trio.open_nursery() as tn:

            async def send() -> None:
                for at in range(0, len(data), size):
                    await other.send_all(data[at : at + size])
                    # so that each piece is read by itself
                    await trio.testing.wait_all_tasks_blocked()
                await other.send_eof()

            tn.start_soon(send)
            got: list[Any] = []
            outcome = await cancelled_at(nth, READERS[operation], tpt, got)
            with suppress(TransportClosed):
                await recv_all(tpt, len(STREAM), got)
            if operation == 'drain' and outcome.cancelled:
                got = [*tpt.drained, *got]
            assert payloads(got) == [msg.pld for msg in STREAM]
        return outcome

    # a batch that is here is taken without waiting
    run(at_each_checkpoint, check, 0 if operation == 'recv_batch' else 3, timeout=30)


async def read_by_iteration(tpt: Any, got: list[Any]) -> None:
    async for msg in tpt:
        got.append(msg)
        if len(got) == len(STREAM):
            break


async def read_batches(tpt: Any, got: list[Any]) -> None:
    while len(got) < len(STREAM):
        batch = await tpt.recv_batch()
        while batch:
            got.append(batch.popleft())


async def drain(tpt: Any, got: list[Any]) -> None:
    got.extend([msg async for msg in tpt.drain()])


READERS: dict[str, Callable[[Any, list[Any]], Awaitable[None]]] = {
    'recv': lambda tpt, got: recv_all(tpt, len(STREAM), got),
    'recv_batch': read_batches,
    'iterate': read_by_iteration,
    'channel': lambda tpt, got: recv_all(Channel(tpt), len(STREAM), got),
    'drain': drain,
}


@pytest.mark.parametrize('first', [0, 2, 4, 30, 100_000])
def test_waiting_for_the_rest_of_a_frame(kit: Any, first: int) -> None:
    data = framed(item(b'x' * 200_000))

    async def main() -> None:
        async with kit.pair() as (tpt, other), trio.open_nursery() as sender:
            sender.start_soon(other.send_all, data[:first])
            for _ in range(3):
                async with trio.open_nursery() as tn:
                    tn.start_soon(tpt.recv)
                    await trio.testing.wait_all_tasks_blocked()
                    tn.cancel_scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            sender.start_soon(other.send_all, data[first:] + framed(item(2)))
            assert value(await tpt.recv()) == b'x' * 200_000
            assert value(await tpt.recv()) == 2

    run(main)


def test_draining_that_is_cancelled_keeps_what_it_had(kit: Any) -> None:
    async def main() -> None:
        async with kit.pair() as (tpt, other):
            await other.send_all(framed(item(1)))

            async def drained() -> list[Any]:
                return [value(msg) async for msg in tpt.drain()]

            async with trio.open_nursery() as tn:
                tn.start_soon(drained)
                await wires.wait_for(lambda: len(tpt.drained) == 1)
                tn.cancel_scope.cancel()
            await other.send_all(framed(item(2)))
            await other.aclose()
            assert await drained() == [1, 2]

    run(main)
