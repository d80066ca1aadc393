"""Where a stream message and a call spend their time: `breakdown.py [COUNT]`.

Processor time, not time of day: that of both sides together, which other programs on the machine hardly change. Each
step is measured by itself, in a loop, in one process; the whole between two processes, over UNIX sockets. What the
steps do not add up to is shown twice: what it is in a loop too, measured with an actor that has connected to itself
(coroutines which are resumed through several layers), and the rest: caches that are cold when each step is done once.
"""

from __future__ import annotations

import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import endpoints
import floor
import trio

import tractor
from tractor._context import Context
from tractor.ipc import Channel
from tractor.ipc._chan import _connect_chan
from tractor.ipc._framing import FrameReader, FrameWriter
from tractor.msg import _codec
from tractor.msg._typed import encode_payload
from tractor.msg.types import Return, Start, StartAck, Started, Yield
from tractor.runtime._invoke import Call
from tractor.runtime._portal import open_portal

NOW = time.process_time
US = 1e6
CID = '5d0a2a8e-9d3c-4a1a-b62c-7a1c8e0c3d11'
NSF = 'endpoints:ping'
MESSAGE = 64

encode = _codec._def_tractor_codec.enc.encode
decode = _codec._def_tractor_codec.dec.decode


def timed(step: Callable[[], object], count: int) -> float:
    """Seconds for each of `count` rounds of a step; the best of five."""
    best = float('inf')
    for _ in range(5):
        start = NOW()
        for _ in range(count):
            step()
        best = min(best, (NOW() - start) / count)
    return best


async def timed_async(step: Callable[[], Awaitable[object]], count: int) -> float:
    """The same for an async step."""
    best = float('inf')
    for _ in range(5):
        start = NOW()
        for _ in range(count):
            await step()
        best = min(best, (NOW() - start) / count)
    return best


# --- the system


def raw_pingpong(count: int) -> float:
    """Seconds for `MESSAGE` bytes there and back between two processes which only do system calls."""
    here, there = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        here.close()
        while data := there.recv(1 << 16):
            there.send(data)
        os._exit(0)
    there.close()
    start, others = NOW(), used_by_children()
    for _ in range(count):
        here.send(bytes(MESSAGE))
        here.recv(1 << 16)
    took = NOW() - start
    here.close()
    os.waitpid(pid, 0)
    return (took + used_by_children() - others) / count


def used_by_children() -> float:
    """Processor seconds of all processes which were started from here, and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_case(case: str, count: int) -> float:
    """Processor seconds of a case of `cases.py`, with its actors."""
    command = [sys.executable, str(Path(__file__).with_name('cases.py')), case, 'trio', 'uds']
    before = used_by_children()
    with tempfile.TemporaryDirectory(prefix='tb-') as folder:
        subprocess.run(
            [*command, str(count)],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=300,
            env={**os.environ, 'XDG_RUNTIME_DIR': folder},
        )
    return used_by_children() - before


def between_actors(case: str, count: int) -> float:
    """Processor seconds for each operation of a case; the median of five."""
    # what starting and ending take is in both
    took = [(run_case(case, 5 * count) - run_case(case, count)) / (4 * count) for _ in range(5)]
    return statistics.median(took)


def system_calls(count: int) -> tuple[float, float]:
    """Seconds for one `write()` and for the `read()` of what it wrote, within a process."""
    here, there = socket.socketpair()
    out, into, data = here.fileno(), there.fileno(), bytes(MESSAGE)

    def both() -> None:
        os.write(out, data)
        os.read(into, 1 << 16)

    with here, there:
        there.setblocking(False)
        total = timed(both, count)
        os.write(out, bytes(1 << 16))
        reading = timed(lambda: os.read(into, 1), count // 10)
    return total - reading, reading


# --- steps of both kinds


def framing(msg: Any, count: int) -> tuple[float, float, float, float]:
    """Seconds to encode a message, to queue its frame, to cut it out again and to decode the envelope."""
    writer, reader = FrameWriter(), FrameReader()
    body = encode(msg)

    def queue() -> None:
        writer.push(body)
        data = writer.current()
        assert data is not None
        writer.wrote(len(data))

    writer.push(body)
    data = writer.current()
    assert data is not None
    sent = bytes(data)
    return (
        timed(lambda: encode(msg), count),
        timed(queue, count),
        timed(lambda: reader.feed(sent), count),
        timed(lambda: decode(body), count),
    )


async def scheduling(count: int) -> tuple[float, float, float]:
    """Seconds for a checkpoint, for a task and its end, and to wait for a socket which can be read."""
    here, there = socket.socketpair()
    with here, there:
        ours, theirs = floor.as_stream(here), floor.as_stream(there)
        out, data = ours.socket.fileno(), bytes(MESSAGE)

        async def begin_and_end() -> None:
            async with trio.open_nursery() as tn:
                for _ in range(count):
                    tn.start_soon(trio.lowlevel.checkpoint)

        turn = await timed_async(trio.lowlevel.checkpoint, count)
        tasks = await timed_async(begin_and_end, 1) / count

        async def write_and_wait() -> None:
            os.write(out, data)
            await trio.lowlevel.wait_readable(theirs.socket)
            os.read(theirs.socket.fileno(), 1 << 16)

        waiting = await timed_async(write_and_wait, count)
    return turn, tasks, waiting


# --- the two kinds


def a_context(actor: tractor.Actor) -> Context:
    """The requester's end of a dialog that is streaming."""
    ctx = Context(Channel(), CID, NSF, actor, True)
    ctx.deliver(StartAck(cid=CID, functype='context'))
    ctx.deliver(Started(cid=CID, pld=_codec.msgspec.Raw(b'\xc0')))
    return ctx


def of_a_stream(actor: tractor.Actor, count: int) -> dict[str, float]:
    """Seconds for what the runtime does with one stream message."""
    ctx = a_context(actor)
    _, queueing, cutting, decoding = framing(Yield(cid=CID, pld=1), count)
    msg = decode(encode(Yield(cid=CID, pld=1)))

    def deliver() -> None:
        ctx.deliver(msg)
        ctx._rx_chan.get_nowait()

    return {
        'encode': timed(lambda: encode(encode_payload(None, Yield, CID, 1)), count),
        'frame': queueing + cutting,
        'decode': decoding + timed(lambda: ctx._pld_rx.decode(msg), count),
        'deliver': timed(deliver, count),
    }


def of_a_call(actor: tractor.Actor, count: int) -> dict[str, float]:
    """Seconds for what the runtime does with one call, on both sides."""
    chan = Channel()
    start = Start(cid=CID, ns='endpoints', func='ping', kwargs={'n': 1}, uid=actor.aid.uid)
    msgs = [start, StartAck(cid=CID, functype='asyncfunc'), Return(cid=CID, pld=1)]
    sums = [sum(part) for part in zip(*(framing(msg, count) for msg in msgs), strict=True)]
    answers = [decode(encode(msg)) for msg in msgs[1:]]

    def ask() -> None:
        ctx = Context(chan, tractor.discovery._addr.mk_uuid(), NSF, actor, True)
        ctx.deliver(answers[0])
        ctx.deliver(answers[1])

    def accept() -> None:
        ctx = actor.get_context(chan, CID, NSF)
        call = Call(ctx, endpoints.ping, {'n': 1})
        actor._call_begins(chan, ctx, endpoints.ping)
        call.target.close()
        actor._call_ended(chan, ctx)

    return {
        'encode': sums[0],
        'frame': sums[1] + sums[2],
        'decode': sums[3],
        'deliver': timed(ask, count),
        'accept': timed(accept, count),
    }


# --- the table


def show(title: str, rows: dict[str, float], total: float) -> None:
    """Print the rows, the rest and the sum, in microseconds and as shares."""
    rows = {**rows, 'rest': total - sum(rows.values()), 'all': total}
    print(title)
    for name, took in rows.items():
        print(f'  {name:<44}{took * US:>8.1f} us {took / total:>6.0%}')


async def to_itself(actor: tractor.Actor, count: int) -> tuple[float, float]:
    """Seconds for a stream message, and for a call, of an actor that has connected to itself."""
    async with (
        _connect_chan(actor.accept_addr) as chan,
        open_portal(chan) as portal,
        portal.open_context(endpoints.echo) as (ctx, _),
        ctx.open_stream() as stream,
    ):

        async def there_and_back() -> None:
            await stream.send(1)
            await stream.receive()

        return (
            await timed_async(there_and_back, count) / 2,
            await timed_async(lambda: portal.run(endpoints.ping, n=1), count),
        )


async def measure(count: int) -> tuple[Any, ...]:
    """All that needs a runtime, or trio."""
    async with tractor.open_root_actor(
        enable_transports=['uds'],
        registry_addrs=tractor.discovery._addr.default_lo_addrs(['uds']),
        enable_modules=['endpoints'],
        loglevel='error',
    ) as actor:
        steps = of_a_stream(actor, count), of_a_call(actor, count)
        return *steps, await scheduling(count), await to_itself(actor, count)


def main(count: int) -> None:
    """The command."""
    raw = min(raw_pingpong(count) for _ in range(5))
    writing, reading = system_calls(count)
    stream, call, (turn, task, waiting), (warm_stream, warm_call) = trio.run(measure, count)
    whole = {name: between_actors(name, count) for name in ('pingpong', 'rpc')}
    hand_over = max(0.0, raw / 2 - writing - reading)
    # the wait contains one of each
    waiting = max(0.0, waiting - writing - reading)
    system = {
        'write and read: system calls': writing + reading,
        'hand-over: the kernel wakes the other process': hand_over,
        'wait for the socket: trio and epoll': waiting,
    }
    steps = {
        'encode': 'encode the payload and its envelope',
        'decode': 'decode the envelope and the payload',
        'frame': 'frame and cut out',
        'deliver': 'deliver: dialog and queue',
        'accept': 'accept: look up, tables, coroutine',
    }
    of_stream = (
        system
        | {steps[name]: took for name, took in stream.items()}
        | {"sender's checkpoint": turn, 'switch to the task that receives': turn}
    )
    of_call = (
        {name: 2 * took for name, took in system.items()}
        | {steps[name]: took for name, took in call.items()}
        | {'task of the function, begun and ended': task, 'switch to the caller': turn}
    )
    between = 'coroutines between these steps'
    # within one process nobody has to be woken
    warm_stream = min(warm_stream + hand_over, whole['pingpong'] / 2)
    warm_call = min(warm_call + 2 * hand_over, whole['rpc'])
    of_stream[between] = warm_stream - sum(of_stream.values())
    of_call[between] = warm_call - sum(of_call.values())
    show('one stream message, one way', of_stream, whole['pingpong'] / 2)
    show('one call, there and back', of_call, whole['rpc'])


if __name__ == '__main__':
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
