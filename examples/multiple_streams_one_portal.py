"""Two tasks each receive a stream of their own through the same portal, at the same time."""

from collections.abc import AsyncIterator

import trio

import tractor


async def numbers(last: int) -> AsyncIterator[int]:
    for number in range(last):
        yield number


async def receive_all(
    portal: tractor.Portal, last: int, waiting: set[tuple[str, int]], name: str
) -> None:
    async with portal.open_stream_from(numbers, last=last) as stream:
        async for number in stream:
            waiting.remove((name, number))


async def main() -> None:
    last = 100
    waiting = {(name, number) for name in ('left', 'right') for number in range(last)}
    async with tractor.open_nursery() as nursery:
        portal = await nursery.start_actor('streamer', enable_modules=[__name__])
        async with trio.open_nursery() as tasks:
            for name in ('left', 'right'):
                tasks.start_soon(receive_all, portal, last, waiting, name)
        await portal.cancel_actor()
    assert not waiting


if __name__ == '__main__':
    trio.run(main)
