"""
The trio side of linked pairs: start the asyncio task, wait for its end, let out of the block what the link decides.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from tractor import log as _log
from tractor._aio._channel import LinkedTaskChannel
from tractor._aio._drive import as_coroutine, supervise
from tractor._aio._link import Link
from tractor.runtime import _state

log = _log.get_logger()

# Seconds for an asyncio task to end after it was given the signal; then it is cancelled again and gets twice as long,
# at most `_LAST_PATIENCE`.
_PATIENCE: float = 0.5
_LAST_PATIENCE: float = 10.0


async def run_task(
    func: Callable[..., Awaitable[Any]],
    *,
    qsize: int = 2**10,  # noqa: ARG001 - part of the compatible API
    **kwargs: Any,
) -> Any:
    """
    Run an asyncio function in a task of its own.

    Args:
        func: it, called with `kwargs`. A parameter named `chan`, `to_trio` or `from_trio` which is not among these
            gets an end of a channel, as for `open_channel_from()`.
        qsize: kept for compatibility.
        kwargs: its arguments.

    Returns:
        Its result.

    Raises:
        RuntimeError: this is no trio task, or its actor was not started with `infect_asyncio=True`.
        TypeError: `func` cannot be called like that, or returns what cannot be awaited.
        AsyncioCancelled: the task was cancelled by somebody else.
        BaseException: what it raised.

    Cancelled, it has the asyncio task end first, which gets a `TrioCancelled`.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    chan = _start(func, kwargs, Link(), _offered(func, kwargs))
    async with translate_aio_errors(chan):
        await chan._wait_done()
    return chan._link.result


@asynccontextmanager
async def open_channel_from(
    target: Callable[..., Awaitable[Any]],
    suppress_graceful_exits: bool = True,
    **target_kwargs: Any,
) -> AsyncIterator[tuple[LinkedTaskChannel, Any]]:
    """
    Run an asyncio function in a task linked with this block, and talk with it.

    Args:
        target: the function. It has a parameter `chan`, which gets the channel, and calls `chan.started_nowait()`
            first; or, as formerly, `to_trio` (a `trio.MemorySendChannel`) and `from_trio` (an `asyncio.Queue`).
        suppress_graceful_exits: that one side ends before the other is no error. Otherwise the block raises
            `TrioTaskExited` when it ends before the task, and `receive()` raises `AsyncioTaskExited`.
        target_kwargs: further arguments of it.

    Yields:
        `(chan, first)`: the channel, and the value of `started_nowait()`.

    Raises:
        RuntimeError: this is no trio task, or its actor was not started with `infect_asyncio=True`.
        TypeError: `target` takes no channel, cannot be called like that, or returns what cannot be awaited.
        AsyncioTaskExited: the task returned before `started_nowait()`.
        AsyncioCancelled: it was cancelled by somebody else.
        BaseException: what the task or the block raised; of both, the block's, caused by the task's.

    An error of the task cancels the block. The block's end is told to the task by a `TrioTaskExited`, or a
    `TrioCancelled`, raised where it waits; leaving waits, shielded, until the task has ended.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    offered = _offered(target, target_kwargs)
    if not offered & {'chan', 'to_trio'}:
        raise TypeError(
            f'{target!r} must have a parameter named `chan`, which is given the channel, '
            'and no argument for it'
        )
    chan = _start(target, target_kwargs, Link(suppress_graceful_exits), offered)
    async with translate_aio_errors(chan):
        yield chan, await _first(chan)


async def _first(chan: LinkedTaskChannel) -> Any:
    try:
        return await chan.receive()
    except trio.EndOfChannel:
        # whether graceful exits are suppressed is for values, the first one is a promise
        chan._link.suppress_graceful_exits = False
        ending = chan._link.ending()
    raise ending


@asynccontextmanager
async def translate_aio_errors(chan: LinkedTaskChannel) -> AsyncIterator[None]:
    """
    The block of the trio task of a linked pair.

    Args:
        chan: the channel of the pair, its asyncio task started.

    Raises:
        BaseException: see the table in `_link.py`.
    """
    body: BaseException | None = None
    try:
        with chan._scope:
            yield
    except BaseException as err:  # noqa: BLE001 - the link decides what becomes of it
        body = err
    await _leave(chan, body)
    leaves = chan._link.verdict(body)
    if leaves is None:
        return
    # `raise` would make what the caller handles its context, whatever it was raised under
    context = leaves.__context__
    try:
        raise leaves
    finally:
        leaves.__context__ = context
        del body, leaves, context


async def _leave(chan: LinkedTaskChannel, body: BaseException | None) -> None:
    signalled = chan._link.left(body) is not None
    if signalled:
        chan._aio_task.cancel()
    chan._shut()
    if not signalled:
        return
    patience = _PATIENCE
    with trio.CancelScope(shield=True):
        while True:
            with trio.move_on_after(patience):
                await chan._wait_done()
                return
            log.warning('%r ignores that trio has left: it is cancelled again', chan._aio_task)
            chan._aio_task.cancel()
            patience = min(2 * patience, _LAST_PATIENCE)


# -- starting -----------------------------------------------------------------------------------------------------


def _offered(target: Any, kwargs: dict[str, Any]) -> set[str]:
    """Names of the ends of a channel which a target has parameters for, and which its caller leaves to us."""
    if not callable(target):
        if inspect.iscoroutine(target):
            target.close()
        raise TypeError(
            f'{target!r} is no function: pass an `async def` function and its arguments by name'
        )
    try:
        params = inspect.signature(target).parameters
    except ValueError:
        # a builtin that does not tell
        return set()
    return {'chan', 'to_trio', 'from_trio'} & params.keys() - kwargs.keys()


def _start(
    target: Callable[..., Any], kwargs: dict[str, Any], link: Link, offered: set[str]
) -> LinkedTaskChannel:
    _check_caller()
    chan = LinkedTaskChannel(link)
    ends = {'chan': chan, 'to_trio': chan._to_trio, 'from_trio': chan._to_aio}
    made = target(**kwargs, **{name: ends[name] for name in offered})
    coro = as_coroutine(target, made)
    # Not by the loop's task factory: an eager one would run it within the turn of this trio task.
    task = chan._aio_task = asyncio.Task(supervise(link, coro, chan._ended))

    def collect(task: asyncio.Task[None]) -> None:
        # told already, unless it was cancelled before its first step
        chan._ended(asyncio.CancelledError() if task.cancelled() else task.exception())
        coro.close()

    task.add_done_callback(collect)
    _make_pausable(task)
    return chan


def _check_caller() -> None:
    if not trio.lowlevel.in_trio_task():
        raise RuntimeError('asyncio tasks are linked with trio tasks: call this from one')
    try:
        asyncio.get_running_loop()
        hosted = _state._runtime_vars['_is_infected_aio']
    except RuntimeError:
        hosted = False
    if not hosted:
        raise RuntimeError(
            'trio is no guest of asyncio here: start the actor with `infect_asyncio=True`, '
            'or run the program with `tractor.to_asyncio.run_as_asyncio_guest(main)`'
        )


def _make_pausable(task: asyncio.Task[None]) -> None:
    """Let `breakpoint()` work in a task, in debug mode and where greenback is installed."""
    if not _state.is_debug_mode():
        return
    try:
        import greenback
    except ImportError:
        return
    greenback.bestow_portal(task)
