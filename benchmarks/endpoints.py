"""What the actors of the benchmarks serve. Imported by each of them, so nothing else is in here."""

from __future__ import annotations

import os
import time
from contextlib import AsyncExitStack

import trio

import tractor


async def ping(n: int) -> int:
    """The cheapest call there is: it answers without waiting for anything."""
    return n


async def process_id() -> int:
    """Where this actor is."""
    return os.getpid()


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


@tractor.context
async def emit_when_told(ctx: tractor.Context, count: int, size: int) -> None:
    """The same as `emit`, once a message has come."""
    await ctx.started()
    item = b'x' * size
    async with ctx.open_stream() as stream:
        await stream.receive()
        for _ in range(count):
            await stream.send(item)


@tractor.context
async def tree(ctx: tractor.Context, depth: int, method: str, path: str) -> None:
    """
    Have a binary tree of actors below, `depth` of them deep with this one, until cancelled.

    Each appends to the file at `path` when its cancellation has come.
    """
    async with AsyncExitStack() as stack:
        if depth > 1:
            an = await stack.enter_async_context(tractor.open_nursery())
            tn = await stack.enter_async_context(trio.open_nursery())
            up = [trio.Event(), trio.Event()]
            for n, half in enumerate(up):
                name = f'{tractor.current_actor().name}{n}'
                tn.start_soon(branch, an, name, depth - 1, method, path, half)
            for half in up:
                await half.wait()
        await ctx.started()
        try:
            await trio.sleep_forever()
        finally:
            note(path, time.perf_counter())


async def branch(
    an: tractor.ActorNursery,
    name: str,
    depth: int,
    method: str,
    path: str,
    up: trio.Event,
) -> None:
    """Keep one half of what is below an actor of a tree."""
    portal = await an.start_actor(
        name, enable_modules=['endpoints'], start_method=method, inherit_parent_main=False
    )
    async with portal.open_context(tree, depth=depth, method=method, path=path) as (ctx, _):
        up.set()
        await ctx.wait_for_result()


def note(path: str, number: float) -> None:
    """Append a line, as a whole."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(fd, f'{number}\n'.encode())
    finally:
        os.close(fd)
