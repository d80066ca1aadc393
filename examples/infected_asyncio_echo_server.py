"""An actor in which trio is a guest of asyncio: its asyncio task echoes 1,000 messages of its parent."""

import statistics
import time

import trio

import tractor
from tractor import to_asyncio

MESSAGES = 1000


async def aio_echo(chan: to_asyncio.LinkedTaskChannel) -> None:
    """The asyncio side; it is told of the end by a `TrioTaskExited`, wherever it waits."""
    chan.started_nowait('asyncio is up')
    while True:
        chan.send_nowait(await chan.get())


@tractor.context
async def echo(ctx: tractor.Context) -> None:
    """The trio side: between the parent and the asyncio task."""
    async with to_asyncio.open_channel_from(aio_echo) as (chan, first):
        await ctx.started(first)
        async with ctx.open_stream() as stream:
            async for message in stream:
                await chan.send(message)
                await stream.send(await chan.receive())


async def main() -> None:
    async with tractor.open_nursery() as nursery:
        portal = await nursery.start_actor(
            'echo_server', enable_modules=[__name__], infect_asyncio=True
        )
        async with portal.open_context(echo) as (ctx, first):
            print(first)
            took = []
            async with ctx.open_stream() as stream:
                for number in range(MESSAGES):
                    start = time.perf_counter()
                    await stream.send(number)
                    assert await stream.receive() == number
                    took.append(time.perf_counter() - start)
        print(f'mean round-trip rate: {1 / statistics.mean(took):.0f} messages per second')
        await portal.cancel_actor()


if __name__ == '__main__':
    trio.run(main)
