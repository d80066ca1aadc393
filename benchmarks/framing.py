"""What framing costs over bare msgspec and struct: `framing.py [--quick] [--json PATH]`.

Both sides are measured in turn in one process, in CPU time, with a small message: a `Yield` whose payload has 32
bytes. Nothing goes through a socket.

| row | the runtime | bare |
|---|---|---|
| `send` | `MsgpackTransport.push()`, and the writer's accounting | `Encoder.encode()` and a packed length |
| `receive` | `MsgpackTransport.recv_batch()` from a stream in memory, envelopes decoded | lengths unpacked, `Decoder.decode()` |

The target of `send` is 2 us over bare, that of `receive` 400,000 frames a second.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import struct
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trio
from msgspec.msgpack import Decoder, Encoder

from tractor.ipc._framing import FrameWriter
from tractor.ipc._transport import MsgpackTransport
from tractor.msg.types import Yield, mk_msg_spec

NOW = time.process_time
PAYLOAD = b'x' * 32
CID = '01234567-89ab-cdef-0123-456789abcdef'
HEADER = struct.Struct('<I')
READ_SIZE = 1 << 16
COUNT, TURNS = 200_000, 9
QUICK_PART = 20

MAX_OVER_BARE = 2.0
MIN_RATE = 400_000

encode = Encoder().encode
decode = Decoder(mk_msg_spec()[0]).decode


@dataclass(frozen=True)
class Row:
    """What came out.

    Args:
        name: of the row.
        bare, ours: median CPU time of one message, in microseconds.
        over: median of the differences of all turns, in microseconds.
        rate: messages a second of the runtime.
        verdict: how that compares with the target.
    """

    name: str
    bare: float
    ours: float
    over: float
    rate: int
    verdict: str


class Incoming:
    """
    A stream which has everything already.

    Args:
        data: what it gives, in pieces as the kernel would.
    """

    def __init__(self, data: bytes) -> None:
        self._pieces = [data[at : at + READ_SIZE] for at in range(0, len(data), READ_SIZE)]
        self._pieces.reverse()

    async def receive_some(self, _size: int) -> bytes:
        """The next piece."""
        await trio.lowlevel.checkpoint()
        return self._pieces.pop()


class Transport(MsgpackTransport):
    """The transport, without any addresses."""

    @classmethod
    def get_stream_addrs(cls, _stream: Any) -> tuple[Any, Any]:
        """None."""
        return None, None


def frames(count: int) -> bytes:
    """What a sender writes."""
    body = encode(Yield(cid=CID, pld=PAYLOAD))
    return (HEADER.pack(len(body)) + body) * count


def bare_send(count: int) -> float:
    """Encode and frame messages with nothing around it."""
    pack = HEADER.pack
    start = NOW()
    for _ in range(count):
        body = encode(Yield(cid=CID, pld=PAYLOAD))
        pack(len(body)) + body
    return (NOW() - start) / count


def our_send(count: int) -> float:
    """The same through the transport, up to the bytes that the kernel would be given."""
    tpt = Transport.__new__(Transport)
    tpt._writer = writer = FrameWriter()
    start = NOW()
    for _ in range(count):
        tpt.push(Yield(cid=CID, pld=PAYLOAD))
        block = writer.current()
        assert block is not None
        writer.wrote(len(block))
    return (NOW() - start) / count


def bare_receive(count: int) -> float:
    """Cut bytes into frames and decode them with nothing around it."""
    data = frames(count)
    unpack, size = HEADER.unpack_from, HEADER.size
    at, received = 0, 0
    start = NOW()
    while at < len(data):
        begin = at + size
        at = begin + unpack(data, at)[0]
        decode(data[begin:at])
        received += 1
    took = NOW() - start
    assert received == count
    return took / count


def our_receive(count: int) -> float:
    """The same through the transport, as the message loop reads it."""
    data = frames(count)

    async def read() -> float:
        tpt = Transport(Incoming(data))
        received = 0
        start = NOW()
        while received < count:
            batch = await tpt.recv_batch()
            while batch:
                batch.popleft()
                received += 1
        return (NOW() - start) / count

    return trio.run(read)


def measure(
    name: str, bare: Callable[[int], float], ours: Callable[[int], float], quick: bool
) -> Row:
    """Take both in turn, and compare."""
    count = COUNT // QUICK_PART if quick else COUNT
    pairs = [(bare(count) * 1e6, ours(count) * 1e6) for _ in range(1 if quick else TURNS)]
    over = statistics.median(mine - floor for floor, mine in pairs)
    took = statistics.median(mine for _, mine in pairs)
    rate = int(1e6 / took)
    met = over <= MAX_OVER_BARE if name == 'send' else rate >= MIN_RATE
    floor = statistics.median(floor for floor, _ in pairs)
    verdict = 'met' if met else 'MISSED'
    return Row(name, round(floor, 3), round(took, 3), round(over, 3), rate, verdict)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description='measure what framing costs')
    parser.add_argument('--quick', action='store_true', help='a twentieth of it: does it run?')
    parser.add_argument('--json', type=Path, metavar='PATH', help='write the figures there')
    args = parser.parse_args()
    print(f'{"":<10}{"bare":>9}{"tractor":>9}{"over":>9}    {"a second":>10}  target')
    targets = {'send': f'over <= {MAX_OVER_BARE} us', 'receive': f'>= {MIN_RATE:,} a second'}
    rows = []
    for name, bare, ours in (('send', bare_send, our_send), ('receive', bare_receive, our_receive)):
        row = measure(name, bare, ours, args.quick)
        rows.append(asdict(row))
        times = f'{row.bare:>9.3f}{row.ours:>9.3f}{row.over:>9.3f} us'
        print(f'{name:<10}{times} {row.rate:>10,}  {targets[name]} {row.verdict}', flush=True)
    if args.json is not None:
        figures = {'python': platform.python_version(), 'quick': args.quick, 'rows': rows}
        args.json.write_text(json.dumps(figures, indent=1) + '\n')


if __name__ == '__main__':
    main()
