"""
What supervisors and workers of the demo do; the root is in `_tree.py`.

A supervisor takes orders from the root through a stream:

| order | answer |
|---|---|
| `['count', first, last]` | `[worker, first, last, primes]`, from one of its workers |
| `['hold', path]` | `['holding']` once all its workers wait; whoever is cancelled then says so in that file |
| `['fail', worker]` | none: that worker raises, and so the supervisor and all it has started end |
"""

from __future__ import annotations

import itertools
from typing import Any

import trio

import tractor


async def echo(value: Any) -> Any:
    """The smallest call there is."""
    await trio.lowlevel.checkpoint()
    return value


async def how_started() -> str | None:
    """The backend which this actor was started with, as it knows itself."""
    await trio.lowlevel.checkpoint()
    return tractor.current_actor().spawn_method


async def count_primes(first: int, last: int) -> int:
    """How many primes there are in `range(first, last)`, by trial division."""
    await trio.lowlevel.checkpoint()
    return sum(is_prime(number) for number in range(first, last))


def is_prime(number: int) -> bool:
    """Whether a number is prime."""
    if number < 4:
        return number > 1
    if number % 2 == 0:
        return False
    return all(number % divisor for divisor in range(3, int(number**0.5) + 1, 2))


async def average_of_nothing() -> float:
    """What the failing worker is asked to do."""
    await trio.lowlevel.checkpoint()
    return average([])


def average(numbers: list[int]) -> float:
    """The mean; fails for an empty list."""
    return sum(numbers) / len(numbers)


def pid_of(portal: tractor.Portal) -> int:
    """The process at the other end of a portal."""
    peer = portal.chan.aid
    assert peer is not None and peer.pid is not None
    return peer.pid


@tractor.context
async def hold(ctx: tractor.Context, path: str) -> None:
    """Wait for ever; when cancelled, write that into the file `path`."""
    await ctx.started()
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        note(path, tractor.current_actor().name)
        raise


def note(path: str, text: str) -> None:
    """Append a line to a file; not async: whoever is being cancelled cannot wait any more."""
    with open(path, 'a', encoding='utf-8') as file:
        file.write(f'{text}\n')


class Crew:
    """
    The workers of one supervisor.

    Args:
        names: what they are called.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.turns = itertools.cycle(names)
        self.portals: dict[str, tractor.Portal] = {}

    async def start_all(self, nursery: tractor.ActorNursery) -> dict[str, list[Any]]:
        """Start them, all at once; the process id and the backend of each."""
        async with trio.open_nursery() as tasks:
            for name in self.names:
                tasks.start_soon(self._start, nursery, name)
        return {
            name: [pid_of(self.portals[name]), await self.portals[name].run(how_started)]
            for name in self.names
        }

    async def _start(self, nursery: tractor.ActorNursery, name: str) -> None:
        self.portals[name] = await nursery.start_actor(
            name,
            enable_modules=[__name__],
            # the way this supervisor was started itself
            start_method=tractor.current_actor().spawn_method,
        )

    async def obey(self, order: list[Any], stream: tractor.MsgStream, tasks: trio.Nursery) -> None:
        """Do what the root wants; see the table at the top."""
        match order:
            case ['count', first, last]:
                tasks.start_soon(self._count, next(self.turns), first, last, stream)
            case ['hold', path]:
                for name in self.names:
                    await tasks.start(self._hold, name, path)
                await stream.send(['holding'])
            case ['fail', name]:
                await self.portals[name].run(average_of_nothing)

    async def _count(self, name: str, first: int, last: int, stream: tractor.MsgStream) -> None:
        primes = await self.portals[name].run(count_primes, first=first, last=last)
        await stream.send([name, first, last, primes])

    async def _hold(
        self, name: str, path: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with self.portals[name].open_context(hold, path=path) as (ctx, _):
            task_status.started()
            await ctx.wait_for_result()


@tractor.context
async def supervise(ctx: tractor.Context, workers: list[str]) -> None:
    """Start workers, tell the root who they are, then do what it orders; see the table at the top."""
    crew = Crew(workers)
    async with tractor.open_nursery() as nursery:
        await ctx.started(await crew.start_all(nursery))
        async with ctx.open_stream() as stream, trio.open_nursery() as tasks:
            async for order in stream:
                await crew.obey(order, stream, tasks)
