"""contract: a cancelled send or receive, at whatever point, leaves the stream in sync."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

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
