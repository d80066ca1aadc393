"""contract: who sees what when a dialog ends: one case for every way, over real actors.

The `called, acked` of each case are what the parent side's `cancel_called` and `cancel_acked` say afterwards, and its
`canceller` is `own`, `peer` or `None`.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import tractor
from tractor import ContextCancelled, RemoteActorError
from tractor._code_load import load_module_from_path
from tractor._testing import tractor_test

pytestmark = pytest.mark.spawns

# under the name by which the actors import it
peers = sys.modules.get('dialog_peers') or load_module_from_path(
    Path(__file__).with_name('dialog_peers.py')
)

ROWS: list[Any] = []


def row(number: str, called: bool, acked: bool, canceller: str | None) -> Callable[[Any], Any]:
    """Enter a case: an async function of a portal that returns the context which it is about."""

    def enter(fn: Callable[..., Awaitable[tractor.Context]]) -> Any:
        ROWS.append(pytest.param(fn, called, acked, canceller, id=f'{number}-{fn.__name__}'))
        return fn

    return enter


def check_self_cancelled(ctx: tractor.Context) -> None:
    """The outcome is our own cancellation, one object wherever one looks."""
    assert isinstance(ctx.outcome, ContextCancelled)
    assert ctx.outcome is ctx.maybe_error is ctx._remote_error
    assert ctx.outcome.canceller == peers.uid()
    assert ctx.outcome.boxed_type is ContextCancelled
    assert ctx.has_outcome
    assert not ctx._final_result_is_set()


def check_error(ctx: tractor.Context, err: BaseException) -> None:
    """The block was left by the remote error, one object wherever one looks."""
    assert err is ctx._remote_error is ctx.outcome is ctx.maybe_error is ctx._local_error


@row('1', True, True, 'own')
async def cancel_idle(portal: tractor.Portal) -> tractor.Context:
    async with portal.open_context(peers.idle, canceller=peers.uid()) as (ctx, first):
        assert first == 'up'
        await ctx.cancel()
        # the ordering guarantee: the outcome came before the acknowledgement
        assert isinstance(ctx.outcome, ContextCancelled)
        await trio.lowlevel.checkpoint()
        raise AssertionError('the next checkpoint is cancelled')
    check_self_cancelled(ctx)
    assert ctx._local_error is ctx.outcome
    assert ctx.cancelled_caught
    assert ctx.repr_state == 'self-cancelled'
    return ctx


@row('1', True, True, 'own')
async def cancel_streaming(portal: tractor.Portal) -> tractor.Context:
    async with (
        portal.open_context(peers.idle, canceller=peers.uid(), streaming=True) as (ctx, _),
        ctx.open_stream() as stream,
    ):
        assert await stream.receive() == 'first'
        await ctx.cancel()
        await trio.lowlevel.checkpoint()
        raise AssertionError('the next checkpoint is cancelled')
    check_self_cancelled(ctx)
    return ctx


@row('2', True, True, 'own')
async def cancel_and_wait(portal: tractor.Portal) -> tractor.Context:
    got = None
    async with portal.open_context(peers.idle, canceller=peers.uid()) as (ctx, _):
        await ctx.cancel()
        got = await ctx.wait_for_result()
        assert got is await ctx.wait_for_result()
        with pytest.raises(ContextCancelled) as caught:
            async with ctx.open_stream():
                pass
        assert caught.value is got
    assert got is ctx.outcome
    check_self_cancelled(ctx)
    assert await ctx.wait_for_result() is got
    with pytest.raises(ContextCancelled) as caught:
        async with ctx.open_stream():
            pass
    assert caught.value is got
    return ctx


@row('3', True, True, 'own')
async def cancel_from_another_task(portal: tractor.Portal) -> tractor.Context:
    async with (
        trio.open_nursery() as tn,
        portal.open_context(peers.idle, canceller=peers.uid()) as (ctx, _),
    ):
        tn.start_soon(ctx.cancel)
        await trio.sleep_forever()
    check_self_cancelled(ctx)
    assert ctx.cancelled_caught
    assert ctx._local_error is ctx.outcome
    return ctx


@row('3', True, True, 'own')
async def cancel_while_owner_waits(portal: tractor.Portal) -> tractor.Context:
    async with (
        trio.open_nursery() as tn,
        portal.open_context(peers.idle, canceller=peers.uid()) as (ctx, _),
    ):
        tn.start_soon(ctx.cancel)
        got = await ctx.wait_for_result()
        # the answer itself woke the owner, not the cancellation of its scope
        assert got is ctx.outcome
    check_self_cancelled(ctx)
    assert not ctx.cancelled_caught
    return ctx


@row('4', True, False, None)
async def cancel_too_late(portal: tractor.Portal) -> tractor.Context:
    async with portal.open_context(peers.give, value='done') as (ctx, _):
        assert await ctx.wait_for_result() == 'done'
        await ctx.cancel()
        await trio.lowlevel.checkpoint()
    assert ctx.outcome == 'done'
    assert await ctx.wait_for_result() == 'done'
    assert ctx.maybe_error is None
    assert ctx._local_error is None
    return ctx


async def _cancelled_child_fails(portal: tractor.Portal, masked: bool) -> tractor.Context:
    with pytest.raises(RemoteActorError) as caught:
        async with portal.open_context(peers.fail_while_cancelled, masked=masked) as (ctx, _):
            await portal.run(peers.set_mark, name='go')
            await ctx.cancel()
    check_error(ctx, caught.value)
    assert caught.value.boxed_type is RuntimeError
    assert 'the real one' in caught.value.tb_str
    return ctx


@row('5', True, False, 'peer')
async def child_fails_while_cancelled(portal: tractor.Portal) -> tractor.Context:
    return await _cancelled_child_fails(portal, masked=False)


@row('5', True, False, 'peer')
async def child_fails_masked(portal: tractor.Portal) -> tractor.Context:
    return await _cancelled_child_fails(portal, masked=True)


async def _body_fails(
    portal: tractor.Portal, error: BaseException, streaming: bool
) -> tractor.Context:
    caught: BaseException | None = None
    target = peers.stopped_then_cancelled if streaming else peers.idle
    try:
        async with AsyncExitStack() as stack:
            ctx, _ = await stack.enter_async_context(portal.open_context(target))
            if streaming:
                await stack.enter_async_context(ctx.open_stream())
            raise error
    except type(error) as err:
        caught = err
    assert caught is ctx._local_error
    if isinstance(error, ExceptionGroup):
        # trio rebuilds groups
        assert isinstance(caught, ExceptionGroup)
        assert caught.exceptions == error.exceptions
    else:
        assert caught is error
    check_self_cancelled(ctx)
    return ctx


@row('6', True, True, 'own')
async def body_fails(portal: tractor.Portal) -> tractor.Context:
    return await _body_fails(portal, ValueError('ours'), streaming=False)


@row('6', True, True, 'own')
async def body_fails_streaming(portal: tractor.Portal) -> tractor.Context:
    return await _body_fails(portal, ValueError('ours'), streaming=True)


@row('6', True, True, 'own')
async def body_fails_with_a_group(portal: tractor.Portal) -> tractor.Context:
    group = ExceptionGroup('two', [ValueError('ours'), KeyError('too')])
    return await _body_fails(portal, group, streaming=True)


@row('6', True, True, 'own')
async def body_is_interrupted(portal: tractor.Portal) -> tractor.Context:
    return await _body_fails(portal, KeyboardInterrupt(), streaming=True)


@row('7', True, True, 'own')
async def outer_scope_cancels(portal: tractor.Portal) -> tractor.Context:
    with trio.CancelScope() as scope:
        async with portal.open_context(peers.idle, canceller=peers.uid()) as (ctx, _):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert not ctx.cancelled_caught
    assert isinstance(ctx._local_error, trio.Cancelled)
    check_self_cancelled(ctx)
    return ctx


@row('7', True, True, 'own')
async def outer_scope_cancels_at_the_end(portal: tractor.Portal) -> tractor.Context:
    with trio.CancelScope() as scope:
        async with portal.open_context(peers.idle, canceller=peers.uid()) as (ctx, _):
            scope.cancel()
    assert scope.cancelled_caught
    assert isinstance(ctx._local_error, trio.Cancelled)
    check_self_cancelled(ctx)
    return ctx


@row('7', True, True, 'own')
async def outer_scope_cancels_before_started(portal: tractor.Portal) -> tractor.Context:
    async def cancel_when_entered() -> None:
        await portal.run(peers.await_mark, name='entered')
        found.extend(ctx for ctx in portal.actor._contexts.values() if 'hang' in str(ctx._nsf))
        scope.cancel()

    found: list[tractor.Context] = []
    async with trio.open_nursery() as tn:
        tn.start_soon(cancel_when_entered)
        with trio.CancelScope() as scope:
            async with portal.open_context(peers.hang_before_started):
                raise AssertionError('it does not start')
    (ctx,) = found
    assert scope.cancelled_caught
    assert isinstance(ctx._local_error, trio.Cancelled)
    check_self_cancelled(ctx)
    return ctx


@row('9', False, False, 'own')
async def our_actor_cancels_the_peer(portal: tractor.Portal) -> tractor.Context:
    with pytest.raises(ContextCancelled) as caught:
        async with portal.open_context(peers.idle, canceller=peers.uid(), by_task=False) as (
            ctx,
            _,
        ):
            await portal.cancel_actor()
            await trio.sleep_forever()
    check_error(ctx, caught.value)
    assert caught.value.canceller == peers.uid()
    assert ctx.chan._cancel_called
    with pytest.raises(ContextCancelled) as again:
        await ctx.wait_for_result()
    assert again.value is caught.value
    return ctx


@row('9b', True, True, 'own')
async def cancel_both(portal: tractor.Portal) -> tractor.Context:
    async with portal.open_context(peers.idle) as (ctx, _):
        await ctx.cancel()
        await portal.cancel_actor()
    check_self_cancelled(ctx)
    return ctx


@row('10', False, False, 'peer')
async def third_actor_cancels(portal: tractor.Portal) -> tractor.Context:
    async with peers.open_peer('third') as third:
        third_uid = tuple(await third.run(peers.whoami))
        with pytest.raises(ContextCancelled) as caught:
            async with portal.open_context(peers.idle, canceller=third_uid, by_task=False) as (
                ctx,
                _,
            ):
                await third.run(peers.cancel_other, name='peer')
                await trio.sleep_forever()
    check_error(ctx, caught.value)
    assert caught.value.canceller == third_uid
    assert ctx.repr_state == 'peer-cancelled'
    return ctx


@row('11', False, False, 'peer')
async def child_cancels_its_context(portal: tractor.Portal) -> tractor.Context:
    with pytest.raises(ContextCancelled) as caught:
        async with portal.open_context(peers.cancel_own_context) as (ctx, _):
            await trio.sleep_forever()
    check_error(ctx, caught.value)
    assert caught.value.canceller == ctx.chan.aid.uid
    assert 'itself' in caught.value.tb_str
    return ctx


@row('12', False, False, 'peer')
async def child_cancels_before_started(portal: tractor.Portal) -> tractor.Context:
    entered = False
    with pytest.raises(ContextCancelled) as caught:
        async with portal.open_context(peers.cancel_own_context, early=True):
            entered = True
    assert not entered
    assert caught.value.canceller == portal.chan.aid.uid
    assert 'itself' in caught.value.tb_str
    return _FromEntry(caught.value, portal)


@row('13', False, False, 'peer')
async def child_cancels_its_actor(portal: tractor.Portal) -> tractor.Context:
    with pytest.raises(ContextCancelled) as caught:
        async with portal.open_context(peers.cancel_own_actor) as (ctx, _):
            await trio.sleep_forever()
    check_error(ctx, caught.value)
    assert caught.value.canceller == ctx.chan.aid.uid
    return ctx


@row('14', False, False, 'peer')
async def child_fails_before_started(portal: tractor.Portal) -> tractor.Context:
    entered = False
    with pytest.raises(RemoteActorError) as caught:
        async with portal.open_context(peers.fail_before_started):
            entered = True
    assert not entered
    assert caught.value.boxed_type is ValueError
    return _FromEntry(caught.value, portal)


@row('15', False, False, 'peer')
async def child_fails(portal: tractor.Portal) -> tractor.Context:
    with pytest.raises(RemoteActorError) as caught:
        async with portal.open_context(peers.fail_on_mark) as (ctx, _):
            await portal.run(peers.set_mark, name='fail')
            await trio.sleep_forever()
    check_error(ctx, caught.value)
    assert caught.value.boxed_type is ValueError
    # what the body got was the cancellation of its scope
    assert ctx.cancelled_caught
    return ctx


@row('15', False, False, 'peer')
async def child_fails_while_waited_for(portal: tractor.Portal) -> tractor.Context:
    with pytest.raises(RemoteActorError) as caught:
        async with portal.open_context(peers.fail_on_mark) as (ctx, _):
            await portal.run(peers.set_mark, name='fail')
            with pytest.raises(RemoteActorError) as inner:
                await ctx.wait_for_result()
            assert inner.value is ctx._remote_error
            raise inner.value
    check_error(ctx, caught.value)
    return ctx


@row('16', False, False, 'peer')
async def remote_error_is_swallowed(portal: tractor.Portal) -> tractor.Context:
    with pytest.raises(RemoteActorError) as caught:
        async with portal.open_context(peers.fail_on_mark) as (ctx, _):
            await portal.run(peers.set_mark, name='fail')
            with pytest.raises(RemoteActorError) as inner:
                await ctx.wait_for_result()
            with pytest.raises(trio.Cancelled):
                await trio.lowlevel.checkpoint()
    check_error(ctx, caught.value)
    assert inner.value is caught.value
    return ctx


@row('17', False, False, 'peer')
async def child_relays_a_cancellation(portal: tractor.Portal) -> tractor.Context:
    async with peers.open_peer('other') as other:
        other_uid = other.chan.aid.uid
        with pytest.raises(ContextCancelled) as caught:
            async with portal.open_context(peers.relay_cancellation, name='other') as (ctx, _):
                await trio.sleep_forever()
    check_error(ctx, caught.value)
    assert caught.value.canceller == other_uid
    assert caught.value.src_uid == ctx.chan.aid.uid
    assert caught.value.relay_path == [other_uid, ctx.chan.aid.uid]
    return ctx


@row('18', True, False, 'peer')
async def body_fails_for_a_cancellation(portal: tractor.Portal) -> tractor.Context:
    error = RuntimeError('ours')
    async with peers.open_peer('third') as third:
        with pytest.raises(RuntimeError) as caught:
            async with (
                third.open_context(peers.cancel_other_on_mark, name='peer') as (enclosing, _),
                portal.open_context(peers.idle) as (ctx, _),
            ):
                with trio.CancelScope(shield=True):
                    await third.run(peers.set_mark, name='go')
                try:
                    await ctx.wait_for_result()
                except ContextCancelled:
                    raise error from None
    assert caught.value is error
    assert ctx._local_error is enclosing._local_error is error
    assert isinstance(ctx.outcome, ContextCancelled)
    assert enclosing.cancel_called
    assert enclosing.cancel_acked
    return ctx


PEER_IS_GONE = (
    our_actor_cancels_the_peer,
    cancel_both,
    third_actor_cancels,
    child_cancels_its_actor,
    body_fails_for_a_cancellation,
)


class _FromEntry:
    """Of a context whose block was never entered only the error is known."""

    cancel_called = False
    cancel_acked = False

    def __init__(self, error: RemoteActorError, portal: tractor.Portal) -> None:
        self.canceller = error.src_uid
        self.chan = portal.chan
        self.cid = None


@pytest.mark.parametrize(('case', 'called', 'acked', 'canceller'), ROWS)
@tractor_test
async def test_row(
    case: Any,
    called: bool,
    acked: bool,
    canceller: str | None,
    start_method: str,
    tpt_proto: str,
    reg_addr: Any,
) -> None:
    async with peers.open_peer() as portal:
        ctx = await case(portal)
        whose = {'own': peers.uid(), 'peer': ctx.chan.aid.uid, None: None}
        assert (ctx.cancel_called, ctx.cancel_acked) == (called, acked)
        assert ctx.canceller == whose[canceller]
        assert tractor.current_ipc_ctx() is None
        assert not portal.actor._contexts
        if case not in PEER_IS_GONE:
            assert await portal.run(peers.running) == []


@tractor_test
async def test_cancelled_before_accepted(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    """Row 8: there is no context yet, and what the peer begins all the same is cancelled."""
    async with peers.open_peer() as portal, trio.open_nursery() as tn:
        tn.start_soon(lambda: portal.run(peers.block_loop, seconds=0.3))
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            tn.start_soon(_cancel_when_blocked, scope)
            async with portal.open_context(peers.idle):
                raise AssertionError('nothing was accepted')
        assert scope.cancelled_caught
        assert not [ctx for ctx in portal.actor._contexts.values() if 'idle' in str(ctx._nsf)]
        await portal.run(peers.no_task_named, name='idle')
        assert 'idle' not in await portal.run(peers.running)


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()
