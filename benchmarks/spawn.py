"""What it costs to start, to keep and to stop an actor: `spawn.py`, with the arguments of `run.py`.

That is the group `actors` of the table. `spawn.py --case METHOD SPARES CASE ...` is one measurement: it prints
seconds, or what the case says.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import endpoints
import stuck
import trio
from cases import free_address
from floor import pss
from run import main

import tractor

NOW = time.perf_counter
BURN = 3_000_000
# seconds in which a spare interpreter gets ready
PAUSE = 0.5

Nursery = tractor.ActorNursery


async def first_answer(an: Nursery, name: str = 'one') -> tuple[float, tractor.Portal]:
    """Seconds from the request to the answer of the first call."""
    start = NOW()
    # the figures of this file's own imports are not wanted
    portal = await an.start_actor(
        name, enable_modules=['endpoints', 'stuck'], inherit_parent_main=False
    )
    await portal.run(endpoints.ping, n=1)
    return NOW() - start, portal


async def spawn(an: Nursery, pause: float, count: int) -> float:
    """Start, first answer; the end is not counted."""
    took = []
    for _ in range(count + 2):
        seconds, portal = await first_answer(an)
        took.append(seconds)
        await portal.cancel_actor()
        await trio.sleep(pause)
    return statistics.median(took[2:])


async def at_once(an: Nursery, actors: int) -> float:
    """Until the last of many actors has answered its first call."""
    start = NOW()
    async with trio.open_nursery() as tn:
        for number in range(actors):
            tn.start_soon(first_answer, an, f'actor_{number}')
    took = NOW() - start
    await an.cancel()
    return took


async def burn(an: Nursery, actors: int) -> float:
    """Seconds until each of some actors has counted down once."""
    portals = [(await first_answer(an, f'actor_{number}'))[1] for number in range(actors)]
    await trio.sleep(PAUSE)
    start = NOW()
    async with trio.open_nursery() as tn:
        for portal in portals:
            tn.start_soon(call_burn, portal)
    return NOW() - start


async def call_burn(portal: tractor.Portal) -> None:
    """Have one count down."""
    await portal.run(endpoints.burn, count=BURN)


async def rpc(an: Nursery, count: int) -> float:
    """One call there and back."""
    _, portal = await first_answer(an)
    start = NOW()
    for number in range(count):
        await portal.run(endpoints.ping, n=number)
    return (NOW() - start) / count


async def stream(an: Nursery, count: int) -> float:
    """One message there and back."""
    _, portal = await first_answer(an)
    async with portal.open_context(endpoints.echo) as (ctx, _), ctx.open_stream() as both_ways:
        start = NOW()
        for number in range(count):
            await both_ways.send(number)
            await both_ways.receive()
        return (NOW() - start) / count


async def memory(an: Nursery, actors: int) -> float:
    """Proportional MiB for each idle actor, once a program has started the first ones."""
    _, first = await first_answer(an)
    await first_answer(an, 'second')
    # a spare is there before and after
    await trio.sleep(PAUSE)
    before = pss()
    for number in range(actors):
        await first_answer(an, f'actor_{number}')
    await trio.sleep(PAUSE)
    grown = pss() - before
    await first.cancel_actor()
    return grown / actors / 1024


async def kill(an: Nursery, kind: str, count: int) -> float:
    """Seconds from `kill()` to the end of an actor that is stuck."""
    took = []
    for _ in range(count):
        _, portal = await first_answer(an)
        (child,) = an._children.values()
        async with trio.open_nursery() as tn:
            tn.start_soon(get_stuck, portal, kind)
            await trio.sleep(0.2)
            start = NOW()
            child.proc.kill()
            await child.proc.wait()
            took.append(NOW() - start)
        await child.gone.wait()
    return statistics.median(took)


async def get_stuck(portal: tractor.Portal, kind: str) -> None:
    """Until it is gone."""
    with suppress(tractor.TransportClosed):
        await portal.run(getattr(stuck, kind))


async def cycles(an: Nursery, count: int) -> float:
    """KiB that the process has grown from the tenth actor to the last."""
    sizes = []
    for _ in range(count):
        _, portal = await first_answer(an)
        (child,) = an._children.values()
        await portal.cancel_actor()
        await child.gone.wait()
        sizes.append(pss())
    # a spare that is just there, or not, is no growth
    part = max(1, min(20, count // 3))
    return float(min(sizes[-part:]) - min(sizes[part : 2 * part]))


CASES: dict[str, Callable[..., Awaitable[float]]] = {
    case.__name__: case for case in (spawn, at_once, burn, rpc, stream, memory, kill, cycles)
}


async def main_case(*words: str) -> float:
    """One measurement in this process."""
    method, spares, case, *args = words
    os.environ['TRACTOR_SUBINT_SPARES'] = spares
    numbers: list[Any] = [
        float(arg) if '.' in arg else int(arg) if arg.isdecimal() else arg for arg in args
    ]
    async with tractor.open_nursery(
        start_method=method,
        enable_transports=['uds'],
        registry_addrs=[free_address('uds')],
        loglevel='critical',
    ) as an:
        took = await CASES[case](an, *numbers)
        await an.cancel()
    return took


if __name__ == '__main__':
    if sys.argv[1:2] == ['--case']:
        print(trio.run(main_case, *sys.argv[2:]))
    else:
        main(['actors'])
