"""A dialog whose payloads have a type: what does not fit is refused before it is sent."""

import msgspec
import trio

import tractor


class Point(msgspec.Struct):
    x: float
    y: float


@tractor.context(pld_spec=Point | None)
async def double(ctx: tractor.Context) -> None:
    try:
        await ctx.started('not a point')
    except tractor.MsgTypeError as err:
        print(f'refused: {type(err).__name__}', flush=True)
        await ctx.started(None)
    async with ctx.open_stream() as stream:
        async for point in stream:
            await stream.send(Point(point.x * 2, point.y * 2))


async def main() -> None:
    async with tractor.open_nursery() as nursery:
        portal = await nursery.start_actor('doubler', enable_modules=[__name__])
        async with portal.open_context(double) as (ctx, first):
            assert first is None
            async with ctx.open_stream() as stream:
                for number in range(3):
                    await stream.send(Point(number, number + 0.5))
                    print(await stream.receive())
        await portal.cancel_actor()


if __name__ == '__main__':
    trio.run(main)
