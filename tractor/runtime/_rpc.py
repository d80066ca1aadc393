"""
The message loop of a connection: takes what arrives and hands it on; runs nobody's code itself.

| message | goes to |
|---|---|
| `StartAck, Started, Yield, Stop, Return, CancelAck, Error(cid)` | the dialog it belongs to |
| `Start` of `self:cancel`, `self:_cancel_task` | a task of this connection: the loop reads on meanwhile |
| any other `Start` | a task in the actor's service nursery, registered before this loop reads on |
| `Error` without a `cid` | the connection: stored on the channel, raised out of the loop |
| anything else | refused: the peer does not follow the protocol, its connection is dropped |

Everything that arrived in one read is handed on before the loop waits again, and what was queued in answer is
written once the tasks just started had their first step: a call that does not block is answered in one write.

The loop waits for nobody's code, and for a peer that does not read its answers only for a moment: two actors which
both have much to write must go on reading, or neither would get anywhere. A peer that goes on asking and reads nothing
for half a minute, while 64 MiB of answers wait for it, is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from tractor import log as _log
from tractor._exceptions import MsgTypeError, StreamOverrun, TransportClosed
from tractor.ipc._chan import Channel
from tractor.msg import _codec
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

# answers (bytes) which may wait to be written before further requests are read more slowly, and the seconds which
# that costs each batch of them
_MAX_UNWRITTEN: int = 1 << 22
_UNREAD_PAUSE: float = 0.1

# answers (bytes) which may wait for a peer that has read nothing for so many seconds, and goes on asking
_MAX_UNREAD: int = 1 << 26
_UNREAD_FOR: float = 30.0

# seconds for shipping an error or an acknowledgement, shielded, to a peer that may not be reading
SHIP_TIMEOUT: float = 1.0

# the requests to the actor itself which every actor serves
CANCEL_REQUESTS: frozenset[str] = frozenset({'cancel', '_cancel_task'})


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
        async with collapse_eg(), trio.open_nursery() as tn:
            loop.tn = tn
            loop.scope = scope
            try:
                disconnected = await loop.run()
            finally:
                # before anything is waited for here: what runs for this peer may itself wait for it
                actor.on_channel_lost(chan, loop.closed)
            tn.cancel_scope.cancel()
        return disconnected, loop.last
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
        # how many bytes had been taken when that was last seen to grow, and when that was
        self.progress = -1, 0.0
        assert chan.aid is not None
        self.peer = chan.aid.uid

    async def run(self) -> bool:
        """Read until the connection ends; whether it did."""
        tpt = self.chan.transport
        assert tpt is not None
        # whoever began this may have applied a codec: it is for what that task sends, not for what arrives here,
        # nor for the functions which are started for the peer
        before = _codec._ctxvar_MsgCodec.set(_codec._def_tractor_codec)
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
                        return await self._refuse(msg)
                if started and await self._answer(tpt):
                    return True
        except TransportClosed as closed:
            self.closed = closed
            self._report(closed)
            return True
        finally:
            _codec._ctxvar_MsgCodec.reset(before)

    def _report(self, closed: TransportClosed) -> None:
        try:
            closed.report_n_maybe_raise(f'peer IPC channel closed abruptly?\n{self.chan.raddr!r}\n')
        except TransportClosed:
            # a peer that went away while it was written to is no failure of ours
            if isinstance(closed.src_exc, trio.ClosedResourceError):
                raise

    async def _answer(self, tpt: Any) -> bool:
        """Write what is ready; whether the peer was given up."""
        # the tasks just started run in the next turn, in any order with this one: after two turns all have begun,
        # and what answers at once has written `StartAck` along with its answer
        await trio.lowlevel.checkpoint()
        writer = tpt._writer
        if not writer.unwritten:
            return False
        await trio.lowlevel.checkpoint()
        if tpt.flush_nowait():
            return False
        if writer.unwritten > _MAX_UNWRITTEN:
            return await self._pause(tpt, writer)
        self.tn.start_soon(self._flush, tpt)
        return False

    async def _pause(self, tpt: Any, writer: Any) -> bool:
        """Read on later; whether the peer was given up, for not reading."""
        with trio.move_on_after(_UNREAD_PAUSE):
            await tpt.flush()
        # of frames that are on their way, too: one alone may take long
        taken = writer.pushed - writer.unwritten
        before, since = self.progress
        now = trio.current_time()
        if taken != before:
            self.progress = taken, now
        elif writer.unwritten > _MAX_UNREAD and now - since > _UNREAD_FOR:
            await self._drop(
                f'has read nothing for {now - since:.0f} s, and {writer.unwritten} bytes of answers wait for it'
            )
            return True
        return False

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
        ctx = self.actor._contexts.get((self.chan, cid))
        if ctx is None:
            level = log.runtime if type(msg) in {Stop, StartAck, CancelAck} else log.warning
            level(
                '%s from %s for an unknown dialog %s: dropped', type(msg).__name__, self.peer, cid
            )
        elif not ctx.deliver(msg):
            await self._make_room(ctx, msg)

    async def _make_room(self, ctx: Context, msg: Any) -> None:
        if ctx._overrun is not None:
            return
        for _ in range(_ROOM_TURNS):
            await trio.lowlevel.checkpoint()
            if ctx.deliver(msg):
                return
        where = 'its stream' if ctx._stream_opened else 'no stream, it opened none yet'
        overrun = StreamOverrun(
            f'{ctx._nsf}: more than {ctx._rx_chan.max_buffer_size} messages wait unread in {where}\n'
            f'sender: {self.peer}\n',
            sender=self.peer,
        )
        ctx._overrun = overrun
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
        ctx = self.actor._contexts.get((self.chan, error.cid))
        if ctx is not None:
            ctx.deliver(error)
        else:
            self.tn.start_soon(self._reply_error, mte, error.cid)

    async def _refuse(self, msg: Any) -> bool:
        await self._drop(f'does not follow the protocol: got {type(msg).__name__}')
        return True

    async def _drop(self, why: str) -> None:
        log.error('%s %s: dropping it', self.peer, why)
        self.closed = TransportClosed(f'{self.peer} {why}\n', loglevel='warning')
        # nobody reads it any more: who sends now must find out
        await self.chan.aclose()

    async def _reply_error(self, err: BaseException, cid: str) -> None:
        await self.actor._ship_error(self.chan, err, cid)

    # -- requests -----------------------------------------------------------------------------------------------

    def _on_start(self, msg: Start) -> None:
        actor, chan = self.actor, self.chan
        try:
            if msg.ns == 'self' and msg.func in CANCEL_REQUESTS:
                self._check(msg)
                self._push(StartAck(cid=msg.cid, functype='asyncfunc'))
                self.tn.start_soon(self._serve_cancel_request, msg)
                return
            call = self._accept(msg)
        except Exception as err:  # noqa: BLE001 - goes to whoever asked
            self._push(pack_error(err, cid=msg.cid, src_uid=actor.aid.uid))
            return
        service_tn = actor._service_tn
        assert service_tn is not None
        service_tn.start_soon(_run.run_call, actor, chan, call, name=msg.func)
        self._push(StartAck(cid=msg.cid, functype=call.functype))

    def _check(self, msg: Start) -> None:
        if tuple(msg.uid) != self.peer:
            raise RuntimeError(f'a request of {msg.uid} came through the connection of {self.peer}')
        if (self.chan, msg.cid) in self.actor._contexts:
            raise RuntimeError(f'the id {msg.cid} is that of a dialog which has not ended')

    def _accept(self, msg: Start) -> _run.Call:
        """The call that is asked for, entered in the tables; all reasons to refuse it raise here."""
        actor, chan = self.actor, self.chan
        self._check(msg)
        if not actor._takes_requests():
            raise actor.going_down()
        if msg.ns == 'self':
            func = actor._get_method(msg.func)
        else:
            func = actor._get_rpc_func(msg.ns, msg.func)
        ctx = actor.get_context(chan, msg.cid, NamespacePath(f'{msg.ns}:{msg.func}'))
        try:
            call = _run.Call(ctx, func, msg.kwargs)
        except BaseException:
            actor._forget(ctx)
            raise
        # the task ends with its answer: that need not be a checkpoint, unless the peer does not read
        call.answer = chan.post
        actor._call_begins(chan, ctx, func)
        return call

    async def _serve_cancel_request(self, msg: Start) -> None:
        """
        The tasks concerned have sent their outcomes by the time the acknowledgement goes out.

        Cancelled while it waits for them it says nothing: the connection is over. The acknowledgement itself is
        shielded, since the cancellation of this actor ends this very connection.
        """
        actor, chan = self.actor, self.chan
        whole = msg.func == 'cancel'
        done = False
        try:
            if whole:
                done = await actor.cancel(**{**msg.kwargs, 'req_chan': chan})
            else:
                extra = {'requesting_aid': chan.aid, 'ipc_msg': msg, 'parent_chan': chan}
                done = await actor._cancel_task(**{**msg.kwargs, **extra})
        except Exception as err:
            log.error('a cancel request failed', exc_info=err)
            await self._reply_error(err, msg.cid)
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + SHIP_TIMEOUT) as scope:
            try:
                await chan.send(CancelAck(cid=msg.cid, pld=done))
            except TransportClosed as closed:
                log.cancel('who asked for a cancellation is gone: %s', closed)
        if scope.cancelled_caught:
            log.cancel('who asked for a cancellation does not read the answer')
        if whole:
            self.scope.cancel()

    def _push(self, msg: Any) -> None:
        tpt = self.chan.transport
        assert tpt is not None
        tpt.push(msg)


async def _invoke(
    actor: Actor,
    cid: str,
    chan: Channel,
    func: Callable[..., Any],
    kwargs: dict[str, Any],
    is_rpc: bool = True,
    hide_tb: bool = True,
    return_msg_type: type[Return[Any]] | type[CancelAck[Any]] = Return,
    task_status: trio.TaskStatus[Context | BaseException] = trio.TASK_STATUS_IGNORED,
) -> None:
    """
    Run a function on behalf of a peer in this very task: what the message loop does with a `Start`.

    Args:
        actor: the local actor; it need not be running.
        cid: the dialog.
        chan: the connection to the peer.
        func: the function.
        kwargs: what the peer passes to it.
        is_rpc: whether the peer is told of an error.
        hide_tb: kept for compatibility.
        return_msg_type: what carries the result.
        task_status: started with the context once the task can be cancelled, with the error if it was refused.
    """
    ctx = actor.get_context(chan, cid, NamespacePath.from_ref(func))
    try:
        call = _run.Call(ctx, func, kwargs, is_rpc, return_msg_type)
    except Exception as err:  # noqa: BLE001 - goes to whoever asked
        actor._forget(ctx)
        if is_rpc:
            await actor._ship_error(chan, err, cid)
        task_status.started(err)
        return
    actor._call_begins(chan, ctx, func)
    try:
        await chan.send(StartAck(cid=cid, functype=call.functype))
    except TransportClosed as closed:
        log.runtime('the caller of %s is gone: %s', func, closed)
    task_status.started(ctx)
    await _run.run_call(actor, chan, call)


async def try_ship_error_to_remote(
    channel: Channel | None,
    err: BaseException,
    cid: str | None = None,
    remote_descr: str = 'parent',
    hide_tb: bool = True,
    actor: Actor | None = None,
) -> None:
    """
    Send an error, shielded and bounded (1 s); a failure to do so is logged and never replaces the error.

    Args:
        channel: where to; `None` sends nothing.
        err: the error.
        cid: the dialog it ends; `None` for a failure of the whole actor.
        remote_descr: who that is, for the log.
        hide_tb: kept for compatibility.
        actor: where it comes from; the current one by default.
    """
    if channel is None:
        return
    msg = pack_error(err, cid=cid, src_uid=None if actor is None else actor.aid.uid)
    with trio.CancelScope(shield=True, deadline=trio.current_time() + SHIP_TIMEOUT) as scope:
        try:
            await channel.send(msg)
        except (TransportClosed, trio.BrokenResourceError, MsgTypeError) as failed:
            log.critical('could not ship %r to its %s: %s', err, remote_descr, failed)
    if scope.cancelled_caught:
        log.critical('%s does not read: %r was not shipped', remote_descr, err)
