"""One actor per core, ready for the same work; an interrupt of the root takes all of them down."""

import trio

import tractor


async def who_are_you() -> str:
    name, uuid = tractor.current_actor().aid.uid
    return f'{name} {uuid}'


async def ask(portal: tractor.Portal) -> None:
    print(await portal.run(who_are_you))


async def main() -> None:
    async with tractor.open_actor_cluster(modules=[__name__]) as portals:
        async with trio.open_nursery() as tasks:
            for portal in portals.values():
                tasks.start_soon(ask, portal)
        # as if somebody had pressed Ctrl-C
        raise KeyboardInterrupt


if __name__ == '__main__':
    try:
        trio.run(main)
    except KeyboardInterrupt:
        print('trio cancelled by KBI')
