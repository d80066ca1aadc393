"""collaboration: guest mode itself, and what refuses it."""

import asyncio
import builtins
import contextlib
import functools
import signal
import sys
import threading
import types
from pathlib import Path

import pytest
import trio

import tractor
from tractor._code_load import load_module_from_path
from tractor.runtime import _state
from tractor.to_asyncio import (
    open_channel_from,
    run_as_asyncio_guest,
    run_task,
)

guests = sys.modules.get('aio_guests') or load_module_from_path(
    Path(__file__).with_name('aio_guests.py')
)
run_guest, until = guests.run_guest, guests.until


async def forever():
    await asyncio.get_running_loop().create_future()


async def nothing():
    pass


# --- outcomes


@pytest.mark.parametrize('value', [3, None, ValueError('returned, not raised')])
def test_the_value_of_main(value):
    async def main():
        await trio.lowlevel.checkpoint()
        return value

    assert run_as_asyncio_guest(main) is value


@pytest.mark.parametrize('kind', [ValueError, KeyboardInterrupt, SystemExit, trio.TooSlowError])
@pytest.mark.parametrize('at_once', [True, False])
def test_the_error_of_main_is_raised_bare(kind, at_once, capfd):
    error = kind('of main')

    async def main():
        if not at_once:
            await trio.lowlevel.checkpoint()
        raise error

    with pytest.raises(kind) as info:
        run_as_asyncio_guest(main)
    assert info.value is error
    assert capfd.readouterr() == ('', '')


def test_both_libraries_work_in_one_thread():
    async def in_asyncio():
        import sniffio

        assert sniffio.current_async_library() == 'asyncio'
        assert not trio.lowlevel.in_trio_task()
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
        return threading.get_ident()

    async def main():
        import sniffio

        assert sniffio.current_async_library() == 'trio'
        assert await trio.to_thread.run_sync(threading.get_ident) != threading.get_ident()
        return await run_task(in_asyncio)

    assert run_guest(main) == threading.get_ident()


def test_no_asyncio_task_but_the_host():
    async def main():
        (host,) = asyncio.all_tasks()
        number = int(host.get_name().removeprefix('Task-'))
        names = []

        async def target():
            names.append(asyncio.current_task().get_name())

        await run_task(target)
        assert names == [f'Task-{number + 1}']

    run_as_asyncio_guest(main)


def test_the_process_is_as_it_was():
    handler = signal.getsignal(signal.SIGINT)

    async def main():
        assert _state.get_runtime_vars()['_is_infected_aio'] is True
        raise KeyError

    with pytest.raises(KeyError):
        run_as_asyncio_guest(main)
    assert _state.get_runtime_vars()['_is_infected_aio'] is False
    assert signal.getsignal(signal.SIGINT) is handler

    async def afterwards():
        with pytest.raises(RuntimeError, match='infect_asyncio'):
            await run_task(nothing)
        return 'plain'

    assert trio.run(afterwards) == 'plain'
    assert run_guest(functools.partial(run_task, functools.partial(asyncio.sleep, 0, 'again')))


def test_uvloop_is_neither_needed_nor_used(monkeypatch):
    real = builtins.__import__

    def without_uvloop(name, *args, **kwargs):
        if name.partition('.')[0] == 'uvloop':
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without_uvloop)

    async def main():
        return type(asyncio.get_running_loop())

    assert issubclass(run_guest(main), asyncio.SelectorEventLoop)


def test_in_another_thread():
    """No signal handlers can be set there; everything else works."""
    results = []

    def run():
        results.append(
            run_guest(functools.partial(run_task, functools.partial(asyncio.sleep, 0, 1)))
        )

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert results == [1]


def test_asyncio_debug_mode(monkeypatch):
    """It checks that callbacks are scheduled from the thread of the loop."""
    monkeypatch.setenv('PYTHONASYNCIODEBUG', '1')

    async def main():
        assert asyncio.get_running_loop().get_debug()
        await trio.to_thread.run_sync(str)
        return await run_task(functools.partial(asyncio.sleep, 0, 'debugged'))

    assert run_guest(main) == 'debugged'


def test_an_eager_task_factory():
    """Tasks begin in asyncio's turn, not within the trio task that starts them."""
    seen = []

    async def target():
        seen.append(trio.lowlevel.in_trio_task())

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        await run_task(target)

    run_guest(main)
    assert seen == [False]


def test_loose_tasks_of_the_user_are_cancelled_at_the_end():
    """What the user's code has started behind our back ends with the loop."""
    tasks = []

    async def careless():
        tasks.append(asyncio.create_task(forever()))

    async def main():
        await run_task(careless)

    run_as_asyncio_guest(main)
    assert tasks[0].cancelled()


# --- cancelling the host, as `asyncio.run()` does


async def shielded_work(done):
    with trio.CancelScope(shield=True):
        for _ in range(100):
            await trio.lowlevel.checkpoint()
    done.append(True)


@pytest.mark.parametrize('with_task', [False, True])
@pytest.mark.parametrize('times', [1, 2, 5])
def test_a_cancelled_host_cancels_the_run_and_waits(with_task, times):
    """Trio ends in its own time, and the host with it."""
    done = []

    async def main():
        (host,) = asyncio.all_tasks()
        async with contextlib.AsyncExitStack() as stack:
            if with_task:
                await stack.enter_async_context(open_channel_from(waiting))
            for _ in range(times):
                host.cancel()
                await trio.lowlevel.cancel_shielded_checkpoint()
            try:
                await trio.sleep_forever()
            finally:
                await shielded_work(done)

    assert run_guest(main) is None
    assert done


async def waiting(chan):
    chan.started_nowait()
    await chan.get()


def test_the_loop_is_stopped_once():
    """It runs again until trio has ended, and the stop is told."""
    done = []

    async def main():
        asyncio.get_running_loop().stop()
        try:
            await trio.sleep_forever()
        finally:
            await shielded_work(done)

    with pytest.raises(RuntimeError, match='Event loop stopped'):
        run_as_asyncio_guest(main)
    assert done


# --- refusals


def test_a_loop_is_running_already():
    async def main():
        run_as_asyncio_guest(nothing)

    with pytest.raises(RuntimeError, match='an asyncio loop is running in this thread'):
        asyncio.run(main())


def test_a_trio_run_is_active_already():
    async def main():
        run_as_asyncio_guest(nothing)

    with pytest.raises(RuntimeError, match='a trio run is active in this thread'):
        trio.run(main)
    with pytest.raises(RuntimeError, match='a trio run is active in this thread'):
        run_guest(main)


def test_no_windows(monkeypatch):
    monkeypatch.setattr(sys, 'platform', 'win32')
    with pytest.raises(RuntimeError, match='not supported on Windows'):
        run_as_asyncio_guest(nothing)


@pytest.mark.parametrize('kind', ['coroutine', 'sync', 'arguments'])
def test_a_bad_main(kind):
    """It is a `TypeError`, and the process is fit for another run."""
    if kind == 'coroutine':
        main = nothing()
    elif kind == 'sync':
        main = int
    else:

        async def main(needed):
            pass

    with pytest.raises(TypeError):
        run_as_asyncio_guest(main)
    if kind == 'coroutine':
        main.close()
    assert run_guest(functools.partial(run_task, functools.partial(asyncio.sleep, 0, 1))) == 1


async def enter(target, **kwargs):
    async with open_channel_from(target, **kwargs):
        pass


@pytest.mark.parametrize('call', [run_task, enter])
def test_only_in_an_infected_actor(call):
    with pytest.raises(RuntimeError, match='infect_asyncio=True'):
        trio.run(call, waiting)


@pytest.mark.parametrize('call', [run_task, enter])
def test_only_from_a_trio_task(call):
    async def target():
        await call(waiting)

    async def main():
        await run_task(target)

    with pytest.raises(RuntimeError):
        run_guest(main)
    with pytest.raises(RuntimeError):
        asyncio.run(call(waiting))


def test_not_in_a_plain_run_of_another_thread():
    async def plain():
        with pytest.raises(RuntimeError, match='infect_asyncio=True'):
            await run_task(nothing)
        return 'refused'

    async def main():
        return await trio.to_thread.run_sync(trio.run, plain)

    assert run_guest(main) == 'refused'


# --- bad targets


def plain(chan):
    chan.started_nowait()
    return 1


async def generator(chan):
    yield 1


async def without_channel():
    pass


async def positional(chan, /):
    chan.started_nowait()


async def anything(**kwargs):
    pass


@pytest.mark.parametrize('call', [run_task, enter])
@pytest.mark.parametrize(
    ('target', 'message'),
    [
        (plain, 'returned 1, which asyncio cannot await'),
        (generator, 'cannot await'),
        (1, '1 is no function'),
        (None, 'None is no function'),
        (positional, 'positional'),
    ],
)
def test_bad_targets(call, target, message):
    with pytest.raises(TypeError, match=message):
        run_guest(call, target)


@pytest.mark.parametrize('call', [run_task, enter])
def test_a_coroutine_object_is_closed(call):
    coro = waiting(None)
    with pytest.raises(TypeError, match='is no function: pass an `async def` function'):
        run_guest(call, coro)
    with pytest.raises(RuntimeError, match='cannot reuse'):
        coro.send(None)


@pytest.mark.parametrize('target', [without_channel, anything, functools.partial(waiting, None)])
def test_a_target_that_takes_no_channel(target):
    with pytest.raises(TypeError, match='must have a parameter named `chan`'):
        run_guest(enter, target)


def test_a_channel_of_the_callers_own():
    with pytest.raises(TypeError, match='and no argument for it'):
        run_guest(functools.partial(enter, waiting, chan=1))


@pytest.mark.parametrize('call', [run_task, enter])
def test_arguments_that_do_not_fit(call):
    with pytest.raises(TypeError, match='no_such'):
        run_guest(functools.partial(call, waiting, no_such=1))


async def needs_more(chan, more):
    pass


@pytest.mark.parametrize('call', [run_task, enter])
def test_arguments_that_are_missing(call):
    with pytest.raises(TypeError, match='more'):
        run_guest(call, needs_more)


# --- the debugger's hook


@pytest.mark.parametrize('debug', [False, True])
def test_tasks_get_a_portal_in_debug_mode_only(debug, monkeypatch):
    bestowed = []
    fake = types.SimpleNamespace(bestow_portal=bestowed.append)
    monkeypatch.setitem(sys.modules, 'greenback', fake)
    monkeypatch.setitem(_state._runtime_vars, '_debug_mode', debug)

    async def target():
        return asyncio.current_task()

    async def main():
        return await run_task(target)

    task = run_guest(main)
    assert bestowed == ([task] if debug else [])


def test_debug_mode_without_greenback(monkeypatch):
    monkeypatch.setitem(sys.modules, 'greenback', None)
    monkeypatch.setitem(_state._runtime_vars, '_debug_mode', True)
    assert run_guest(functools.partial(run_task, functools.partial(asyncio.sleep, 0, 1))) == 1


# --- an infected root


def test_an_infected_root(reg_addr, tpt_proto):
    options = {'registry_addrs': [reg_addr], 'enable_transports': [tpt_proto]}

    async def main():
        async with tractor.open_root_actor(**options) as actor:
            assert actor.is_infected_aio()
            assert tractor.current_actor().is_infected_aio()
            return await run_task(functools.partial(asyncio.sleep, 0, actor.is_registrar))

    assert run_guest(main) is True
    assert _state.get_runtime_vars()['_is_infected_aio'] is False

    async def plain():
        async with tractor.open_root_actor(**options) as actor:
            assert not actor.is_infected_aio()
            with pytest.raises(RuntimeError, match='infect_asyncio'):
                await run_task(nothing)

    trio.run(plain)
