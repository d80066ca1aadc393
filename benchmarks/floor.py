"""What this machine, trio and msgspec allow without any framework: `floor.py CASE [ARGUMENTS] COUNT`.

Prints seconds for each operation of the case.

| case | arguments | two processes and a connection between them, of UNIX sockets where nothing is said |
|---|---|---|
| `pingpong` | COUNT | one struct there and one back |
| `stream` | COUNT | small structs, one way, read as many at a time as there are |
| `bytes` | TRANSPORT SIZE COUNT | so many bytes in a struct, one way |
| `socket` | TRANSPORT SIZE COUNT | the same bytes through a trio stream, nothing encoded or decoded |
| `fan_in` | NUMBER COUNT | small structs from many processes to one |
| `burn` | WORKERS COUNT | until each of some processes has counted down once |

| case | processes; the argument is a number of runs |
|---|---|
| `import` | a fresh interpreter that imports the names which are its first argument |
| `python` | a fresh interpreter that imports trio and msgspec, until it has ended |
| `mp_spawn` | the same as a `multiprocessing` process |
| `mp_forkserver` | a fork of a server that has these imported |
| `subint` | an interpreter with its own GIL which imports trio, until it has done so |

| case | many at once; the argument is their number |
|---|---|
| `crowd` | fresh interpreters that import both: until the last has; then, until all have ended on request |
| `interpreters` | the same as interpreters with their own GIL, a thread for each, which import trio |
| `memory` | idle interpreters that have imported both: MiB for each |
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import trio
import work

NOW = time.perf_counter
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


async def emit_raw(sock: socket.socket, count: int, size: int) -> None:
    """The other process of `socket`."""
    stream = as_stream(sock)
    payload = b'x' * size
    for _ in range(count):
        await stream.send_all(payload)
    await stream.aclose()


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


def connection(transport: str) -> tuple[socket.socket, socket.socket]:
    """Both ends of one."""
    if transport == 'uds':
        return socket.socketpair()
    with socket.create_server(('127.0.0.1', 0)) as listener:
        here = socket.create_connection(listener.getsockname())
        there, _ = listener.accept()
    for sock in (here, there):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return here, there


def measure_raw(size: int) -> Callable[[socket.socket, int], Any]:
    """This process of `socket`."""

    async def run(sock: socket.socket, count: int) -> float:
        stream = as_stream(sock)
        received = 0
        start = NOW()
        while data := await stream.receive_some(READ_SIZE):
            received += len(data)
        took = NOW() - start
        if received != count * size:
            raise RuntimeError(f'{count * size} bytes were sent, {received} came')
        return took / count

    return run


def fan_in(number: int, count: int) -> float:
    """Small structs from many processes to one, which tells them when to begin."""
    ends = [socket.socketpair() for _ in range(number)]
    pids = []
    for _, there in ends:
        pid = os.fork()
        if pid == 0:
            there.recv(1)
            trio.run(emit, there, count, SMALL)
            os._exit(0)
        pids.append(pid)
    for _, there in ends:
        there.close()

    async def take_all() -> float:
        start = NOW()
        async with trio.open_nursery() as tn:
            for here, _ in ends:
                here.send(b'x')
                tn.start_soon(measure_stream, here, count)
        return (NOW() - start) / (number * count)

    took = trio.run(take_all)
    for pid in pids:
        os.waitpid(pid, 0)
    return took


def between_processes(
    other: Callable[..., Any],
    args: tuple[Any, ...],
    ours: Any,
    n: int,
    transport: str = 'uds',
) -> float:
    """Run one function in a forked process and another here, at the ends of a connection."""
    here, there = connection(transport)
    pid = os.fork()
    if pid == 0:
        here.close()
        trio.run(other, there, *args)
        os._exit(0)
    there.close()
    took: float = trio.run(ours, here, n)
    os.waitpid(pid, 0)
    return took


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
        proc = context.Process(target=work.import_both)
        proc.start()
        proc.join()

    return run_one


def median_of(run_one: Callable[[], object], count: int) -> float:
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


READY = """
import sys, trio, msgspec
print(flush=True)
sys.stdin.read()
"""


def start_ready(number: int) -> list[subprocess.Popen[bytes]]:
    """Fresh interpreters which have imported both and wait for the end of their input."""
    pipe = subprocess.PIPE
    procs = [
        subprocess.Popen([sys.executable, '-c', READY], stdin=pipe, stdout=pipe)
        for _ in range(number)
    ]
    for proc in procs:
        assert proc.stdout is not None
        proc.stdout.readline()
    return procs


def stop(procs: list[subprocess.Popen[bytes]]) -> None:
    """Tell all of them to end, and wait for it."""
    for proc in procs:
        assert proc.stdin is not None
        proc.stdin.close()
    for proc in procs:
        proc.wait()


def crowd(number: int) -> tuple[float, float]:
    """Many at once, and their end."""
    begin = NOW()
    procs = start_ready(number)
    started = NOW()
    stop(procs)
    return started - begin, NOW() - started


def interpreter_crowd(number: int) -> tuple[float, float]:
    """The same in this process, with a thread for each."""
    from concurrent import interpreters
    from concurrent.futures import ThreadPoolExecutor

    def start(_: int) -> Any:
        interp = interpreters.create()
        interp.exec('import trio')
        return interp

    with ThreadPoolExecutor(number) as pool:
        begin = NOW()
        interps = list(pool.map(start, range(number)))
        started = NOW()
        list(pool.map(lambda interp: interp.close(), interps))
        return started - begin, NOW() - started


def memory(number: int) -> float:
    """MiB for each idle process, beside one which shares pages with all others."""
    first = start_ready(1)
    before = pss()
    procs = start_ready(number)
    grown = pss() - before
    stop(first + procs)
    return grown / number / 1024


def pss() -> int:
    """KiB of this process and all below it, shared pages in equal parts."""
    pids = [os.getpid()]
    for pid in pids:
        with suppress(OSError):
            for task in Path(f'/proc/{pid}/task').iterdir():
                pids += map(int, (task / 'children').read_text().split())
    total = 0
    for pid in pids:
        with suppress(OSError):
            rollup = Path(f'/proc/{pid}/smaps_rollup').read_text()
            total += next(int(line.split()[1]) for line in rollup.splitlines() if 'Pss:' in line)
    return total


def burn(workers: int, count: int) -> float:
    """Counting down on several cores; the processes have started before, and begin together."""
    here, there = socket.socketpair()
    for _ in range(workers):
        if os.fork() == 0:
            there.recv(1)
            work.burn(count)
            there.send(b'x')
            os._exit(0)
    begin = NOW()
    here.send(b'x' * workers)
    done = 0
    while done < workers:
        done += len(here.recv(workers))
    took = NOW() - begin
    for _ in range(workers):
        os.wait()
    return took


def import_names(names: str, count: int) -> float:
    """The median time of fresh interpreters which import something."""
    command = [sys.executable, '-c', f'import {names}']
    return median_of(lambda: subprocess.run(command, check=True), count)


def one_way(size: int, count: int, transport: str = 'uds') -> float:
    """Bytes in a struct."""
    return between_processes(emit, (count, size), measure_stream, count, transport)


def raw(transport: str, size: int, count: int) -> float:
    """Bytes alone."""
    return between_processes(emit_raw, (count, size), measure_raw(size), count, transport)


CASES: dict[str, Callable[..., float | tuple[float, ...]]] = {
    'pingpong': lambda n: between_processes(echo, (), measure_pingpong, int(n)),
    'stream': lambda n: one_way(SMALL, int(n)),
    'bytes': lambda transport, size, n: one_way(int(size), int(n), transport),
    'socket': lambda transport, size, n: raw(transport, int(size), int(n)),
    'fan_in': lambda number, n: fan_in(int(number), int(n)),
    'burn': lambda workers, n: burn(int(workers), int(n)),
    'import': lambda names, n: import_names(names, int(n)),
    'python': lambda n: median_of(start_python, int(n)),
    'mp_spawn': lambda n: median_of(start_mp('spawn'), int(n)),
    'mp_forkserver': lambda n: median_of(start_mp('forkserver'), int(n)),
    'subint': lambda n: interpreters(int(n)),
    'crowd': lambda n: crowd(int(n)),
    'interpreters': lambda n: interpreter_crowd(int(n)),
    'memory': lambda n: memory(int(n)),
}


if __name__ == '__main__':
    figures = CASES[sys.argv[1]](*sys.argv[2:])
    print(*(figures if isinstance(figures, tuple) else (figures,)))
