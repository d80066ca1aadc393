"""The other ends of the dialogs which the tests open; loads nothing but the package itself."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import trio

import tractor
from tractor import Context
from tractor._context import Unresolved
from tractor._testing.serving import open_server

NAME = 'dialog_peers'

# an actor that serves the functions of this module; cancelled at the end of the block
open_peer = partial(open_server, NAME)


def uid() -> tuple[str, str]:
    return tractor.current_actor().aid.uid


# --- what an actor tells about itself

_marks: dict[str, trio.Event] = {}


def mark(name: str) -> trio.Event:
    return _marks.setdefault(name, trio.Event())


async def await_mark(name: str) -> None:
    await mark(name).wait()


async def set_mark(name: str) -> None:
    mark(name).set()


async def whoami() -> list[str]:
    return list(uid())


async def echo(value: Any) -> Any:
    return value


async def fail(text: str = 'boom') -> None:
    raise ValueError(text)


async def running() -> list[str]:
    """The functions that run here on behalf of others, but for this one."""
    calls = tractor.current_actor()._rpc_tasks.values()
    return sorted(func.__name__ for _, func, _ in calls if func is not running)


async def no_task_named(name: str) -> None:
    """Return when no function of that name runs here any more."""
    calls = tractor.current_actor()._rpc_tasks
    for _, func, done in list(calls.values()):
        if func.__name__ == name:
            await done.wait()


# stuck on purpose
async def block_loop(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251


async def cancel_other(name: str) -> list[str]:
    """Cancel a whole other actor; our uid."""
    async with tractor.wait_for_actor(name) as portal:
        await portal.cancel_actor()
    return list(uid())


# --- contexts


def check_cancelled(ctx: Context, canceller: Any, by_task: bool) -> None:
    """What the child side of a dialog sees while it is cancelled."""
    assert ctx._scope is not None
    assert ctx._scope.cancel_called
    assert not ctx._scope.cancelled_caught
    assert not ctx.cancel_called
    assert not ctx.cancelled_caught
    assert ctx.maybe_error is None
    assert ctx._result is Unresolved
    assert ctx.canceller == tuple(canceller)
    assert (ctx._cancel_msg is not None) is by_task


@tractor.context
async def idle(
    ctx: Context,
    canceller: Any = None,
    by_task: bool = True,
    streaming: bool = False,
) -> None:
    """Wait to be cancelled, and fail unless that looks as it should."""
    await ctx.started('up')
    try:
        if streaming:
            async with ctx.open_stream() as stream:
                await stream.send('first')
                await trio.sleep_forever()
        await trio.sleep_forever()
    except trio.Cancelled:
        if canceller is not None:
            check_cancelled(ctx, canceller, by_task)
        raise


@tractor.context
async def stopped_then_cancelled(ctx: Context) -> None:
    """Fail unless the stream ends before the cancellation comes."""
    await ctx.started()
    ended = False
    try:
        async with ctx.open_stream() as stream:
            async for _ in stream:
                pass
            ended = True
            await trio.sleep_forever()
    except trio.Cancelled:
        assert ended
        raise


@tractor.context
async def give(ctx: Context, value: Any = None, first: Any = None) -> Any:
    await ctx.started(first)
    return value


@tractor.context
async def hang_before_started(ctx: Context) -> None:
    mark('entered').set()
    await trio.sleep_forever()


@tractor.context
async def fail_while_cancelled(ctx: Context, masked: bool) -> None:
    await ctx.started()
    if masked:
        try:
            await await_mark('go')
            raise RuntimeError('the real one')
        finally:
            # cancelled by now: hides the error
            await trio.sleep_forever()
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        raise RuntimeError('the real one') from None


@tractor.context
async def fail_before_started(ctx: Context) -> None:
    raise ValueError('too early')


@tractor.context
async def fail_on_mark(ctx: Context, error: str = 'ValueError') -> None:
    await ctx.started()
    await await_mark('fail')
    raise getattr(__import__('builtins'), error)('boom')


@tractor.context
async def cancel_own_context(ctx: Context, early: bool = False, on_mark: bool = False) -> None:
    if not early:
        await ctx.started()
    if on_mark:
        await await_mark('go')
    await ctx.cancel()
    assert ctx.cancel_called
    try:
        async with ctx.open_stream():
            raise AssertionError('a cancelled context has no stream')
    except RuntimeError as err:
        assert 'after' in str(err)
    await trio.sleep_forever()


@tractor.context
async def cancel_own_actor(ctx: Context) -> None:
    await ctx.started()
    tractor.current_actor().cancel_soon()
    await trio.sleep_forever()


@tractor.context
async def relay_cancellation(ctx: Context, name: str) -> None:
    """Open a context in another actor, which cancels itself, and let that out."""
    await ctx.started()
    async with tractor.wait_for_actor(name) as portal, portal.open_context(cancel_own_context):
        await trio.sleep_forever()


@tractor.context
async def cancel_other_on_mark(ctx: Context, name: str) -> None:
    await ctx.started()
    await await_mark('go')
    await cancel_other(name)
    await trio.sleep_forever()


@tractor.context
async def swallow_cancellation(ctx: Context) -> str:
    await ctx.started()
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        return 'too late'


@tractor.context
async def no_start(ctx: Context) -> str:
    return 'too soon'


@tractor.context
async def start_badly(ctx: Context) -> list[str]:
    """Everything that `started()` refuses, then what it takes; what the refusals were."""
    seen = []
    for value in (object(), 1):
        try:
            await ctx.started(value)
        except Exception as err:  # noqa: BLE001
            seen.append(type(err).__name__)
    try:
        await ctx.started(2)
    except RuntimeError as err:
        seen.append(type(err).__name__)
    try:
        await ctx.wait_for_result()
    except RuntimeError as err:
        seen.append(type(err).__name__)
    return seen


@tractor.context(pld_spec=str | None | list[str])
async def start_off_spec(ctx: Context, validate: bool = True) -> list[str]:
    seen: list[str] = []
    try:
        await ctx.started(5, validate_pld_spec=validate)
    except tractor.MsgTypeError as mte:
        seen = [type(mte).__name__, mte.tb_str, str(mte.expected_msg_type.__name__)]
    if validate:
        await ctx.started('fine')
    else:
        await trio.sleep_forever()
    return seen


@tractor.context
async def start_unequal(ctx: Context) -> str:
    try:
        await ctx.started((1, 2), strict_pld_parity=True)
    except tractor.MsgTypeError as mte:
        await ctx.started([1, 2], strict_pld_parity=True)
        return mte.message
    return 'nothing'


@tractor.context
async def raise_it(ctx: Context, name: str) -> None:
    await ctx.started()
    match name:
        case 'group':
            raise ExceptionGroup('two', [ValueError('one'), KeyError('other')])
        case 'single':
            async with trio.open_nursery():
                raise ValueError('alone')
        case 'unknown':
            raise type('Homemade', (Exception,), {})('boom')
        case 'closed':
            raise tractor.TransportClosed('of another connection\n')
        case _:
            raise getattr(__import__('builtins'), name)('boom')


@tractor.context
async def who_is_current(ctx: Context) -> list[bool]:
    """Whether the current context is this one: here, in a child task, and around another one."""
    seen = [tractor.current_ipc_ctx() is ctx]

    async def look() -> None:
        seen.append(tractor.current_ipc_ctx() is ctx)

    await ctx.started()
    async with trio.open_nursery() as tn:
        tn.start_soon(look)
    return seen


@tractor.context
async def named_otherwise(first: int, anything: Context | None, last: int = 3) -> int:
    assert anything is not None
    await anything.started()
    return first + last


@tractor.context
async def note_cancellation(ctx: Context) -> None:
    await ctx.started(list(uid()))
    try:
        await trio.sleep_forever()
    finally:
        noted.append([type(ctx.maybe_error).__name__, ctx.canceller])
        mark('noted').set()


noted: list[Any] = []


async def get_noted() -> list[Any]:
    await await_mark('noted')
    return noted
