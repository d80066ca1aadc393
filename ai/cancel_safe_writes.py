"""
What `cancel-safe-writes.md` says, observed: the same cancelled write, with `send_all()` and with the transport.

Exit code 0 if the first stream was torn and the second one was not.
"""

from __future__ import annotations

import struct
import sys
from typing import Any

import trio

from tractor.ipc._framing import FrameReader
from tractor.ipc._tcp import MsgpackTCPStream
from tractor.msg.types import Yield

# more than the socket buffers of both sides hold
LARGE = bytes(16 * 1024 * 1024)

SECOND = b'the second message'


async def open_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    (listener,) = await trio.open_tcp_listeners(0, host='127.0.0.1')
    ours = await trio.open_tcp_stream(*listener.socket.getsockname())
    theirs = await listener.accept()
    await listener.aclose()
    return ours, theirs


async def with_send_all() -> bool:
    """Two frames by `send_all()`, the first one cancelled half-way; is the second one found?"""
    ours, theirs = await open_pair()
    async with ours, theirs:
        with trio.move_on_after(0.2) as scope:
            await ours.send_all(struct.pack('<I', len(LARGE)) + LARGE)
        assert scope.cancelled_caught
        found: list[Any] = []

        async def read() -> None:
            reader = FrameReader()
            while data := await theirs.receive_some(65536):
                found.extend(bytes(body) for body in reader.feed(data))

        async with trio.open_nursery() as tasks:
            tasks.start_soon(read)
            await ours.send_all(struct.pack('<I', len(SECOND)) + SECOND)
            await ours.send_eof()
    print(f'send_all: frames found: {len(found)}; the second message among them: {SECOND in found}')
    return SECOND in found


async def with_transport() -> bool:
    """The same through the transport; do both messages arrive whole?"""
    ours, theirs = await open_pair()
    async with ours, theirs:
        sender, receiver = MsgpackTCPStream(ours), MsgpackTCPStream(theirs)
        with trio.move_on_after(0.2) as scope:
            await sender.send(Yield(cid='a dialog', pld=LARGE))
        assert scope.cancelled_caught
        # what is not known to be an actor may send small frames only
        receiver.max_frame_size = 2 * len(LARGE)
        async with trio.open_nursery() as tasks:
            tasks.start_soon(sender.send, Yield(cid='a dialog', pld=SECOND))
            first, second = await receiver.recv(), await receiver.recv()
        sizes = [len(bytes(message.pld)) for message in (first, second)]
    print(f'transport: payloads of {sizes} bytes, encoded, arrived')
    return sizes[0] > len(LARGE) and SECOND in bytes(second.pld)


async def main() -> bool:
    torn = not await with_send_all()
    whole = await with_transport()
    return torn and whole


if __name__ == '__main__':
    sys.exit(0 if trio.run(main) else 1)
