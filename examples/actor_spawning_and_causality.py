"""The end of the block waits for the child: what it returned is there afterwards."""

import trio

import tractor


async def where_am_i() -> str:
    actor = tractor.current_actor()
    return f'this was computed by {actor.name}, a child of the main process'


async def main() -> None:
    async with tractor.open_nursery() as nursery:
        portal = await nursery.run_in_actor(where_am_i, name='worker')
    # the actor is gone, its result is not
    print(await portal.wait_for_result())


if __name__ == '__main__':
    trio.run(main)
