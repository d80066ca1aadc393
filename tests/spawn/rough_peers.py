"""What the tests of bad input run in other actors: code that an actor in a sub-interpreter should not run."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

import tractor


async def give(value: Any) -> Any:
    return value


async def import_module(name: str) -> str:
    """Import something in the middle of a call."""
    return str(__import__(name).__name__)


async def state_of_the_process() -> list[Any]:
    """What belongs to the process and not to the actor."""
    return [os.getpid(), Path.cwd().as_posix(), signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL]


def _interrupt_main() -> None:
    import _thread

    _thread.interrupt_main()


def _start_daemon_thread() -> None:
    threading.Thread(target=print, daemon=True).start()


ROUGH: dict[str, Callable[[], object]] = {
    'fork': os.fork,
    'execv': lambda: os.execv(sys.executable, [sys.executable, '-c', '']),
    'signal': lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
    'wakeup_fd': lambda: signal.set_wakeup_fd(-1),
    'chdir': lambda: os.chdir('/'),
    'fchdir': lambda: _fchdir('/'),
    'exit': lambda: sys.exit(3),
    'daemon thread': _start_daemon_thread,
}


def _fchdir(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fchdir(fd)
    finally:
        os.close(fd)


async def be_rough(kind: str) -> None:
    ROUGH[kind]()


async def interrupt_main() -> None:
    _interrupt_main()
    await trio.sleep_forever()


# --- threads that are left behind


def _outlive(path: str) -> None:
    # no waiting for something else: until the runtime of this actor is over
    while tractor.current_actor(err_on_no_runtime=False) is not None:
        os.sched_yield()
    Path(path).write_text('done', encoding='utf-8')


def _never_end() -> None:
    while True:  # stuck on purpose
        pass


async def leave_a_thread(path: str | None) -> None:
    """A thread that ends after the actor's runtime has, with a file to show for it; without a `path`, never."""
    target: Any = _never_end if path is None else _outlive
    threading.Thread(target=target, args=() if path is None else (path,)).start()


# --- what works


def _double(value: int) -> int:
    return 2 * value


async def use(what: str) -> Any:
    """Use something that needs threads or processes."""
    return await USES[what]()


async def _subprocess() -> Any:
    import subprocess

    return subprocess.run(  # noqa: ASYNC221 - a short one
        [sys.executable, '-c', 'print(1)'], capture_output=True, text=True, check=True
    ).stdout


async def _trio_process() -> Any:
    done = await trio.run_process([sys.executable, '-c', 'print(1)'], capture_stdout=True)
    return done.stdout.decode()


async def _path() -> Any:
    return await trio.Path(__file__).exists()


async def _to_thread() -> Any:
    return await trio.to_thread.run_sync(_double, 21)


async def _from_thread() -> Any:
    return await trio.to_thread.run_sync(lambda: trio.from_thread.run(give, 'from a thread'))


async def _getaddrinfo() -> Any:
    return len(await trio.socket.getaddrinfo('127.0.0.1', 80)) > 0


async def _multiprocessing() -> Any:
    import multiprocessing

    context = multiprocessing.get_context('spawn')
    here, there = context.Pipe()
    # the main module of whoever runs the tests is none of its business
    main, sys.modules['__main__'] = sys.modules['__main__'], type(sys)('__main__')
    try:
        proc = context.Process(target=_send_double, args=(there, 21))
        proc.start()
    finally:
        sys.modules['__main__'] = main
    there.close()
    value = await trio.to_thread.run_sync(here.recv)
    await trio.to_thread.run_sync(proc.join)
    here.close()
    code = proc.exitcode
    proc.close()
    return [value, code]


def _send_double(there: Any, value: int) -> None:
    there.send(_double(value))


async def _executor() -> Any:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(_double, range(3)))


async def _asyncio() -> Any:
    import asyncio

    async def main() -> Any:
        proc = await asyncio.create_subprocess_exec(
            sys.executable, '-c', 'print(1)', stdout=asyncio.subprocess.PIPE
        )
        out, _ = await proc.communicate()
        return [out.decode(), await asyncio.to_thread(_double, 21)]

    return await trio.to_thread.run_sync(asyncio.run, main())


USES: dict[str, Callable[[], Any]] = {
    'subprocess': _subprocess,
    'trio process': _trio_process,
    'path': _path,
    'to_thread': _to_thread,
    'from_thread': _from_thread,
    'getaddrinfo': _getaddrinfo,
    'multiprocessing': _multiprocessing,
    'executor': _executor,
    'asyncio': _asyncio,
}


async def asyncio_echo(chan: Any) -> None:
    """An asyncio task that gives everything back, in its own loop."""
    import asyncio

    chan.started_nowait('asyncio is up')
    while True:
        item = await chan.get()
        await asyncio.sleep(0)
        chan.send_nowait(item)


@tractor.context
async def talk_to_asyncio(ctx: tractor.Context, items: list[Any]) -> list[Any]:
    """Send everything through an asyncio task of this actor."""
    from tractor import to_asyncio

    back: list[Any] = []
    async with to_asyncio.open_channel_from(asyncio_echo) as (chan, first):
        await ctx.started(first)
        for item in items:
            await chan.send(item)
            back.append(await chan.receive())
    return back


async def stay_here(path: str) -> None:
    os.chdir(path)
