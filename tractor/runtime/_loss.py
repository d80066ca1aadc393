"""
What the end of a connection means for the dialogs that ran over it.

| dialog | the connection was lost | this side closed it |
|---|---|---|
| we asked: a call, or not accepted yet | `TransportClosed` at once | `TransportClosed` at once |
| we asked: an open context | `TransportClosed` after a grace, unless its own process supervision is faster | at once |
| we run it: a plain function | runs on; its answer is dropped | runs on |
| we run it: a context or a stream | cancelled, this actor being the canceller | cancelled |

The grace is for programs that want to go down by their own rules when a peer vanishes: their supervisor has time
to act before an error of ours interferes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tractor import log as _log
from tractor._exceptions import TransportClosed

if TYPE_CHECKING:
    from tractor._context import Context
    from tractor.ipc import Channel
    from tractor.runtime._runtime import Actor

log = _log.get_logger()

# seconds between the loss of a connection and the failure of the contexts open over it; whoever waits for the
# fate of a peer learns it within 3 s
LOSS_GRACE: float = 2.5


def on_channel_lost(actor: Actor, chan: Channel, closed: TransportClosed | None) -> None:
    """Tell every dialog of a connection that it has ended."""
    mine = [ctx for ctx in actor._contexts.values() if ctx.chan is chan]
    if not mine:
        return
    reason = chan._exc or closed or _closed_here(chan)
    later: list[Context] = []
    for ctx in mine:
        if not ctx.is_requester:
            _cancel_served(actor, ctx)
        elif closed is not None and ctx._started_called:
            later.append(ctx)
        else:
            ctx.lose(reason)
            actor._forget(ctx)
    if later:
        _lose_after_grace(actor, later, reason)


def _closed_here(chan: Channel) -> TransportClosed:
    peer = chan.aid.reprol() if chan.aid else 'an unknown peer'
    return TransportClosed(f'the connection to {peer} was closed here\n')


def _cancel_served(actor: Actor, ctx: Context) -> None:
    if ctx._remote_func_type == 'asyncfunc':
        return
    if ctx._canceller is None:
        ctx._canceller = actor.aid.uid
    if ctx._scope is not None:
        ctx._scope.cancel()


def _lose_after_grace(actor: Actor, contexts: list[Context], closed: BaseException) -> None:
    async def wait_and_lose() -> None:
        await trio.sleep(LOSS_GRACE)
        lose(contexts, closed)

    try:
        assert actor._service_tn is not None
        actor._service_tn.start_soon(wait_and_lose)
    except RuntimeError as err:
        log.runtime('the actor is going down, no grace for %s contexts: %s', len(contexts), err)
        lose(contexts, closed)


def lose(contexts: list[Context], closed: BaseException) -> None:
    """Fail these dialogs, unless they have ended by themselves."""
    for ctx in contexts:
        ctx.lose(closed)


def lose_peer(actor: Actor, uid: tuple[str, str], closed: TransportClosed) -> None:
    """The process of this peer died: no dialog with it has a future."""
    lose(
        [ctx for ctx in actor._contexts.values() if ctx.is_requester and _peer_of(ctx) == uid],
        closed,
    )


def _peer_of(ctx: Context) -> tuple[str, str] | None:
    return ctx.chan.aid.uid if ctx.chan.aid else None
