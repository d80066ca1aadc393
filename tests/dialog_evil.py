"""A peer that follows no protocol: it has said hello, and then writes and reads single messages."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

import tractor
from tractor import ContextCancelled
from tractor._code_load import load_module_from_path
from tractor._exceptions import StreamOverrun
from tractor._testing import run_bounded
from tractor.discovery._addr import mk_uuid
from tractor.ipc import Channel
from tractor.msg._errors import pack_error
from tractor.msg.types import Aid, Return, Start, StartAck

# under the name by which the actors import it
peers = sys.modules.get('dialog_peers') or load_module_from_path(
    Path(__file__).with_name('dialog_peers.py')
)

Body = Callable[['Evil'], Awaitable[None]]


class Evil:
    """The peer's end of a connection, and our portal over the other end."""

    def __init__(self, chan: Channel, aid: Aid, portal: tractor.Portal) -> None:
        self.chan = chan
        self.aid = aid
        self.portal = portal
        self.actor = portal.actor
        self.tpt = chan.transport
        assert self.tpt is not None

    async def say(self, *msgs: Any) -> None:
        """Send messages in one write, so that they arrive as one batch."""
        for msg in msgs:
            self.tpt.push(msg)
        await self.tpt.flush()

    async def hear(self, kind: type) -> Any:
        msg = await self.chan.recv()
        assert isinstance(msg, kind), msg
        return msg

    async def accept(self, *msgs: Callable[[str], Any]) -> str:
        """Accept the next request and answer with more messages at once; its id."""
        cid: str = (await self.hear(Start)).cid
        await self.say(StartAck(cid=cid, functype='context'), *[make(cid) for make in msgs])
        return cid

    def ask(self, func: Any, cid: str = 'mine', **kwargs: Any) -> Start:
        return Start(
            cid=cid, ns=func.__module__, func=func.__name__, kwargs=kwargs, uid=self.aid.uid
        )

    async def settle(self) -> None:
        """Wait until the actor has taken all that was said: the connection still works, too."""
        await self.say(self.ask(peers.echo, cid='settle', value=1))
        while not (isinstance(msg := await self.chan.recv(), Return) and msg.cid == 'settle'):
            assert getattr(msg, 'cid', None) == 'settle', msg


@asynccontextmanager
async def evil_peer(name: str = 'evil', uuid: str | None = None) -> AsyncIterator[Evil]:
    actor = tractor.current_actor()
    aid = Aid(name=name, uuid=uuid or mk_uuid(), pid=1)
    known = list(actor.ipc_server._peers.get(aid.uid, ()))
    chan = await Channel.from_addr(actor.accept_addr)
    try:
        await chan._do_handshake(aid)
        while len(chans := actor.ipc_server._peers.get(aid.uid, [])) == len(known):
            await trio.lowlevel.checkpoint()
        (ours,) = [one for one in chans if one not in known]
        yield Evil(chan, aid, tractor.Portal(ours))
    finally:
        await chan.aclose()


def run(body: Body, tpt_proto: str, reg_addr: Any) -> None:
    """Run a body with such a peer of a root actor; afterwards nothing of their dialogs may be left."""

    async def main() -> None:
        async with tractor.open_root_actor(
            registry_addrs=[reg_addr],
            enable_transports=[tpt_proto],
            enable_modules=[peers.NAME],
            loglevel='critical',
        ) as root:
            async with evil_peer() as peer:
                await body(peer)
            while root._rpc_tasks:
                await trio.lowlevel.checkpoint()
            assert not root._contexts

    run_bounded(main, timeout=15)


def overrun(peer: Evil, cid: str) -> Any:
    """What a peer says whose stream buffer we filled."""
    err = StreamOverrun('too much', sender=peer.actor.aid.uid)
    return pack_error(err, cid=cid, src_uid=peer.aid.uid)


def cancelled(peer: Evil, cid: str) -> Any:
    """The outcome of a task that was cancelled for us."""
    err = ContextCancelled('x', boxed_type=trio.Cancelled, canceller=peer.actor.aid.uid)
    return pack_error(err, cid=cid, src_uid=peer.aid.uid)
