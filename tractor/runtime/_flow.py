"""
Back-pressure: a sender that waits for its peer's reader instead of overrunning its buffer.

Off unless `Context.open_stream(backpressure=True)` asks for it. The messages of the stream are the same: the sender
asks the peer's runtime, with a request like any other, how many more of them fit.

| the receiving end | the answer to `self:_stream_room` |
|---|---|
| at least half of its buffer is free | how many messages fit |
| less than that | the same, once its reader has caught up |
| takes nothing any more: the stream was closed, the dialog is over | a whole buffer, at once: what comes is dropped |
| does not know the request | a refusal, or no number: the sender goes on without back-pressure |

The connection is in order, so what was sent before the request is in the buffer when that is looked at. Each request
has a task of its own: nothing else on the connection waits. One sender sends at most as much as fits, so nothing that
is waited for is held anywhere but in that buffer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tractor import log as _log
from tractor._exceptions import ContextCancelled, RemoteActorError
from tractor.runtime import _state

if TYPE_CHECKING:
    from tractor._context import Context
    from tractor.ipc import Channel

log = _log.get_logger()

ROOM_REQUEST: str = '_stream_room'


class Credit:
    """
    What may be sent on a stream before the peer is asked again.

    Args:
        ctx: the dialog.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._left = 0.0
        self._asking = trio.Lock()

    async def take(self) -> None:
        """
        Wait until one more message may be sent; no checkpoint if it may be now.

        Raises:
            TransportClosed: the connection is gone.
        """
        while self._left < 1:
            async with self._asking:
                if self._left < 1:
                    self._left = await self._ask()
        self._left -= 1

    async def _ask(self) -> float:
        from tractor.runtime._portal import Portal

        ctx = self._ctx
        portal = ctx._portal or Portal(ctx.chan)
        try:
            room = await portal._call('self', ROOM_REQUEST, {'cid': ctx.cid})
        except ContextCancelled as ctxc:
            # the peer is going down, as sending will show
            log.runtime('%s does not say how much it can take: %s', ctx.chan.aid, ctxc)
            return 1
        except RemoteActorError as refusal:
            log.warning('%s knows no back-pressure: %s', ctx.chan.aid, refusal)
            return float('inf')
        if isinstance(room, int | float) and room >= 1:
            return room
        # asking again would get the same
        log.warning('%s can take %.100r messages? Sending without asking', ctx.chan.aid, room)
        return float('inf')


async def stream_room(chan: Channel, cid: str) -> int:
    """
    Wait until the buffer of a dialog is at least half empty.

    Args:
        chan: the connection of whoever asks.
        cid: the dialog.

    Returns:
        How many messages fit, at least 1.
    """
    actor = _state.current_actor()
    ctx = actor._contexts.get((chan, cid))
    if ctx is None:
        return actor.msg_buffer_size
    return await ctx._rx_chan.wait_room()
