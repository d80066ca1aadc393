"""collaboration: what a message, a call and a context leave in memory (nothing), and how much they need meanwhile."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

import tractor

ROUNDS = 1000

# bytes for each operation that may stay: caches and free lists that fill up
KEPT = 16

# bytes of the timers which have been given up; trio forgets them when there are about a thousand
TIMERS = 1000 * 160

# bytes that one operation may need at once, with the buffer (64 KiB) which each side reads into
NEEDED = 2 * 64 * 1024 + 32 * 1024

pytestmark = pytest.mark.parametrize('tpt', ['mem', None])


@pytest.fixture
def tracing() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


async def ping(n: int) -> int:
    return n


@tractor.context
async def echo(ctx: tractor.Context) -> None:
    await ctx.started()
    async with ctx.open_stream() as stream:
        async for item in stream:
            await stream.send(item)


async def check(
    operation: Callable[[int], Awaitable[object]], rounds: int = ROUNDS, extra: int = 0
) -> None:
    """Let an operation be done many times; fail if that leaves something, or needs too much."""
    for n in range(rounds // 4):
        await operation(n)
    before = in_use()
    tracemalloc.reset_peak()
    await operation(0)
    at_once = tracemalloc.get_traced_memory()[1] - before
    assert at_once <= NEEDED, f'{at_once} bytes at once'
    # what each leaves behind is seen every time, what a table takes when it grows only once
    kept = []
    for _ in range(3):
        before = in_use()
        for n in range(rounds):
            await operation(n)
        kept.append(in_use() - before)
    assert min(kept) <= KEPT * rounds + extra, f'bytes of {rounds} operations that stay: {kept}'


def in_use() -> int:
    """Bytes that are allocated, and not garbage."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def test_stream_messages(within_one_run: Any, tracing: None, tpt: str | None) -> None:
    async def main(root: tractor.Actor, portal: tractor.Portal) -> None:
        async with portal.open_context(echo) as (ctx, _), ctx.open_stream() as stream:

            async def there_and_back(n: int) -> None:
                await stream.send(n)
                assert await stream.receive() == n

            await check(there_and_back)

    within_one_run(main, tpt=tpt)


def test_calls(within_one_run: Any, tracing: None, tpt: str | None) -> None:
    async def main(root: tractor.Actor, portal: tractor.Portal) -> None:
        await check(lambda n: portal.run(ping, n=n))
        assert not root._rpc_tasks
        assert not root._contexts

    within_one_run(main, tpt=tpt)


def test_contexts(within_one_run: Any, tracing: None, tpt: str | None) -> None:
    async def main(root: tractor.Actor, portal: tractor.Portal) -> None:
        async def open_and_leave(_n: int) -> None:
            async with portal.open_context(echo) as (ctx, _), ctx.open_stream():
                pass

        # less than one small object of each
        await check(open_and_leave, ROUNDS // 2, extra=TIMERS)
        assert not root._rpc_tasks
        assert not root._contexts

    within_one_run(main, tpt=tpt)


def test_a_large_message_is_held_twice_on_each_side_at_most(
    within_one_run: Any, tracing: None, tpt: str | None
) -> None:
    size = 4 << 20

    async def main(root: tractor.Actor, portal: tractor.Portal) -> None:
        async with portal.open_context(echo) as (ctx, _), ctx.open_stream() as stream:
            data = bytes(size)
            await stream.send(b'')
            assert await stream.receive() == b''
            before = in_use()
            tracemalloc.reset_peak()
            await stream.send(data)
            assert len(await stream.receive()) == size
            peak = tracemalloc.get_traced_memory()[1] - before
            # sent and received in the same process, there and back: what it is decoded from, and the payload
            assert peak <= 6 * size, peak / size

    within_one_run(main, tpt=tpt)
