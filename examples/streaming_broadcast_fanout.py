"""One stream, received by three tasks: each of them gets every value."""

import trio

import tractor

RECEIVERS = 3
LAST = 5


@tractor.context
async def count(ctx: tractor.Context) -> None:
    await ctx.started()
    async with ctx.open_stream() as stream:
        # every receiver has to be there for the first value
        assert await stream.receive() == 'go'
        for number in range(LAST):
            await stream.send(number)


async def receive(
    stream: tractor.MsgStream,
    index: int,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    got = []
    async with stream.subscribe() as copy:
        task_status.started()
        async for number in copy:
            print(f'sub_{index}: rx {number}')
            got.append(number)
    print(f'sub_{index}: stream ended, got {got}')


async def main() -> None:
    async with tractor.open_nursery() as nursery:
        portal = await nursery.start_actor('counter', enable_modules=[__name__])
        async with (
            portal.open_context(count) as (ctx, _),
            ctx.open_stream() as stream,
            trio.open_nursery() as tasks,
        ):
            for index in range(RECEIVERS):
                await tasks.start(receive, stream, index)
            await stream.send('go')
        await portal.cancel_actor()


if __name__ == '__main__':
    trio.run(main)
