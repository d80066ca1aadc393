"""Each actor is a process of the system, and none of them stays when the block has been left."""

import os

import trio

import tractor


@tractor.context
async def sleep_for_ever(ctx: tractor.Context) -> None:
    await ctx.started(os.getpid())
    await trio.sleep_forever()


async def keep_one_busy(portal: tractor.Portal) -> None:
    async with portal.open_context(sleep_for_ever) as (_, pid):
        print(f'{portal.chan.aid.name} runs in process {pid}')
        await trio.sleep_forever()


async def main() -> None:
    async with tractor.open_nursery() as nursery, trio.open_nursery() as tasks:
        for number in range(os.cpu_count() or 1):
            portal = await nursery.start_actor(f'worker_{number}', enable_modules=[__name__])
            tasks.start_soon(keep_one_busy, portal)
        await trio.sleep(2)
        raise RuntimeError('the root has had enough')


if __name__ == '__main__':
    try:
        trio.run(main)
    except* RuntimeError as errors:
        print(f'Zombies Contained: {errors.exceptions[0]}')
