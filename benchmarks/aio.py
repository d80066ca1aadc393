"""Measure a trio task linked with an asyncio task: `aio.py [--quick]`, or `aio.py CASE COUNT` for one figure.

A figure is seconds for each operation of the case:

| case | what |
|---|---|
| `hop` | a value from one trio task to another through a memory channel, in a plain trio run |
| `turn` | one turn of a plain asyncio loop |
| `floor` | the sum of these: the least that a value needs to get from trio to asyncio or back |
| `echo` | a value from trio through asyncio back to trio, by `open_channel_from()` |
| `task` | an asyncio function that returns at once, by `run_task()` |

Without a case, floor and echo are taken in turn several times, in one process; the ratio is the median of the
ratios of these turns. An echo is two ways, the floor is one.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import platform
import statistics
import time
from collections.abc import Callable

import trio

from tractor import to_asyncio

NOW = time.perf_counter
US = 1e6
TARGET = 3.0
TURNS = 15
COUNT = 5000
QUICK_PART = 20


# --- the floor


async def measure_hops(count: int) -> float:
    """Two trio tasks that hand a value there and back: a hop is half of that."""
    to_peer, at_peer = trio.open_memory_channel[int](0)
    to_us, at_us = trio.open_memory_channel[int](0)

    async def peer() -> None:
        async for value in at_peer:
            await to_us.send(value)

    async with trio.open_nursery() as tn, to_peer:
        tn.start_soon(peer)
        start = NOW()
        for n in range(count):
            await to_peer.send(n)
            await at_us.receive()
        took = NOW() - start
    return took / count / 2


async def measure_turns(count: int) -> float:
    """Nothing but turns of the loop."""
    start = NOW()
    for _ in range(count):
        await asyncio.sleep(0)
    return (NOW() - start) / count


def hop(count: int) -> float:
    return trio.run(measure_hops, count)


def turn(count: int) -> float:
    return asyncio.run(measure_turns(count))


def floor(count: int) -> float:
    return hop(count) + turn(count)


# --- a linked pair


async def aio_echo(chan: to_asyncio.LinkedTaskChannel) -> None:
    """The asyncio side."""
    chan.started_nowait()
    while True:
        chan.send_nowait(await chan.get())


async def measure_echo(count: int) -> float:
    """The trio side."""
    async with to_asyncio.open_channel_from(aio_echo) as (chan, _):
        start = NOW()
        for n in range(count):
            await chan.send(n)
            await chan.receive()
        return (NOW() - start) / count


async def nothing() -> None:
    """Return at once."""


async def measure_tasks(count: int) -> float:
    """One task after the other."""
    start = NOW()
    for _ in range(count):
        await to_asyncio.run_task(nothing)
    return (NOW() - start) / count


def echo(count: int) -> float:
    return to_asyncio.run_as_asyncio_guest(functools.partial(measure_echo, count))


def task(count: int) -> float:
    return to_asyncio.run_as_asyncio_guest(functools.partial(measure_tasks, count))


CASES: dict[str, Callable[[int], float]] = {
    'hop': hop,
    'turn': turn,
    'floor': floor,
    'echo': echo,
    'task': task,
}


def compare(turns: int, count: int) -> None:
    """Measure floor and echo in turn, and print a table as of `run.py`."""
    floors, ours, ratios = [], [], []
    for _ in range(turns):
        floors.append(floor(count) * US)
        ours.append(echo(count) * US)
        ratios.append(ours[-1] / floors[-1])
    ratio = statistics.median(ratios)
    best = min(ours) / min(floors)
    verdict = 'met' if ratio <= TARGET else 'MISSED'
    print(f'python {platform.python_version()}, {count} echoes, {turns} times')
    print(
        f'{"":<10}{"floor":>9}{"tractor":>9}    {"ratio":>6}{"from":>7}{"to":>7}{"best":>7}{"target":>8}'
    )
    print(
        f'{"aio echo":<10}{statistics.median(floors):>9.2f}{statistics.median(ours):>9.2f} us '
        f'{ratio:>6.2f}{min(ratios):>7.2f}{max(ratios):>7.2f}{best:>7.2f}{TARGET:>8.2f} {verdict}'
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description='measure a trio task linked with an asyncio task')
    parser.add_argument('case', nargs='?', choices=CASES, help='print this one figure, in seconds')
    parser.add_argument('count', nargs='?', type=int, default=COUNT, help='operations')
    parser.add_argument('--quick', action='store_true', help='a twentieth of it: does it run?')
    args = parser.parse_args()
    if args.case is not None:
        print(CASES[args.case](args.count))
    elif args.quick:
        compare(1, args.count // QUICK_PART)
    else:
        compare(TURNS, args.count)


if __name__ == '__main__':
    main()
