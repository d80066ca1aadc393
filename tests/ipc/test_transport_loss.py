"""contract: what senders and the reader are told when a stream is lost, and what they still get."""

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
from tractor.ipc import _faults

wires = sys.modules.get('wires') or load_module_from_path(Path(__file__).with_name('wires.py'))
framed, item, run, value = wires.framed, wires.item, wires.run, wires.value
logged = wires.logged

RESET = ConnectionResetError(errno.ECONNRESET, 'Connection reset by peer')
PIPE = BrokenPipeError(errno.EPIPE, 'Broken pipe')
TIMEOUT = TimeoutError(errno.ETIMEDOUT, 'Connection timed out')


def broken(cause: BaseException | None, context: BaseException | None = None) -> Any:
    err = trio.BrokenResourceError('it broke')
    err.__cause__, err.__context__ = cause, context
    return err


def in_a_cycle() -> Any:
    inner = ValueError('round')
    group = BaseExceptionGroup('both', [inner])
    inner.__context__ = group
    return broken(group)


# --- which failures are closures


@pytest.mark.parametrize(
    ('err', 'closure'),
    [
        (broken(RESET), True),
        (broken(PIPE), True),
        (broken(None, RESET), True),
        (broken(broken(PIPE)), True),
        (broken(BaseExceptionGroup('both', [RESET, broken(PIPE)])), True),
        (broken(BaseExceptionGroup('both', [broken(RESET), broken(RESET)])), True),
        (broken(BaseExceptionGroup('out', [ExceptionGroup('in', [RESET, PIPE])])), True),
        (broken(None), False),
        (broken(TIMEOUT), False),
        (broken(ValueError('x')), False),
        (broken(BaseExceptionGroup('both', [RESET, ValueError('x')])), False),
        (broken(BaseExceptionGroup('out', [RESET, ExceptionGroup('in', [TIMEOUT])])), False),
        (in_a_cycle(), False),
        (trio.ClosedResourceError(), True),
    ],
    ids=repr,
)
def test_closures(err: Any, closure: bool) -> None:
    assert _faults.is_closure(err) is closure
    assert _faults.is_peer_closure(err) is (closure and isinstance(err, trio.BrokenResourceError))


@pytest.mark.parametrize(
    ('number', 'kind', 'text'),
    [
        (errno.EBADF, trio.ClosedResourceError, 'this socket was already closed'),
        (errno.ENOTSOCK, trio.ClosedResourceError, 'this socket was already closed'),
        (errno.EPIPE, trio.BrokenResourceError, 'socket connection broken'),
        (errno.EIO, trio.BrokenResourceError, 'socket connection broken'),
    ],
)
def test_socket_errors_as_stream_errors(number: int, kind: type, text: str) -> None:
    err = _faults.as_stream_error(OSError(number, 'x'))
    assert type(err) is kind
    assert err.args[0].startswith(text)


# --- writing


class FailingStream:
    def __init__(self, err: BaseException) -> None:
        self.err = err
        self.calls = 0

    async def send_all(self, data: Any) -> None:
        self.calls += 1
        await trio.lowlevel.checkpoint()
        raise self.err


def bare(stream: Any) -> Any:
    """A transport of which only what sending may rely on exists."""
    tpt = wires.MemTransport.__new__(wires.MemTransport)
    tpt.stream = stream
    tpt._laddr, tpt._raddr = 'here', 'there'
    tpt._send_lock = trio.StrictFIFOLock()
    tpt._task = trio.lowlevel.current_task()
    return tpt


@pytest.mark.parametrize(
    ('err', 'text'),
    [
        (broken(RESET), "'MemTransport' already closed by peer\n"),
        (broken(BaseExceptionGroup('g', [RESET, PIPE])), "'MemTransport' already closed by peer\n"),
        (
            trio.ClosedResourceError('another task closed this fd'),
            "'MemTransport' was already closed 'locally'?\n",
        ),
        (
            trio.ClosedResourceError('this socket was already closed'),
            "'MemTransport' was already closed 'by peer'?\n",
        ),
    ],
)
def test_a_closure_while_sending(err: Any, text: str) -> None:
    async def main() -> None:
        tpt = bare(FailingStream(err))
        cause = err.__cause__
        with pytest.raises(TransportClosed) as excinfo:
            await tpt.send(item(1))
        closed = excinfo.value
        assert closed.message.startswith(text)
        assert repr(tpt) in closed.message
        assert (closed._loglevel, closed._raise_on_report) == ('transport', True)
        assert closed.src_exc is closed.__cause__ is err
        assert err.__cause__ is cause
        # from then on nothing is tried any more
        for _ in range(2):
            with pytest.raises(TransportClosed) as again:
                await tpt.send(item(2))
            assert again.value is not closed
            assert again.value.message == closed.message
            assert again.value.src_exc is err
        assert tpt.stream.calls == 1

    run(main)


MIXED = BaseExceptionGroup('both', [RESET, ValueError('x')])


@pytest.mark.parametrize('cause', [MIXED, TIMEOUT, None])
def test_other_failures_while_sending_stay_what_they_are(
    cause: Any, logged: pytest.LogCaptureFixture
) -> None:
    err = broken(cause)

    async def main() -> None:
        tpt = bare(FailingStream(err))
        results: dict[int, BaseException] = {}

        async def sender(number: int) -> None:
            try:
                await tpt.send(item(number))
            except (trio.BrokenResourceError, TransportClosed) as exc:
                results[number] = exc

        async with trio.open_nursery() as tn:
            for number in range(3):
                tn.start_soon(sender, number)
        # nobody is told that his message was sent
        assert len(results) == 3
        first = [exc for exc in results.values() if exc is err]
        others = [exc for exc in results.values() if exc is not err]
        assert len(first) == 1
        assert err.__cause__ is cause
        for exc in others:
            assert isinstance(exc, TransportClosed)
            assert 'is broken: it broke' in str(exc)
            assert exc.src_exc is err

    run(main)
    assert 'failed while sending' in logged.text


def test_senders_waiting_for_their_turn_are_told() -> None:
    async def main() -> None:
        gate = trio.Event()
        async with wires.scripted(gate=gate.wait, error=PIPE) as (tpt, _sock):
            told: list[TransportClosed] = []

            async def sender() -> None:
                with pytest.raises(TransportClosed) as excinfo:
                    await tpt.send(item(1))
                told.append(excinfo.value)

            async with trio.open_nursery() as tn:
                for _ in range(20):
                    tn.start_soon(sender)
                await trio.testing.wait_all_tasks_blocked()
                gate.set()
            assert len(told) == len({id(exc) for exc in told}) == 20
            assert tpt._writer.unwritten == 0

    run(main)


def test_other_streams_are_given_up_after_a_cancelled_write() -> None:
    async def main() -> None:
        one, two = trio.testing.lockstep_stream_pair()
        tpt = wires.MemTransport(one)
        async with trio.open_nursery() as tn:
            tn.start_soon(tpt.send, item(b'x' * 1000))
            await trio.testing.wait_all_tasks_blocked()
            assert len(await two.receive_some(10)) == 10
            await trio.testing.wait_all_tasks_blocked()
            tn.cancel_scope.cancel()
        with pytest.raises(TransportClosed, match='cancelled in the middle of a frame'):
            await tpt.send(item(1))
        # what was buffered, then the end
        assert await two.receive_some()
        assert await two.receive_some() == b''

    run(main)


# --- reading


FRAME = framed(item(b'x' * 100))
BIG = framed(item(b'x' * 300_000))


@pytest.mark.parametrize(
    'sent',
    [b'', FRAME[:3], FRAME[:4], FRAME[:50], BIG[:200], BIG[:-1]],
    ids=['nothing', 'half header', 'header', 'half body', 'large header', 'half large body'],
)
def test_the_end_of_any_stream(sent: bytes) -> None:
    async def main() -> None:
        one, other = trio.testing.memory_stream_pair()
        tpt = wires.MemTransport(one)
        async with trio.open_nursery() as tn:

            async def peer() -> None:
                await other.send_all(FRAME + sent)
                await other.aclose()

            tn.start_soon(peer)
            assert value(await tpt.recv()) == b'x' * 100
            with pytest.raises(TransportClosed, match="'MemTransport' already closed") as excinfo:
                await tpt.recv()
        assert ('in the middle of a frame' in excinfo.value.message) is bool(sent)
        assert not tpt.connected()

    run(main)


@pytest.mark.parametrize('size', [10, 300_000])
@pytest.mark.parametrize(
    ('cause', 'level'), [(RESET, 'transport'), (PIPE, 'transport'), (TIMEOUT, 'warning')]
)
def test_a_failure_while_reading(cause: OSError, level: str, size: int) -> None:
    async def main() -> None:
        async with wires.scripted(framed(item(b'x' * size))[:-1]) as (tpt, sock):
            sock.step = 100_000

            async def fail_at_the_end() -> None:
                await trio.lowlevel.checkpoint()
                sock.error = None if sock.incoming else cause

            sock.gate = fail_at_the_end
            with pytest.raises(TransportClosed) as excinfo:
                await tpt.recv()
            closed = excinfo.value
            assert closed.message.startswith("'MsgpackUDSStream' already closed by peer\n")
            assert (closed._loglevel, closed._raise_on_report) == (level, False)
            assert isinstance(closed.src_exc, trio.BrokenResourceError)
            assert closed.src_exc.__cause__ is cause

    run(main)


# --- one direction and the other


def test_a_loss_found_by_the_reader_is_told_to_waiting_senders_once_writing_ends() -> None:
    async def main() -> None:
        gate = trio.Event()
        async with wires.scripted(gate=gate.wait) as (tpt, sock):
            outcomes: dict[int, str] = {}

            async def sender(number: int) -> None:
                try:
                    await tpt.send(item(number))
                except TransportClosed:
                    outcomes[number] = 'lost'
                else:
                    outcomes[number] = 'sent'

            async with trio.open_nursery() as tn:
                for number in range(3):
                    tn.start_soon(sender, number)
                await trio.testing.wait_all_tasks_blocked()
                tpt._lose(_faults.eof(tpt))
                await trio.testing.wait_all_tasks_blocked()
                assert not outcomes
                gate.set()
            # one was being written, the others had not begun
            assert sorted(outcomes.values()) == ['lost', 'lost', 'sent']
            assert len(sock.sent) == 1

    run(main)
