"""What this machine, trio and msgspec allow without any framework: `floor.py CASE COUNT`.

Prints one number: seconds for each operation of the case.

| case | two processes and a pair of UNIX sockets between them |
|---|---|
| `pingpong` | one struct there and one back |
| `stream` | small structs, one way, read as many at a time as there are |
| `large` | 1 MiB in a struct, one way |

| case | processes |
|---|---|
| `python` | a fresh interpreter that imports trio and msgspec, until it has ended |
| `mp_spawn` | the same as a `multiprocessing` process |
| `mp_forkserver` | a fork of a server that has these imported |
| `subint` | an interpreter with its own GIL which imports trio, until it has done so |
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import trio

NOW = time.perf_counter
LARGE = 1 << 20
SMALL = 32
SIZE_BYTES = 4
READ_SIZE = 1 << 16


class Item(msgspec.Struct, tag=True, array_like=True):
    """A message with a place for a dialog's id, as any protocol above a socket needs."""

    cid: str
    payload: Any


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Item).decode


async def send(stream: trio.SocketStream, item: Item) -> None:
    """Write one frame: its size, then the message."""
    body = encode(item)
    await stream.send_all(len(body).to_bytes(SIZE_BYTES, 'little') + body)


async def receive(stream: trio.SocketStream) -> AsyncIterator[Item]:
    """Read frames until the other side closes."""
    buffer = bytearray()
    while data := await stream.receive_some(READ_SIZE):
        buffer += data
        start = 0
        while True:
            body = start + SIZE_BYTES
            end = body + int.from_bytes(buffer[start:body], 'little')
            if len(buffer) < max(body, end):
                break
            with memoryview(buffer) as view, view[body:end] as frame:
                item = decode(frame)
            start = end
            yield item
        del buffer[:start]


def as_stream(sock: socket.socket) -> trio.SocketStream:
    """Wrap a connected socket."""
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


async def echo(sock: socket.socket) -> None:
    """The other process of `pingpong`."""
    stream = as_stream(sock)
    async for item in receive(stream):
        await send(stream, item)


async def emit(sock: socket.socket, count: int, size: int) -> None:
    """The other process of the one-way cases."""
    stream = as_stream(sock)
    payload = b'x' * size
    for _ in range(count):
        await send(stream, Item('cid', payload))


async def measure_pingpong(sock: socket.socket, count: int) -> float:
    """This process of `pingpong`."""
    stream = as_stream(sock)
    answers = receive(stream)
    start = NOW()
    for n in range(count):
        await send(stream, Item('cid', n))
        await anext(answers)
    took = NOW() - start
    await stream.aclose()
    return took / count


async def measure_stream(sock: socket.socket, count: int) -> float:
    """This process of the one-way cases."""
    stream = as_stream(sock)
    received = 0
    start = NOW()
    async for _ in receive(stream):
        received += 1
    took = NOW() - start
    if received != count:
        raise RuntimeError(f'{count} messages were sent, {received} came')
    return took / count


def between_processes(other: Callable[..., Any], args: tuple[Any, ...], ours: Any, n: int) -> float:
    """Run one function in a forked process and another here, at the ends of a socket pair."""
    here, there = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        here.close()
        trio.run(other, there, *args)
        os._exit(0)
    there.close()
    took: float = trio.run(ours, here, n)
    os.waitpid(pid, 0)
    return took


def import_both() -> None:
    """What a `multiprocessing` child does; nothing where it has them already."""
    import msgspec
    import trio

    assert msgspec, trio


def start_python() -> None:
    """One fresh interpreter."""
    subprocess.run([sys.executable, '-c', 'import trio, msgspec'], check=True)


def start_mp(method: str) -> Callable[[], None]:
    """One `multiprocessing` process."""
    import multiprocessing

    context: Any = multiprocessing.get_context(method)
    if method == 'forkserver':
        context.set_forkserver_preload(['trio', 'msgspec'])

    def run_one() -> None:
        proc = context.Process(target=import_both)
        proc.start()
        proc.join()

    return run_one


def median_of(run_one: Callable[[], None], count: int) -> float:
    """The median time of `count` runs, after two which start helper processes and fill caches."""
    took = []
    for _ in range(count + 2):
        start = NOW()
        run_one()
        took.append(NOW() - start)
    return statistics.median(took[2:])


def interpreters(count: int) -> float:
    """The median time of interpreters with their own GIL which import trio; their end is not counted."""
    from concurrent import interpreters

    took = []
    for _ in range(count + 2):
        start = NOW()
        interp = interpreters.create()
        interp.exec('import trio')
        took.append(NOW() - start)
        interp.close()
    return statistics.median(took[2:])


def main(case: str, count: int) -> float:
    """Run one case."""
    match case:
        case 'pingpong':
            return between_processes(echo, (), measure_pingpong, count)
        case 'stream':
            return between_processes(emit, (count, SMALL), measure_stream, count)
        case 'large':
            return between_processes(emit, (count, LARGE), measure_stream, count)
        case 'python':
            return median_of(start_python, count)
        case 'subint':
            return interpreters(count)
        case 'mp_spawn' | 'mp_forkserver':
            return median_of(start_mp(case.removeprefix('mp_')), count)
        case _:
            raise SystemExit(f'unknown case {case!r}')


if __name__ == '__main__':
    print(main(sys.argv[1], int(sys.argv[2])))
