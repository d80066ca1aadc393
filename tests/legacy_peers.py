"""The one-way streams and publishers which the tests subscribe to; loads nothing but the package itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import trio

import tractor
from tractor._testing.serving import open_server
from tractor.experimental import msgpub

NAME = 'legacy_peers'

# an actor that serves the functions of this module; cancelled at the end of the block
open_peer = partial(open_server, NAME)


_marks: dict[str, trio.Event] = {}
noted: list[Any] = []


def mark(name: str) -> trio.Event:
    return _marks.setdefault(name, trio.Event())


async def await_mark(name: str) -> list[Any]:
    await mark(name).wait()
    return noted


async def set_mark(name: str) -> None:
    mark(name).set()


async def no_task_named(name: str) -> None:
    """Return when no function of that name runs here any more."""
    calls = tractor.current_actor()._rpc_tasks
    for _, func, done in list(calls.values()):
        if func.__name__ == name:
            await done.wait()


# --- generators


async def count_up(stop: int) -> AsyncIterator[int]:
    for number in range(stop):
        yield number


async def count_then_hang(stop: int) -> AsyncIterator[int]:
    try:
        for number in range(stop):
            yield number
        await trio.sleep_forever()
    finally:
        noted.append('cleaned up')
        mark('cleaned').set()


async def fail_after(stop: int) -> AsyncIterator[int]:
    for number in range(stop):
        yield number
    raise ValueError('boom')


async def on_demand(stop: int) -> AsyncIterator[int]:
    for number in range(stop):
        await await_mark(f'next {number}')
        yield number


@tractor.stream
async def send_squares(stream: tractor.Context, stop: int) -> None:
    for number in range(stop):
        await stream.chan.send(tractor.msg.types.Yield(cid=stream.cid, pld=number**2))


@tractor.context
async def a_context(ctx: tractor.Context) -> None:
    await ctx.started()


async def a_function() -> None:
    """Nothing."""


def only_looks_like_one(stop: int) -> Any:
    """A plain function there, whatever it is here."""


# --- publishers


@msgpub
async def publish_all(get_topics: Callable[[], tuple[str, ...]], count: int) -> Any:
    """Numbers, for whoever wants whatever topic."""
    for number in range(count):
        yield dict.fromkeys(get_topics(), number) | {'nobody': number}
        await trio.lowlevel.checkpoint()


@msgpub
async def publish_topics(get_topics: Callable[[], tuple[str, ...]]) -> Any:
    """Which topics there are, whenever that changes."""
    last: Any = None
    while True:
        topics = sorted(get_topics())
        if topics != last:
            last = topics
            yield dict.fromkeys(topics, topics)
        await trio.lowlevel.checkpoint()


@msgpub(tasks={'one', 'two'})
async def publish_twice(get_topics: Callable[[], tuple[str, ...]]) -> Any:
    """Which task runs it."""
    name = len(noted)
    noted.append(name)
    yield dict.fromkeys(get_topics(), name)


@msgpub
async def publish_once(get_topics: Callable[[], tuple[str, ...]], runs: list[int]) -> Any:
    noted.append(runs[0])
    yield dict.fromkeys(get_topics(), runs[0])


@msgpub
async def break_once(get_topics: Callable[[], tuple[str, ...]]) -> Any:
    noted.append('run')
    yield dict.fromkeys(get_topics(), len(noted))
    if len(noted) < 3:
        raise trio.BrokenResourceError('again')
