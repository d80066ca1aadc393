"""Actors with shared memory: run by tests as children, and by `python shm_actors.py ROLE KEY`."""

from __future__ import annotations

import os
import sys
from typing import Any

import trio

import tractor
from tractor.ipc import _shm_owner
from tractor.ipc._ringbuf import RingBuffReceiver, RingBuffSender
from tractor.ipc._shm import (
    attach_shm_list,
    attach_shm_ndarray,
    maybe_open_shm_ndarray,
    open_shm_list,
    open_shm_ndarray,
)

FIELDS = [('index', 'i8'), ('price', 'f8'), ('size', 'i4')]


# --- what children do


@tractor.context
async def own_list(ctx: tractor.Context, key: str, ending: str = 'return') -> None:
    """Own a list; tells its name and the watcher, then ends as it is told."""
    shml = open_shm_list(key, sequence=[1, 'two', 3.0])
    await ctx.started((shml.key, _shm_owner.owner.watcher_pid))
    if ending == 'wait':
        await trio.sleep_forever()
    async with ctx.open_stream() as stream:
        await stream.receive()
    if ending == 'raise':
        raise ValueError('on purpose')
    if ending == 'exit':
        os._exit(3)


@tractor.context
async def own_and_spin(ctx: tractor.Context, key: str) -> None:
    """Own a list and never come to a checkpoint again."""
    open_shm_list(key, sequence=[1])
    await ctx.started(_shm_owner.owner.watcher_pid)
    async with ctx.open_stream() as stream:
        await stream.receive()
    while True:
        pass


async def open_list(key: str) -> int | None:
    """Open a list and leave it to the end of this actor; the pid of the watcher."""
    open_shm_list(key, sequence=[os.getpid()])
    return _shm_owner.owner.watcher_pid


async def open_array(key: str) -> dict[str, Any]:
    return open_shm_ndarray(16, key=key, dtype=FIELDS).token


async def add_to_list(key: str, readonly: bool = False) -> list[Any]:
    """Double each number of a list; its items before."""
    shml = attach_shm_list(key, readonly=readonly)
    before = shml[:]
    for i, item in enumerate(before):
        shml[i] = item * 2
    return before


async def attach_often(key: str, count: int) -> tuple[int, int]:
    """Attach and forget, again and again; the number of open descriptors and mappings."""
    for _ in range(count):
        shml = attach_shm_list(key)
        assert shml[0] == 'first'
    return len(os.listdir('/proc/self/fd')), mappings_of(key)


def mappings_of(name: str) -> int:
    """How often this process has the segment mapped."""
    with open('/proc/self/maps') as file:
        return sum(name in line for line in file)


@tractor.context
async def read_when_told(ctx: tractor.Context, key: str) -> None:
    """Send the first item of an attached list each time it is asked for."""
    shml = attach_shm_list(key)
    await ctx.started()
    async with ctx.open_stream() as stream:
        async for _ in stream:
            await stream.send(shml[0])


async def push_rows(token: dict[str, Any], count: int) -> int:
    """Append numbered rows to an array, one after the other."""
    import numpy as np

    array = attach_shm_ndarray(token, readonly=False)
    end = 0
    for i in range(count):
        end = array.push(np.array([(0, i / 2, i)], dtype=FIELDS))
    return end


async def sum_rows(token: dict[str, Any]) -> tuple[float, int]:
    rows = attach_shm_ndarray(token).array
    return float(rows['price'].sum()), int(rows['size'].sum())


async def maybe_open(key: str) -> bool:
    return maybe_open_shm_ndarray(key, 16, dtype=FIELDS)[1]


async def try_array() -> str:
    """The error of opening an array, if there is any."""
    try:
        open_shm_ndarray(1, dtype=FIELDS)
    except ImportError as err:
        return str(err)
    return ''


@tractor.context
async def send_ring(ctx: tractor.Context, token: dict[str, Any], sizes: list[int]) -> None:
    """Write messages of these sizes, each of bytes of its number."""
    async with RingBuffSender(token) as sender:
        await ctx.started()
        for i, size in enumerate(sizes):
            await sender.send_all(bytes([i % 256]) * size)


@tractor.context
async def receive_ring(
    ctx: tractor.Context, token: dict[str, Any], total: int, max_bytes: int | None = None
) -> bytes:
    """Read so many bytes."""
    taken = bytearray()
    async with RingBuffReceiver(token) as receiver:
        await ctx.started()
        while len(taken) < total:
            taken += await receiver.receive_some(max_bytes)
    return bytes(taken)


# --- programs


def say(*words: object) -> None:
    print(*words, flush=True)


def options() -> dict[str, Any]:
    return {
        'start_method': os.environ.get('TRACTOR_SPAWN_METHOD', 'trio'),
        'registry_addrs': [('127.0.0.1', int(os.environ['SHM_TEST_PORT']))],
        'loglevel': 'critical',
    }


async def tree(key: str) -> None:
    """A root and two children, each of which owns segments; stays until it is killed."""
    async with tractor.open_nursery(**options()) as an:
        pids = [os.getpid()]
        watchers = [await open_list(f'{key}_root')]
        for i in range(2):
            portal = await an.start_actor(f'child{i}', enable_modules=[__name__])
            watchers.append(await portal.run(open_list, key=f'{key}_{i}'))
            pids.append(await portal.run(getpid))
        say(*pids)
        say(*watchers)
        await trio.sleep_forever()


async def getpid() -> int:
    return os.getpid()


async def churn(key: str) -> None:
    """Opens and unlinks segments without end, each of which is told of."""
    async with tractor.open_nursery(**options()):
        open_shm_list(f'{key}_lasting', [0])
        say(_shm_owner.owner.watcher_pid)
        for i in range(1_000_000):
            shml = open_shm_list(f'{key}_{i % 7}', [i])
            say('opened')
            shml.shm.unlink()
            shml.shm.close()


async def fork(key: str) -> None:
    """Forks a process that stays, then tells of both."""
    async with tractor.open_nursery(**options()):
        open_shm_list(key, [0])
        read_end, write_end = os.pipe()
        if not os.fork():
            os.close(write_end)
            # until the test has gone
            os.read(0, 1)
            os._exit(0)
        os.close(read_end)
        say(_shm_owner.owner.watcher_pid)
        await trio.sleep_forever()


async def hold(key: str) -> None:
    """Owns a list; leaves when its standard input ends, or it is interrupted."""
    async with tractor.open_nursery(**options()):
        open_shm_list(key, [0])
        say(_shm_owner.owner.watcher_pid)
        await trio.lowlevel.wait_readable(0)


if __name__ == '__main__':
    # children find their functions in a module of this name
    sys.modules['shm_actors'] = sys.modules['__main__']
    program = {'tree': tree, 'churn': churn, 'fork': fork, 'hold': hold}[sys.argv[1]]
    trio.run(program, sys.argv[2])
