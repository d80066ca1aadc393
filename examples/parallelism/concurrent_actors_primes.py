"""A pool of actors as an async context manager: `concurrent_futures_primes.py` with supervision."""

import math
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

import tractor

NUMBERS = [
    2,
    1_099_726_899_285_419,
    112_272_535_095_293,
    112_582_705_942_171,
    115_280_095_190_773,
    115_797_848_077_099,
    999_999_000_001,
]

Map = Callable[
    [list[int]], AbstractAsyncContextManager[trio.MemoryReceiveChannel[tuple[int, bool]]]
]


async def is_prime(number: int) -> bool:
    if number % 2 == 0:
        return number == 2
    return all(number % divisor for divisor in range(3, math.isqrt(number) + 1, 2))


async def work(
    portal: tractor.Portal, todo: Iterator[int], done: trio.MemorySendChannel[tuple[int, bool]]
) -> None:
    """Keep one actor busy: whichever is free takes the next number."""
    async with done:
        for number in todo:
            await done.send((number, await portal.run(is_prime, number=number)))


@asynccontextmanager
async def worker_pool(size: int) -> AsyncIterator[Map]:
    """A number of actors; yields a function that spreads numbers over them, results as they come."""
    async with tractor.open_nursery() as nursery:
        portals = [
            await nursery.start_actor(f'worker_{number}', enable_modules=[__name__])
            for number in range(size)
        ]

        @asynccontextmanager
        async def spread(
            numbers: list[int],
        ) -> AsyncIterator[trio.MemoryReceiveChannel[tuple[int, bool]]]:
            send, results = trio.open_memory_channel[tuple[int, bool]](0)
            todo = iter(numbers)
            async with trio.open_nursery() as tasks:
                async with send:
                    for portal in portals:
                        tasks.start_soon(work, portal, todo, send.clone())
                yield results

        yield spread
        await nursery.cancel()


async def main() -> None:
    began = time.perf_counter()
    async with worker_pool(os.cpu_count() or 1) as spread:
        print(f'the pool is up after {time.perf_counter() - began:.2f} s')
        async with spread(NUMBERS) as results:
            async for number, prime in results:
                print(f'{number} is prime: {prime}')
    print(f'took {time.perf_counter() - began:.2f} s')


if __name__ == '__main__':
    trio.run(main)
