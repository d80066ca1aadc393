"""What the tests of ring buffers share: both sides in one process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import pytest

from tractor._testing import run_bounded
from tractor.ipc._ringbuf import RBToken, RingBuffReceiver, RingBuffSender, open_ringbuf

SIZE = 16

Body = Callable[[RingBuffSender, RingBuffReceiver], Awaitable[object]]


@pytest.fixture
def token(key: str) -> Iterator[RBToken]:
    with open_ringbuf(key, SIZE) as token:
        yield token


def run_with(token: RBToken, body: Body, **starts: int) -> None:
    """Run a body with both sides open."""

    async def main() -> None:
        async with RingBuffSender(token, **starts) as tx, RingBuffReceiver(token, **starts) as rx:
            await body(tx, rx)

    run_bounded(main)


async def receive(rx: RingBuffReceiver, count: int, max_bytes: int | None = None) -> bytes:
    taken = b''
    while len(taken) < count:
        taken += await rx.receive_some(max_bytes)
    return taken
