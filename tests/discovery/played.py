"""Registrars played by hand: at an address they come, answer as they are told to, and go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

import tractor
from tractor._testing.peer import PeerListener, RawPeer, open_listener
from tractor.msg.types import Return, Start, StartAck

Addr = tuple[str, Any]


@asynccontextmanager
async def open_root(reg_addrs: list[Addr], **options: Any) -> AsyncIterator[tractor.Actor]:
    proto = 'tcp' if isinstance(reg_addrs[0][1], int) else 'uds'
    async with tractor.open_root_actor(
        registry_addrs=reg_addrs, enable_transports=[proto], loglevel='critical', **options
    ) as root:
        yield root


class PlayedRegistrar:
    """What listens at a registry address: answers `None` to everything, and notes what it is asked."""

    def __init__(self, is_registrar: bool | None = True, silent: bool = False) -> None:
        self.is_registrar = is_registrar
        self.silent = silent
        self.asked: list[Start] = []
        self.peers: list[RawPeer] = []
        self.greeted = 0
        # by function; `None` for any other
        self.answers: dict[str, Any] = {}
        self._changed = trio.Event()

    async def serve(self, listener: PeerListener) -> None:
        async with trio.open_nursery() as tn:
            while True:
                tn.start_soon(self._talk, await listener.accept('r', self.is_registrar))

    async def _talk(self, peer: RawPeer) -> None:
        try:
            await peer.handshake()
            assert peer.other is not None
            if peer.other.is_probe:
                return
            self.peers.append(peer)
            self.greeted += 1
            self._note()
            while True:
                start = await peer.recv()
                self.asked.append(start)
                self._note()
                if not self.silent:
                    await peer.send(
                        StartAck(cid=start.cid, functype='asyncfunc'),
                        Return(cid=start.cid, pld=self.answers.get(start.func)),
                    )
        except (EOFError, trio.ClosedResourceError):
            if peer in self.peers:
                self.peers.remove(peer)
                self._note()

    def _note(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def hang_up_when_asked(self) -> None:
        """Wait for the next request, then be gone for who made it."""
        count = len(self.asked)
        await self.until(lambda: len(self.asked) > count)
        await self.peers[-1].aclose()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    @property
    def functions(self) -> list[str]:
        return [start.func for start in self.asked]


class Place:
    """A registry address where registrars come and go."""

    def __init__(self, tn: trio.Nursery, addr: Addr) -> None:
        self._tn = tn
        self._addr = addr
        self._scope = trio.CancelScope()
        self._gone = trio.Event()

    async def up(self, **how: Any) -> PlayedRegistrar:
        """A registrar, listening by now."""
        self._scope, self._gone = trio.CancelScope(), trio.Event()
        registrar: PlayedRegistrar = await self._tn.start(self._serve, how)
        return registrar

    async def down(self) -> None:
        """Everything of it is gone at once, as when it is killed."""
        self._scope.cancel()
        await self._gone.wait()

    async def _serve(
        self, how: dict[str, Any], task_status: trio.TaskStatus[PlayedRegistrar]
    ) -> None:
        registrar = PlayedRegistrar(**how)
        with self._scope:
            async with open_listener(self._addr) as listener:
                task_status.started(registrar)
                await registrar.serve(listener)
        self._gone.set()


@asynccontextmanager
async def places(*addrs: Addr) -> AsyncIterator[list[Place]]:
    async with trio.open_nursery() as tn:
        yield [Place(tn, addr) for addr in addrs]
        tn.cancel_scope.cancel()


@asynccontextmanager
async def played_root(place: Place, addr: Addr) -> AsyncIterator[tractor.Actor]:
    """A root that is no registrar."""
    await place.up()
    async with open_root([addr]) as root:
        yield root
