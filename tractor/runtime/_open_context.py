"""
The parent side of a dialog: what `Portal.open_context()` and `Portal.open_stream_from()` do.

How the block of `open_context()` is left, and what follows:

| the body was left by | then | propagates |
|---|---|---|
| its end, or a cancellation which its own scope absorbed | wait for the outcome | the remote error, or nothing |
| the `ContextCancelled` which our own `cancel()` caused | nothing | nothing |
| the remote error, or any other `ContextCancelled` | nothing | that error |
| any other exception | `ctx.cancel()` | that exception |

Where the other task has not ended for all that (a payload of the wrong type, a complaint about too many stream
messages, somebody else's cancellation) it gets a cancel request whose answer nobody waits for.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from tractor import log as _log
from tractor._exceptions import ContextCancelled, MessagingError
from tractor._streaming import MsgStream
from tractor.msg._typed import types_of
from tractor.msg.ptr import NamespacePath
from tractor.runtime import _state
from tractor.trionics._beg import collapse_eg

if TYPE_CHECKING:
    from tractor._context import Context
    from tractor.runtime._portal import Portal

log = _log.get_logger()


@asynccontextmanager
async def open_context_from_portal(
    portal: Portal,
    func: Callable[..., Any],
    allow_overruns: bool = False,
    hide_tb: bool = True,
    **kwargs: Any,
) -> AsyncIterator[tuple[Context, Any]]:
    """See `Portal.open_context()`."""
    _check_context_func(portal, func)
    ctx = await portal.actor.start_remote_task(
        portal.chan,
        nsf=NamespacePath.from_ref(func),
        kwargs=kwargs,
        portal=portal,
        allow_overruns=allow_overruns,
        types=types_of(func),
    )
    before = _state._ctxvar_Context.get()
    _state._ctxvar_Context.set(ctx)
    try:
        async with _absorbing(ctx), collapse_eg(), trio.open_nursery() as tn:
            ctx._scope_nursery = tn
            ctx._scope = tn.cancel_scope
            if ctx._remote_error is not None:
                # it came before there was a scope to cancel
                ctx._interrupt()
            first = await _wait_started(ctx)
            yield ctx, first
    finally:
        portal.actor._forget(ctx)
        ctx._rx_chan.close()
        _state._ctxvar_Context.set(before)


def _check_context_func(portal: Portal, func: Callable[..., Any]) -> None:
    if not hasattr(func, '_tractor_context_meta') or not inspect.iscoroutinefunction(func):
        raise TypeError(
            f'{func!r} must be an async function decorated with `@tractor.context`: '
            'use `Portal.run()` or `open_stream_from()` for the other kinds'
        )
    if portal.chan.transport is None:
        raise RuntimeError(
            'Invalid Operation: this portal leads to the actor itself and has no connection, which a context needs; '
            'get one with `tractor.find_actor()`'
        )


async def _wait_started(ctx: Context) -> Any:
    await ctx._wait(_started_or_over)
    if ctx._started_called:
        # an error which came right after it interrupts the body, as one that comes later does
        return ctx._started_pld
    if ctx._remote_error is not None:
        raise ctx._remote_error
    raise MessagingError(
        f'{ctx._nsf}() returned without calling `Context.started()`: its value was {ctx._result!r}'
    )


def _started_or_over(ctx: Context) -> bool:
    return ctx._started_called or ctx._dialog.done


class _absorbing:
    """
    Around the block of a dialog: ends the child side, then decides what leaves the block.

    The nursery inside has ended when `__aexit__` runs, so its scope neither cancels nor absorbs anything here.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, etype: Any, err: BaseException | None, tb: Any) -> bool:
        ctx = self._ctx
        if err is None:
            try:
                await ctx.wait_for_result()
            except BaseException as failed:
                await self._fail(failed)
                raise
            # absorbed: it does not mean that the other task has ended
            await self._abandon()
            return False
        await self._fail(err)
        return ctx._is_self_cancelled(err)

    async def _fail(self, err: BaseException) -> None:
        ctx = self._ctx
        ctx._local_error = err
        if err is ctx._remote_error or isinstance(err, ContextCancelled):
            await self._abandon()
        elif ctx._dialog.done:
            ctx._cancel_called = True
        else:
            await ctx.cancel()

    async def _abandon(self) -> None:
        """Have the other task cancelled if it has not ended; nothing it still sends matters here."""
        ctx = self._ctx
        portal = ctx._portal
        assert portal is not None
        if not ctx._dialog.done:
            portal.actor._forget(ctx)
            await portal._abandon(ctx)


@asynccontextmanager
async def open_stream_from_portal(
    portal: Portal, async_gen_func: Callable[..., Any], **kwargs: Any
) -> AsyncIterator[MsgStream]:
    """See `Portal.open_stream_from()`."""
    if not inspect.isasyncgenfunction(async_gen_func) and not (
        inspect.iscoroutinefunction(async_gen_func)
        and getattr(async_gen_func, '_tractor_stream_function', False)
    ):
        raise TypeError(
            f'{async_gen_func!r} must be an async generator function, or decorated with `@tractor.stream`'
        )
    ctx = await portal.actor.start_remote_task(
        portal.chan,
        nsf=NamespacePath.from_ref(async_gen_func),
        kwargs=kwargs,
        portal=portal,
        types=types_of(async_gen_func),
    )
    if ctx._remote_func_type != 'asyncgen':
        portal.actor._forget(ctx)
        await portal._abandon(ctx)
        raise MessagingError(f'{async_gen_func!r} is of kind {ctx._remote_func_type!r} over there')
    stream = _ReceiveStream(ctx, ctx._rx_chan)
    portal._streams.add(stream)
    try:
        yield stream
    finally:
        portal._streams.discard(stream)
        if not ctx._dialog.done and not stream._rx_chan.ended:
            await ctx.cancel()
        portal.actor._forget(ctx)
        stream._rx_chan.close()


class _ReceiveStream(MsgStream):
    """The older, one-way kind of stream: closing it cancels the generator at the other end."""

    async def _send_stop(self) -> None:
        await self._ctx.cancel()

    async def send(self, data: Any, hide_tb: bool = True) -> None:
        """One-way streams cannot send."""
        raise TypeError('this stream is receive-only: use a context for two-way streaming')
