"""contract: the bounded queue that a stream's messages wait in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from tractor.runtime import _queue
from tractor.runtime._queue import StreamQueue


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(5):
            await main()

    trio.run(bounded)


def filled(capacity: int, count: int) -> StreamQueue:
    queue = StreamQueue(capacity)
    assert all(queue.put(item) for item in range(count))
    return queue


async def drained(queue: StreamQueue) -> list[Any]:
    items = []
    try:
        while True:
            items.append(await queue.get())
    except trio.EndOfChannel:
        return items


def test_order_and_capacity() -> None:
    queue = filled(3, 3)
    assert not queue.put(3)
    assert len(queue) == 3
    assert [queue.get_nowait() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(trio.WouldBlock):
        queue.get_nowait()
    assert queue._state.max_buffer_size == 3


def test_forced_items_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_queue, 'OVERFLOW_LIMIT', 2)
    queue = filled(3, 3)
    assert queue.put(3, force=True)
    assert queue.put(4, force=True)
    assert not queue.put(5, force=True)
    assert [queue.get_nowait() for _ in range(5)] == [0, 1, 2, 3, 4]


def test_no_capacity_hands_over() -> None:
    async def main() -> None:
        queue = StreamQueue(0)
        assert not queue.put('refused')
        got = []

        async def read() -> None:
            got.append(await queue.get())

        async with trio.open_nursery() as tn:
            tn.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            assert queue.put('taken')
            assert not queue.put('refused')
        assert got == ['taken']

    run(main)


def test_the_end_comes_after_the_items() -> None:
    async def main() -> None:
        queue = filled(3, 2)
        queue.end()
        assert queue.ended
        assert not queue.closed
        assert await drained(queue) == [0, 1]
        with pytest.raises(trio.EndOfChannel):
            queue.get_nowait()
        assert 'ended' in repr(queue)

    run(main)


def test_closing_drops_the_items() -> None:
    async def main() -> None:
        queue = filled(3, 2)
        queue.close()
        assert queue.ended
        assert queue.closed
        assert len(queue) == 0
        with pytest.raises(trio.ClosedResourceError):
            await queue.get()
        assert 'closed' in repr(queue)

    run(main)


@pytest.mark.parametrize(
    ('ending', 'error'), [('end', trio.EndOfChannel), ('close', trio.ClosedResourceError)]
)
def test_all_readers_are_woken(ending: str, error: type[Exception]) -> None:
    async def main() -> None:
        queue = StreamQueue(1)

        async def read() -> None:
            with pytest.raises(error):
                await queue.get()

        async with trio.open_nursery() as tn:
            for _ in range(3):
                tn.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            getattr(queue, ending)()

    run(main)


def test_a_cancelled_wait_takes_nothing() -> None:
    async def main() -> None:
        queue = filled(3, 1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await queue.get()
        assert len(queue) == 1

        got = []

        async def read(scope: trio.CancelScope) -> None:
            with scope:
                got.append(await queue.get())

        queue.clear()
        scopes = [trio.CancelScope() for _ in range(3)]
        async with trio.open_nursery() as tn:
            for scope in scopes:
                tn.start_soon(read, scope)
            await trio.testing.wait_all_tasks_blocked()
            # both in one turn: whoever is not cancelled gets it
            scopes[1].cancel()
            assert queue.put('one')
            await trio.testing.wait_all_tasks_blocked()
            assert got == ['one']
            for scope in scopes:
                scope.cancel()

    run(main)


def test_reading_is_a_checkpoint() -> None:
    async def main() -> None:
        queue = filled(3, 1)
        with trio.testing.assert_checkpoints():
            await queue.get()

    run(main)


@pytest.mark.parametrize('capacity', [1, 2, 5, 64])
def test_waiting_for_room(capacity: int) -> None:
    async def main() -> None:
        queue = StreamQueue(capacity)
        assert await queue.wait_room() == capacity
        for item in range(capacity):
            queue.put(item)
        rooms = []

        async def wait() -> None:
            rooms.append(await queue.wait_room())

        async with trio.open_nursery() as tn:
            tn.start_soon(wait)
            while len(queue) * 2 > capacity:
                await trio.testing.wait_all_tasks_blocked()
                assert rooms == []
                queue.get_nowait()
        assert rooms == [capacity - len(queue)]
        assert rooms[0] * 2 >= capacity

    run(main)


@pytest.mark.parametrize('ending', ['end', 'close', 'clear'])
def test_who_waits_for_room_is_woken(ending: str) -> None:
    async def main() -> None:
        queue = filled(4, 4)
        async with trio.open_nursery() as tn:
            tn.start_soon(queue.wait_room)
            await trio.testing.wait_all_tasks_blocked()
            getattr(queue, ending)()

    run(main)
