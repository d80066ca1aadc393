"""A daemon serves calls until it is cancelled; only then can the block end."""

import trio

import tractor


async def answer() -> int:
    return 6 * 7


async def main() -> None:
    async with tractor.open_nursery() as nursery:
        frank = await nursery.start_actor('frank', enable_modules=[__name__])
        print(await frank.run(answer))
        print(await frank.run(answer))
        await frank.cancel_actor()


if __name__ == '__main__':
    trio.run(main)
