"""collaboration: trio tasks for asyncio code, as futures."""

import asyncio
import sys
from pathlib import Path

import pytest
import trio

from tractor._code_load import load_module_from_path
from tractor.to_asyncio import run_task, run_trio_task_in_future

guests = sys.modules.get('aio_guests') or load_module_from_path(
    Path(__file__).with_name('aio_guests.py')
)
run_guest = guests.run_guest


def in_asyncio(target):
    """Run an asyncio function in a guest."""
    return run_guest(run_task, target)


def test_a_trio_task_for_asyncio():
    async def add(a, b):
        await trio.lowlevel.checkpoint()
        return a + b

    async def target():
        return await run_trio_task_in_future(add, 1, 2)

    assert in_asyncio(target) == 3


@pytest.mark.parametrize('kind', [KeyError, KeyboardInterrupt, asyncio.CancelledError])
def test_its_error(kind):
    async def fail():
        raise kind('of trio')

    async def target():
        future = run_trio_task_in_future(fail)
        await asyncio.wait([future])
        assert type(future.exception()) is kind

    in_asyncio(target)


@pytest.mark.parametrize('grouped', [False, True])
def test_cancelling_it(grouped):
    """The trio task is cancelled first; the future is when that has ended."""
    trail = []

    async def wait():
        try:
            if not grouped:
                await trio.sleep_forever()
            async with trio.open_nursery() as tn:
                tn.start_soon(trio.sleep_forever)
                tn.start_soon(trio.sleep_forever)
        finally:
            trail.append('trio')

    async def target():
        future = run_trio_task_in_future(wait)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert future.cancel('enough')
        assert not future.done()
        with pytest.raises(asyncio.CancelledError) as info:
            await future
        trail.append(info.value.args)
        assert future.cancelled()
        assert not future.cancel()

    in_asyncio(target)
    assert trail == ['trio', ('enough',)]


def test_cancelling_one_that_has_something_to_tell():
    async def wait():
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            raise KeyError('while unwinding') from None

    async def give_in():
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
        return 'done'

    async def target():
        future = run_trio_task_in_future(wait)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        future.cancel()
        with pytest.raises(KeyError):
            await future
        future = run_trio_task_in_future(give_in)
        future.cancel()
        return await future

    assert in_asyncio(target) == 'done'


def test_only_the_errors_of_a_group_go_to_the_future():
    async def fail(error):
        raise error

    async def wait():
        async with trio.open_nursery() as tn:
            tn.start_soon(trio.sleep_forever)
            tn.start_soon(fail, KeyError('one'))
            tn.start_soon(fail, ValueError('two'))
            future.cancel()
            await trio.lowlevel.checkpoint()

    async def target():
        nonlocal future
        future = run_trio_task_in_future(wait)
        await asyncio.wait([future])
        return {type(err) for err in future.exception().exceptions}

    future = None
    assert in_asyncio(target) == {KeyError, ValueError}


def test_it_ends_with_the_run():
    futures = []

    async def target():
        futures.append(run_trio_task_in_future(trio.sleep_forever))

    in_asyncio(target)
    assert futures[0].cancelled()
