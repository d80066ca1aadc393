"""
The child side of every dialog: running a function on behalf of a peer and answering with exactly one outcome.

| kind | answers | when cancelled |
|---|---|---|
| async function | `StartAck`, `Return` or `Error` | `Error` boxing `ContextCancelled` |
| async generator | `StartAck`, one `Yield` an item, `Stop` or `Error` | `Stop` |
| `@tractor.stream` function | `StartAck`, whatever it sends, `Stop` or `Error` | `Error` boxing `ContextCancelled` |
| `@tractor.context` function | `StartAck`, `Started`, `Yield`s, at most one `Stop`, `Return` or `Error` | `Error` boxing `ContextCancelled` |

| the function raised | sent as `Error` | the actor |
|---|---|---|
| `Exception`, a group, `SystemExit` and the like | yes | lives on |
| `KeyboardInterrupt` | yes | ends; lives, if it is infected: asyncio's code raised that |
| `TransportClosed` because its own connection is gone | no: nobody is there to read it | lives on |
| `trio.Cancelled` from outside its own scope | no: the actor is going down | goes on with that |

A function that finishes in spite of a cancellation has been cancelled: its value is not sent.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import trio

from tractor import log as _log
from tractor._exceptions import ContextCancelled, TransportClosed
from tractor.msg._typed import encode_payload, types_of
from tractor.msg.types import Return, Stop, Yield
from tractor.runtime import _state
from tractor.trionics._beg import collapse_eg, is_multi_cancelled
from tractor.trionics._taskc import maybe_raise_from_masking_exc

if TYPE_CHECKING:
    from tractor._context import Context
    from tractor.ipc import Channel
    from tractor.runtime._runtime import Actor

log = _log.get_logger()

# seconds for telling, shielded, that a stream has ended, to a peer that may not be reading
STOP_TIMEOUT: float = 1.0


class Call:
    """
    One accepted request: the function's coroutine or generator, made but not begun.

    Args:
        ctx: our end of its dialog.
        func: the function.
        kwargs: what the peer passes to it.
        is_rpc: whether the peer is told of an error.
        result_type: the message that carries the result.

    Raises:
        TypeError: it is no async function, or the arguments do not fit. Nothing has been run then.
        MsgTypeError: an argument is not of the type which the function declares.
    """

    __slots__ = ('answer', 'ctx', 'func', 'is_rpc', 'kind', 'result_type', 'target')

    def __init__(
        self,
        ctx: Context,
        func: Callable[..., Any],
        kwargs: dict[str, Any],
        is_rpc: bool = True,
        result_type: Any = Return,
    ) -> None:
        self.ctx = ctx
        self.func = func
        self.is_rpc = is_rpc
        self.result_type = result_type
        self.answer: Callable[[Any], Awaitable[None]] = ctx.chan.send
        meta = getattr(func, '_tractor_context_meta', None)
        types = types_of(func)
        if types is not None:
            ctx.apply_types(types)
            kwargs = types.convert_args(kwargs)
        if meta is not None:
            kwargs = {**kwargs, meta['ctx_var_name']: ctx}
        elif getattr(func, '_tractor_stream_function', False):
            kwargs = _with_stream_args(func, ctx, kwargs)
        if not _is_async(func):
            raise TypeError(f'{func!r} must be an async function')
        self.target = func(**kwargs)
        self.kind = self._classify(meta)
        ctx._remote_func_type = self.functype

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
        """What both ends of the dialog, and `StartAck`, call this kind."""
        return 'asyncgen' if self.kind == 'stream' else self.kind


def _with_stream_args(
    func: Callable[..., Any], ctx: Context, kwargs: dict[str, Any]
) -> dict[str, Any]:
    params = _param_names(func)
    extra: dict[str, Any] = {}
    if 'stream' in params:
        extra['stream'] = ctx
    if 'stream' not in params or 'ctx' in params:
        extra['ctx'] = ctx
    return {**kwargs, **extra}


@lru_cache(maxsize=1024)
def _is_async(func: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func)


@lru_cache(maxsize=256)
def _param_names(func: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(func).parameters)


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
            # it is about some other connection
            await _fail(actor, chan, call, closed)
        else:
            log.runtime('the caller of %s is gone: %s', call.func, closed)
    except BaseException as err:
        if is_multi_cancelled(err):
            raise
        # whatever else a task raises goes to whoever asked for it
        await _fail(actor, chan, call, err)
        if isinstance(err, KeyboardInterrupt) and not actor.is_infected_aio():
            raise
    finally:
        actor._call_ended(chan, ctx)


async def _fail(actor: Actor, chan: Channel, call: Call, err: BaseException) -> None:
    ctx = call.ctx
    ctx._dialog.end()
    if ctx._local_error is None:
        ctx._local_error = err
    if not isinstance(err, ContextCancelled):
        log.error('RPC task crashed: %s', ctx._nsf, exc_info=err)
    if not chan.connected():
        log.runtime('the caller of %s is gone: it is not told of %r', call.func, err)
    elif call.is_rpc:
        await actor._ship_error(chan, err, ctx.cid)


async def _run_asyncfunc(actor: Actor, chan: Channel, call: Call) -> None:
    ctx = call.ctx
    scope = ctx._scope
    assert scope is not None
    with scope:
        await _return_value(call)
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
                await chan.send(encode_payload(ctx._pld_codec, Yield, ctx.cid, item))
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
    with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_TIMEOUT):
        await chan.send(Stop(cid=ctx.cid))


async def _run_context(actor: Actor, chan: Channel, call: Call) -> None:
    ctx = call.ctx
    scope = ctx._scope
    assert scope is not None
    try:
        async with collapse_eg():
            with scope:
                async with trio.open_nursery() as tn, maybe_raise_from_masking_exc():
                    ctx._scope_nursery = tn
                    await _return_value(call)
    except Exception as err:
        ctx._local_error = err
        if ctx._remote_error is None or ctx._remote_error is err:
            raise
        # what the peer had said before is why the function failed
        raise ctx._remote_error from err
    if not scope.cancelled_caught:
        return
    raise _cancelled(actor, ctx) if ctx._remote_error is None else ctx._remote_error


async def _return_value(call: Call) -> None:
    ctx = call.ctx
    result = await call.target
    # a cancellation wins over a value that comes after it
    await trio.lowlevel.checkpoint_if_cancelled()
    ctx._dialog.end()
    # a send that is cancelled has sent nothing
    await call.answer(encode_payload(ctx._pld_codec, call.result_type, ctx.cid, result))
    ctx._result = result


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
