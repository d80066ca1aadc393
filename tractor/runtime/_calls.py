"""
The dialogs of one actor: those it asked for, and those it serves.

| table | key | entry |
|---|---|---|
| `_contexts` | the connection, cid | our end of every dialog |
| `_rpc_tasks` | the connection, cid | what runs here for a peer: our end, the function, the event of its end |

By connection, not by peer: both ends of a connection to ourselves have the same peer.

An entry is made before the first message of its dialog goes out and is gone when the outcome is known, so that
neither table grows with the number of calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from tractor._context import Context, mk_context
from tractor.discovery._addr import mk_uuid
from tractor.msg._typed import encode_args
from tractor.msg.types import Start
from tractor.runtime import _flow, _state

if TYPE_CHECKING:
    from tractor.ipc import Channel
    from tractor.msg._typed import PayloadTypes
    from tractor.msg.types import Aid
    from tractor.runtime._portal import Portal


class CallTable:
    """
    The part of an `Actor` which knows its dialogs.

    Args:
        aid: who the actor is.
    """

    msg_buffer_size: int = 64

    def __init__(self, aid: Aid) -> None:
        self._aid = aid
        self._contexts: dict[tuple[Channel, str], Context] = {}
        self._rpc_tasks: dict[
            tuple[Channel, str], tuple[Context, Callable[..., Any], trio.Event]
        ] = {}
        self._ongoing_rpc_tasks = trio.Event()
        self._ongoing_rpc_tasks.set()

    # -- asked for ----------------------------------------------------------------------------------------------

    async def start_remote_task(
        self,
        chan: Channel,
        nsf: Any,
        kwargs: dict[str, Any],
        portal: Portal | None = None,
        msg_buffer_size: int | None = None,
        allow_overruns: bool = False,
        load_nsf: bool = False,
        ack_timeout: float = float('inf'),
        types: PayloadTypes | None = None,
    ) -> Context:
        """
        Ask a peer to run a function and wait until it has accepted.

        Args:
            chan: the connection to the peer.
            nsf: the function, as `module:name`.
            kwargs: its arguments.
            portal: the portal it is called through.
            msg_buffer_size: stream messages that may wait unread here.
            allow_overruns: let that many be exceeded.
            load_nsf: kept for compatibility.
            ack_timeout: seconds to wait for the acceptance.
            types: what the function says about its payloads.

        Raises:
            RemoteActorError: the peer refused, or its runtime has failed as a whole.
            MsgTypeError: the arguments cannot be encoded; nothing was sent.
            TransportClosed: the connection was lost.
            trio.TooSlowError: the acceptance did not come in time.

        When this fails or is cancelled, the peer is asked to cancel what it may have begun.
        """
        ns, _, name = str(nsf).partition(':')
        ctx = await self._send_start(chan, ns, name, kwargs, portal, msg_buffer_size, types)
        ctx._allow_overruns = allow_overruns
        try:
            with trio.fail_after(ack_timeout):
                await ctx._wait(_accepted)
        except BaseException:
            self._forget(ctx)
            if portal is not None:
                await portal._abandon(ctx)
            raise
        if ctx._remote_error is not None and ctx._remote_func_type is None:
            self._forget(ctx)
            raise ctx._remote_error
        return ctx

    async def _send_start(
        self,
        chan: Channel,
        ns: str,
        name: str,
        kwargs: dict[str, Any],
        portal: Portal | None = None,
        msg_buffer_size: int | None = None,
        types: PayloadTypes | None = None,
    ) -> Context:
        """Send a request without waiting for any answer."""
        if chan._exc is not None:
            raise chan._exc
        # nothing needs to be taken back of a call that was cancelled before it began
        await trio.lowlevel.checkpoint_if_cancelled()
        cid = mk_uuid()
        buffer_size = msg_buffer_size or self.msg_buffer_size
        ctx = Context(chan, cid, f'{ns}:{name}', self, True, buffer_size)  # type: ignore[arg-type]
        ctx._portal = portal
        start = Start(cid=cid, ns=ns, func=name, kwargs=kwargs, uid=self._aid.uid)
        if types is not None:
            ctx.apply_types(types)
            encode_args(types.codec, start)
        self._contexts[chan, cid] = ctx
        try:
            await chan.post(start)
        except Exception:
            self._forget(ctx)
            raise
        except BaseException:
            # cancelled while writing: the request may be on its way
            self._forget(ctx)
            if portal is not None:
                await portal._abandon(ctx)
            raise
        return ctx

    def _forget(self, ctx: Context) -> None:
        self._contexts.pop((ctx.chan, ctx.cid), None)

    # -- served -------------------------------------------------------------------------------------------------

    def get_context(
        self,
        chan: Channel,
        cid: str,
        nsf: Any,
        msg_buffer_size: int | None = None,
        allow_overruns: bool = False,
    ) -> Context:
        """
        Our end of the dialog `cid` of a channel, made if there is none.

        Args:
            chan: the connection.
            cid: the dialog's id.
            nsf: the function, as `module:name`.
            msg_buffer_size: resize its stream buffer (messages).
            allow_overruns: whether the buffer may be exceeded; always applied.
        """
        ctx = self._contexts.get((chan, cid))
        if ctx is None:
            ctx = self._contexts[chan, cid] = mk_context(
                chan,
                cid,
                nsf,
                self.msg_buffer_size,
                actor=self,  # type: ignore[arg-type]
                requester=False,
            )
        ctx._allow_overruns = allow_overruns
        if msg_buffer_size is not None:
            ctx._rx_chan.max_buffer_size = msg_buffer_size
        return ctx

    async def _stream_room(self, cid: str) -> int:
        """For peers: how much more they may send in a dialog of ours; waits until that is worth it."""
        ctx = _state.current_ipc_ctx()
        assert ctx is not None
        return await _flow.stream_room(ctx.chan, cid)

    def _call_begins(self, chan: Channel, ctx: Context, func: Callable[..., Any]) -> None:
        if not self._rpc_tasks:
            self._ongoing_rpc_tasks = trio.Event()
        ctx._scope = trio.CancelScope()
        # it is begun later, by a task of its own
        ctx._task = None  # type: ignore[assignment]
        self._rpc_tasks[chan, ctx.cid] = ctx, func, trio.Event()

    def _call_ended(self, chan: Channel, ctx: Context) -> None:
        ctx._dialog.end()
        if ctx._queue is not None:
            # whoever still reads its stream will get nothing more
            ctx._queue.close()
        self._forget(ctx)
        entry = self._rpc_tasks.pop((chan, ctx.cid), None)
        if entry is not None:
            entry[2].set()
        if not self._rpc_tasks:
            self._ongoing_rpc_tasks.set()


def _accepted(ctx: Context) -> bool:
    return ctx._remote_func_type is not None or ctx._dialog.done
