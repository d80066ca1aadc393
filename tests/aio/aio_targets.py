"""What the tests of infected actors run in other actors; no asyncio task outlives any of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

import tractor
from tractor import to_asyncio


@asynccontextmanager
async def no_orphans() -> AsyncIterator[None]:
    """Fail if there are asyncio tasks after the block which were not there before."""
    before = asyncio.all_tasks()
    try:
        yield
    finally:
        assert asyncio.all_tasks() <= before


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


# --- asyncio


async def aio_value(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


async def aio_fail(value: Any) -> None:
    await asyncio.sleep(0)
    raise ValueError(value)


async def aio_interrupt(value: Any) -> None:
    raise KeyboardInterrupt(value)


async def aio_cancel(value: Any) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel(value)
    await forever()


async def aio_echo(chan: to_asyncio.LinkedTaskChannel) -> None:
    chan.started_nowait('up')
    while True:
        value = await chan.get()
        if value == 'return':
            return
        if value == 'fail':
            raise ValueError(value)
        if value == 'cancel':
            await aio_cancel(value)
        chan.send_nowait(value)


async def aio_exit_early(chan: to_asyncio.LinkedTaskChannel) -> None:
    chan.started_nowait('up')


# --- trio


async def infection() -> tuple[bool, bool, bool]:
    """Whether this actor is infected, as everybody says who should know."""
    return (
        tractor.current_actor().is_infected_aio(),
        tractor.get_runtime_vars()['_is_infected_aio'],
        tractor.current_actor().is_root,
    )


async def child_infection(infect_child: bool) -> tuple[bool, bool, bool]:
    """The same of a child of this actor."""
    async with tractor.open_nursery() as nursery:
        portal = await nursery.run_in_actor(infection, infect_asyncio=infect_child)
        result: tuple[bool, bool, bool] = await portal.wait_for_result()
        return result


async def run_aio(how: str, value: Any) -> Any:
    """Run one of the asyncio functions above."""
    async with no_orphans():
        return await to_asyncio.run_task(globals()[f'aio_{how}'], value=value)


async def run_aio_anywhere() -> Any:
    """Run an asyncio function, whether that can be done here or not."""
    return await to_asyncio.run_task(aio_value, value=1)


@tractor.context
async def echo(ctx: tractor.Context) -> str:
    """Echo a stream through asyncio."""
    async with no_orphans(), to_asyncio.open_channel_from(aio_echo) as (chan, first):
        await ctx.started(first)
        async with ctx.open_stream() as stream:
            async for value in stream:
                await chan.send(value)
                await stream.send(await chan.receive())
    return 'over'


@tractor.context
async def expect(ctx: tractor.Context, command: str) -> None:
    """Give the asyncio task a command and wait elsewhere for what follows."""
    async with no_orphans(), to_asyncio.open_channel_from(aio_echo) as (chan, first):
        await ctx.started(first)
        await chan.send(command)
        await trio.sleep_forever()


@tractor.context
async def fail_in_trio(ctx: tractor.Context) -> None:
    """An error on the trio side of a pair."""
    async with no_orphans(), to_asyncio.open_channel_from(aio_echo) as (_, first):
        await ctx.started(first)
        raise KeyError('of trio')


@tractor.context
async def enter_early_exit(ctx: tractor.Context) -> None:
    """Want a value of a task that has returned."""
    async with (
        no_orphans(),
        to_asyncio.open_channel_from(aio_exit_early, suppress_graceful_exits=False) as (
            chan,
            first,
        ),
    ):
        await ctx.started(first)
        await chan.receive()


@tractor.context
async def work_shielded(ctx: tractor.Context, path: str, linked: bool) -> None:
    """Be busy when the actor is cancelled, and leave a mark when its last callback has run."""
    tractor.current_actor().lifetime_stack.callback(Path(path).touch)
    if not linked:
        await ctx.started(os.getpid())
        await _shielded()
        return
    async with no_orphans(), to_asyncio.open_channel_from(aio_echo):
        await ctx.started(os.getpid())
        await _shielded()


async def _shielded(seconds: float = 0.5) -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)


async def tasks_left() -> list[str]:
    """The asyncio tasks of this actor, less the one that hosts trio."""
    return [repr(task) for task in asyncio.all_tasks() if task.get_name() != 'Task-1']
