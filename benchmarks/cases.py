"""One measurement of the runtime, in a process of its own: `cases.py CASE METHOD TRANSPORT [ARGUMENTS] COUNT`.

Prints seconds for each operation of the case. `many` has the number of contexts as an argument, `payload` that of
bytes.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import endpoints
import trio

import tractor

NOW = time.perf_counter
SMALL = 32
WARM_UP = 20

Measure = Callable[..., Awaitable[float | tuple[float, ...]]]


async def spawn(an: tractor.ActorNursery, count: int) -> float:
    """An actor's start, one call and its cancellation, until it has confirmed that."""
    took = []
    # the first two start helper processes, and fill caches
    for n in range(count + 2):
        start = NOW()
        portal = await an.start_actor(f'actor{n}', enable_modules=['endpoints'])
        await portal.run(endpoints.ping, n=n)
        await portal.cancel_actor()
        took.append(NOW() - start)
    return statistics.median(took[2:])


async def rpc(an: tractor.ActorNursery, count: int) -> float:
    """A call and its answer, one after the other."""
    portal = await an.start_actor('peer', enable_modules=['endpoints'])
    for n in range(WARM_UP):
        await portal.run(endpoints.ping, n=n)
    start = NOW()
    for n in range(count):
        await portal.run(endpoints.ping, n=n)
    return (NOW() - start) / count


async def pingpong(an: tractor.ActorNursery, count: int) -> float:
    """A stream message there and another back, one after the other."""
    portal = await an.start_actor('peer', enable_modules=['endpoints'])
    async with portal.open_context(endpoints.echo) as (ctx, _), ctx.open_stream() as stream:
        for n in range(WARM_UP):
            await stream.send(n)
            await stream.receive()
        start = NOW()
        for n in range(count):
            await stream.send(n)
            await stream.receive()
        took = NOW() - start
    return took / count


async def many(an: tractor.ActorNursery, contexts: int, count: int) -> float:
    """The same through many contexts open at once on one connection, each in its turn."""
    portal = await an.start_actor('peer', enable_modules=['endpoints'])
    async with AsyncExitStack() as stack:
        streams = []
        for _ in range(contexts):
            ctx, _ = await stack.enter_async_context(portal.open_context(endpoints.echo))
            streams.append(await stack.enter_async_context(ctx.open_stream()))
        turns = [streams[n % contexts] for n in range(max(count, contexts))]
        start = NOW()
        for n, stream in enumerate(turns):
            await stream.send(n)
            await stream.receive()
        return (NOW() - start) / len(turns)


async def _down(an: tractor.ActorNursery, count: int, size: int) -> float:
    portal = await an.start_actor('peer', enable_modules=['endpoints'])
    received = 0
    async with (
        portal.open_context(endpoints.emit, count=count, size=size) as (ctx, _),
        ctx.open_stream() as stream,
    ):
        start = NOW()
        async for _ in stream:
            received += 1
        took = NOW() - start
    if received != count:
        raise RuntimeError(f'{count} messages were sent, {received} came')
    return took / count


async def down(an: tractor.ActorNursery, count: int) -> float:
    """Small messages from an actor to its parent."""
    return await _down(an, count, SMALL)


async def payload(an: tractor.ActorNursery, size: int, count: int) -> float:
    """Messages of so many bytes from an actor to its parent."""
    return await _down(an, count, size)


async def up(an: tractor.ActorNursery, count: int) -> float:
    """Small messages from a parent to its actor, until that confirms the last one."""
    portal = await an.start_actor('peer', enable_modules=['endpoints'])
    item = b'x' * SMALL
    async with portal.open_context(endpoints.absorb, count=count) as (ctx, _):
        start = NOW()
        async with ctx.open_stream() as stream:
            for _ in range(count):
                await stream.send(item)
            received = await ctx.wait_for_result()
        took = NOW() - start
    if received != count:
        raise RuntimeError(f'{count} messages were sent, {received} came')
    return took / count


CASES: dict[str, Measure] = {
    case.__name__: case for case in (spawn, rpc, pingpong, many, down, up, payload)
}


def free_address(transport: str) -> tuple[str, int | str]:
    """A registry address which no other program uses, so that this one is alone."""
    if transport == 'uds':
        # the benchmark runner gave this run a runtime directory of its own
        return tractor.discovery._addr.default_lo_addrs(['uds'])[0]
    import socket

    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return sock.getsockname()


async def run(measure: Measure, method: str, transport: str, *numbers: int) -> Any:
    """Run one case in a runtime of its own."""
    async with tractor.open_nursery(
        start_method=method,
        enable_transports=[transport],
        registry_addrs=[free_address(transport)],
        loglevel='error',
    ) as an:
        took = await measure(an, *numbers)
        await an.cancel()
    return took


def main(cases: dict[str, Measure]) -> None:
    """The command."""
    name, method, transport, *numbers = sys.argv[1:]
    if name != 'spawn':
        # an interpreter that gets ready for the next spawn would share the cores with what is measured
        os.environ['TRACTOR_SUBINT_SPARES'] = '0'
    took = trio.run(run, cases[name], method, transport, *map(int, numbers))
    print(*(took if isinstance(took, tuple) else (took,)))


if __name__ == '__main__':
    main(CASES)
