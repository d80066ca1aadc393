"""Each actor registers its name: others of the host reach it without knowing where it listens."""

import trio

import tractor


async def main() -> None:
    async with tractor.open_nursery() as nursery:
        await nursery.start_actor('some_service')

        async with tractor.get_registry() as portal:
            entries = await portal.run_from_ns('self', 'get_registry')
            names = sorted(entry.split('.')[0] for entry in entries)
            print(f'the registrar, through a {type(portal).__name__}, knows {", ".join(names)}')

        async with tractor.wait_for_actor('some_service') as portal:
            print(f'some_service is found: {portal}')

        await nursery.cancel()


if __name__ == '__main__':
    trio.run(main)
