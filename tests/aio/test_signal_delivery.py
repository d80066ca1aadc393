"""collaboration: the signal reaches an asyncio task wherever it is, and leaves asyncio's own things in order."""

import asyncio
import contextlib
import gc
import sys
import warnings
from pathlib import Path

import pytest
import trio

from tractor._aio import _pair
from tractor._code_load import load_module_from_path
from tractor.to_asyncio import (
    AsyncioCancelled,
    QueueShutDown,
    TrioCancelled,
    TrioTaskExited,
    open_channel_from,
    run_task,
)

guests = sys.modules.get('aio_guests') or load_module_from_path(
    Path(__file__).with_name('aio_guests.py')
)
run_guest, until = guests.run_guest, guests.until


async def forever():
    await asyncio.get_running_loop().create_future()


async def several_turns():
    for _ in range(5):
        await trio.lowlevel.checkpoint()


def leave(target, **kwargs):
    """Link a task, let it get where it waits, leave the block; return what the block raised, if anything."""

    async def main():
        async with open_channel_from(target, **kwargs) as (chan, _):
            await several_turns()
        assert chan._aio_task.done()

    try:
        run_guest(main)
    except Exception as err:  # noqa: BLE001 - what is asked for
        return err
    return None


# --- places to wait


async def wait_in_task():
    await asyncio.create_task(forever())


async def wait_in_gather():
    await asyncio.gather(forever(), forever())


async def wait_in_wait_for():
    await asyncio.wait_for(forever(), 1000)


async def wait_in_timeout():
    async with asyncio.timeout(1000):
        await forever()


async def wait_in_shield():
    future = asyncio.get_running_loop().create_future()
    try:
        await asyncio.shield(future)
    finally:
        assert not future.done()


async def wait_in_group_body():
    async with asyncio.TaskGroup() as tg:
        tg.create_task(forever())
        await forever()


async def wait_at_group_end():
    async with asyncio.TaskGroup() as tg:
        tg.create_task(forever())
        tg.create_task(forever())


async def wait_for_lock():
    lock = asyncio.Lock()
    await lock.acquire()
    await lock.acquire()


async def wait_for_condition():
    condition = asyncio.Condition()
    async with condition:
        await condition.wait()


async def wait_for_semaphore():
    await asyncio.Semaphore(0).acquire()


async def wait_in_busy_loop():
    while True:  # noqa: ASYNC110 - being busy is the point
        await asyncio.sleep(0)


async def wait_in_generator():
    async def numbers():
        yield 1
        await forever()

    async for _ in numbers():
        pass


PLACES = {name: place for name, place in vars().items() if name.startswith('wait_')}
GROUPED = {'wait_in_group_body'}


@pytest.mark.parametrize('place', PLACES)
def test_the_signal_is_raised_where_a_task_waits(place):
    seen = []

    async def target(chan):
        chan.started_nowait()
        try:
            await PLACES[place]()
        except BaseException as err:
            seen.append(err)
            assert asyncio.current_task().cancelling() == 0
            raise

    assert leave(target) is None
    (signal,) = seen
    if place in GROUPED:
        assert [type(err) for err in signal.exceptions] == [TrioTaskExited]
    else:
        assert isinstance(signal, TrioTaskExited)
    # only these need to be lied to
    careful = place in ('wait_at_group_end', 'wait_for_lock', 'wait_for_semaphore')
    careful |= place == 'wait_for_condition'
    assert isinstance(signal, asyncio.CancelledError) is careful


def test_a_task_that_absorbs_the_signal_may_go_on():
    """It can wait again, also under a timeout, and is not cancelled any more."""
    done = []

    async def target(chan):
        chan.started_nowait()
        with contextlib.suppress(TrioTaskExited):
            await chan.get()
        async with asyncio.TaskGroup() as tg:
            tg.create_task(asyncio.sleep(0))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await forever()
        done.append(True)

    assert leave(target) is None
    assert done


def test_a_lock_that_was_just_handed_over_is_not_lost():
    """The signal meets a task which was given the lock in the same step: the next one waiting gets it."""

    async def acquire(chan, lock):
        chan.started_nowait()
        await lock.acquire()

    async def main():
        lock = asyncio.Lock()
        await run_task(lock.acquire)
        async with trio.open_nursery() as tn:

            async def next_in_line():
                assert await run_task(lock.acquire)

            async with open_channel_from(acquire, lock=lock):
                await several_turns()
                tn.start_soon(next_in_line)
                await several_turns()
                lock.release()

    run_guest(main)


# --- tasks that swallow it


def test_an_awaited_task_that_swallows_the_cancellation():
    """The signal is then raised in the task which awaited it."""
    seen = []

    async def inner():
        try:
            await forever()
        except asyncio.CancelledError:
            return 'swallowed'

    async def target(chan):
        chan.started_nowait()
        try:
            await asyncio.create_task(inner())
        except TrioTaskExited as err:
            seen.append(err)
            raise

    assert leave(target) is None
    assert [type(err) for err in seen] == [TrioTaskExited]


def test_an_awaited_task_that_fails_when_cancelled():
    async def inner():
        try:
            await forever()
        finally:
            raise KeyError('from within')

    async def target(chan):
        chan.started_nowait()
        try:
            await asyncio.create_task(inner())
        except KeyError:
            # the signal is still to come
            await forever()

    assert leave(target) is None


@pytest.mark.parametrize('times', [1, 3])
def test_a_task_that_swallows_the_signal_is_cancelled_again(times, monkeypatch, caplog):
    """Every time, until it ends; what it gets then is the plain cancellation."""
    monkeypatch.setattr(_pair, '_PATIENCE', 0.01)
    seen = []

    async def target(chan):
        chan.started_nowait()
        for _ in range(times + 1):
            try:
                await forever()
            except BaseException as err:  # noqa: BLE001 - it swallows them
                seen.append(type(err))

    assert leave(target) is None
    assert seen == [TrioTaskExited] + [asyncio.CancelledError] * times
    assert caplog.text.count('it is cancelled again') == times


def test_a_task_that_swallows_everything_does_not_get_its_error_lost(monkeypatch):
    monkeypatch.setattr(_pair, '_PATIENCE', 0.01)

    async def target(chan):
        chan.started_nowait()
        try:
            await forever()
        except TrioTaskExited:
            try:
                await forever()
            except asyncio.CancelledError:
                raise KeyError('at last') from None

    assert type(leave(target)) is KeyError


def test_leaving_waits_though_it_is_cancelled(monkeypatch):
    """The wait for the asyncio task is shielded: whoever left knows that it has ended."""
    monkeypatch.setattr(_pair, '_PATIENCE', 0.01)
    ended = []

    async def target(chan):
        chan.started_nowait()
        try:
            await forever()
        except TrioCancelled:
            try:
                await forever()
            finally:
                ended.append(True)

    async def main():
        with trio.CancelScope() as scope:
            async with open_channel_from(target):
                scope.cancel()
                await trio.sleep_forever()
        assert ended

    run_guest(main)


# --- tasks that were not begun


@pytest.mark.parametrize('how', ['run_task', 'open_channel_from', 'directly'])
def test_a_task_that_is_cancelled_before_its_first_step(how):
    """Its coroutine is closed, and who linked it is told."""
    begun = []

    async def target(chan):
        begun.append(True)

    async def main():
        with trio.CancelScope() as scope:
            scope.cancel()
            if how == 'run_task':
                await run_task(target)
            elif how == 'open_channel_from':
                async with open_channel_from(target):
                    pass
            else:
                chan = _pair._start(target, {}, _pair.Link(), {'chan'})
                chan.cancel_asyncio_task()
                with trio.CancelScope(shield=True):
                    async with _pair.translate_aio_errors(chan):
                        await chan._wait_done()

    with warnings.catch_warnings():
        warnings.simplefilter('error')
        if how == 'directly':
            with pytest.raises(AsyncioCancelled):
                run_guest(main)
        else:
            run_guest(main)
        gc.collect()
    assert not begun


def test_a_channel_that_is_used_after_the_signal_was_consumed():
    seen = []

    async def target(chan):
        chan.started_nowait()
        try:
            await chan.get()
        except TrioTaskExited:
            for use in (chan.get, chan.get, lambda: asyncio.to_thread(str)):
                try:
                    await use()
                except QueueShutDown:
                    seen.append('shut down')
            with pytest.raises(trio.BrokenResourceError):
                chan.send_nowait('too late')
            await chan.get()

    assert leave(target) is None
    assert seen == ['shut down'] * 2
