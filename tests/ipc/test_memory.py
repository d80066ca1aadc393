"""contract: the transport in memory: streams that behave as sockets do, and misbehave on request."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tractor import TransportClosed
from tractor._code_load import load_module_from_path
from tractor._testing import memory
from tractor._testing._memory_stream import MemoryStream, stream_pair
from tractor._testing.addr import get_rando_addr
from tractor._testing.memory import MemoryAddress, MsgpackMemoryStream, memory_transport

wires = sys.modules.get('wires') or load_module_from_path(Path(__file__).with_name('wires.py'))
framed, item, run, value = wires.framed, wires.item, wires.run, wires.value


# --- streams


async def make() -> tuple[MemoryStream, MemoryStream]:
    return stream_pair()


async def make_clogged() -> tuple[MemoryStream, MemoryStream]:
    ends = stream_pair(capacity=1)
    for stream in ends:
        await stream.send_all(b'x')
    return ends


def test_they_are_streams_by_the_rules_of_trio() -> None:
    run(trio.testing.check_half_closeable_stream, make, make_clogged)


def test_reads_and_writes_are_partial() -> None:
    async def main() -> None:
        one, two = stream_pair(capacity=10)
        assert await one.send_some(b'x' * 25) == 10
        assert one.room == 0
        with pytest.raises(BlockingIOError):
            one.send_nowait(b'y')
        assert await two.receive_some(3) == b'xxx'
        assert one.send_nowait(b'yyyy') == 3
        one.step = two.step = 2
        assert await two.receive_some() == b'xx'
        assert await one.send_some(b'zzz') == 2
        async with trio.open_nursery() as tn:
            tn.start_soon(one.send_all, b'.' * 50)
            data = b''
            while len(data) < 60:
                data += await two.receive_some(100)
        assert data == b'x' * 5 + b'yyy' + b'zz' + b'.' * 50

    run(main)


def test_how_an_end_is_seen() -> None:
    async def main() -> None:
        for abort, unread in ((False, False), (True, False), (False, True)):
            one, two = stream_pair()
            await two.send_all(b'last')
            if unread:
                await one.send_all(b'unread')
            if abort:
                two.abort()
                two.abort()
            await two.aclose()
            assert await one.receive_some() == b'last'
            for _ in range(2):
                if not abort and not unread:
                    assert await one.receive_some() == b''
                else:
                    with pytest.raises(trio.BrokenResourceError) as excinfo:
                        await one.receive_some()
                    assert isinstance(excinfo.value.__cause__, ConnectionResetError)
            with pytest.raises(trio.BrokenResourceError) as excinfo:
                await one.send_all(b'x')
            assert isinstance(excinfo.value.__cause__, BrokenPipeError)
            assert one.room == 0
            assert 'open' in repr(one)
            assert 'closed' in repr(two)

    run(main)


def test_a_hook_may_stall_or_break_any_operation() -> None:
    async def main() -> None:
        one, two = stream_pair()
        seen: list[str] = []
        gate = trio.Event()

        async def stall(what: str) -> None:
            seen.append(what)
            await gate.wait()

        async def fail(what: str) -> None:
            raise OSError(errno.EIO, what)

        one.hook = stall
        with pytest.raises(BlockingIOError):
            one.send_nowait(b'x')
        async with trio.open_nursery() as tn:
            tn.start_soon(one.send_all, b'x')
            await trio.testing.wait_all_tasks_blocked()
            assert seen == ['send']
            gate.set()
            assert await two.receive_some() == b'x'
        one.hook = fail
        with pytest.raises(OSError, match='receive'):
            await one.receive_some()

    run(main)


@pytest.mark.parametrize('operation', ['receive', 'send'])
def test_closing_what_a_hook_holds_up(operation: str) -> None:
    async def main() -> None:
        one, _two = stream_pair()

        async def close(what: str) -> None:
            assert what == operation
            await one.aclose()

        one.hook = close
        with pytest.raises(trio.ClosedResourceError, match='another task closed this fd'):
            await (one.receive_some() if operation == 'receive' else one.send_some(b'x'))

    run(main)


# --- messages


@pytest.mark.parametrize('step', [1, 3, 1000])
def test_messages_in_parts(step: int) -> None:
    async def main() -> None:
        streams = stream_pair(MemoryAddress.get_random(), MemoryAddress.get_random(), capacity=500)
        for stream in streams:
            stream.step = step
        one, two = map(MsgpackMemoryStream, streams)
        sizes = [0, 1, 300, 2000]
        async with trio.open_nursery() as tn:
            for size in sizes:
                tn.start_soon(one.send, item(b'x' * size))
            got = [len(value(await two.recv())) for _ in sizes]
        assert sorted(got) == sizes

    run(main)


def test_a_stream_that_breaks_at_the_nth_write() -> None:
    async def main() -> None:
        for nth in range(1, 10):
            one, two = stream_pair(MemoryAddress.get_random(), MemoryAddress.get_random())
            one.step, left = 10, [nth]

            async def count(what: str, left: list[int] = left, two: MemoryStream = two) -> None:
                left[0] -= 1
                if not left[0]:
                    two.abort()

            one.hook = count
            tpt = MsgpackMemoryStream(one)
            with pytest.raises(TransportClosed, match='already closed by peer'):
                await tpt.send(item(b'x' * 1000))
            assert len(two._in.data) == 0

    run(main)


# --- addresses and listeners


@pytest.mark.parametrize('bad', [None, 'mem:', ('mem:',), ('mem:', 1), ('/tmp', 'x'), (1, 'x')])
def test_what_is_no_address(bad: Any) -> None:
    assert not MemoryAddress.claims(bad)
    with pytest.raises(ValueError, match='memory'):
        MemoryAddress.from_addr(bad)


def test_addresses_for_tests() -> None:
    with memory_transport() as key:
        assert get_rando_addr(key) != get_rando_addr(key)
        assert MemoryAddress.claims(get_rando_addr(key))
    assert not MemoryAddress('mem:', '').is_valid


def test_as_many_may_wait_as_the_backlog_says() -> None:
    async def main() -> None:
        addr = MemoryAddress.get_random()
        listener = await memory.start_listener(addr, backlog=2)
        made: list[MemoryStream] = []

        async def connect() -> None:
            made.append(await memory.connect(addr))

        async with trio.open_nursery() as tn:
            for _ in range(5):
                tn.start_soon(connect)
            for count in (2, 3):
                await trio.testing.wait_all_tasks_blocked()
                assert len(made) == count
                await listener.accept()
            await trio.testing.wait_all_tasks_blocked()
            tn.cancel_scope.cancel()
        assert len(made) == 4
        # the one that gave up left nothing
        for _ in range(2):
            await listener.accept()
        assert not listener._waiting
        await listener.aclose()

    run(main)


def test_closing_a_listener_tells_all_who_wait() -> None:
    async def main() -> None:
        addr = MemoryAddress.get_random()
        listener = await memory.start_listener(addr, backlog=1)
        waiting = await memory.connect(addr)
        refused: list[OSError] = []

        async def connect() -> None:
            with pytest.raises(ConnectionRefusedError) as excinfo:
                await memory.connect(addr)
            refused.append(excinfo.value)

        async with trio.open_nursery() as tn:
            tn.start_soon(connect)
            await trio.testing.wait_all_tasks_blocked()
            await listener.aclose()
        assert refused
        with pytest.raises(trio.BrokenResourceError):
            await waiting.receive_some()
        with pytest.raises(trio.ClosedResourceError, match='already closed'):
            await listener.accept()

    run(main)


def test_an_acceptor_is_told_of_the_close() -> None:
    async def main() -> None:
        listener = await memory.start_listener(MemoryAddress.get_random())

        async def accept() -> None:
            with pytest.raises(trio.ClosedResourceError, match='another task'):
                await listener.accept()

        async with trio.open_nursery() as tn:
            tn.start_soon(accept)
            await trio.testing.wait_all_tasks_blocked()
            listener.close()

    run(main)


def test_runs_do_not_meet() -> None:
    """What an earlier run left open is not in the way of a later one."""
    addr = MemoryAddress.get_root()

    async def main() -> None:
        with pytest.raises(ConnectionRefusedError, match='nobody listens there'):
            await memory.connect(addr)
        await memory.start_listener(addr)
        await memory.connect(addr)

    run(main)
    run(main)


def test_options_are_refused() -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match='local_address'):
            await MsgpackMemoryStream.connect_to(MemoryAddress.get_root(), local_address='x')

    run(main)
