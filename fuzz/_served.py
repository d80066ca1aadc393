"""What the actor under test exposes to its peer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import trio

import tractor
from tractor import Context

# stream messages that `answer_all` sends by itself
MANY = 80


async def echo(value: Any = None) -> Any:
    """The value as it came."""
    return value


async def fail(n: int = 0) -> None:
    """Always fails."""
    raise ValueError('x' * n)


async def hang() -> None:
    """Ends by cancellation only."""
    await trio.sleep_forever()


async def numbers(n: int = 3) -> AsyncIterator[int]:
    """Some numbers."""
    for number in range(n):
        yield number


@tractor.stream
async def stream_some(stream: Any, n: int = 2) -> None:
    """The same, in the older way."""
    for number in range(n):
        await stream.send_yield(number)


def not_async() -> None:
    """Cannot be called by a peer."""


@tractor.context
async def talk(ctx: Context, value: Any = None) -> int:
    """Sends back what it gets, until the peer stops; returns how much that was."""
    await ctx.started(value)
    count = 0
    async with ctx.open_stream() as stream:
        async for item in stream:
            await stream.send(item)
            count += 1
    return count


@tractor.context
async def answer_all(ctx: Context, n: int = MANY) -> str:
    """Sends without reading."""
    await ctx.started()
    async with ctx.open_stream() as stream:
        for number in range(n):
            await stream.send(number)
    return 'done'


@tractor.context(pld_spec=int | None)  # type: ignore[untyped-decorator]
async def typed(ctx: Context, value: Any = None) -> int:
    """Takes numbers only."""
    await ctx.started(value)
    total = 0
    async with ctx.open_stream() as stream:
        async for item in stream:
            total += item
    return total
