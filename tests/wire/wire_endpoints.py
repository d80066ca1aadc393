"""The functions which the transcripts call; loads nothing but the package itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import trio

import tractor
from tractor.msg import types as msgs
from tractor.msg._errors import unpack_error

NAME = 'wire_endpoints'

# --- plain functions

_marks: dict[str, trio.Event] = {}


async def add(a: int, b: int) -> int:
    return a + b


async def echo(value: Any) -> Any:
    return value


def no_coroutine() -> None:
    """Cannot be called by others."""


async def fail(text: str) -> None:
    raise ValueError(text)


async def fail_relayed() -> None:
    """Raise what an actor further away has reported."""
    far = ('far', 'far-uuid')
    error = unpack_error(msgs.Error(far, 'KeyError', 'KeyError', [far]))
    assert error is not None
    raise error


async def wait_for(name: str) -> str:
    await _marks.setdefault(name, trio.Event()).wait()
    del _marks[name]
    return name


async def set_mark(name: str) -> None:
    _marks.setdefault(name, trio.Event()).set()


async def sleep() -> None:
    await trio.sleep_forever()


# --- generators


async def count(n: int, then_fail: bool = False) -> AsyncIterator[int]:
    for number in range(n):
        yield number
    if then_fail:
        raise ValueError('no more')


async def count_forever() -> AsyncIterator[int]:
    yield 0
    await trio.sleep_forever()


# --- contexts


@tractor.context
async def doubler(ctx: tractor.Context, first: Any) -> str:
    await ctx.started(first)
    async with ctx.open_stream() as stream:
        async for value in stream:
            await stream.send(value + value)
    return 'done'


@tractor.context
async def first_and_last(ctx: tractor.Context, first: Any, last: Any) -> Any:
    await ctx.started(first)
    return last


@tractor.context
async def fail_in_stream(ctx: tractor.Context) -> None:
    await ctx.started()
    async with ctx.open_stream() as stream:
        await stream.send(0)
        raise ValueError('in the middle')


@tractor.context(pld_spec=int)
async def adder(ctx: tractor.Context) -> int:
    total = 0
    await ctx.started(total)
    async with ctx.open_stream() as stream:
        async for value in stream:
            total += value
            await stream.send(total)
    return total


@tractor.context
async def idle(ctx: tractor.Context) -> None:
    await ctx.started()
    await trio.sleep_forever()


@tractor.context
async def never_reads(ctx: tractor.Context, capacity: int) -> None:
    async with trio.open_nursery() as tn:
        tn.start_soon(trio.sleep_forever)
        await ctx.started()
        async with ctx.open_stream(msg_buffer_size=capacity):
            await trio.sleep_forever()
