"""Measurements of many actors at once, or of one that does nothing: `crowds.py CASE METHOD TRANSPORT ARGUMENTS`.

Prints seconds, or what the case says.

| case | arguments | |
|---|---|---|
| `fan_in` | NUMBER COUNT | small stream messages from many actors into this one, for each message |
| `crowd` | NUMBER | until the last of many actors has answered its first call; then, until all are gone |
| `tree` | DEPTH | the same of a binary tree; then, until its last actor had learnt of the cancellation |
| `burn` | WORKERS COUNT | until each of some actors has counted down once |
| `stop` | COUNT | cancel one actor, until it is gone |
| `spinning` | NUMBER | cancel actors that never yield, until they are gone |
| `memory` | NUMBER | MiB for each idle actor |
| `wakeups` | SECONDS | system calls of an idle actor in that time |
"""

from __future__ import annotations

import os
import re
import statistics
import sys
import tempfile
import threading
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO

import cases
import endpoints
import stuck
import trio
from floor import pss

import tractor

NOW = time.perf_counter
SMALL = 32
# seconds until nothing is left to be done after a start
SETTLE = 0.5

Nursery = tractor.ActorNursery


async def start_one(an: Nursery, name: str = 'one') -> tractor.Portal:
    """An actor that has answered its first call."""
    # the figures of this file's own imports are not wanted
    portal = await an.start_actor(
        name, enable_modules=['endpoints', 'stuck'], inherit_parent_main=False
    )
    await portal.run(endpoints.ping, n=1)
    return portal


async def start_many(an: Nursery, number: int) -> list[tractor.Portal]:
    """Many, at once."""
    portals = []

    async def add(name: str) -> None:
        portals.append(await start_one(an, name))

    async with trio.open_nursery() as tn:
        for n in range(number):
            tn.start_soon(add, f'actor_{n}')
    return portals


async def fan_in(an: Nursery, number: int, count: int) -> float:
    """Many actors send at the same time, as fast as they can."""
    received = 0

    async def take(stream: Any) -> None:
        nonlocal received
        await stream.send(None)
        async for _ in stream:
            received += 1

    async with AsyncExitStack() as stack:
        streams = []
        for portal in await start_many(an, number):
            ctx, _ = await stack.enter_async_context(
                portal.open_context(endpoints.emit_when_told, count=count, size=SMALL)
            )
            streams.append(await stack.enter_async_context(ctx.open_stream()))
        start = NOW()
        async with trio.open_nursery() as tn:
            for stream in streams:
                tn.start_soon(take, stream)
        took = NOW() - start
    if received != number * count:
        raise RuntimeError(f'{number * count} messages were sent, {received} came')
    return took / received


async def all_gone(an: Nursery) -> float:
    """Cancel all, until their processes have ended."""
    children = list(an._children.values())
    start = NOW()
    await an.cancel()
    for child in children:
        await child.gone.wait()
    return NOW() - start


async def crowd(an: Nursery, number: int) -> tuple[float, float]:
    """Many at once, and their end."""
    start = NOW()
    await start_many(an, number)
    return NOW() - start, await all_gone(an)


async def tree(an: Nursery, depth: int) -> tuple[float, float, float]:
    """The same of a binary tree."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'cancelled')
        start = NOW()
        portal = await start_one(an, 'top')
        ended = trio.Event()

        async def keep(*, task_status: trio.TaskStatus[None]) -> None:
            with suppress(tractor.ContextCancelled, tractor.TransportClosed):
                opened = portal.open_context(
                    endpoints.tree, depth=depth, method=sys.argv[2], path=str(path)
                )
                async with opened as (ctx, _):
                    task_status.started()
                    await ctx.wait_for_result()
            ended.set()

        async with trio.open_nursery() as tn:
            await tn.start(keep)
            up = NOW()
            gone = await all_gone(an)
            await ended.wait()
        learnt = numbers_in(path)
    # one that was killed before it could tell has learnt it by its end
    told = max(learnt) - up if len(learnt) == 2**depth - 1 else gone
    return up - start, gone, told


def numbers_in(path: Path) -> list[float]:
    """What the actors of a tree have noted."""
    return [float(line) for line in path.read_text().splitlines()]


def new_file(path: Path) -> BinaryIO:
    """To be closed by the caller."""
    return path.open('wb')


def check_attached(path: Path) -> None:
    """Whether there was something to be counted."""
    said = path.read_text()
    if 'attached' not in said:
        raise RuntimeError(f'strace failed: {said!r}')


def total_calls(path: Path) -> int:
    """What strace has counted; it tells nothing where there was nothing."""
    total = re.search(r'^\S+ +\S+ +\S+ +(\d+) .*total$', path.read_text(), re.MULTILINE)
    return int(total[1]) if total else 0


async def burn(an: Nursery, workers: int, count: int) -> float:
    """Counting down on several cores."""
    portals = await start_many(an, workers)
    await trio.sleep(SETTLE)

    async def call(portal: tractor.Portal) -> None:
        await portal.run(endpoints.burn, count=count)

    start = NOW()
    async with trio.open_nursery() as tn:
        for portal in portals:
            tn.start_soon(call, portal)
    return NOW() - start


async def stop(an: Nursery, count: int) -> float:
    """One actor's end."""
    took = []
    for n in range(count):
        portal = await start_one(an, f'actor_{n}')
        (child,) = an._children.values()
        start = NOW()
        await portal.cancel_actor()
        await child.gone.wait()
        took.append(NOW() - start)
    return statistics.median(took)


async def call_stuck(portal: tractor.Portal) -> None:
    """Until it is gone."""
    with suppress(tractor.TransportClosed):
        await portal.run(stuck.spin)


async def spinning(an: Nursery, number: int) -> float:
    """The end of actors which no request reaches: each is asked, given its time, and killed."""
    portals = await start_many(an, number)
    async with trio.open_nursery() as tn:
        for portal in portals:
            tn.start_soon(call_stuck, portal)
        await trio.sleep(SETTLE / 2)
        return await all_gone(an)


async def memory(an: Nursery, number: int) -> float:
    """MiB for each, beside one which shares pages with all others."""
    await start_one(an)
    before = pss()
    await start_many(an, number)
    await trio.sleep(SETTLE)
    return (pss() - before) / number / 1024


async def wakeups(an: Nursery, seconds: int) -> float:
    """System calls of all threads of an idle actor."""
    portal = await start_one(an)
    pid = await portal.run(endpoints.process_id)
    # threads of trio that have nothing to do end after ten seconds
    await trio.sleep(min(11, seconds + 1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'calls')
        interrupted = ['timeout', '-s', 'INT', str(seconds)]
        threads = set(map(int, os.listdir(f'/proc/{pid}/task')))
        # where it is part of this process, this one waits for the trace
        threads.discard(threading.get_native_id())
        # not `-f`: that would attach to all threads of the process
        traced = ['strace', '-c', '-o', str(path), '-p', ','.join(map(str, sorted(threads)))]
        # into a file: whoever reads a pipe is woken by what strace says
        with new_file(Path(folder, 'said')) as said:
            await trio.run_process([*interrupted, *traced], check=False, stderr=said)
        check_attached(Path(folder, 'said'))
        return total_calls(path)


CASES: dict[str, cases.Measure] = {
    case.__name__: case for case in (fan_in, crowd, tree, burn, stop, spinning, memory, wakeups)
}


if __name__ == '__main__':
    cases.main(CASES)
