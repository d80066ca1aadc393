"""What the actors of the benchmarks serve. Imported by each of them, so nothing else is in here."""

from __future__ import annotations

import tractor


async def ping(n: int) -> int:
    """The cheapest call there is: it answers without waiting for anything."""
    return n


@tractor.context
async def echo(ctx: tractor.Context) -> None:
    """Send back whatever comes."""
    await ctx.started()
    async with ctx.open_stream() as stream:
        async for item in stream:
            await stream.send(item)


@tractor.context
async def emit(ctx: tractor.Context, count: int, size: int) -> None:
    """Send `count` messages with `size` bytes in each."""
    await ctx.started()
    item = b'x' * size
    async with ctx.open_stream() as stream:
        for _ in range(count):
            await stream.send(item)


@tractor.context
async def absorb(ctx: tractor.Context, count: int) -> int:
    """Receive `count` messages; the result is their number."""
    await ctx.started()
    received = 0
    async with ctx.open_stream() as stream:
        async for _ in stream:
            received += 1
            if received == count:
                break
    return received


async def burn(count: int) -> int:
    """Count down: work for one core."""
    while count:
        count -= 1
    return count
