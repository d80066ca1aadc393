"""
The message loop of a connection: takes what arrives and hands it on; runs nobody's code itself.

| message | goes to |
|---|---|
| `StartAck, Started, Yield, Stop, Return, CancelAck, Error(cid)` | the dialog it belongs to |
| `Start` of `self:cancel`, `self:_cancel_task` | a task of this connection, shielded until acknowledged |
| any other `Start` | a task in the actor's service nursery, registered before this loop reads on |
| `Error` without a `cid` | the connection: stored on the channel, raised out of the loop |
| anything else | refused: the peer does not follow the protocol, its connection is dropped |

Everything that arrived in one read is handed on before the loop waits again, and what was queued in answer is
written once the tasks just started had their first step: a call that does not block is answered in one write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from tractor import log as _log
from tractor._exceptions import MsgTypeError, StreamOverrun, TransportClosed
from tractor.ipc._chan import Channel
from tractor.msg._errors import pack_error as pack_error
from tractor.msg._errors import unpack_error
from tractor.msg.ptr import NamespacePath
from tractor.msg.types import (
    CancelAck,
    Error,
    Return,
    Start,
    StartAck,
    Started,
    Stop,
    Yield,
)
from tractor.runtime import _invoke as _run
from tractor.runtime import _state
from tractor.runtime._invoke import try_ship_error_to_remote as try_ship_error_to_remote
from tractor.trionics._beg import collapse_eg

if TYPE_CHECKING:
    from tractor._context import Context
    from tractor.runtime._runtime import Actor

log = _log.get_logger()

_DIALOG_MSGS: frozenset[type] = frozenset(
    {StartAck, Started, Yield, Stop, Return, CancelAck, Error}
)

# scheduler turns which a reader gets to make room in a full stream queue before its sender is told off
_ROOM_TURNS: int = 16

# answers (bytes) which may wait to be written before the loop stops reading further requests
_MAX_UNWRITTEN: int = 1 << 22


@trio.lowlevel.enable_ki_protection
async def process_messages(
    chan: Channel,
    shield: bool = False,
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> tuple[bool, Any]:
    """
    Read a connection until it ends.

    Args:
        chan: the connection, with its handshake done.
        shield: keep reading while the surrounding scope is cancelled; the started value is the scope to cancel.

    Returns:
        `(disconnected, last_msg)`.

    Raises:
        TransportClosed: another task of this actor closed the connection.
        RemoteActorError: the peer's runtime failed as a whole.

    However it ends, the dialogs of this connection are told.
    """
    actor = _state.current_actor()
    loop = MessageLoop(actor, chan)
    with trio.CancelScope(shield=shield) as scope:
        task_status.started(scope)
        try:
            async with collapse_eg(), trio.open_nursery() as tn:
                loop.tn = tn
                loop.scope = scope
                disconnected = await loop.run()
                tn.cancel_scope.cancel()
            return disconnected, loop.last
        finally:
            actor.on_channel_lost(chan, loop.closed)
    # the scope was cancelled: nobody wants to read on
    return False, loop.last


@trio.lowlevel.enable_ki_protection
async def serve_loop(
    chan: Channel,
    shield: bool,
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    """`process_messages()` as a background task: its result is dropped."""
    await process_messages(chan, shield=shield, task_status=task_status)


class MessageLoop:
    """
    Args:
        actor: the local actor.
        chan: the connection to read.
    """

    tn: trio.Nursery
    scope: trio.CancelScope

    def __init__(self, actor: Actor, chan: Channel) -> None:
        self.actor = actor
        self.chan = chan
        self.last: Any = None
        self.closed: TransportClosed | None = None
        assert chan.aid is not None
        self.peer = chan.aid.uid

    async def run(self) -> bool:
        """Read until the connection ends; whether it did."""
        tpt = self.chan.transport
        assert tpt is not None
        try:
            while True:
                batch = await tpt.recv_batch()
                started = False
                while batch:
                    self.last = msg = batch.popleft()
                    kind = type(msg)
                    if kind is Start:
                        self._on_start(msg)
                        started = True
                    elif kind in _DIALOG_MSGS:
                        await self._on_dialog_msg(msg)
                    elif kind is MsgTypeError:
                        await self._on_bad_frame(msg)
                    else:
                        return self._refuse(msg)
                if started:
                    await self._answer(tpt)
        except TransportClosed as closed:
            self.closed = closed
            closed.report_n_maybe_raise(f'peer IPC channel closed abruptly?\n{self.chan.raddr!r}\n')
            return True

    async def _answer(self, tpt: Any) -> None:
        # the tasks just started run in the next turn, in any order with this one: two turns let all of them begin
        for _ in range(2):
            await trio.lowlevel.checkpoint()
            if tpt.flush_nowait():
                return
            if tpt._writer.unwritten > _MAX_UNWRITTEN:
                await tpt.flush()
                return
        self.tn.start_soon(self._flush, tpt)

    async def _flush(self, tpt: Any) -> None:
        try:
            await tpt.flush()
        except TransportClosed as closed:
            log.runtime('answers to %s were not sent: %s', self.peer, closed)

    # -- messages of dialogs ------------------------------------------------------------------------------------

    async def _on_dialog_msg(self, msg: Any) -> None:
        cid = msg.cid
        if cid is None:
            self._on_actor_error(msg)
        ctx = self.actor._contexts.get((self.peer, cid))
        if ctx is None or ctx.chan is not self.chan:
            level = log.runtime if type(msg) in {Stop, StartAck, CancelAck} else log.warning
            level(
                '%s from %s for an unknown dialog %s: dropped', type(msg).__name__, self.peer, cid
            )
        elif not ctx.deliver(msg):
            await self._make_room(ctx, msg)

    async def _make_room(self, ctx: Context, msg: Any) -> None:
        for _ in range(_ROOM_TURNS):
            await trio.lowlevel.checkpoint()
            if ctx.deliver(msg):
                return
        if ctx._overrun_told:
            return
        ctx._overrun_told = True
        where = 'its stream' if ctx._stream_opened else 'no stream, it opened none yet'
        overrun = StreamOverrun(
            f'{ctx._nsf}: more than {ctx._rx_chan.max_buffer_size} messages wait unread in {where}\n'
            f'sender: {self.peer}\n',
            sender=self.peer,
        )
        self.tn.start_soon(self._reply_error, overrun, ctx.cid)

    def _on_actor_error(self, msg: Error) -> None:
        error = unpack_error(msg, self.chan)
        assert error is not None
        self.chan._exc = error
        raise error

    async def _on_bad_frame(self, mte: MsgTypeError) -> None:
        error = self.chan.as_msg(mte)
        if error.cid is None:
            log.warning('%s sent a message which violates the message spec: %s', self.peer, mte)
            return
        ctx = self.actor._contexts.get((self.peer, error.cid))
        if ctx is not None:
            ctx.deliver(error)
        else:
            await self._reply_error(mte, error.cid)

    def _refuse(self, msg: Any) -> bool:
        log.error('%s sent %r in the middle of a conversation: dropping it', self.peer, type(msg))
        self.closed = TransportClosed(
            f'{self.peer} does not follow the protocol: got {type(msg).__name__}\n',
            loglevel='warning',
        )
        return True

    async def _reply_error(self, err: BaseException, cid: str) -> None:
        await try_ship_error_to_remote(
            self.chan, err, cid=cid, remote_descr='requester', actor=self.actor
        )

    # -- requests -----------------------------------------------------------------------------------------------

    def _on_start(self, msg: Start) -> None:
        actor, chan = self.actor, self.chan
        try:
            if tuple(msg.uid) != self.peer:
                raise RuntimeError(
                    f'a request of {msg.uid} came through the connection of {self.peer}'
                )
            if msg.ns == 'self' and msg.func in _CANCEL_REQUESTS:
                self._on_cancel_request(msg)
                return
            if actor._cancel_called:
                raise actor.going_down()
            func = (
                actor._get_method(msg.func)
                if msg.ns == 'self'
                else actor._get_rpc_func(msg.ns, msg.func)
            )
            ctx = actor.get_context(chan, msg.cid, NamespacePath(f'{msg.ns}:{msg.func}'))
            call = _run.Call(ctx, func, msg.kwargs)
        except Exception as err:  # noqa: BLE001 - goes to whoever asked
            actor._contexts.pop((self.peer, msg.cid), None)
            self._push(pack_error(err, cid=msg.cid, src_uid=actor.aid.uid))
            return
        ctx._scope = trio.CancelScope()
        actor._call_begins(chan, ctx, func)
        self._push(_run.start_ack(call))
        try:
            assert actor._service_tn is not None
            actor._service_tn.start_soon(_run.run_call, actor, chan, call, name=msg.func)
        except RuntimeError as err:
            # the service nursery has ended: this actor is going down and takes no further requests
            call.discard()
            actor._call_ended(chan, ctx)
            log.cancel('%s is not run any more: %s', msg.func, err)

    def _on_cancel_request(self, msg: Start) -> None:
        self._push(StartAck(cid=msg.cid, functype='asyncfunc'))
        self.tn.start_soon(self._serve_cancel_request, msg)

    async def _serve_cancel_request(self, msg: Start) -> None:
        actor, chan = self.actor, self.chan
        if msg.func == 'cancel':
            await _run.run_cancel_request(
                actor, chan, msg.cid, actor.cancel, {**msg.kwargs, 'req_chan': chan}
            )
            self.scope.cancel()
            return
        extra = {'requesting_aid': chan.aid, 'ipc_msg': msg, 'parent_chan': chan}
        await _run.run_cancel_request(
            actor, chan, msg.cid, actor._cancel_task, {**msg.kwargs, **extra}
        )

    def _push(self, msg: Any) -> None:
        tpt = self.chan.transport
        assert tpt is not None
        tpt.push(msg)


_CANCEL_REQUESTS: frozenset[str] = frozenset({'cancel', '_cancel_task'})
