"""Bytes from one process to another on this host: ring buffers against pipes and sockets.

``python benchmarks/shm.py [MIB] [TURNS]`` sends so many MiB (512) in chunks of 64 KiB, in turn by
each way, TURNS times (5), and prints the median rate of each and its ratio to a bare pipe.

| way | the writer | the reader |
|---|---|---|
| `pipe` | blocking `os.write()` | blocking `os.readv()` into one buffer |
| `socketpair` | blocking `sendall()` | blocking `recv_into()` one buffer |
| `trio socket` | `send_all()` | `receive_some()` |
| `ring SIZE` | `RingBuffSender` | `RingBuffReceiver`, views |

Nobody looks at the bytes: that costs the same, however they came, except that only a view
is free for those who do not need all of them.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import trio

from tractor.ipc._ringbuf import RBToken, RingBuffReceiver, RingBuffSender, open_ringbuf

CHUNK = 1 << 16
MIB = 1 << 20
RING_SIZES = (4 * CHUNK, MIB, 16 * MIB)


def read_pipe(total: int, fd: int) -> None:
    """Read by as few system calls as there can be."""
    buffer = bytearray(CHUNK)
    while total:
        total -= os.readv(fd, [buffer])


def read_socket(total: int, fd: int) -> None:
    """The same from a socket."""
    buffer = bytearray(CHUNK)
    with socket.socket(fileno=fd) as sock:
        while total:
            total -= sock.recv_into(buffer)


async def read_trio(total: int, fd: int) -> None:
    """The same with trio."""
    async with trio.SocketStream(trio.socket.socket(fileno=fd)) as stream:
        while total:
            total -= len(await stream.receive_some(CHUNK))


async def read_ring(total: int, token: RBToken) -> None:
    """Take views of all bytes."""
    async with RingBuffReceiver(token) as receiver:
        while total:
            total -= len(await receiver.receive_some())


def reader(kind: str, total: str, arg: str) -> None:
    """The other process: tells when it is ready, and when it is done."""
    os.write(1, b'.')
    number, what = int(total), json.loads(arg)
    if kind == 'pipe':
        read_pipe(number, what)
    elif kind == 'socket':
        read_socket(number, what)
    elif kind == 'trio':
        trio.run(read_trio, number, what)
    else:
        trio.run(read_ring, number, RBToken.from_msg(what))
    os.write(1, b'.')


def timed(
    kind: str, total: int, arg: object, fds: tuple[int, ...], write: Callable[[], None]
) -> float:
    """Seconds from the first byte until the reader has the last one."""
    command = [sys.executable, __file__, '--read', kind, str(total), json.dumps(arg)]
    with subprocess.Popen(command, pass_fds=fds, stdout=subprocess.PIPE, bufsize=0) as child:
        assert child.stdout is not None
        child.stdout.read(1)
        start = time.perf_counter()
        write()
        child.stdout.read(1)
        return time.perf_counter() - start


def by_pipe(total: int) -> float:
    """Time the bare pipe."""
    read_end, write_end = os.pipe()
    chunk = memoryview(bytes(CHUNK))

    def write() -> None:
        for _ in range(total // CHUNK):
            rest = chunk
            while rest:
                rest = rest[os.write(write_end, rest) :]

    try:
        return timed('pipe', total, read_end, (read_end,), write)
    finally:
        os.close(read_end)
        os.close(write_end)


def by_socket(total: int) -> float:
    """Time the bare pair of sockets."""
    ours, theirs = socket.socketpair()
    chunk = bytes(CHUNK)

    def write() -> None:
        for _ in range(total // CHUNK):
            ours.sendall(chunk)

    with ours, theirs:
        return timed('socket', total, theirs.fileno(), (theirs.fileno(),), write)


def by_trio(total: int) -> float:
    """Time the pair of sockets with trio at both ends."""
    ours, theirs = socket.socketpair()
    chunk = bytes(CHUNK)

    async def write() -> None:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        for _ in range(total // CHUNK):
            await stream.send_all(chunk)

    with ours, theirs:
        fd = theirs.fileno()
        return timed('trio', total, fd, (fd,), lambda: trio.run(write))


def by_ring(size: int) -> Callable[[int], float]:
    """Time a ring of `size` bytes."""
    chunk = bytes(CHUNK)

    def measure(total: int) -> float:
        with open_ringbuf(f'tractor_bench_{os.getpid()}', size) as token:

            async def write() -> None:
                async with RingBuffSender(token) as sender:
                    for _ in range(total // CHUNK):
                        await sender.send_all(chunk)

            fds = token.write_eventfd, token.wrap_eventfd
            return timed('ring', total, token.as_msg(), fds, lambda: trio.run(write))

    return measure


def main(mib: str = '512', turns: str = '5') -> None:
    """Measure in turn and print the table."""
    total = int(mib) * MIB
    ways = {'pipe': by_pipe, 'socketpair': by_socket, 'trio socket': by_trio}
    ways |= {f'ring {size // 1024} KiB': by_ring(size) for size in RING_SIZES}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(int(turns)):
        for way, measure in ways.items():
            times[way].append(measure(total))
    for way, seconds in times.items():
        ratio = statistics.median(
            bare / own for own, bare in zip(seconds, times['pipe'], strict=True)
        )
        rate = total / statistics.median(seconds) / MIB
        print(f'{way:16} {rate:8.0f} MiB/s   {ratio:5.2f} of a pipe')


if __name__ == '__main__':
    if sys.argv[1:2] == ['--read']:
        reader(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
