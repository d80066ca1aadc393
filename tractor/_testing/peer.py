"""A peer played by hand: the other end of a connection, without any runtime behind it.

It speaks the wire protocol itself (length-prefixed msgpack), so it can also say what no actor ever
would. Real actors can be tested against it without a second process, and over the transport in memory
(`tractor._testing.memory`) without anything of the system: see `play_in_memory()`.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio
import trio.testing

import tractor
from tractor._testing import memory
from tractor._testing._run import run_bounded
from tractor.discovery._addr import mk_uuid, wrap_address
from tractor.msg.types import Aid, Error, Start, StartAck, mk_msg_spec

_HEADER = struct.Struct('<I')
_DECODER: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(mk_msg_spec(Any)[0])


class RawPeer:
    """One end of a connection.

    Args:
        stream: the connected stream.
        name: how it calls itself.
        is_registrar: what it says about that.

    One task may receive at a time. Nothing is answered that the test does not answer.
    """

    def __init__(
        self,
        stream: trio.SocketStream | memory.MemoryStream,
        name: str = 'peer',
        is_registrar: bool | None = False,
    ) -> None:
        self.stream = stream
        self.aid = Aid(name=name, uuid=mk_uuid(), pid=os.getpid(), is_registrar=is_registrar)
        self.other: Aid | None = None
        self._buffer = b''
        self._kept: deque[Any] = deque()

    @property
    def uid(self) -> tuple[str, str]:
        """Its `(name, uuid)`."""
        return self.aid.uid

    # -- bytes and messages --------------------------------------------------------------------------------------

    async def send(self, *msgs: Any) -> None:
        """Send messages, all in one write."""
        await self.send_bytes(b''.join(frame(msgspec.msgpack.encode(msg)) for msg in msgs))

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self.stream.send_all(data)

    async def recv(self) -> Any:
        """The next message, payload decoded.

        Raises:
            EOFError: the other end closed the connection.
        """
        if self._kept:
            return self._kept.popleft()
        return await self._read()

    async def recv_of(self, cid: str) -> Any:
        """The next message of one dialog; those of others are kept for later."""
        for msg in self._kept:
            if getattr(msg, 'cid', None) == cid:
                self._kept.remove(msg)
                return msg
        while True:
            msg = await self._read()
            if getattr(msg, 'cid', None) == cid:
                return msg
            self._kept.append(msg)

    async def _read(self) -> Any:
        while True:
            if len(self._buffer) >= _HEADER.size:
                end = _HEADER.size + _HEADER.unpack_from(self._buffer)[0]
                if len(self._buffer) >= end:
                    body, self._buffer = self._buffer[_HEADER.size : end], self._buffer[end:]
                    return _DECODER.decode(body)
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError as err:
                raise EOFError(str(err)) from err
            if not data:
                raise EOFError('the other end closed the connection')
            self._buffer += data

    async def wait_closed(self) -> list[Any]:
        """Wait until the other end has closed the connection; what it still sent before."""
        rest: list[Any] = []
        try:
            while True:
                rest.append(await self.recv())
        except EOFError:
            return rest

    # -- dialogs --------------------------------------------------------------------------------------------------

    async def handshake(self) -> Aid:
        """Exchange identities; returns the other end's."""
        await self.send(self.aid)
        self.other = await self.recv()
        assert isinstance(self.other, Aid), self.other
        return self.other

    def start(self, ns: str, func: str, **kwargs: Any) -> Start:
        """A request of this peer, with a fresh `cid`; not sent yet."""
        return Start(cid=mk_uuid(), ns=ns, func=func, kwargs=kwargs, uid=self.uid)

    async def request(self, ns: str, func: str, **kwargs: Any) -> str:
        """Send a request; returns its `cid`."""
        msg = self.start(ns, func, **kwargs)
        await self.send(msg)
        return msg.cid

    async def call(self, ns: str, func: str, **kwargs: Any) -> Any:
        """Make a request that has to be accepted; returns its outcome: the message after `StartAck`."""
        cid = await self.request(ns, func, **kwargs)
        ack = await self.recv_of(cid)
        assert isinstance(ack, StartAck), ack
        return await self.recv_of(cid)

    def error(self, cid: str | None, boxed: str, **fields: Any) -> Error:
        """An error of this peer; not sent yet.

        Args:
            cid: the dialog it ends, `None` for the peer as a whole.
            boxed: name of the exception's type.
            fields: others of `Error`.
        """
        return Error(
            src_uid=self.uid,
            src_type_str=boxed,
            boxed_type_str=boxed,
            relay_path=[self.uid],
            cid=cid,
            **fields,
        )

    # -- ends -----------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close this end."""
        await self.stream.aclose()

    def reset(self) -> None:
        """Close this end so that the other gets an error, not an end of file, where the transport can do that."""
        reset(self.stream)


def reset(stream: trio.SocketStream | memory.MemoryStream) -> None:
    """Close a stream so that the other end gets an error, not an end of file, where the transport can do that."""
    if isinstance(stream, memory.MemoryStream):
        stream.abort()
        return
    sock = stream.socket
    if sock.family != getattr(socket, 'AF_UNIX', None):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    sock.close()


def frame(body: bytes) -> bytes:
    """One frame around a body."""
    return _HEADER.pack(len(body)) + body


async def connect_stream(addr: Any) -> trio.SocketStream | memory.MemoryStream:
    """A plain connection to an address, wrapped or unwrapped.

    Raises:
        OSError: nobody listens there.
    """
    wrapped: Any = wrap_address(addr)
    if isinstance(wrapped, memory.MemoryAddress):
        return await memory.connect(wrapped)
    place, which = wrapped.unwrap()
    if isinstance(which, int):
        return await trio.open_tcp_stream(place, which)
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        await sock.connect(os.path.join(place, which))
    except OSError:
        sock.close()
        raise
    return trio.SocketStream(sock)


@asynccontextmanager
async def open_peer(
    addr: Any, name: str = 'peer', handshake: bool = True
) -> AsyncIterator[RawPeer]:
    """A peer connected to an actor, for the block.

    Args:
        addr: where the actor listens.
        name: how the peer calls itself.
        handshake: exchange identities at once.
    """
    peer = RawPeer(await connect_stream(addr), name)
    async with peer.stream:
        if handshake:
            await peer.handshake()
        yield peer


class PeerListener:
    """What is at an address where a test plays the listening side.

    Args:
        listener: the bound listener.
    """

    def __init__(
        self, listener: trio.SocketListener | memory.MemoryListener, addr: tuple[str, Any]
    ) -> None:
        self._listener = listener
        self._accepted: list[RawPeer] = []
        self.addr = addr

    async def accept(self, name: str = 'peer', is_registrar: bool | None = False) -> RawPeer:
        """The next connection, closed with the listener; nothing has been said on it."""
        peer = RawPeer(await self._listener.accept(), name, is_registrar)
        self._accepted.append(peer)
        return peer

    async def aclose(self) -> None:
        """Close the listener and what it accepted."""
        for closable in (self._listener, *(peer.stream for peer in self._accepted)):
            await trio.aclose_forcefully(closable)


@asynccontextmanager
async def open_listener(addr: tuple[str, Any]) -> AsyncIterator[PeerListener]:
    """Listen at an unwrapped address, for the block."""
    place, which = addr
    path: str | None = None
    bound: trio.SocketListener | memory.MemoryListener
    if memory.MemoryAddress.claims(addr):
        bound = await memory.start_listener(memory.MemoryAddress.from_addr(addr))
    elif isinstance(which, int):
        (bound,) = await trio.open_tcp_listeners(which, host=place)
    else:
        path = os.path.join(place, which)
        sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        await sock.bind(path)
        sock.listen()
        bound = trio.SocketListener(sock)
    listener = PeerListener(bound, addr)
    try:
        yield listener
    finally:
        with trio.CancelScope(shield=True):
            await listener.aclose()
        if path is not None:
            os.unlink(path)


def play_with_peer(
    main: Callable[[tractor.Actor, RawPeer], Awaitable[None]],
    *,
    module: str,
    reg_addr: Any,
    tpt_proto: str,
    timeout: float = 10,
    clock: trio.abc.Clock | None = None,
) -> None:
    """Run `main(root, peer)`: a root actor, and a peer connected to it, in this process.

    Args:
        main: the test.
        module: what the root exposes.
        reg_addr: where it listens.
        tpt_proto: its transport.
        timeout: seconds for all of it.
        clock: of the run; a virtual one is for transports that never wait for the system.
    """

    async def with_root() -> None:
        async with (
            tractor.open_root_actor(
                enable_transports=[tpt_proto],
                registry_addrs=[reg_addr],
                enable_modules=[module],
                loglevel='critical',
            ) as root,
            open_peer(root.accept_addr) as peer,
        ):
            await main(root, peer)

    run_bounded(with_root, timeout=timeout, clock=clock)


def play_in_memory(
    main: Callable[[tractor.Actor, RawPeer], Awaitable[None]],
    *,
    module: str,
    timeout: float = 10,
    clock: trio.abc.Clock | None = None,
) -> None:
    """The same as `play_with_peer()`, over the transport in memory: nothing is bound, no other test can be met.

    Args:
        main: the test.
        module: what the root exposes.
        timeout: seconds for all of it.
        clock: of the run, such as a `trio.testing.MockClock`.
    """
    with memory.memory_transport() as tpt_proto:
        play_with_peer(
            main,
            module=module,
            reg_addr=memory.MemoryAddress.get_random(),
            tpt_proto=tpt_proto,
            timeout=timeout,
            clock=clock,
        )


async def portal_to(actor: tractor.Actor, peer: RawPeer) -> tractor.Portal:
    """The actor's portal to a peer, through the connection which the peer made."""
    while peer.uid not in actor.ipc_server._peers:
        await trio.testing.wait_all_tasks_blocked()
    return tractor.Portal(actor.ipc_server._peers[peer.uid][0])


class Calling:
    """A call that runs in a task of its own, and how it ended.

    Args:
        tn: the nursery of that task.
        call: what it awaits.
    """

    def __init__(self, tn: trio.Nursery, call: Callable[[], Awaitable[Any]]) -> None:
        self._call = call
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self._outcome: Any = None
        tn.start_soon(self._run)

    async def _run(self) -> None:
        try:
            with self.scope:
                self._outcome = await self._call()
        except Exception as err:  # noqa: BLE001 - it is what is asked for
            self._outcome = err
        finally:
            self.done.set()

    async def outcome(self) -> Any:
        """Wait for what it returned or raised; `None` if it was cancelled."""
        await self.done.wait()
        return self._outcome
