"""Dialogs of a peer played by hand with a real actor: what was heard, and whether anything of it is kept."""

from __future__ import annotations

from typing import Any

import trio.testing

import tractor
from tractor._testing.peer import RawPeer
from tractor.msg.types import Error, Return, StartAck, Stop


async def still_serves(actor: tractor.Actor, peer: RawPeer, *, ns: str) -> None:
    """Check that the next thing heard is the answer to one more request, and that no call is kept.

    Args:
        actor: the actor that the peer is connected to.
        peer: the peer.
        ns: a module that the actor exposes, with ``async def ping(n)`` which returns `n` at once.
    """
    cid = await peer.request(ns, 'ping', n=3)
    assert await peer.recv() == StartAck(cid=cid, functype='asyncfunc')
    assert await peer.recv() == Return(cid=cid, pld=3)
    await trio.testing.wait_all_tasks_blocked()
    assert actor._contexts == {}
    assert actor._rpc_tasks == {}
    assert actor._ongoing_rpc_tasks.is_set()


async def accepted(peer: RawPeer, func: str, *msgs: type, ns: str) -> str:
    """Have a function begin and return the id of its dialog.

    Args:
        peer: the peer that calls it.
        func: its name in the module `ns`.
        msgs: types of what is expected after its `StartAck`.
        ns: the module.
    """
    cid = await peer.request(ns, func)
    for kind in (StartAck, *msgs):
        msg = await peer.recv_of(cid)
        assert isinstance(msg, kind), msg
    return cid


async def whole_dialog(peer: RawPeer, func: str, *, ns: str, **kwargs: Any) -> list[Any]:
    """Call a function and return all that it answers.

    Args:
        peer: the peer that calls it.
        func: its name in the module `ns`.
        ns: the module.
        kwargs: its arguments.
    """
    cid = await peer.request(ns, func, **kwargs)
    seen: list[Any] = []
    while True:
        msg = await peer.recv()
        assert msg.cid == cid
        seen.append(msg)
        if isinstance(msg, Return | Error) or (
            isinstance(msg, Stop) and seen[0].functype == 'asyncgen'
        ):
            return seen


def shown(msgs: list[Any]) -> list[tuple[str, Any]]:
    """Return for each message its type and the one thing that it says."""
    attrs = ('functype', 'pld', 'boxed_type_str')
    return [
        (type(msg).__name__, next((getattr(msg, a) for a in attrs if hasattr(msg, a)), None))
        for msg in msgs
    ]


def was_refused(msg: Any, cid: str, boxed: str) -> bool:
    """Tell whether a message is the refusal of a request, by an error of this type."""
    return isinstance(msg, Error) and msg.cid == cid and msg.boxed_type_str == boxed


def is_ctxc(msg: Any, canceller: tuple[str, str]) -> bool:
    """Tell whether a message says that a task was cancelled, and for whom."""
    return (
        isinstance(msg, Error)
        and msg.boxed_type_str == 'ContextCancelled'
        and msg.canceller == canceller
    )
