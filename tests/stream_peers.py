"""The other ends of the streams which the tests open; loads nothing but the package itself."""

from __future__ import annotations

from functools import partial
from typing import Any

import trio

import tractor
from tractor import Context
from tractor._testing.serving import open_server

NAME = 'stream_peers'

# an actor that serves the functions of this module; cancelled at the end of the block
open_peer = partial(open_server, NAME)


_marks: dict[str, trio.Event] = {}
notes: list[Any] = []


def mark(name: str) -> trio.Event:
    return _marks.setdefault(name, trio.Event())


async def await_mark(name: str) -> None:
    await mark(name).wait()


async def set_mark(name: str) -> None:
    mark(name).set()


async def get_notes() -> list[Any]:
    return notes


async def echo(value: Any) -> Any:
    return value


async def no_task_named(name: str) -> None:
    """Return when no function of that name runs here any more."""
    calls = tractor.current_actor()._rpc_tasks
    for _, func, done in list(calls.values()):
        if func.__name__ == name:
            await done.wait()


# --- contexts


@tractor.context
async def echo_stream(ctx: Context) -> str:
    await ctx.started()
    async with ctx.open_stream() as stream:
        async for item in stream:
            await stream.send(item)
    return 'done'


@tractor.context
async def send_many(
    ctx: Context, count: int, go: str | None = None, backpressure: bool = False
) -> int:
    """Send the numbers below `count`."""
    await ctx.started()
    if go is not None:
        await await_mark(go)
    async with ctx.open_stream(backpressure=backpressure) as stream:
        for number in range(count):
            await stream.send(number)
    return count


@tractor.context
async def read_all(
    ctx: Context, go: str | None = None, options: dict[str, Any] | None = None
) -> list[Any]:
    """Read until the end, beginning at a mark."""
    await ctx.started()
    async with ctx.open_stream(**(options or {})) as stream:
        if go is not None:
            await await_mark(go)
        return [item async for item in stream]


@tractor.context
async def open_no_stream(ctx: Context) -> str:
    await ctx.started()
    await await_mark('go')
    return 'done'


@tractor.context
async def open_stream_late(ctx: Context) -> list[Any]:
    await ctx.started()
    await await_mark('go')
    async with ctx.open_stream() as stream:
        return [item async for item in stream]


@tractor.context
async def fail_when_told_off(ctx: Context) -> None:
    """Send too much, and fail in a way of its own when that is reported."""
    await ctx.started()
    try:
        async with ctx.open_stream() as stream:
            for number in range(1000):
                await stream.send(number)
            await trio.sleep_forever()
    finally:
        raise ValueError('of our own')


@tractor.context
async def send_and_fail(ctx: Context, count: int) -> None:
    await ctx.started()
    async with ctx.open_stream() as stream:
        for number in range(count):
            await stream.send(number)
        raise ValueError('boom')


@tractor.context
async def send_then_hang(ctx: Context, count: int, go: str | None = None) -> None:
    await ctx.started()
    if go is not None:
        await await_mark(go)
    async with ctx.open_stream() as stream:
        for number in range(count):
            await stream.send(number)
        await trio.sleep_forever()


@tractor.context
async def stop_then_hang(ctx: Context) -> str:
    await ctx.started()
    async with ctx.open_stream() as stream:
        await stream.send('last')
    await await_mark('go')
    return 'done'


@tractor.context
async def keep_sending(ctx: Context) -> str:
    """Send after the peer has said that it reads no more; end at a mark."""
    await ctx.started()
    async with ctx.open_stream() as stream:
        async for _ in stream:
            pass
    for number in range(1000):
        await ctx.chan.send(tractor.msg.types.Yield(cid=ctx.cid, pld=number))
    await await_mark('go')
    return 'done'


@tractor.context
async def use_after_end(ctx: Context) -> list[str]:
    """What the stream's methods raise, after its end came and after it was closed."""
    await ctx.started()
    seen = []
    async with ctx.open_stream() as stream:
        assert [item async for item in stream] == ['one']
        seen.append(await raised(stream.receive))
        seen.append(await raised(stream.send, 1))
        assert stream.closed
        assert await stream.aclose() == []
    seen.append(await raised(stream.receive))
    try:
        async with ctx.open_stream():
            pass
    except trio.ClosedResourceError as err:
        seen.append(type(err).__name__)
    return seen


async def raised(async_fn: Any, *args: Any) -> str:
    try:
        await async_fn(*args)
    except Exception as err:  # noqa: BLE001
        return type(err).__name__
    return 'nothing'


leaked: list[Context] = []


@tractor.context
async def leak_context(ctx: Context) -> None:
    await ctx.started()
    leaked.append(ctx)


async def stream_of_leaked_context() -> str:
    """What opening a stream of a context raises whose function has returned."""
    try:
        async with leaked[0].open_stream():
            return 'nothing'
    except trio.ClosedResourceError as err:
        return type(err).__name__
