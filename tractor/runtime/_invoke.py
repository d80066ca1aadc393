"""
The child side of every dialog: running a function on behalf of a peer and answering with exactly one outcome.

| kind | answers | when cancelled |
|---|---|---|
| async function | `StartAck`, `Return` or `Error` | `Error` boxing `ContextCancelled` |
| async generator | `StartAck`, one `Yield` an item, `Stop` or `Error` | `Stop` |
| `@tractor.stream` function | `StartAck`, whatever it sends, `Stop` or `Error` | `Error` boxing `ContextCancelled` |
| `@tractor.context` function | `StartAck`, `Started`, `Yield`s, at most one `Stop`, `Return` or `Error` | `Error` boxing `ContextCancelled` |
| cancel request | `StartAck`, `CancelAck` | not cancelled: shielded |

| the function raised | sent as `Error` | the actor |
|---|---|---|
| `Exception`, a group, `SystemExit` and the like | yes | lives on |
| `KeyboardInterrupt` | yes | ends |
| `TransportClosed` because its own connection is gone | no: nobody is there to read it | lives on |
| `trio.Cancelled` from outside its own scope | no: the actor is going down | goes on with that |
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import trio

from tractor import log as _log
from tractor._exceptions import ContextCancelled, MsgTypeError, TransportClosed
from tractor.msg._errors import pack_error
from tractor.msg.types import CancelAck, Return, StartAck, Stop, Yield
from tractor.runtime import _state
from tractor.trionics._beg import collapse_eg
from tractor.trionics._taskc import maybe_raise_from_masking_exc

if TYPE_CHECKING:
    from tractor._context import Context
    from tractor.ipc import Channel
    from tractor.runtime._runtime import Actor

log = _log.get_logger()

# seconds for shipping an error or an acknowledgement, shielded, to a peer that may not be reading
SHIP_TIMEOUT: float = 1.0


class Call:
    """
    One accepted request: the function's coroutine or generator, made but not begun.

    Args:
        ctx: our end of its dialog.
        func: the function.
        kwargs: what the peer passes to it.

    Raises:
        TypeError: it is no async function, or the arguments do not fit. Nothing has been run then.
    """

    __slots__ = ('ctx', 'func', 'kind', 'target')

    def __init__(self, ctx: Context, func: Callable[..., Any], kwargs: dict[str, Any]) -> None:
        self.ctx = ctx
        self.func = func
        meta = getattr(func, '_tractor_context_meta', None)
        if meta is not None:
            kwargs = {**kwargs, meta['ctx_var_name']: ctx}
            ctx.apply_meta(meta)
        elif getattr(func, '_tractor_stream_function', False):
            kwargs = _with_stream_args(func, ctx, kwargs)
        if not (inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func)):
            raise TypeError(f'{func!r} must be an async function')
        self.target = func(**kwargs)
        self.kind = self._classify(meta)

    def _classify(self, meta: dict[str, Any] | None) -> str:
        # by what the call returned: a decorator may proxy a generator function with a coroutine function
        if inspect.isasyncgen(self.target):
            return 'asyncgen'
        if meta is not None:
            return 'context'
        if getattr(self.func, '_tractor_stream_function', False):
            return 'stream'
        return 'asyncfunc'

    @property
    def functype(self) -> Any:
        """What `StartAck` calls this kind."""
        return 'asyncgen' if self.kind == 'stream' else self.kind

    def discard(self) -> None:
        """It will not be run."""
        if inspect.iscoroutine(self.target):
            self.target.close()


def _with_stream_args(
    func: Callable[..., Any], ctx: Context, kwargs: dict[str, Any]
) -> dict[str, Any]:
    params = inspect.signature(func).parameters
    extra: dict[str, Any] = {}
    if 'stream' in params:
        extra['stream'] = ctx
    if 'stream' not in params or 'ctx' in params:
        extra['ctx'] = ctx
    return {**kwargs, **extra}


async def run_call(actor: Actor, chan: Channel, call: Call) -> None:
    """Run an accepted request to its outcome. `StartAck` has been queued, the task has been registered."""
    ctx = call.ctx
    ctx._task = trio.lowlevel.current_task()
    _state._ctxvar_Context.set(ctx)
    try:
        await _RUNNERS[call.kind](actor, chan, call)
    except (trio.Cancelled, GeneratorExit):
        raise
    except TransportClosed as closed:
        if chan.connected():
            await _fail(actor, chan, ctx, closed)
        else:
            log.runtime('the caller of %s is gone: %s', call.func, closed)
    except KeyboardInterrupt as err:
        await _fail(actor, chan, ctx, err)
        raise
    except BaseException as err:  # noqa: BLE001 - whatever a task raises goes to whoever asked for it
        await _fail(actor, chan, ctx, err)
    finally:
        actor._call_ended(chan, ctx)


async def _fail(actor: Actor, chan: Channel, ctx: Context, err: BaseException) -> None:
    ctx._dialog.end()
    if ctx._local_error is None:
        ctx._local_error = err
    if not isinstance(err, ContextCancelled):
        log.error('RPC task crashed: %s', ctx._nsf, exc_info=err)
    await try_ship_error_to_remote(chan, err, cid=ctx.cid, actor=actor)


async def _run_asyncfunc(actor: Actor, chan: Channel, call: Call) -> None:
    ctx = call.ctx
    scope = ctx._scope
    assert scope is not None
    with scope:
        result = await call.target
        ctx._dialog.end()
        ctx._result = result
        await chan.send(Return(cid=ctx.cid, pld=result))
    if scope.cancelled_caught:
        raise _cancelled(actor, ctx)


async def _run_asyncgen(actor: Actor, chan: Channel, call: Call) -> None:
    ctx = call.ctx
    scope = ctx._scope
    assert scope is not None
    agen: AsyncGenerator[Any, None] = call.target
    with scope:
        async with aclosing(agen):
            async for item in agen:
                await chan.send(Yield(cid=ctx.cid, pld=item))
    await _end_asyncgen(chan, ctx)


async def _run_stream(actor: Actor, chan: Channel, call: Call) -> None:
    ctx = call.ctx
    scope = ctx._scope
    assert scope is not None
    with scope:
        await call.target
    if scope.cancelled_caught and ctx._remote_error is None:
        raise _cancelled(actor, ctx)
    await _end_asyncgen(chan, ctx)


async def _end_asyncgen(chan: Channel, ctx: Context) -> None:
    if ctx._remote_error is not None:
        raise ctx._remote_error
    ctx._dialog.end()
    with trio.CancelScope(shield=True, deadline=trio.current_time() + SHIP_TIMEOUT):
        await chan.send(Stop(cid=ctx.cid))


async def _run_context(actor: Actor, chan: Channel, call: Call) -> None:
    ctx = call.ctx
    scope = ctx._scope
    assert scope is not None
    async with collapse_eg():
        with scope:
            async with trio.open_nursery() as tn, maybe_raise_from_masking_exc():
                ctx._scope_nursery = tn
                result = await call.target
                await chan.send(Return(cid=ctx.cid, pld=result))
                ctx._result = result
                ctx._dialog.end()
        if not scope.cancelled_caught:
            return
    if ctx._remote_error is not None:
        raise ctx._remote_error
    raise _cancelled(actor, ctx)


def _cancelled(actor: Actor, ctx: Context) -> ContextCancelled:
    """What the requester of a cancelled task gets: who asked for the cancellation, in words and as a uid."""
    ours = actor.aid.uid
    if ctx._cancel_called:
        canceller, who = ours, 'itself'
    else:
        canceller = ctx._canceller or ours
        peer = ctx.chan.aid.uid if ctx.chan.aid else None
        who = (
            'itself'
            if canceller == ours
            else "its 'parent'-side peer"
            if canceller == peer
            else 'a remote peer'
        )
    return ContextCancelled(
        f'{ctx._nsf}() was cancelled by {who}\ncanceller: {canceller}\ncancellee: {ours}\n',
        boxed_type=trio.Cancelled,
        canceller=canceller,
    )


_RUNNERS: dict[str, Callable[[Any, Any, Call], Any]] = {
    'asyncfunc': _run_asyncfunc,
    'asyncgen': _run_asyncgen,
    'stream': _run_stream,
    'context': _run_context,
}


async def run_cancel_request(
    actor: Actor, chan: Channel, cid: str, func: Callable[..., Any], kwargs: dict[str, Any]
) -> None:
    """
    Serve a request for cancellation, shielded until it has been acknowledged.

    The tasks concerned have sent their outcomes by the time the acknowledgement goes out.
    """
    with trio.CancelScope(shield=True):
        try:
            done = await func(**kwargs)
        except Exception as err:
            log.error('a cancel request failed', exc_info=err)
            await try_ship_error_to_remote(chan, err, cid=cid, actor=actor)
            return
        with trio.move_on_after(SHIP_TIMEOUT) as scope:
            try:
                await chan.send(CancelAck(cid=cid, pld=done))
            except TransportClosed as closed:
                log.cancel('who asked for a cancellation is gone: %s', closed)
    if scope.cancelled_caught:
        log.cancel('who asked for a cancellation does not read the answer')


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
    """
    if channel is None:
        return
    msg = pack_error(err, cid=cid, src_uid=actor.aid.uid if actor is not None else None)
    with trio.CancelScope(shield=True, deadline=trio.current_time() + SHIP_TIMEOUT) as scope:
        try:
            await channel.send(msg)
        except (TransportClosed, trio.BrokenResourceError, MsgTypeError) as failed:
            log.critical('could not ship %r to its %s: %s', err, remote_descr, failed)
    if scope.cancelled_caught:
        log.critical('%s does not read: %r was not shipped', remote_descr, err)


def start_ack(call: Call) -> StartAck:
    """The first answer to an accepted request."""
    return StartAck(cid=call.ctx.cid, functype=call.functype)
