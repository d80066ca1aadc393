"""
An actor that starts actors. A tree comes down from the inside: no parent ends before its children.

    root -> supervisor -> leaf_0, leaf_1
"""

import trio

import tractor


async def square(number: int) -> int:
    print(f'{tractor.current_actor().name} squares {number}', flush=True)
    return number * number


async def sum_up(numbers: list[int]) -> list[int]:
    """The supervisor: spread the numbers over two leaves of its own."""
    results = []
    async with tractor.open_nursery() as nursery:
        leaves = [
            await nursery.start_actor(f'leaf_{index}', enable_modules=[__name__])
            for index in range(2)
        ]
        print('supervisor spawned leaf_0, leaf_1', flush=True)
        for index, number in enumerate(numbers):
            results.append(await leaves[index % 2].run(square, number=number))
        for index, leaf in enumerate(leaves):
            await leaf.cancel_actor()
            print(f'supervisor cancelled leaf_{index}', flush=True)
    return results


async def main() -> None:
    async with tractor.open_nursery() as nursery:
        supervisor = await nursery.start_actor('supervisor', enable_modules=[__name__])
        print('root spawned supervisor', flush=True)
        print('aggregate result', await supervisor.run(sum_up, numbers=[1, 2, 3, 4]), flush=True)
        await supervisor.cancel_actor()
        print('root cancelled supervisor')


if __name__ == '__main__':
    trio.run(main)
