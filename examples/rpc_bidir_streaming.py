"""A dialog between two tasks: a first value, then both send whenever they like, then a result."""

import trio

import tractor


@tractor.context
async def play(ctx: tractor.Context, data: int) -> int:
    """The other side: answer each ping, return how many there were."""
    # what the opener gets as the second item of its `as` clause
    await ctx.started(data + 1)
    pings = 0
    async with ctx.open_stream() as stream:
        async for message in stream:
            assert message == 'ping'
            pings += 1
            await stream.send('pong')
    return pings


async def main() -> None:
    async with tractor.open_nursery() as nursery:
        portal = await nursery.start_actor('player', enable_modules=[__name__])
        async with portal.open_context(play, data=10) as (ctx, first):
            assert first == 11
            async with ctx.open_stream() as stream:
                for _ in range(10):
                    await stream.send('ping')
                    assert await stream.receive() == 'pong'
            # our end of the stream is closed, so the loop over there ends
            assert await ctx.wait_for_result() == 10
        await portal.cancel_actor()


if __name__ == '__main__':
    trio.run(main)
