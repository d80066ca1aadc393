"""collaboration: the channel of a linked pair and the arguments of its target, in a guest run without actors."""

import asyncio
import contextlib
import functools
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

import tractor
from tractor._aio._channel import BUFFER_SIZE
from tractor._code_load import load_module_from_path
from tractor.to_asyncio import (
    AsyncioCancelled,
    LinkedTaskChannel,
    QueueShutDown,
    TrioTaskExited,
    open_channel_from,
    run_task,
)
from tractor.trionics import Lagged

guests = sys.modules.get('aio_guests') or load_module_from_path(
    Path(__file__).with_name('aio_guests.py')
)
run_guest, until = guests.run_guest, guests.until


async def echo(chan):
    chan.started_nowait('up')
    while True:
        chan.send_nowait(await chan.get())


async def count(chan, upto):
    chan.started_nowait()
    for n in range(upto):
        chan.send_nowait(n)
        await asyncio.sleep(0)
    return upto


async def started_and_waiting(chan):
    chan.started_nowait()
    await chan.get()


# --- values


def test_values_there_and_back():
    async def main():
        async with open_channel_from(echo) as (chan, first):
            assert isinstance(chan, LinkedTaskChannel)
            assert isinstance(chan, trio.abc.Channel)
            assert first == chan._aio_started_val == 'up'
            for n in (*range(1000), None):
                await chan.send(n)
                assert await chan.receive() == n
            assert not chan.closed()
            assert not chan._aio_task.done()
        assert chan.closed()
        assert chan._aio_task.done()

    run_guest(main)


def test_many_before_any_is_read():
    async def main():
        async with open_channel_from(echo) as (chan, _):
            for n in range(BUFFER_SIZE):
                await chan.send(n)
            assert [await chan.receive() for _ in range(BUFFER_SIZE)] == [*range(BUFFER_SIZE)]

    run_guest(main)


@pytest.mark.parametrize('fails', [False, True])
def test_what_is_buffered_is_received_before_the_end(fails):
    async def target(chan):
        chan.started_nowait()
        for n in range(100):
            chan.send_nowait(n)
        if fails:
            raise KeyError('after a hundred')

    async def main():
        got = []
        with pytest.raises(KeyError if fails else trio.EndOfChannel):
            async with open_channel_from(target) as (chan, _):
                if not fails:
                    await until(chan._done.is_set)
                while True:
                    got.append(await chan.receive())
        assert got == [*range(100)]

    run_guest(main)


@pytest.mark.parametrize('turns', range(8))
def test_a_cancelled_receive_loses_nothing(turns):
    """The cancellation comes at any turn of an echo: the value is received now, or by the next call."""

    async def main():
        got = []
        async with open_channel_from(echo) as (chan, _):
            async with trio.open_nursery() as tn:

                async def receive():
                    got.append(await chan.receive())

                tn.start_soon(receive)
                await chan.send('value')
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                tn.cancel_scope.cancel()
            if not got:
                got.append(await chan.receive())
        assert got == ['value']

    run_guest(main)


@pytest.mark.parametrize('member', ['send', 'receive', 'wait_for_result', 'aclose'])
def test_members_are_checkpoints(member):
    async def main():
        async with open_channel_from(echo) as (chan, _):
            with trio.testing.assert_checkpoints():
                if member == 'send':
                    await chan.send(1)
                elif member == 'receive':
                    chan._to_aio.put_nowait(1)
                    await chan.receive()
                elif member == 'aclose':
                    await chan.aclose()
                else:
                    with trio.move_on_after(0):
                        await chan.wait_for_result()

    run_guest(main)


@pytest.mark.parametrize('member', ['send', 'receive', 'wait_for_result'])
def test_a_cancelled_member_raises(member):
    async def main():
        async with open_channel_from(echo) as (chan, _):
            with trio.CancelScope() as scope:
                scope.cancel()
                await getattr(chan, member)(*([1] if member == 'send' else []))
            assert scope.cancelled_caught
            assert chan._to_aio.empty()

    run_guest(main)


# --- too many


def test_a_full_queue_to_asyncio():
    async def deaf(chan, go):
        chan.started_nowait()
        await go.wait()
        for n in range(BUFFER_SIZE):
            assert await chan.get() == n
        await chan.get()

    async def main():
        go = asyncio.Event()
        async with open_channel_from(deaf, go=go) as (chan, _):
            for n in range(BUFFER_SIZE):
                await chan.send(n)
            for _ in range(3):
                with trio.testing.assert_checkpoints(), pytest.raises(asyncio.QueueFull):
                    await chan.send('one too many')
            go.set()
            await until(chan._to_aio.empty)

    run_guest(main)


def test_a_full_queue_to_trio():
    full = []

    async def flood(chan):
        chan.started_nowait()
        await asyncio.sleep(0)
        for n in range(BUFFER_SIZE):
            chan.send_nowait(n)
        with pytest.raises(trio.WouldBlock):
            chan.send_nowait('one too many')
        full.append(True)

    async def main():
        async with open_channel_from(flood) as (chan, _):
            await until(lambda: full)
            assert [n async for n in chan] == [*range(BUFFER_SIZE)]

    run_guest(main)


# --- after the end


@pytest.mark.parametrize('ending', ['returns', 'fails', 'left'])
def test_a_channel_used_after_its_task_ended(ending):
    async def target(chan):
        chan.started_nowait()
        chan.send_nowait('last')
        if ending == 'fails':
            raise KeyError
        if ending == 'left':
            await chan.get()

    async def use(chan):
        with pytest.raises(trio.BrokenResourceError):
            await chan.send(1)

    async def main():
        # who leaves does not look at the end of the task first
        never = -float('inf') if ending == 'left' else float('inf')
        with contextlib.suppress(KeyError):
            async with open_channel_from(target) as (chan, _):
                with trio.CancelScope(shield=True, deadline=never):
                    await until(chan._aio_task.done)
                    await use(chan)
                    assert await chan.receive() == 'last'
                    with pytest.raises(KeyError if ending == 'fails' else trio.EndOfChannel):
                        await chan.receive()
        await use(chan)
        with pytest.raises(trio.ClosedResourceError):
            await chan.receive()
        with pytest.raises(trio.ClosedResourceError):
            chan.send_nowait(1)
        with pytest.raises(QueueShutDown):
            await run_task(chan.get)
        chan.cancel_asyncio_task()
        await chan.aclose()

    run_guest(main)


def test_the_result():
    async def main():
        async with open_channel_from(count, upto=3) as (chan, _):
            assert await chan.wait_for_result() == 3
            assert [n async for n in chan] == [0, 1, 2]
        assert await chan.wait_for_result() == 3

    run_guest(main)


def test_the_error_instead_of_a_result():
    error = KeyError('no result')

    async def target(chan):
        chan.started_nowait()
        await asyncio.sleep(0)
        raise error

    async def main():
        with pytest.raises(KeyError) as info:
            async with open_channel_from(target) as (chan, _):
                await chan.wait_for_result()
        assert info.value is error
        with pytest.raises(KeyError) as info:
            await chan.wait_for_result()
        assert info.value is error

    run_guest(main)


def test_no_result_of_a_task_that_was_left():
    async def main():
        async with open_channel_from(started_and_waiting) as (chan, _):
            pass
        with pytest.raises(TrioTaskExited):
            await chan.wait_for_result()

    run_guest(main)


@pytest.mark.parametrize('way', ['receive', 'wait_for_result', 'sleep'])
def test_cancel_asyncio_task(way):
    async def main():
        async with open_channel_from(started_and_waiting) as (chan, _):
            chan.cancel_asyncio_task('not wanted')
            wait = trio.sleep_forever if way == 'sleep' else getattr(chan, way)
            await wait()

    with pytest.raises(AsyncioCancelled) as info:
        run_guest(main)
    assert info.value.__cause__.args == ('not wanted',)


def test_closing_the_receiving_side():
    async def main():
        with pytest.raises(trio.BrokenResourceError):
            async with open_channel_from(echo) as (chan, _):
                await chan.aclose()
                assert chan.closed()
                with pytest.raises(trio.ClosedResourceError):
                    await chan.receive()
                await chan.send('cannot come back')
                await trio.sleep_forever()

    run_guest(main)


def test_started_twice():
    async def target(chan):
        chan.started_nowait(1)
        chan.started_nowait(2)

    async def main():
        async with open_channel_from(target) as (_, first):
            assert first == 1
            await trio.sleep_forever()

    with pytest.raises(RuntimeError, match='once only'):
        run_guest(main)


# --- several readers


def test_subscribers_get_everything():
    async def reader(chan, task_status):
        async with chan.subscribe() as values:
            task_status.started()
            return [n async for n in values]

    async def go_and_count(chan):
        chan.started_nowait()
        await chan.get()
        for n in range(10):
            chan.send_nowait(n)

    async def main():
        got = []

        async def collect(chan, task_status):
            got.append(await reader(chan, task_status))

        async with open_channel_from(go_and_count) as (chan, _), trio.open_nursery() as tn:
            for _ in range(3):
                await tn.start(collect, chan)
            await chan.send('go')
        assert got == [[*range(10)]] * 3

    run_guest(main)


def test_the_channel_itself_can_lag():
    async def main():
        async with open_channel_from(count, upto=BUFFER_SIZE + 10) as (chan, _):
            async with chan.subscribe() as values:
                async for _ in values:
                    pass
            with pytest.raises(Lagged):
                await chan.receive()

    run_guest(main)


def test_an_error_wakes_all_subscribers():
    async def target(chan):
        chan.started_nowait()
        await chan.get()
        raise KeyError

    async def main():
        async with open_channel_from(target) as (chan, _), trio.open_nursery() as tn:

            async def read(task_status):
                async with chan.subscribe() as values:
                    task_status.started()
                    await values.receive()

            for _ in range(3):
                await tn.start(read)
            await chan.send('fail')

    with pytest.raises(KeyError):
        run_guest(main)


# --- targets


async def legacy(to_trio, from_trio):
    to_trio.send_nowait('started')
    while True:
        to_trio.send_nowait(await from_trio.get())


async def with_other(other, chan):
    chan.started_nowait(other)


def returns_coroutine(chan):
    return echo(chan)


class Callable:
    async def __call__(self, chan):
        chan.started_nowait('called')

    async def method(self, chan):
        chan.started_nowait('method')


@pytest.mark.parametrize(
    ('target', 'kwargs', 'first'),
    [
        (legacy, {}, 'started'),
        (with_other, {'other': 1}, 1),
        (functools.partial(with_other, 2), {}, 2),
        (functools.partial(with_other, other=3), {}, 3),
        (returns_coroutine, {}, 'up'),
        (Callable(), {}, 'called'),
        (Callable().method, {}, 'method'),
    ],
)
def test_targets(target, kwargs, first):
    given = dict(kwargs)

    async def main():
        async with open_channel_from(target, **kwargs) as (_, value):
            assert value == first

    run_guest(main)
    assert kwargs == given


def test_run_task_offers_the_channel_too():
    async def target(chan, to_trio, from_trio):
        chan.started_nowait('no result')
        to_trio.send_nowait('nor this')
        assert from_trio.empty()
        return 'result'

    async def main():
        return await run_task(target)

    assert run_guest(main) == 'result'


def test_run_task_leaves_an_argument_of_that_name_alone():
    async def target(chan):
        return chan

    async def main():
        return await run_task(target, chan='mine')

    assert run_guest(main) == 'mine'


def test_run_task_of_other_awaitables():
    async def main():
        future = asyncio.get_running_loop().create_future()
        future.set_result('of a future')
        assert await run_task(lambda: future) == 'of a future'
        return await run_task(functools.partial(asyncio.sleep, 0, 'slept'))

    assert run_guest(main) == 'slept'


def test_qsize_is_ignored():
    async def main():
        return await run_task(functools.partial(asyncio.sleep, 0, 1), qsize=1)

    assert run_guest(main) == 1


def test_the_surface():
    from tractor import to_asyncio

    assert to_asyncio.__all__ == ['run_task', 'run_as_asyncio_guest']
    assert tractor.to_asyncio is to_asyncio
    assert 'to_asyncio' in dir(tractor)
    scope = {}
    exec('from tractor import *', scope)
    assert scope['to_asyncio'] is to_asyncio
