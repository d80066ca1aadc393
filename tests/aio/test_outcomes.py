"""collaboration: how the two tasks of a pair end, each case in both orders, in a guest run without actors."""

import asyncio
import sys
from pathlib import Path

import pytest
import trio

from tractor._code_load import load_module_from_path
from tractor.to_asyncio import (
    AsyncioCancelled,
    AsyncioTaskExited,
    TrioCancelled,
    TrioTaskExited,
    open_channel_from,
)

guests = sys.modules.get('aio_guests') or load_module_from_path(
    Path(__file__).with_name('aio_guests.py')
)
run_guest, until = guests.run_guest, guests.until


class Own(Exception):
    """Of the trio side."""


class Theirs(Exception):
    """Of the asyncio side."""


class Seen:
    """What the asyncio task was given, and how its block was left."""

    signal = None
    leaves = None
    task = None


async def forever():
    await asyncio.get_running_loop().create_future()


# --- asyncio tasks, by how they end when they get the signal, or before


async def echoes(chan, seen):
    chan.started_nowait('first')
    try:
        await forever()
    except BaseException as err:
        seen.signal = err
        raise


async def absorbs(chan, seen):
    chan.started_nowait('first')
    try:
        await forever()
    except TrioTaskExited as err:
        seen.signal = err


async def fails(chan, seen):
    chan.started_nowait('first')
    try:
        await forever()
    except TrioTaskExited as err:
        seen.signal = err
        raise Theirs from None


async def fails_in_context(chan, seen):
    chan.started_nowait('first')
    try:
        await forever()
    finally:
        seen.signal = sys.exception()
        raise Theirs


async def cancels_itself_instead(chan, seen):
    chan.started_nowait('first')
    try:
        await forever()
    except TrioTaskExited as err:
        seen.signal = err
        raise asyncio.CancelledError from None


async def echoes_in_group(chan, seen):
    async with asyncio.TaskGroup() as tg:
        tg.create_task(forever())
        await echoes(chan, seen)


async def returned(chan, seen):
    chan.started_nowait('first')


async def raises_at_once(chan, seen):
    chan.started_nowait('first')
    raise Theirs


async def cancelled_at_once(chan, seen):
    chan.started_nowait('first')
    asyncio.current_task().cancel()
    await forever()


ECHO = [echoes, echoes_in_group, cancels_itself_instead]
INDEPENDENT = [fails, fails_in_context]


# --- the frame of each case


def run_pair(target, body, *, suppress=True):
    """Run a pair; return `(Seen, the exception that left the block or None)`.

    The order in which both sides get to run within a turn of the loop is not defined.
    """
    seen = Seen()

    async def main():
        with trio.CancelScope() as seen.scope:
            try:
                async with open_channel_from(target, suppress, seen=seen) as (chan, first):
                    seen.task = chan._aio_task
                    assert first == 'first'
                    await body(chan, seen)
            except BaseException as err:
                seen.leaves = err
                if isinstance(err, trio.Cancelled):
                    raise
            finally:
                assert seen.task is None or seen.task.done()
        seen.survived = not seen.scope.cancelled_caught

    run_guest(main)
    return seen


async def ends(chan, seen):
    await trio.lowlevel.checkpoint()


async def ends_late(chan, seen):
    await until(chan._aio_task.done)


async def raises(chan, seen):
    raise Own


async def cancelled_outside(chan, seen):
    seen.scope.cancel()
    await trio.sleep_forever()


async def receives(chan, seen):
    await chan.receive()


async def iterates(chan, seen):
    seen.got = [value async for value in chan]
    # the body goes on, and nothing is cancelled
    await trio.lowlevel.checkpoint()
    seen.went_on = True


async def sleeps(chan, seen):
    await trio.sleep_forever()


async def sleeps_in_nursery(chan, seen):
    async with trio.open_nursery() as tn:
        tn.start_soon(trio.sleep_forever)
        tn.start_soon(receives, chan, seen)


# --- the body ends


@pytest.mark.parametrize('target', [returned, absorbs])
@pytest.mark.parametrize('suppress', [True, False])
def test_1_the_body_ends_and_the_task_returns(target, suppress):
    seen = run_pair(target, ends_late if target is returned else ends, suppress=suppress)
    assert seen.leaves is None
    if target is absorbs:
        assert type(seen.signal) is TrioTaskExited
        assert seen.signal.__cause__ is None


@pytest.mark.parametrize('target', ECHO)
@pytest.mark.parametrize('suppress', [True, False])
def test_2_the_body_ends_and_the_task_echoes(target, suppress):
    seen = run_pair(target, ends, suppress=suppress)
    assert type(seen.signal) is TrioTaskExited
    assert seen.leaves is (None if suppress else seen.signal)


@pytest.mark.parametrize('target', INDEPENDENT)
@pytest.mark.parametrize('suppress', [True, False])
def test_3_the_body_ends_and_the_task_fails(target, suppress):
    seen = run_pair(target, ends, suppress=suppress)
    assert type(seen.leaves) is Theirs
    assert seen.leaves.__cause__ is None


# --- the body raises


@pytest.mark.parametrize('target', [*ECHO, absorbs, returned])
@pytest.mark.parametrize('suppress', [True, False])
def test_4_the_body_raises_and_the_task_echoes_or_returns(target, suppress):
    seen = run_pair(target, raises, suppress=suppress)
    assert type(seen.leaves) is Own
    assert seen.leaves.__cause__ is seen.leaves.__context__ is None
    if target is not returned:
        assert type(seen.signal) is TrioCancelled
        assert seen.signal.__cause__ is seen.leaves


@pytest.mark.parametrize('target', INDEPENDENT)
@pytest.mark.parametrize('cause', [None, OSError()])
def test_5_the_body_raises_and_the_task_fails(target, cause):
    async def body(chan, seen):
        raise Own from cause

    seen = run_pair(target, body)
    assert type(seen.leaves) is Own
    assert type(seen.signal) is TrioCancelled
    if cause is None:
        assert type(seen.leaves.__cause__) is Theirs
    else:
        assert seen.leaves.__cause__ is cause


# --- cancelled from outside


@pytest.mark.parametrize('target', [*ECHO, absorbs, returned])
@pytest.mark.parametrize('suppress', [True, False])
def test_6_cancelled_and_the_task_echoes_or_returns(target, suppress):
    seen = run_pair(target, cancelled_outside, suppress=suppress)
    assert type(seen.leaves) is trio.Cancelled
    assert not seen.survived
    if target is not returned:
        assert type(seen.signal) is TrioCancelled
        assert seen.signal.__cause__ is seen.leaves


@pytest.mark.parametrize('target', INDEPENDENT)
def test_7_cancelled_and_the_task_fails(target):
    seen = run_pair(target, cancelled_outside)
    assert type(seen.leaves) is Theirs
    assert seen.leaves.__cause__ is None
    # its context is what it was raised under over there, not what the block was left by
    context = seen.leaves.__context__
    assert context is (seen.signal if target is fails_in_context else context)
    assert not isinstance(context, trio.Cancelled)


# --- the body waits for a value


def test_8_the_end_of_the_task_ends_the_iteration():
    seen = run_pair(returned, iterates)
    assert (seen.leaves, seen.got, seen.went_on) == (None, [], True)


def test_8_the_end_of_the_task_ends_the_channel():
    seen = run_pair(returned, receives)
    assert type(seen.leaves) is trio.EndOfChannel


@pytest.mark.parametrize('body', [receives, iterates])
def test_8_the_end_of_the_task_is_an_error_if_not_suppressed(body):
    seen = run_pair(returned, body, suppress=False)
    assert type(seen.leaves) is AsyncioTaskExited


@pytest.mark.parametrize('body', [receives, iterates])
@pytest.mark.parametrize('suppress', [True, False])
def test_9_the_error_of_the_task_is_received(body, suppress):
    received = []

    async def catching(chan, seen):
        try:
            await body(chan, seen)
        except Theirs as err:
            received.append(err)
            raise

    seen = run_pair(raises_at_once, catching, suppress=suppress)
    assert type(seen.leaves) is Theirs
    assert [seen.leaves] == received
    assert seen.leaves.__cause__ is seen.leaves.__context__ is None


@pytest.mark.parametrize('body', [receives, iterates])
def test_10_a_cancelled_task_is_received(body):
    seen = run_pair(cancelled_at_once, body)
    assert type(seen.leaves) is AsyncioCancelled
    assert type(seen.leaves.__cause__) is asyncio.CancelledError


# --- the body is blocked elsewhere


@pytest.mark.parametrize('body', [sleeps, sleeps_in_nursery])
@pytest.mark.parametrize(
    ('target', 'kind'), [(raises_at_once, Theirs), (cancelled_at_once, AsyncioCancelled)]
)
def test_11_the_end_of_the_task_cancels_the_body(target, kind, body):
    seen = run_pair(target, body)
    assert type(seen.leaves) is kind
    assert seen.survived
    if kind is Theirs:
        assert seen.leaves.__cause__ is None
    else:
        assert type(seen.leaves.__cause__) is asyncio.CancelledError


def test_11_the_error_of_the_task_is_raised_after_a_body_that_does_not_wait():
    async def body(chan, seen):
        with trio.CancelScope(shield=True):
            await ends_late(chan, seen)

    assert type(run_pair(raises_at_once, body).leaves) is Theirs


@pytest.mark.parametrize('suppress', [True, False])
def test_12_the_return_of_the_task_leaves_the_body_alone(suppress):
    async def body(chan, seen):
        await ends_late(chan, seen)
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        seen.went_on = True

    seen = run_pair(returned, body, suppress=suppress)
    assert (seen.leaves, seen.went_on) == (None, True)


# --- races


def test_asyncio_fails_a_turn_before_a_trio_task_starts():
    async def later(chan, seen):
        await until(chan._aio_task.done)
        await trio.lowlevel.checkpoint()
        raise Own

    async def body(chan, seen):
        async with trio.open_nursery() as tn:
            tn.start_soon(later, chan, seen)

    assert type(run_pair(raises_at_once, body).leaves) is Theirs


def test_trio_raises_in_the_step_that_makes_asyncio_fail():
    async def target(chan, seen):
        chan.started_nowait('first')
        await chan.get()
        raise Theirs

    async def body(chan, seen):
        chan._to_aio.put_nowait('now')
        raise Own

    seen = run_pair(target, body)
    assert type(seen.leaves) is Own


def test_trio_raises_while_asyncio_has_failed():
    async def body(chan, seen):
        with trio.CancelScope(shield=True):
            await ends_late(chan, seen)
        raise Own

    seen = run_pair(raises_at_once, body)
    assert type(seen.leaves) is Own
    assert type(seen.leaves.__cause__) is Theirs


@pytest.mark.parametrize('target', ECHO)
def test_an_error_from_elsewhere_is_not_replaced(target):
    """A sibling fails: the pair is cancelled, and only the sibling's error comes out."""
    seen = Seen()

    async def pair(task_status):
        async with open_channel_from(target, seen=seen):
            task_status.started()
            await trio.sleep_forever()

    async def main():
        async with trio.open_nursery() as tn:
            await tn.start(pair)
            raise NameError('elsewhere')

    with pytest.raises(BaseExceptionGroup) as info:
        run_guest(main)
    assert [type(e) for e in info.value.exceptions] == [NameError]
    assert type(seen.signal) is TrioCancelled


def test_nothing_is_printed(capfd):
    """Errors reach the trio side and nothing else: asyncio's exception handler stays silent."""
    for target, body in ((raises_at_once, sleeps), (fails, raises), (cancelled_at_once, sleeps)):
        run_pair(target, body)
    assert capfd.readouterr() == ('', '')
