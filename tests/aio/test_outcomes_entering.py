"""collaboration: tasks that end before the block is entered, and tasks without a block, in a guest run without actors."""

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
    run_task,
)

guests = sys.modules.get('aio_guests') or load_module_from_path(
    Path(__file__).with_name('aio_guests.py')
)
run_guest = guests.run_guest


class Theirs(Exception):
    """Of the asyncio side."""


async def forever():
    await asyncio.get_running_loop().create_future()


# --- entering


async def enter(target, **kwargs):
    async with open_channel_from(target, **kwargs):
        raise AssertionError('the block was entered')


async def fails_first(chan):
    raise Theirs


async def fails_first_later(chan):
    await asyncio.sleep(0)
    raise Theirs


async def cancels_itself_first(chan):
    asyncio.current_task().cancel()
    await forever()


async def returns_first(chan):
    pass


@pytest.mark.parametrize(
    ('target', 'kind'),
    [
        (fails_first, Theirs),
        (fails_first_later, Theirs),
        (cancels_itself_first, AsyncioCancelled),
        (returns_first, AsyncioTaskExited),
    ],
)
@pytest.mark.parametrize('suppress', [True, False])
def test_13_14_the_task_ends_before_its_first_value(target, kind, suppress):
    async def main():
        await enter(target, suppress_graceful_exits=suppress)

    with pytest.raises(kind) as info:
        run_guest(main)
    assert type(info.value) is kind


@pytest.mark.parametrize('turns', range(6))
def test_cancelled_while_entering(turns):
    signals = []

    async def never_starts(chan):
        try:
            await forever()
        except TrioTaskExited as err:
            signals.append(err)
            raise

    async def main():
        async with trio.open_nursery() as tn:
            tn.start_soon(enter, never_starts)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            tn.cancel_scope.cancel()

    run_guest(main)
    # in the first turns it had not begun
    assert turns < 3 or signals
    assert all(type(err) is TrioCancelled for err in signals)


# --- run_task


async def value(of):
    await asyncio.sleep(0)
    return of


@pytest.mark.parametrize('of', [3, None])
def test_15_the_result_of_a_task(of):
    async def main():
        return await run_task(value, of=of)

    assert run_guest(main) == of


@pytest.mark.parametrize('later', [True, False])
def test_15_the_error_of_a_task(later):
    error = Theirs()

    async def target():
        if later:
            await asyncio.sleep(0)
        raise error

    async def main():
        await run_task(target)

    with pytest.raises(Theirs) as info:
        run_guest(main)
    assert info.value is error
    assert error.__cause__ is error.__context__ is None


def test_15_a_task_that_cancels_itself():
    async def target():
        asyncio.current_task().cancel('enough')
        await forever()

    async def main():
        await run_task(target)

    with pytest.raises(AsyncioCancelled) as info:
        run_guest(main)
    assert type(info.value.__cause__) is asyncio.CancelledError
    assert info.value.__cause__.args == ('enough',)


@pytest.mark.parametrize('turns', range(6))
@pytest.mark.parametrize('ending', ['echo', 'fail'])
def test_16_a_cancelled_run_task(turns, ending):
    seen = []

    async def target():
        try:
            await forever()
        except BaseException as err:
            seen.append(err)
            if ending == 'fail':
                raise Theirs from None
            raise

    async def main():
        async with trio.open_nursery() as tn:
            tn.start_soon(run_task, target)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            tn.cancel_scope.cancel()

    if ending == 'echo' or turns < 2:
        try:
            run_guest(main)
        except BaseExceptionGroup as group:
            assert group.subgroup(Theirs) is not None and seen
    else:
        with pytest.raises(BaseExceptionGroup) as info:
            run_guest(main)
        assert [type(e) for e in info.value.exceptions] == [Theirs]
    assert all(type(err) is TrioCancelled for err in seen)
    assert turns < 3 or len(seen) == 1
