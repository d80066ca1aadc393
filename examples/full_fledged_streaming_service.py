"""
A small service: an aggregator starts two streamers, merges what they send, drops what it has seen.

    root <- aggregator <- streamer_1, streamer_2
"""

import time
from collections.abc import AsyncIterator

import trio

import tractor

SEED = 1000


async def stream_data(seed: int) -> AsyncIterator[int]:
    for value in range(seed):
        yield value
        await trio.lowlevel.checkpoint()


async def push(portal: tractor.Portal, seed: int, merged: trio.MemorySendChannel[int]) -> None:
    """Copy the stream of one streamer into the channel that all of them share."""
    async with merged, portal.open_stream_from(stream_data, seed=seed) as stream:
        async for value in stream:
            await merged.send(value)
    print('FINISHED ITERATING')


async def aggregate(seed: int) -> AsyncIterator[int]:
    async with tractor.open_nursery() as nursery:
        portals = [
            await nursery.start_actor(f'streamer_{number}', enable_modules=[__name__])
            for number in (1, 2)
        ]
        send, receive = trio.open_memory_channel[int](100)
        async with trio.open_nursery() as tasks:
            async with send:
                for portal in portals:
                    tasks.start_soon(push, portal, seed, send.clone())
            seen = set()
            async for value in receive:
                if value not in seen:
                    seen.add(value)
                    yield value
        for portal in portals:
            await portal.cancel_actor()
    print('AGGREGATOR COMPLETE!')


async def main() -> list[int]:
    began = time.perf_counter()
    async with tractor.open_nursery() as nursery:
        aggregator = await nursery.start_actor('aggregator', enable_modules=[__name__])
        print(f'the aggregator is up after {time.perf_counter() - began:.2f} s')
        async with aggregator.open_stream_from(aggregate, seed=SEED) as stream:
            result = [value async for value in stream]
        print(f'{len(result)} values after {time.perf_counter() - began:.2f} s')
        await aggregator.cancel_actor()
    return result


if __name__ == '__main__':
    assert trio.run(main) == list(range(SEED))
