"""An error in one child cancels the others and is raised by the block, wherever it came from."""

import trio

import tractor


async def fail() -> None:
    raise ValueError('this went wrong in a child')


async def main() -> None:
    async with tractor.open_nursery() as nursery:
        for number in range(3):
            # they would run for ever
            await nursery.start_actor(f'daemon_{number}', enable_modules=[__name__])
        await nursery.run_in_actor(fail)


if __name__ == '__main__':
    try:
        trio.run(main)
    except tractor.RemoteActorError as err:
        print(f'caught a {err.boxed_type.__name__} of {err.src_uid[0]!r}; all daemons are down')
