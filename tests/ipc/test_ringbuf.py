"""contract: ring buffers, both sides in one process."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tractor._code_load import load_module_from_path
from tractor._testing import run_bounded
from tractor.ipc._ringbuf import RBToken, RingBuffReceiver, RingBuffSender, open_ringbuf

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='needs eventfd')

rings = sys.modules.get('rings') or load_module_from_path(Path(__file__).with_name('rings.py'))
SIZE = rings.SIZE
token, run_with, receive = rings.token, rings.run_with, rings.receive


# --- what goes through


def test_what_is_sent_is_received(token: RBToken) -> None:
    async def body(tx: RingBuffSender, rx: RingBuffReceiver) -> None:
        await tx.send_all(b'abc')
        assert (tx.ptr, rx.ptr) == (3, 0)
        view = await rx.receive_some()
        assert isinstance(view, memoryview)
        assert view == b'abc'
        assert view.readonly
        assert rx.ptr == 3
        await tx.send_all(b'd')
        await tx.send_all(bytearray(b'e'))
        await tx.send_all(memoryview(b'f'))
        await tx.send_all(b'')
        assert await rx.receive_some(2) == b'de'
        assert await rx.receive_some(2) == b'f'

    run_with(token, body)


def test_the_sides_tell_where_they_are(token: RBToken, key: str) -> None:
    async def body(tx: RingBuffSender, rx: RingBuffReceiver) -> None:
        for side in (tx, rx):
            assert (side.key, side.size, side.ptr) == (key, SIZE, 0)
            assert (side.write_fd, side.wrap_fd) == (token.write_eventfd, token.wrap_eventfd)
            assert f'at 0 of {SIZE}' in repr(side)

    run_with(token, body)


@pytest.mark.parametrize('start', range(SIZE + 1))
@pytest.mark.parametrize('length', [1, SIZE - 1, SIZE, SIZE + 1, 3 * SIZE + 5])
def test_every_start_and_length(token: RBToken, start: int, length: int) -> None:
    data = bytes(range(length))

    async def body(tx: RingBuffSender, rx: RingBuffReceiver) -> None:
        # a sender at the end waits until it is told that all was read
        if start == SIZE:
            os.eventfd_write(token.wrap_eventfd, 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tx.send_all, data)
            assert await receive(rx, length) == data

    run_with(token, body, start_ptr=start)


sizes = st.lists(st.integers(0, 40), min_size=1, max_size=12)


@settings(deadline=None)
@given(size=st.integers(1, 20), messages=sizes, limits=st.lists(st.none() | st.integers(1, 30)))
def test_any_messages_in_any_pieces(
    size: int, messages: list[int], limits: list[int | None]
) -> None:
    data = [secrets.token_bytes(length) for length in messages]

    async def send(tx: RingBuffSender) -> None:
        for message in data:
            await tx.send_all(message)
            await tx.wait_send_all_might_not_block()

    async def main() -> None:
        with open_ringbuf(f'tractor_test_{secrets.token_hex(4)}', size) as token:
            async with (
                RingBuffSender(token) as tx,
                RingBuffReceiver(token) as rx,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(send, tx)
                taken = b''
                turn = 0
                while len(taken) < sum(messages):
                    limit = limits[turn % len(limits)] if limits else None
                    view = await rx.receive_some(limit)
                    assert 0 < len(view) <= (limit or size)
                    # time for the sender to write into what we look at, were it to
                    await trio.testing.wait_all_tasks_blocked()
                    taken += view
                    turn += 1
                assert taken == b''.join(data)
                nursery.cancel_scope.cancel()

    run_bounded(main)


def test_nothing_is_overwritten_while_it_is_looked_at(token: RBToken) -> None:
    async def body(tx: RingBuffSender, rx: RingBuffReceiver) -> None:
        await tx.send_all(b'x' * SIZE)
        view = await rx.receive_some()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tx.send_all, b'y' * SIZE)
            await trio.testing.wait_all_tasks_blocked()
            assert view == b'x' * SIZE
            assert await rx.receive_some() == b'y' * SIZE
            assert view == b'y' * SIZE

    run_with(token, body)


def test_a_request_that_ends_at_the_end_does_not_wait(token: RBToken) -> None:
    async def body(tx: RingBuffSender, rx: RingBuffReceiver) -> None:
        assert not await waits(tx.send_all, b'x' * SIZE)
        assert tx.ptr == SIZE

    run_with(token, body)


def test_large_data_come_in_chunks(key: str) -> None:
    data = secrets.token_bytes(1 << 20)

    async def main() -> None:
        with open_ringbuf(key, 1 << 18) as token:
            async with (
                RingBuffSender(token) as tx,
                RingBuffReceiver(token) as rx,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(tx.send_all, data)
                assert await receive(rx, len(data)) == data

    run_bounded(main)


def test_successors_go_on(token: RBToken) -> None:
    async def main() -> None:
        async with RingBuffSender(token) as tx, RingBuffReceiver(token) as rx:
            await tx.send_all(b'0123456789')
            assert await rx.receive_some(4) == b'0123'
        async with (
            RingBuffSender(token, start_ptr=tx.ptr) as tx,
            RingBuffReceiver(token, start_ptr=rx.ptr) as rx,
        ):
            await tx.send_all(b'abcdef')
            assert await receive(rx, 12) == b'456789abcdef'
        async with (
            RingBuffSender(token, start_ptr=tx.ptr) as tx,
            RingBuffReceiver(token, start_ptr=rx.ptr) as rx,
        ):
            await tx.send_all(b'again')
            assert await rx.receive_some() == b'again'

    run_bounded(main)


# --- waiting, cancelling, closing


async def waits(fn: Callable[..., Awaitable[object]], *args: Any) -> bool:
    """Whether a call is still waiting when nothing else happens; it is cancelled then."""
    done = False

    async def call() -> None:
        nonlocal done
        await fn(*args)
        done = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        waiting = not done
        nursery.cancel_scope.cancel()
    return waiting


def test_who_waits_for_what(token: RBToken) -> None:
    async def body(tx: RingBuffSender, rx: RingBuffReceiver) -> None:
        assert await waits(rx.receive_some)
        assert not await waits(tx.send_all, b'x' * SIZE)
        assert await waits(tx.send_all, b'y')
        assert await waits(tx.wait_send_all_might_not_block)
        assert not await waits(rx.receive_some, SIZE - 1)
        assert await waits(tx.wait_send_all_might_not_block)
        assert not await waits(rx.receive_some)
        # whoever took the last byte still looks at it
        assert await waits(tx.send_all, b'y')
        assert await waits(rx.receive_some)
        assert not await waits(tx.wait_send_all_might_not_block)
        assert not await waits(tx.send_all, b'z')
        assert await rx.receive_some() == b'z'

    run_with(token, body)


def test_cancelled_at_each_checkpoint_it_stays_in_step(token: RBToken) -> None:
    """Both sides are cancelled after every number of checkpoints; what comes out is what went in."""
    data = bytes(range(200)) * 2

    async def cancelled_after(turns: int, fn: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        result = None
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def cancel() -> None:
                    for _ in range(turns):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(cancel)
                result = await fn(*args)
                nursery.cancel_scope.cancel()
        return result

    async def send(tx: RingBuffSender) -> None:
        position = 0
        turns = 0
        while position < len(data):
            before = tx.ptr
            await cancelled_after(turns % 4, tx.send_all, data[position : position + 5])
            # so many were sent, as its position tells
            position += (tx.ptr - before) % SIZE
            turns += 1

    async def body(tx: RingBuffSender, rx: RingBuffReceiver) -> None:
        taken = b''
        turns = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, tx)
            while len(taken) < len(data):
                view = await cancelled_after(turns % 5, rx.receive_some, 1 + turns % 7)
                taken += view or b''
                turns += 1
        assert taken == data

    run_with(token, body)


def test_nothing_is_behind_a_cancellation(token: RBToken) -> None:
    causes = []

    async def body(tx: RingBuffSender, rx: RingBuffReceiver) -> None:
        async def call(fn: Callable[..., Awaitable[object]], *args: Any) -> None:
            try:
                await fn(*args)
            except trio.Cancelled as cancelled:
                causes.append(cancelled.__context__)
                raise

        assert await waits(call, rx.receive_some)
        assert await waits(call, tx.send_all, b'x' * (SIZE + 1))

    run_with(token, body)
    assert causes == [None, None]


@pytest.mark.parametrize('cancelled', [False, True])
def test_every_call_is_a_checkpoint(token: RBToken, cancelled: bool) -> None:
    async def body(tx: RingBuffSender, rx: RingBuffReceiver) -> None:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: tx.send_all(b''),
            lambda: tx.send_all(b'ab'),
            tx.wait_send_all_might_not_block,
            rx.receive_some,
        ]
        for call in calls:
            with trio.CancelScope() as scope, trio.testing.assert_checkpoints():
                if cancelled:
                    scope.cancel()
                await call()
            assert scope.cancelled_caught is cancelled
        assert (tx.ptr, rx.ptr) == ((0, 0) if cancelled else (2, 2))
        if cancelled:
            assert await waits(rx.receive_some)

    run_with(token, body)


def test_closing_wakes_the_receiver(token: RBToken) -> None:
    async def body(tx: RingBuffSender, rx: RingBuffReceiver) -> None:
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await rx.receive_some()

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await rx.aclose()

    run_with(token, body)


@pytest.mark.parametrize('call', ['send_all', 'wait_send_all_might_not_block'])
def test_closing_wakes_the_sender(token: RBToken, call: str) -> None:
    async def body(tx: RingBuffSender, rx: RingBuffReceiver) -> None:
        await tx.send_all(b'x' * SIZE)
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await (tx.send_all(b'y') if call == 'send_all' else getattr(tx, call)())

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await tx.aclose()

    run_with(token, body)


def test_closed_while_it_is_being_woken(token: RBToken) -> None:
    outcomes = set()

    async def body(tx: RingBuffSender, rx: RingBuffReceiver) -> None:
        async def wait() -> None:
            try:
                outcomes.add(bytes(await rx.receive_some()))
            except trio.ClosedResourceError:
                outcomes.add(b'closed')

        async def close() -> None:
            await trio.lowlevel.wait_readable(token.write_eventfd)
            await rx.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(close)
            await trio.testing.wait_all_tasks_blocked()
            await tx.send_all(b'x')

    # which of the two runs first is up to chance
    while len(outcomes) < 2:
        run_with(token, body)
        with suppress(BlockingIOError):
            os.eventfd_read(token.write_eventfd)
    assert outcomes == {b'x', b'closed'}


def test_the_other_side_is_not_told(token: RBToken) -> None:
    async def body(tx: RingBuffSender, rx: RingBuffReceiver) -> None:
        await tx.send_all(b'last')
        await tx.aclose()
        assert await rx.receive_some() == b'last'
        assert await waits(rx.receive_some)

    run_with(token, body)


def test_closed_is_closed(token: RBToken) -> None:
    async def body(tx: RingBuffSender, rx: RingBuffReceiver) -> None:
        for side in (tx, rx):
            with trio.testing.assert_checkpoints():
                await side.aclose()
            with trio.testing.assert_checkpoints():
                await side.aclose()
            assert 'closed' in repr(side)
            with pytest.raises(trio.ClosedResourceError):
                await side.__aenter__()
        for call in (tx.send_all(b'x'), tx.wait_send_all_might_not_block(), rx.receive_some()):
            with pytest.raises(trio.ClosedResourceError):
                await call

    run_with(token, body)


def test_closing_when_cancelled_closes(token: RBToken) -> None:
    async def body(tx: RingBuffSender, rx: RingBuffReceiver) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await rx.aclose()
        assert scope.cancelled_caught
        assert 'closed' in repr(rx)

    run_with(token, body)


def test_views_outlive_the_receiver(token: RBToken) -> None:
    async def main() -> memoryview:
        async with RingBuffSender(token) as tx, RingBuffReceiver(token) as rx:
            await tx.send_all(b'abc')
            return await rx.receive_some()

    assert run_bounded(main) == b'abc'


def test_one_task_at_a_time(token: RBToken) -> None:
    async def body(tx: RingBuffSender, rx: RingBuffReceiver) -> None:
        await tx.send_all(b'x' * SIZE)
        await receive(rx, SIZE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tx.send_all, b'y' * SIZE)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await tx.send_all(b'z')
            with pytest.raises(trio.BusyResourceError):
                await tx.wait_send_all_might_not_block()
            await receive(rx, SIZE)
            nursery.start_soon(rx.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await rx.receive_some()
            nursery.cancel_scope.cancel()

    run_with(token, body)
