"""Items of an async generator in another process; leaving the block ends the generator there."""

from collections.abc import AsyncIterator
from itertools import count

import trio

import tractor


async def numbers() -> AsyncIterator[int]:
    for number in count():
        yield number
        await trio.sleep(0.001)


async def main() -> None:
    async with tractor.open_nursery() as nursery:
        portal = await nursery.start_actor('streamer', enable_modules=[__name__])
        async with portal.open_stream_from(numbers) as stream:
            async for number in stream:
                print(number)
                if number >= 50:
                    break
        print('stream terminated')
        await portal.cancel_actor()


if __name__ == '__main__':
    trio.run(main)
