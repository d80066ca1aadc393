"""contract: how a connection ends, orderly or not, and what readers and senders are told, on every transport."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tractor import TransportClosed
from tractor._code_load import load_module_from_path
from tractor.ipc import Channel

wires = sys.modules.get('wires') or load_module_from_path(Path(__file__).with_name('wires.py'))
framed, item, run, value = wires.framed, wires.item, wires.run, wires.value

FRAME = framed(item(b'x' * 100))
BIG = framed(item(b'x' * 300_000))

PARTS = {
    'nothing': b'',
    'half header': FRAME[:3],
    'header': FRAME[:4],
    'half body': FRAME[:50],
    'large header': BIG[:200],
    'half large body': BIG[:-1],
}


async def send_until_lost(tpt: Any) -> TransportClosed:
    """What the sender is told; it may take some messages until the system knows that the peer is gone."""
    while True:
        try:
            await tpt.send(item(1))
        except TransportClosed as closed:
            return closed


async def read_until_lost(tpt: Any) -> tuple[list[Any], TransportClosed]:
    """The payloads that still came, and what the reader is told then."""
    got: list[Any] = []
    while True:
        try:
            got.append(value(await tpt.recv()))
        except TransportClosed as closed:
            return got, closed


# --- the peer's end


@pytest.mark.parametrize('how', ['eof', 'close'])
@pytest.mark.parametrize('part', PARTS)
def test_the_end_of_the_peers_bytes(kit: Any, part: str, how: str) -> None:
    sent = PARTS[part]

    async def main() -> None:
        async with kit.pair() as (tpt, other), trio.open_nursery() as tn:

            async def peer() -> None:
                await other.send_all(FRAME + sent)
                await (other.send_eof() if how == 'eof' else other.aclose())

            tn.start_soon(peer)
            assert value(await tpt.recv()) == b'x' * 100
            seen = []
            for _ in range(3):
                with pytest.raises(TransportClosed) as excinfo:
                    await tpt.recv()
                seen.append(excinfo.value)
            closed = seen[0]
            assert closed.message.startswith(f"'{kit.name}' already closed by peer\n")
            assert ('in the middle of a frame' in closed.message) is bool(sent)
            assert (closed._loglevel, closed._raise_on_report) == ('transport', False)
            assert closed.src_exc is None
            # one error each, all of them the same
            assert len({id(exc) for exc in seen}) == 3
            assert {str(exc) for exc in seen} == {str(closed)}
            # a sender asks for something that will not happen
            with pytest.raises(TransportClosed) as excinfo:
                await tpt.send(item(1))
            assert excinfo.value._raise_on_report
            assert not tpt.connected()

    run(main)


@pytest.mark.parametrize('part', PARTS)
def test_an_abortive_close(kit: Any, part: str) -> None:
    async def main() -> None:
        async with kit.pair() as (tpt, other), trio.open_nursery() as tn:
            # what nobody reads makes it abortive on every transport
            await tpt.send(item('unread'))

            async def peer() -> None:
                await other.send_all(PARTS[part])
                kit.reset(other)

            tn.start_soon(peer)
            got, closed = await read_until_lost(tpt)
            assert not got
            assert closed.message.startswith(f"'{kit.name}' already closed by peer\n")
            assert (closed._loglevel, closed._raise_on_report) == ('transport', False)
            assert isinstance(closed.src_exc, trio.BrokenResourceError)
            assert isinstance(closed.src_exc.__cause__, ConnectionResetError)
            with pytest.raises(TransportClosed) as excinfo:
                await tpt.recv()
            assert str(excinfo.value) == str(closed)
            assert (await send_until_lost(tpt))._raise_on_report
            assert not tpt.connected()

    run(main)


def test_a_peer_that_aborts_while_we_send_much(kit: Any) -> None:
    async def main() -> None:
        async with kit.pair() as (tpt, other), trio.open_nursery() as tn:
            told: list[TransportClosed] = []

            async def sender(size: int) -> None:
                with pytest.raises(TransportClosed) as excinfo:
                    await tpt.send(item(b'x' * size))
                told.append(excinfo.value)

            tn.start_soon(sender, 32 << 20)
            await trio.testing.wait_all_tasks_blocked()
            for size in (1, 1, 100_000, 1):
                tn.start_soon(sender, size)
            await other.receive_some(10)
            await trio.testing.wait_all_tasks_blocked()
            kit.reset(other)
            await wires.wait_for(lambda: len(told) == 5)
            assert len({id(closed) for closed in told}) == 5
            for closed in told:
                assert closed.message.startswith(f"'{kit.name}' already closed by peer\n")
                assert (closed._loglevel, closed._raise_on_report) == ('transport', True)
                assert isinstance(closed.src_exc, trio.BrokenResourceError)
            assert tpt._writer.unwritten == 0

    run(main, timeout=30)


def test_sending_to_a_peer_that_closed(kit: Any) -> None:
    async def main() -> None:
        async with kit.pair() as (tpt, other):
            await other.aclose()
            closed = await send_until_lost(tpt)
            assert closed.message.startswith(f"'{kit.name}' already closed by peer\n")
            assert repr(tpt) in closed.message
            assert (closed._loglevel, closed._raise_on_report) == ('transport', True)
            again = await send_until_lost(tpt)
            assert again is not closed
            assert str(again) == str(closed)

    run(main)


def test_the_last_words_of_a_peer_are_read_although_writing_failed(kit: Any) -> None:
    async def main() -> None:
        async with kit.pair() as (tpt, other):
            await other.send_all(framed(item('last words')))
            await other.aclose()
            await send_until_lost(tpt)
            assert tpt.connected()
            assert value(await tpt.recv()) == 'last words'
            # and then its end, which harms nobody, not the failure of the write
            with pytest.raises(TransportClosed) as excinfo:
                await tpt.recv()
            assert not excinfo.value._raise_on_report

    run(main)


def test_what_was_taken_was_sent_even_if_the_end_is_read_meanwhile(kit: Any) -> None:
    async def main() -> None:
        async with kit.pair() as (tpt, other):

            async def read_the_end() -> None:
                with pytest.raises(TransportClosed):
                    await tpt.recv()

            await tpt.send(item(0))
            await other.send_eof()
            async with trio.open_nursery() as tn:
                # the reader sees the end while the sender is at the checkpoint after its write
                tn.start_soon(read_the_end)
                tn.start_soon(tpt.send, item(1))
            expected, data = framed(item(0)) + framed(item(1)), b''
            while len(data) < len(expected):
                data += await other.receive_some()
            assert data == expected

    for _ in range(20):
        run(main)


def test_draining_to_the_end(kit: Any) -> None:
    async def main() -> None:
        async with kit.transports() as (one, two):
            got: list[Any] = []

            async def drain() -> None:
                got.extend([value(msg) async for msg in two.drain()])

            async with trio.open_nursery() as tn:
                tn.start_soon(drain)
                for number in range(3):
                    await one.send(item(number))
                await wires.wait_for(lambda: len(two.drained) == 3)
                # all of it is kept before any is given
                assert not got
                await one.aclose()
            assert got == [0, 1, 2]

    run(main)


# --- our end


def test_closing_while_reading_is_raised_out_of_the_loop(kit: Any) -> None:
    def check(closed: TransportClosed, raises: bool) -> None:
        assert closed.message.startswith(f"'{kit.name}' was already closed locally?\n")
        assert (closed._loglevel, closed._raise_on_report) == ('error', raises)
        assert type(closed.__cause__) is trio.ClosedResourceError

    async def main() -> None:
        async with kit.pair() as (tpt, _other), trio.open_nursery() as tn:

            async def reader() -> None:
                with pytest.raises(TransportClosed) as excinfo:
                    await tpt.recv()
                check(excinfo.value, raises=True)

            tn.start_soon(reader)
            await trio.testing.wait_all_tasks_blocked()
            await tpt.aclose()
        async with kit.pair() as (tpt, _other):
            await tpt.aclose()
            with pytest.raises(TransportClosed) as excinfo:
                await tpt.recv()
            check(excinfo.value, raises=False)

    run(main)


def test_closing_while_sending_tells_the_senders(kit: Any) -> None:
    async def main() -> None:
        async with kit.pair() as (tpt, _other), trio.open_nursery() as tn:

            async def sender() -> None:
                with pytest.raises(TransportClosed, match="closed 'locally'") as excinfo:
                    await tpt.send(item(b'x' * (32 << 20)))
                assert isinstance(excinfo.value.src_exc, trio.ClosedResourceError)
                assert excinfo.value._raise_on_report

            tn.start_soon(sender)
            tn.start_soon(sender)
            await trio.testing.wait_all_tasks_blocked()
            await tpt.aclose()

    run(main)


def test_sending_after_our_own_close(kit: Any) -> None:
    async def main() -> None:
        async with kit.pair() as (tpt, _other):
            await tpt.aclose()
            for _ in range(2):
                # the words say otherwise, and are relied upon
                with pytest.raises(TransportClosed, match="was already closed 'by peer'") as info:
                    await tpt.send(item(1))
                assert info.value._raise_on_report
            with pytest.raises(TransportClosed):
                await tpt.post(item(1))

    run(main)


def test_a_channel_is_closed_while_others_use_it(kit: Any) -> None:
    async def main() -> None:
        async with kit.pair() as (tpt, _other), trio.open_nursery() as tn:
            chan = Channel(tpt)

            async def use(operation: Any, *args: Any) -> None:
                with pytest.raises(TransportClosed):
                    await operation(*args)

            tn.start_soon(use, chan.recv)
            tn.start_soon(use, chan.send, item(b'x' * (32 << 20)))
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(2):
                await chan.aclose()
            assert not chan.connected()

    run(main)


def test_a_second_reader_is_told_that_it_is_one(kit: Any) -> None:
    async def main() -> None:
        async with kit.pair() as (tpt, other), trio.open_nursery() as tn:
            tn.start_soon(tpt.recv)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await tpt.recv()
            await other.send_all(framed(item(1)))

    run(main)


def test_half_a_close_leaves_the_other_half(kit: Any) -> None:
    async def main() -> None:
        async with kit.transports() as (one, two):
            await one.stream.send_eof()
            with pytest.raises(TransportClosed):
                await two.recv()
            # the transport takes that for the end of both
            with pytest.raises(TransportClosed):
                await two.send(item(1))
            await two.stream.send_all(framed(item(2)))
            assert value(await one.recv()) == 2

    run(main)
