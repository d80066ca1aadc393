"""contract: a cancelled send or receive, at whatever point, leaves the stream in sync."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tractor import TransportClosed
from tractor._code_load import load_module_from_path
from tractor.ipc._framing import FrameReader

wires = sys.modules.get('wires') or load_module_from_path(Path(__file__).with_name('wires.py'))
framed, item, run, value = wires.framed, wires.item, wires.run, wires.value


class CancelAt:
    """A gate for `ScriptedSocket`: a checkpoint, at which the n-th operation is cancelled."""

    def __init__(self, nth: int) -> None:
        self.left = nth
        self.scope = trio.CancelScope()

    async def __call__(self) -> None:
        self.left -= 1
        if not self.left:
            self.scope.cancel()
        await trio.lowlevel.checkpoint()


def bodies_of(data: bytes) -> list[bytes]:
    reader = FrameReader()
    bodies = [bytes(body) for body in reader.feed(data)]
    assert reader.pending == 0, 'half a frame is left'
    return bodies


# --- sending

SIZES = [1, 900, 70_000]


@pytest.mark.parametrize('size', SIZES)
def test_cancel_a_send_at_each_of_its_writes(size: int) -> None:
    message, following = item(b'x' * size), item('next')

    async def cancel_at(nth: int, step: int) -> bool:
        gate = CancelAt(nth)
        async with wires.scripted(step=step, gate=gate) as (tpt, sock):
            with gate.scope:
                await tpt.send(message)
            cancelled = gate.scope.cancelled_caught
            written = sum(map(len, sock.sent))
            await tpt.send(following)
            bodies = bodies_of(b''.join(sock.sent))
            if not cancelled:
                assert written == len(framed(message))
            if written or not cancelled:
                assert bodies == [wires.encoded(message), wires.encoded(following)]
            else:
                # not a byte had left: it goes with the next one, or was taken back
                assert bodies[-1] == wires.encoded(following)
                assert bodies[:-1] in ([], [wires.encoded(message)])
            assert tpt._writer.unwritten == 0
            return cancelled

    async def main() -> None:
        step = 1 + size // 12
        nth = 1
        while await cancel_at(nth, step):
            nth += 1
        assert nth > 8

    run(main)


@pytest.mark.parametrize('taken', [1, 3, 4, 100, 64 * 1024, 300_000])
def test_cancel_a_send_into_a_full_socket(taken: int) -> None:
    big = item(b'x' * (4 << 20))

    async def main() -> None:
        async with wires.socket_pair() as (tpt, other):
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

    run(main)


def test_a_message_which_had_to_wait_is_taken_back() -> None:
    async def main() -> None:
        async with wires.socket_pair() as (tpt, other), trio.open_nursery() as tn:
            big = item(b'x' * (1 << 20))
            tn.start_soon(tpt.send, big)
            await trio.testing.wait_all_tasks_blocked()
            # a program that tries again and again while the peer does not read
            for _ in range(100):
                with trio.move_on_after(0) as scope:
                    await tpt.send(item(b'y' * 1000))
                assert scope.cancelled_caught
            assert tpt._writer.unwritten < len(framed(big))
            tn.start_soon(tpt.send, item('last'))
            data = bytearray()
            while len(data) < len(framed(big)) + len(framed(item('last'))):
                data += await other.receive_some()
            assert bodies_of(bytes(data)) == [wires.encoded(big), wires.encoded(item('last'))]

    run(main)


def test_a_lone_sender_that_tries_again_and_again_does_not_fill_the_memory() -> None:
    async def main() -> None:
        async with wires.socket_pair() as (tpt, other):
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


@pytest.mark.parametrize('cancelled', range(5))
def test_when_one_of_several_senders_is_cancelled_the_others_go_on(cancelled: int) -> None:
    async def main() -> None:
        gate = trio.Event()
        async with wires.scripted(gate=gate.wait) as (tpt, sock):
            done: list[int] = []
            scopes = [trio.CancelScope() for _ in range(5)]

            async def sender(number: int) -> None:
                with scopes[number]:
                    await tpt.send(item(number))
                    done.append(number)

            async with trio.open_nursery() as tn:
                for number in range(5):
                    tn.start_soon(sender, number)
                    await trio.testing.wait_all_tasks_blocked()
                scopes[cancelled].cancel()
                await trio.testing.wait_all_tasks_blocked()
                gate.set()
            others = [number for number in range(5) if number != cancelled]
            assert sorted(done) == others
            # the first was on its way to the kernel: the next task takes it along
            expected = range(5) if cancelled == 0 else others
            assert bodies_of(b''.join(sock.sent)) == [wires.encoded(item(n)) for n in expected]

    run(main)


def test_cancelling_the_writer_and_its_successor_at_once_strands_nobody() -> None:
    async def main() -> None:
        gate = trio.Event()
        async with wires.scripted(gate=gate.wait) as (tpt, sock):
            scopes = [trio.CancelScope() for _ in range(3)]
            done: list[int] = []

            async def doomed(number: int) -> None:
                with scopes[number]:
                    await tpt.send(item(number))

            async def sender(number: int) -> None:
                await tpt.send(item(number))
                done.append(number)

            async with trio.open_nursery() as tn:
                for number in range(3):
                    tn.start_soon(doomed, number)
                    await trio.testing.wait_all_tasks_blocked()
                for number in range(3, 6):
                    tn.start_soon(sender, number)
                    await trio.testing.wait_all_tasks_blocked()
                for scope in scopes:
                    scope.cancel()
                gate.set()
            assert sorted(done) == [3, 4, 5]
            assert bodies_of(b''.join(sock.sent))[-3:] == [
                wires.encoded(item(number)) for number in range(3, 6)
            ]

    for _ in range(20):
        run(main)


# --- receiving

STREAM = [item(1), item(b'x' * 200), item(b'y' * 150_000), item(2)]


@pytest.mark.parametrize('step', [1, 3, 7, 101, 64 * 1024])
def test_cancel_a_receive_at_each_of_its_reads(step: int) -> None:
    # byte by byte only as long as that takes no time
    messages = STREAM if step > 100 else [*STREAM[:2], STREAM[3]]
    data = b''.join(map(framed, messages))

    async def main() -> None:
        for nth in range(1, len(data) // step + 3, max(1, len(data) // step // 40)):
            gate = CancelAt(nth)
            async with wires.scripted(data, step=step, gate=gate) as (tpt, _):
                got: list[Any] = []
                with gate.scope:
                    while len(got) < len(messages):
                        got.append(await tpt.recv())
                while len(got) < len(messages):
                    got.append(await tpt.recv())
                assert list(map(value, got)) == [msg.pld for msg in messages]

    run(main, timeout=30)


@pytest.mark.parametrize('first', [0, 2, 4, 30, 100_000])
def test_cancel_a_receive_that_waits_for_the_rest_of_a_frame(first: int) -> None:
    data = framed(item(b'x' * 200_000))

    async def main() -> None:
        async with wires.socket_pair() as (tpt, other), trio.open_nursery() as sender:
            sender.start_soon(other.send_all, data[:first])
            for _ in range(3):
                async with trio.open_nursery() as tn:
                    tn.start_soon(tpt.recv)
                    await trio.testing.wait_all_tasks_blocked()
                    tn.cancel_scope.cancel()
            sender.start_soon(other.send_all, data[first:] + framed(item(2)))
            assert value(await tpt.recv()) == b'x' * 200_000
            assert value(await tpt.recv()) == 2

    run(main)


def test_cancel_a_receive_of_what_is_here_already() -> None:
    async def main() -> None:
        async with wires.socket_pair() as (tpt, other):
            await other.send_all(framed(item(1)) + framed(item(2)))
            assert value(await tpt.recv()) == 1
            with trio.move_on_after(0) as scope:
                await tpt.recv()
            assert scope.cancelled_caught
            assert value(await tpt.recv()) == 2

    run(main)


def test_cancel_draining_keeps_what_it_had() -> None:
    async def main() -> None:
        async with wires.socket_pair() as (tpt, other):
            await other.send_all(framed(item(1)))

            async def drain() -> list[Any]:
                return [value(msg) async for msg in tpt.drain()]

            async with trio.open_nursery() as tn:
                tn.start_soon(drain)
                await trio.testing.wait_all_tasks_blocked()
                tn.cancel_scope.cancel()
            await other.send_all(framed(item(2)))
            await other.aclose()
            assert await drain() == [1, 2]
            with pytest.raises(TransportClosed):
                await tpt.recv()

    run(main)
