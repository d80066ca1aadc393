"""
Portals: calling functions in another actor.

| ending of a call | what the caller gets |
|---|---|
| the function returned | its value |
| it raised, or could not be called | `RemoteActorError` |
| it was cancelled there | `ContextCancelled` |
| the connection was lost first | `TransportClosed` |
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import trio

from tractor import log as _log
from tractor._exceptions import (
    ActorTooSlowError,
    NoResult,
    RemoteActorError,
    TransportClosed,
)
from tractor.ipc._chan import Channel
from tractor.msg._typed import types_of
from tractor.msg.ptr import NamespacePath
from tractor.runtime import _dialog, _open_context, _rpc, _state
from tractor.trionics._beg import collapse_eg

if TYPE_CHECKING:
    from tractor._context import Context
    from tractor._streaming import MsgStream
    from tractor.msg._typed import PayloadTypes
    from tractor.runtime._runtime import Actor

log = _log.get_logger()

# seconds for a best-effort request to cancel a task that nobody waits for any more
_ABANDON_TIMEOUT: float = 0.5


class Portal:
    """
    A way into another actor.

    Args:
        channel: the connection; a message loop must be reading it.

    Made by `ActorNursery.start_actor()`, `find_actor()` and the like.
    """

    # seconds until `cancel_actor()` gives up waiting
    cancel_timeout: float = 0.5

    def __init__(self, channel: Channel) -> None:
        self._chan = channel
        self._streams: set[MsgStream] = set()
        self._expect_result_ctx: Context | None = None
        self._final_result_msg: Any = None
        self._final_result_pld: Any = None
        self.actor: Actor = _state.current_actor()

    def __repr__(self) -> str:
        peer = self._chan.aid.reprol() if self._chan.aid else None
        return f'<Portal to {peer} {"connected" if self._chan.connected() else "disconnected"}>'

    @property
    def chan(self) -> Channel:
        """The connection to the other actor."""
        return self._chan

    channel = chan

    # -- calls --------------------------------------------------------------------------------------------------

    async def run(
        self, func: Callable[..., Any] | str, fn_name: str | None = None, **kwargs: Any
    ) -> Any:
        """
        Run an async function in the other actor and wait for its result.

        Args:
            func: the function; its module must be enabled there. (`run('module', 'name')` is deprecated.)
            kwargs: its arguments, sent as msgpack.

        Returns:
            What the function returned.

        Raises:
            TypeError: it is no plain async function; nothing was sent.
            MsgTypeError: the arguments cannot be encoded; nothing was sent.
            RemoteActorError: it raised, was cancelled, or could not be called.
            TransportClosed: the connection was lost before the answer came.

        Cancelling the call asks the other side to cancel the function.
        """
        if isinstance(func, str):
            warnings.warn(
                '`Portal.run(namespace, name)` is deprecated: pass the function',
                DeprecationWarning,
                stacklevel=2,
            )
            return await self._call(func, str(fn_name), kwargs)
        mod, name = _target_of(func)
        return await self._call(mod, name, kwargs, types_of(func))

    async def run_from_ns(self, namespace_path: str, function_name: str, **kwargs: Any) -> Any:
        """
        Like `run()`, by name.

        Args:
            namespace_path: the module, or `'self'` for the other side's `Actor` itself.
            function_name: the function in it.
            kwargs: its arguments.

        Raises:
            the same as `run()`.
        """
        return await self._call(namespace_path, function_name, kwargs)

    async def _call(
        self, ns: str, name: str, kwargs: dict[str, Any], types: PayloadTypes | None = None
    ) -> Any:
        ctx = await self.actor._send_start(self._chan, ns, name, kwargs, portal=self, types=types)
        try:
            await ctx._wait(_outcome_known)
        except BaseException:
            await self._abandon(ctx)
            raise
        finally:
            self.actor._forget(ctx)
        if ctx._remote_error is not None:
            raise ctx._remote_error
        return ctx._result

    async def _abandon(self, ctx: Context) -> None:
        """Nobody waits for this call any more: tell the other side, if that can be done without delay."""
        is_request = ctx._nsf in _dialog.CANCEL_REQUESTS
        if ctx._dialog.done or is_request or self._chan._exc or not self._chan.connected():
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _ABANDON_TIMEOUT):
            try:
                cancel = await self.actor._send_start(
                    self._chan, 'self', '_cancel_task', {'cid': ctx.cid}, portal=self
                )
            except TransportClosed as closed:
                log.runtime('no cancel request for %s: %s', ctx.cid, closed)
            else:
                self.actor._forget(cancel)

    async def _submit_for_result(
        self, ns: str, func: str, types: PayloadTypes | None = None, /, **kwargs: Any
    ) -> None:
        """
        Start the one main task of a one-shot actor.

        Raises:
            RuntimeError: it has one already.
            RemoteActorError: the function cannot be called.
        """
        if self._expect_result_ctx is not None:
            raise RuntimeError('a result for a main task is already expected from this actor')
        self._expect_result_ctx = await self.actor.start_remote_task(
            self._chan,
            nsf=NamespacePath(f'{ns}:{func}'),
            kwargs=kwargs,
            portal=self,
            types=types,
        )

    async def wait_for_result(self, hide_tb: bool = True) -> Any:
        """
        The result of the actor's main task, see `ActorNursery.run_in_actor()`.

        Returns:
            What it returned; the class `NoResult` when the actor has no main task.

        Raises:
            RemoteActorError: it raised or was cancelled; the same object each time.
            TransportClosed: the actor was lost.

        May be called again, also after the nursery was left.
        """
        if self._chan._exc is not None:
            raise self._chan._exc
        ctx = self._expect_result_ctx
        if ctx is None:
            log.warning('%r has no main task: there is no result to wait for', self)
            return NoResult
        await ctx._wait(_outcome_known)
        self.actor._forget(ctx)
        if ctx._remote_error is not None:
            raise ctx._remote_error
        self._final_result_msg = ctx._outcome_msg
        self._final_result_pld = ctx._result
        return ctx._result

    async def result(self, *args: Any, **kwargs: Any) -> Any:
        """Deprecated name of `wait_for_result()`."""
        log.warning('`Portal.result()` is deprecated, use `Portal.wait_for_result()`')
        return await self.wait_for_result(*args, **kwargs)

    # -- dialogs ------------------------------------------------------------------------------------------------

    def open_context(
        self, func: Callable[..., Any], allow_overruns: bool = False, **kwargs: Any
    ) -> AbstractAsyncContextManager[tuple[Context, Any]]:
        """
        Open a dialog with a task that runs `func` in the other actor.

        Args:
            func: a function decorated with `@tractor.context`.
            allow_overruns: let received stream messages queue up beyond the buffer.
            kwargs: its other arguments.

        Yields:
            `(ctx, first)`: this end, and the value given to `started()` at the other.

        Raises:
            TypeError: `func` is no context function.
            RemoteActorError: it failed; or, on entry, could not be called.

        The block does not end before the function has: leaving it waits for the result, an error in it cancels the
        function, a failing function cancels the block.
        """
        return _open_context.open_context_from_portal(
            self, func, allow_overruns=allow_overruns, **kwargs
        )

    def open_stream_from(
        self, async_gen_func: Callable[..., Any], **kwargs: Any
    ) -> AbstractAsyncContextManager[MsgStream]:
        """
        Receive what an async generator (or `@tractor.stream` function) in the other actor yields.

        Args:
            async_gen_func: the function.
            kwargs: its arguments.

        Raises:
            TypeError: it is neither.
            RemoteActorError: it failed.

        Leaving the block cancels the generator.
        """
        return _open_context.open_stream_from_portal(self, async_gen_func, **kwargs)

    async def aclose(self) -> None:
        """Close the streams that are open through this portal."""
        for stream in list(self._streams):
            await stream.aclose()

    # -- cancellation -------------------------------------------------------------------------------------------

    async def cancel_actor(
        self, timeout: float | None = None, raise_on_timeout: bool = False
    ) -> bool:
        """
        Ask the other actor to cancel itself, with everything below it.

        Args:
            timeout: seconds to wait, shielded; `cancel_timeout` (0.5) by default.
            raise_on_timeout: raise instead of returning `False` when that was not enough.

        Returns:
            Whether it confirmed; `False` also when it is gone already.

        Raises:
            ActorTooSlowError: only with `raise_on_timeout`.
        """
        return await self.request_cancel(
            alive_within=timeout or self.cancel_timeout,
            done_within=timeout or self.cancel_timeout,
            raise_on_timeout=raise_on_timeout,
        )

    async def request_cancel(
        self, alive_within: float, done_within: float, raise_on_timeout: bool
    ) -> bool:
        """
        `cancel_actor()` with separate bounds for the sign of life and for the completion.

        A live actor answers `StartAck` at once, but confirms only when its whole sub-tree is down. So a missing
        first answer says that it is stuck, a missing second one does not: it is asked again until it confirms.

        Args:
            alive_within: seconds for each sign of life.
            done_within: seconds, from the beginning, for the confirmation.
            raise_on_timeout: raise instead of returning `False`.
        """
        chan = self._chan
        if not chan.connected():
            log.cancel('%r is disconnected already: nothing to cancel through it', self)
            return False
        chan._cancel_called = True
        start = trio.current_time()
        with trio.CancelScope(shield=True, deadline=start + alive_within) as scope:
            try:
                return await self._cancel_and_probe(scope, alive_within, start + done_within)
            except (TransportClosed, RemoteActorError) as lost:
                log.cancel('%r went away: %s', self, lost)
                return False
        if raise_on_timeout:
            raise ActorTooSlowError(
                f'{self!r} did not answer a cancel request within {alive_within} s, '
                f'or did not finish within {done_within} s'
            )
        log.cancel('%r did not confirm its cancellation in time', self)
        return False

    async def _cancel_and_probe(
        self, scope: trio.CancelScope, alive_within: float, deadline: float
    ) -> bool:
        asked: list[Context] = []
        try:
            while True:
                # asking again changes nothing over there, but an actor that still runs answers at once
                latest = await self.actor._send_start(self._chan, 'self', 'cancel', {}, portal=self)
                asked.append(latest)
                await latest._wait(_acked_or_over)
                scope.deadline = deadline
                with trio.move_on_after(alive_within):
                    await asked[0]._wait(_outcome_known)
                if asked[0]._dialog.done:
                    break
                scope.deadline = min(deadline, trio.current_time() + alive_within)
        finally:
            for ctx in asked:
                self.actor._forget(ctx)
        error = asked[0]._remote_error
        if error is not None:
            log.cancel('%r did not confirm its cancellation: %s', self, error)
        return error is None


def _outcome_known(ctx: Context) -> bool:
    return ctx._dialog.done


def _acked_or_over(ctx: Context) -> bool:
    return ctx._remote_func_type is not None or ctx._dialog.done


@lru_cache(maxsize=1024)
def _target_of(func: Callable[..., Any]) -> tuple[str, str]:
    """Module and name of what `Portal.run()` may call; looked at once, not at each call."""
    if not _is_plain_coroutine_function(func):
        raise TypeError(
            f'{func!r} must be a non-streaming async function: '
            'use `open_context()` or `open_stream_from()` for the other kinds'
        )
    return NamespacePath.from_ref(func).to_tuple()


def _is_plain_coroutine_function(func: Any) -> bool:
    # a partial is called one too, but has no name to be found by
    return (
        inspect.iscoroutinefunction(func)
        and not isinstance(func, partial)
        and not getattr(func, '_tractor_stream_function', False)
        and not hasattr(func, '_tractor_context_meta')
    )


@dataclass
class LocalPortal:
    """
    The portal of an actor to itself.

    Args:
        actor: that actor.
        channel: a channel without a transport, for display.
    """

    actor: Any
    channel: Channel

    @property
    def chan(self) -> Channel:
        """The same as `channel`."""
        return self.channel

    async def run_from_ns(self, ns: str, func_name: str, **kwargs: Any) -> Any:
        """
        Call a function of this actor directly.

        Args:
            ns: the module, or `'self'` for the actor itself.
            func_name: the function in it.
            kwargs: its arguments.

        Raises:
            ModuleNotExposed: this actor does not expose the module.
            AttributeError: there is no such function.
        """
        if ns == 'self':
            return await getattr(self.actor, func_name)(**kwargs)
        return await self.actor._get_rpc_func(ns, func_name)(**kwargs)


@asynccontextmanager
async def open_portal(
    channel: Channel,
    tn: trio.Nursery | None = None,
    start_msg_loop: bool = True,
    shield: bool = False,
) -> AsyncIterator[Portal]:
    """
    A portal over a channel, for the block.

    Args:
        channel: connected here, with a handshake, if it is not yet.
        tn: runs the message loop; a nursery of its own by default.
        start_msg_loop: `False` when a loop reads this channel already.
        shield: shield that loop from cancellation of `tn`.

    Raises:
        TransportClosed: the peer did not complete the handshake.

    At the end of the block the portal's streams and, if the handshake was made here, the channel are closed.
    """
    actor = _state.current_actor()
    mine = channel.aid is None
    try:
        if mine:
            await channel._do_handshake(aid=actor.aid)
        async with _reading(channel, tn, shield) if start_msg_loop else nullcontext():
            portal = Portal(channel)
            try:
                yield portal
            finally:
                await portal.aclose()
    finally:
        if mine:
            with trio.CancelScope(shield=True):
                await channel.aclose()


@asynccontextmanager
async def _reading(channel: Channel, tn: trio.Nursery | None, shield: bool) -> AsyncIterator[None]:
    """Run the message loop of a channel for the block. Close the channel later, or the loop takes it for a loss."""
    async with collapse_eg(), trio.open_nursery() as own_tn:
        scope = await (tn or own_tn).start(_rpc.serve_loop, channel, shield)
        try:
            yield
        finally:
            scope.cancel()
