"""A real `Actor` and its server without the outside world: nothing listens, connections are made of socket pairs."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import trio
import trio.testing

from tractor.ipc import Channel
from tractor.ipc._server import Server
from tractor.msg.types import Aid
from tractor.runtime import _calls, _state
from tractor.runtime._runtime import Actor

US, PEER = ('me', '1'), ('peer', '2')

SERVED = 'fuzz._served'


def aid_of(uid: tuple[str, str]) -> Aid:
    """An identity."""
    return Aid(name=uid[0], uuid=uid[1], pid=1)


@contextmanager
def _numbered_dialogs() -> Iterator[None]:
    """Let the ids of our own dialogs be `c0`, `c1`, .. so that an input can name them."""
    numbers = itertools.count()
    before = _calls.mk_uuid  # type: ignore[attr-defined]
    _calls.mk_uuid = lambda: f'c{next(numbers)}'  # type: ignore[attr-defined]
    try:
        yield
    finally:
        _calls.mk_uuid = before  # type: ignore[attr-defined]


@asynccontextmanager
async def open_actor() -> AsyncIterator[Actor]:
    """An actor that serves `fuzz._served`, for the block; everything it runs is cancelled at the end."""
    rtvars, previous = _state.snapshot(), _state.current_actor(err_on_no_runtime=False)
    actor = Actor(*US, enable_modules=[SERVED], inherit_parent_main=False)
    actor.load_modules()
    _state.set_current_actor(actor)
    try:
        with _numbered_dialogs():
            async with trio.open_nursery() as root_tn, trio.open_nursery() as service_tn:
                actor._root_tn, actor._service_tn = root_tn, service_tn
                actor._ipc_server = Server(service_tn, service_tn)
                yield actor
                service_tn.cancel_scope.cancel()
                root_tn.cancel_scope.cancel()
    finally:
        _state.set_current_actor(previous)
        _state.restore(rtvars)


@contextmanager
def socket_pair() -> Iterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """Both ends of a connection; closed at the end."""
    one, two = trio.socket.socketpair()
    with one, two:
        yield trio.SocketStream(one), trio.SocketStream(two)


def channel(stream: trio.SocketStream, peer: tuple[str, str] | None = None) -> Channel:
    """A channel over our end of a connection, with the handshake done if the peer is named."""
    chan = Channel.from_stream(stream)
    if peer is not None:
        chan._aid = aid_of(peer)
    return chan


class FuzzPeer:
    """
    The other end of a connection, which writes what the input says and keeps what it reads.

    Args:
        stream: its end.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.heard = b''

    async def listen(self) -> None:
        """Read until the other end closes."""
        try:
            while data := await self.stream.receive_some(1 << 16):
                self.heard += data
        except (trio.BrokenResourceError, trio.ClosedResourceError) as err:
            self.stream_error = err

    async def say(self, pieces: Iterator[bytes | None]) -> None:
        """Write the pieces of a script; returns at its end, or when nobody reads any more."""
        for piece in pieces:
            if piece is None:
                await trio.testing.wait_all_tasks_blocked()
                continue
            try:
                await self.stream.send_all(piece)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as err:
                self.stream_error = err
                return

    async def hang_up(self) -> None:
        """Say that nothing more comes, once the other side has settled."""
        await trio.testing.wait_all_tasks_blocked()
        try:
            await self.stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as err:
            self.stream_error = err

    stream_error: Any = None
