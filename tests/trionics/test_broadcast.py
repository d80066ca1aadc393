"""contract: broadcast receivers over a memory channel, without any actor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tractor.trionics._broadcast import (
    BroadcastReceiver,
    BroadcastState,
    Lagged,
    broadcast_receiver,
)

Broadcast = tuple[trio.MemorySendChannel[int], BroadcastReceiver[int]]


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(5):
            await main()

    trio.run(bounded)


def broadcast(window: int = 3, **kwargs: Any) -> Broadcast:
    send, receive = trio.open_memory_channel[int](100)
    return send, broadcast_receiver(receive, window, **kwargs)


async def collect(receiver: Any, into: list[int]) -> None:
    async for value in receiver:
        into.append(value)


def test_everybody_gets_everything_in_order() -> None:
    async def main() -> None:
        send, first = broadcast(window=100)
        got: list[list[int]] = [[], [], []]
        async with (
            first.subscribe() as second,
            first.subscribe() as third,
            trio.open_nursery() as tn,
        ):
            for receiver, into in zip((first, second, third), got, strict=True):
                tn.start_soon(collect, receiver, into)
            for value in range(50):
                await send.send(value)
                await trio.lowlevel.checkpoint()
            send.close()
        assert got == [list(range(50))] * 3

    run(main)


def test_only_what_came_after_subscribing() -> None:
    async def main() -> None:
        send, first = broadcast()
        await send.send(1)
        assert await first.receive() == 1
        async with first.subscribe() as second:
            with pytest.raises(trio.WouldBlock):
                second.receive_nowait()
            await send.send(2)
            assert await second.receive() == 2
            assert first.receive_nowait() == 2
            with pytest.raises(trio.WouldBlock):
                first.receive_nowait()

    run(main)


def test_subscribing_while_somebody_receives() -> None:
    async def main() -> None:
        send, first = broadcast()
        got: list[int] = []
        async with trio.open_nursery() as tn:
            tn.start_soon(collect, first, got)
            await trio.testing.wait_all_tasks_blocked()
            async with first.subscribe() as second:
                await send.send(1)
                assert await second.receive() == 1
                send.close()
        assert got == [1]

    run(main)


def test_state_as_seen_from_outside() -> None:
    async def main() -> None:
        send, first = broadcast()
        state = first._state
        assert first.key == id(first)
        assert state.subs == {first.key: -1}
        assert state.recv_ready is None
        assert 'open' in repr(first)
        async with first.subscribe() as second, trio.open_nursery() as tn:
            assert second.key != first.key
            assert second._recv == first._recv
            tn.start_soon(first.receive)
            await trio.testing.wait_all_tasks_blocked()
            tn.start_soon(second.receive)
            await trio.testing.wait_all_tasks_blocked()
            assert state.recv_ready is not None
            assert state.statistics() == {
                'open_consumers': 2,
                'queued_len_by_task': {first.key: -1, second.key: -1},
                'max_buffer_size': 3,
                'tasks_waiting': 1,
                'tasks_cancelled': 0,
                'next_value_receiver_id': first.key,
            }
            await send.send(1)
        assert list(state.queue) == [1]
        assert state.queue.maxlen == state.maxlen == 3
        assert state.subs == {first.key: -1}
        assert state.statistics()['next_value_receiver_id'] is None

    run(main)


def test_too_slow() -> None:
    async def main() -> None:
        send, fast = broadcast(window=3)
        async with fast.subscribe() as slow:
            for value in range(4):
                await send.send(value)
                assert await fast.receive() == value
            assert fast._state.subs[slow.key] == 3
            with pytest.raises(Lagged, match=r'^1 value'):
                await slow.receive()
            assert fast._state.subs[slow.key] == 2 == len(fast._state.queue) - 1
            assert [slow.receive_nowait() for _ in range(3)] == [1, 2, 3]
            for value in range(10):
                await send.send(value)
                assert await fast.receive() == value
            with pytest.raises(Lagged, match=r'^7 value'):
                slow.receive_nowait()
            assert await slow.receive() == 7

    run(main)


def test_exactly_the_window_behind_is_not_too_slow() -> None:
    async def main() -> None:
        send, fast = broadcast(window=3)
        async with fast.subscribe() as slow:
            for value in range(3):
                await send.send(value)
                await fast.receive()
            assert [await slow.receive() for _ in range(3)] == [0, 1, 2]

    run(main)


def test_too_slow_without_raising() -> None:
    async def main() -> None:
        send, fast = broadcast(window=1)
        async with fast.subscribe(raise_on_lag=False) as slow:
            for value in range(3):
                await send.send(value)
                await fast.receive()
            assert await slow.receive() == 2

    run(main)


def test_the_receiving_task_is_cancelled() -> None:
    """Another one takes over; nobody loses anything and nothing says that somebody receives."""

    async def main() -> None:
        send, first = broadcast()
        got: list[int] = []
        async with first.subscribe() as second, trio.open_nursery() as tn:
            with trio.CancelScope() as scope:
                tn.start_soon(_cancel_when_blocked, scope)
                await first.receive()
            assert first._state.recv_ready is None
            assert first._state.statistics()['tasks_cancelled'] == 1

            scope = trio.CancelScope()
            tn.start_soon(_receive_within, scope, first)
            await trio.testing.wait_all_tasks_blocked()
            tn.start_soon(collect, second, got)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert first._state.recv_ready is not None
            assert first._state.recv_ready[0] == second.key
            await send.send(1)
            await send.send(2)
            send.close()
        assert got == [1, 2]
        assert [first.receive_nowait(), first.receive_nowait()] == [1, 2]
        with pytest.raises(trio.EndOfChannel):
            await first.receive()

    run(main)


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


async def _receive_within(scope: trio.CancelScope, receiver: BroadcastReceiver[int]) -> None:
    with scope:
        await receiver.receive()


def test_a_cancelled_receive_takes_nothing() -> None:
    async def main() -> None:
        send, first = broadcast()
        async with first.subscribe() as second:
            await send.send(1)
            assert await first.receive() == 1
            with trio.CancelScope() as scope:
                scope.cancel()
                await second.receive()
            assert await second.receive() == 1

    run(main)


def test_the_end_comes_after_what_is_queued() -> None:
    async def main() -> None:
        send, first = broadcast()
        async with first.subscribe() as second:
            await send.send(1)
            send.close()
            assert [value async for value in first] == [1]
            assert first._state.eoc
            assert second.receive_nowait() == 1
            with pytest.raises(trio.EndOfChannel):
                second.receive_nowait()
            with pytest.raises(trio.EndOfChannel):
                await second.receive()

    run(main)


def test_the_end_wakes_who_waits() -> None:
    async def main() -> None:
        send, first = broadcast()
        ended = []

        async def wait_for_end(receiver: Any) -> None:
            with pytest.raises(trio.EndOfChannel):
                await receiver.receive()
            ended.append(receiver)

        async with first.subscribe() as second, trio.open_nursery() as tn:
            tn.start_soon(wait_for_end, first)
            tn.start_soon(wait_for_end, second)
            await trio.testing.wait_all_tasks_blocked()
            send.close()
        assert sorted(map(id, ended)) == sorted([first.key, second.key])

    run(main)


def test_any_other_error_reaches_everybody() -> None:
    async def main() -> None:
        calls = []

        async def fail() -> int:
            calls.append(None)
            await trio.testing.wait_all_tasks_blocked()
            raise ValueError('boom')

        _, first = broadcast(receive_afunc=fail)
        failed = []

        async def wait_for_error(receiver: Any) -> None:
            with pytest.raises(ValueError, match='boom'):
                await receiver.receive()
            failed.append(receiver)

        async with first.subscribe() as second, trio.open_nursery() as tn:
            tn.start_soon(wait_for_error, first)
            tn.start_soon(wait_for_error, second)
        assert len(failed) == len(calls) == 2
        assert first._state.recv_ready is None

    run(main)


def test_at_most_one_task_receives_from_the_channel() -> None:
    async def main() -> None:
        inside, most = 0, 0

        async def receive() -> int:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            try:
                return await rx.receive()
            finally:
                inside -= 1

        send, rx = trio.open_memory_channel[int](10)
        first = broadcast_receiver(rx, 10, receive)
        async with first.subscribe() as second, trio.open_nursery() as tn:
            for receiver in (first, second, first, second):
                tn.start_soon(receiver.receive)
            for value in range(2):
                await trio.testing.wait_all_tasks_blocked()
                await send.send(value)
        assert most == 1

    run(main)


def test_closing() -> None:
    async def main() -> None:
        send, first = broadcast()
        async with first.subscribe() as second:
            await first.aclose()
            await first.aclose()
            assert first._state.subs == {second.key: -1}
            for receive in (first.receive, second.receive):
                await send.send(1)
                if receive == second.receive:
                    assert await receive() == 1
                else:
                    with pytest.raises(trio.ClosedResourceError):
                        await receive()
            with pytest.raises(trio.ClosedResourceError):
                first.receive_nowait()
            with pytest.raises(trio.ClosedResourceError):
                async with first.subscribe():
                    pass
            assert 'closed' in repr(first)
        assert first._state.subs == {}

    run(main)


@pytest.mark.parametrize('who', ['waits', 'receives'])
def test_closing_wakes_its_own_tasks_only(who: str) -> None:
    """Whichever of them receives from the channel; the others neither end nor spin."""

    async def main() -> None:
        send, first = broadcast()
        got: list[int] = []
        async with first.subscribe() as second, trio.open_nursery() as tn:
            order = [first, second] if who == 'receives' else [second, first]
            for receiver in order:
                tn.start_soon(_until_closed if receiver is first else collect, receiver, got)
                await trio.testing.wait_all_tasks_blocked()
            await first.aclose()
            # would not return if somebody were spinning
            await trio.testing.wait_all_tasks_blocked()
            await send.send(7)
            send.close()
        assert got == [-1, 7]

    run(main)


async def _until_closed(receiver: BroadcastReceiver[int], into: list[int]) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await receiver.receive()
    into.append(-1)


def test_not_subscribed() -> None:
    async def main() -> None:
        _, first = broadcast()
        stranger = BroadcastReceiver(first._rx, first._state)
        with pytest.raises(RuntimeError, match='subscribe'):
            await stranger.receive()
        with pytest.raises(RuntimeError, match='subscribe'):
            async with stranger.subscribe():
                pass
        await stranger.aclose()

    run(main)


def test_leaving_the_block_by_an_error_or_cancellation_unsubscribes() -> None:
    async def main() -> None:
        _, first = broadcast()
        with pytest.raises(ValueError, match='body'):
            async with first.subscribe():
                raise ValueError('body')
        assert list(first._state.subs) == [first.key]
        with trio.CancelScope() as scope:
            async with first.subscribe():
                scope.cancel()
                await trio.sleep_forever()
        assert list(first._state.subs) == [first.key]

    run(main)


def test_it_is_a_channel() -> None:
    async def main() -> None:
        send, first = broadcast()
        async with first as receiver:
            await send.send(1)
            async for value in receiver:
                assert value == 1
                break
        with pytest.raises(trio.ClosedResourceError):
            await first.receive()

    run(main)


@asynccontextmanager
async def crowd(first: BroadcastReceiver[int], count: int) -> AsyncIterator[list[Any]]:
    if not count:
        yield []
        return
    async with first.subscribe() as one, crowd(first, count - 1) as rest:
        yield [one, *rest]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60), st.integers(1, 5))
def test_model(steps: list[tuple[int, bool]], window: int) -> None:
    """Any schedule of sends and reads: what a receiver got is all that was sent, less what it was told it lost."""

    async def main() -> None:
        send, source = trio.open_memory_channel[int](100)
        first = broadcast_receiver(source, window)
        async with crowd(first, 2) as more:
            receivers = [first, *more]
            got: list[list[int]] = [[] for _ in receivers]
            sent = 0
            for who, sends in steps:
                if sends or who >= len(receivers):
                    await send.send(sent)
                    sent += 1
                    continue
                if not _take(receivers[who], got[who]) and source.statistics().current_buffer_used:
                    got[who].append(await receivers[who].receive())
            for receiver, values in zip(receivers, got, strict=True):
                while _take(receiver, values):
                    pass
                state: BroadcastState[int] = first._state
                assert state.subs[receiver.key] == -1
            read = sent - source.statistics().current_buffer_used
            for values in got:
                assert [v for v in values if v >= 0] == sorted({v for v in values if v >= 0})
                lost = -sum(v for v in values if v < 0)
                assert len([v for v in values if v >= 0]) + lost == read

    run(main)


def _take(receiver: BroadcastReceiver[int], values: list[int]) -> bool:
    """Read what is queued; a loss of n values is noted as -n."""
    try:
        values.append(receiver.receive_nowait())
    except Lagged as lagged:
        values.append(-int(str(lagged).split()[0]))
    except trio.WouldBlock:
        return False
    return True
