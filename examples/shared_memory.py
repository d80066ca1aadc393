"""An array in shared memory: one actor fills it, another one adds it up, and no row is sent."""

import numpy as np
import trio

import tractor
from tractor.ipc._shm import attach_shm_array, open_shm_array

FIELDS = [('index', 'i8'), ('price', 'f8')]


async def fill(token: dict, count: int) -> None:
    array = attach_shm_array(token, readonly=False)
    rows = np.zeros(count, dtype=FIELDS)
    rows['price'] = np.arange(count) / 2
    array.push(rows)


async def add_up(token: dict) -> float:
    return float(attach_shm_array(token).array['price'].sum())


async def main() -> None:
    async with tractor.open_nursery() as nursery:
        # removed with this actor, whatever happens to it
        array = open_shm_array(1_000_000, dtype=FIELDS, append_start_index=0)
        # NumPy cannot be imported in a sub-interpreter
        writer, reader = [
            await nursery.start_actor(name, enable_modules=[__name__], start_method='trio')
            for name in ('writer', 'reader')
        ]
        await writer.run(fill, token=array.token, count=500_000)
        print(f'{len(array.array):,} rows are in use')
        print(f'the last one: {array.last()[0]}')
        print(f'their sum: {await reader.run(add_up, token=array.token):,.1f}')
        await nursery.cancel()


if __name__ == '__main__':
    trio.run(main)
