"""
Ways of being stuck, each an actor's task that tells so by a byte and then never ends by itself.

All actors of one process share its file descriptors, so the byte goes right into a pipe of the parent: nothing of the
event loop is needed for it, which most of these block.
"""

# not to be ended is the point
# ruff: noqa: ASYNC105, ASYNC251, BLE001, S112

from __future__ import annotations

import asyncio
import importlib
import io
import logging
import os
import queue
import re
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, NoReturn

import trio
import trio.testing

import tractor
from tractor import to_asyncio

LONG = 1000.0


def tell(told: int | None) -> None:
    if told is not None:
        os.write(told, b'.')


async def fine() -> int:
    """Not stuck."""
    return 1


async def fail() -> NoReturn:
    """Not stuck either."""
    raise ValueError('as asked')


def spin_hard() -> NoReturn:
    while True:
        pass


def swallow_hard() -> NoReturn:
    while True:
        try:
            while True:
                pass
        except BaseException:
            continue


# --- in the actor's own thread


async def spin(told: int) -> None:
    tell(told)
    spin_hard()


async def swallow(told: int | None) -> None:
    tell(told)
    swallow_hard()


async def calls(told: int) -> None:
    """Busy in many short calls."""
    tell(told)
    while True:
        sorted(str(n) for n in range(100))


async def park(told: int | None) -> None:
    tell(told)
    with trio.CancelScope(shield=True):
        while True:
            try:
                await trio.sleep_forever()
            except BaseException:
                continue


async def shielded(told: int) -> None:
    tell(told)
    with trio.CancelScope(shield=True):
        await trio.sleep(LONG)  # stuck on purpose


async def busy_checkpoints(told: int) -> None:
    """Never parked, and never ends."""
    tell(told)
    with trio.CancelScope(shield=True):
        while True:
            try:
                await trio.lowlevel.checkpoint()
            except BaseException:
                continue


async def many_tasks(told: int) -> None:
    async with trio.open_nursery() as tn:
        tn.cancel_scope.shield = True
        for _ in range(50):
            tn.start_soon(park, None)
        await trio.testing.wait_all_tasks_blocked()
        tell(told)


async def sleep(told: int) -> None:
    tell(told)
    time.sleep(LONG)  # stuck on purpose


async def sleeps(told: int) -> None:
    """Sleeps again whatever comes."""
    tell(told)
    while True:
        try:
            time.sleep(LONG)  # stuck on purpose
        except BaseException:
            continue


async def receive(told: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        tell(told)
        ours.recv(1)


async def accept(told: int) -> None:
    with socket.create_server(('127.0.0.1', 0)) as listener:
        tell(told)
        listener.accept()


async def finally_spin(told: int) -> None:
    try:
        raise ValueError('on the way out')
    finally:
        tell(told)
        swallow_hard()


async def finally_when_killed(told: int) -> None:
    """Becomes stuck by the very attempt to end it."""
    tell(told)
    try:
        await trio.sleep_forever()
    finally:
        swallow_hard()


# --- in other threads


async def thread_spin(told: int) -> None:
    def work() -> None:
        tell(told)
        swallow_hard()

    await trio.to_thread.run_sync(work)


async def thread_sleep(told: int) -> None:
    def work() -> None:
        tell(told)
        time.sleep(LONG)  # stuck on purpose

    await trio.to_thread.run_sync(work)


async def own_thread(told: int) -> None:
    """One that the actor does not wait for."""

    def work() -> None:
        tell(told)
        swallow_hard()

    threading.Thread(target=work).start()
    await trio.sleep_forever()


async def own_threads_sleep(told: int) -> None:
    def work() -> None:
        while True:
            try:
                time.sleep(LONG)  # stuck on purpose
            except BaseException:
                continue

    for _ in range(3):
        threading.Thread(target=work).start()
    tell(told)
    await trio.sleep_forever()


async def leave_thread(told: int) -> None:
    """Return, and leave a thread behind which the end of the actor waits for."""

    def work() -> None:
        tell(told)
        swallow_hard()

    threading.Thread(target=work).start()


# --- in what does not want to be closed


class _Refuses:
    def __await__(self) -> Iterator[Any]:
        while True:
            try:
                yield from trio.sleep_forever().__await__()
            except BaseException:
                continue


async def refuse(told: int) -> None:
    with trio.CancelScope(shield=True):
        tell(told)
        await _Refuses()


async def _endless() -> AsyncIterator[int]:
    while True:
        try:
            yield 1
        except BaseException:
            continue


async def refuse_async_generator(told: int) -> None:
    """Two of them: one suspended, and one that is closed and goes on all the same."""
    suspended = _endless()
    await anext(suspended)
    closed = _endless()
    await anext(closed)
    tell(told)
    try:
        await closed.aclose()
    except RuntimeError:
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()


# --- inside of something else


async def in_import(told: int) -> None:
    sys.subint_spins_and_tells = told  # type: ignore[attr-defined]
    importlib.import_module('subint_spinning_peers')


async def in_abort(told: int) -> None:
    """In what the scheduler itself calls."""

    def abort(_: Any) -> NoReturn:
        tell(told)
        spin_hard()

    async with trio.open_nursery() as tn:
        tn.start_soon(trio.lowlevel.wait_task_rescheduled, abort)
        await trio.testing.wait_all_tasks_blocked()
        tn.cancel_scope.cancel()


async def in_swallowing_abort(told: int) -> None:
    def abort(_: Any) -> NoReturn:
        tell(told)
        swallow_hard()

    async with trio.open_nursery() as tn:
        tn.start_soon(trio.lowlevel.wait_task_rescheduled, abort)
        await trio.testing.wait_all_tasks_blocked()
        tn.cancel_scope.cancel()


async def in_token_callback(told: int) -> None:
    """In a call from another thread into the event loop."""

    def work() -> NoReturn:
        tell(told)
        swallow_hard()

    trio.lowlevel.current_trio_token().run_sync_soon(work)
    await trio.sleep_forever()


class _Undead:
    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work

    def __del__(self) -> None:
        self._work()


async def in_del(told: int) -> None:
    def work() -> NoReturn:
        tell(told)
        swallow_hard()

    undead = _Undead(work)
    del undead


async def in_generator(told: int) -> None:
    def numbers() -> Iterator[int]:
        tell(told)
        while True:
            try:
                while True:
                    pass
            except BaseException:
                yield 1

    list(numbers())


async def in_comparison(told: int) -> None:
    """In Python called by C."""

    def key(_: int) -> NoReturn:
        tell(told)
        spin_hard()

    sorted([1, 2], key=key)


# --- holding a lock that others need


async def logging_lock(told: int) -> None:
    with logging._lock:  # type: ignore[attr-defined]
        for handler in logging.getLogger().handlers + logging.getLogger('tractor').handlers:
            handler.acquire()
        tell(told)
        swallow_hard()


async def stdio_lock(told: int) -> None:
    """Stuck in a write, with the lock of the stream; whoever prints will wait for it."""

    class Slow(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, _: Any) -> int:
            tell(told)
            swallow_hard()

    sys.stdout = sys.stderr = io.TextIOWrapper(io.BufferedWriter(Slow()), write_through=True)
    print('x' * io.DEFAULT_BUFFER_SIZE * 2)


async def warden_helpers(told: int) -> None:
    """Holding what `threading` itself needs."""
    with threading._active_limbo_lock:  # type: ignore[attr-defined]
        tell(told)
        swallow_hard()


# --- in an actor that runs trio as a guest of asyncio


async def aio_spin(told: int) -> None:
    async def work() -> None:
        tell(told)
        swallow_hard()

    await to_asyncio.run_task(work)


async def aio_sleep(told: int) -> None:
    async def work() -> None:
        tell(told)
        time.sleep(LONG)  # stuck on purpose

    await to_asyncio.run_task(work)


async def aio_refuse(told: int) -> None:
    async def work() -> None:
        tell(told)
        while True:
            try:
                await asyncio.sleep(LONG)
            except BaseException:
                continue

    await to_asyncio.run_task(work)


# --- what Python code cannot be made to leave


async def lock(told: int) -> None:
    taken = threading.Lock()
    taken.acquire()
    tell(told)
    taken.acquire()


async def queue_get(told: int) -> None:
    tell(told)
    queue.SimpleQueue[int]().get()


async def read_pipe(told: int) -> None:
    # not closed: nobody can while it is read
    ours, _ = os.pipe()
    tell(told)
    os.read(ours, 1)


async def backtrack(told: int) -> None:
    tell(told)
    re.match(r'(a+)+$', 'a' * 64 + 'b')


async def children(told: int, method: str, count: int = 1) -> None:
    """Stuck, with children that are stuck too."""
    async with tractor.open_nursery() as an, trio.open_nursery() as tn:
        for index in range(count):
            portal = await an.start_actor(
                f'below{index}', enable_modules=[__name__], start_method=method
            )
            # a process of its own has other file descriptors
            call = partial(portal.run, swallow, told=told if method == 'subint' else None)
            tn.start_soon(call)


HERE = [
    spin, swallow, calls, park, shielded, busy_checkpoints, many_tasks, sleep, sleeps, receive, accept,
    finally_spin, finally_when_killed,
    thread_spin, thread_sleep, own_thread, own_threads_sleep,
    refuse, refuse_async_generator,
    in_import, in_abort, in_swallowing_abort, in_token_callback, in_del, in_generator, in_comparison,
    logging_lock, stdio_lock, warden_helpers,
]  # fmt: skip
GUESTS = [aio_spin, aio_sleep, aio_refuse, spin, park, sleep]

# by name: whether the actor runs trio as a guest of asyncio, and the function
KINDS: dict[str, tuple[bool, Any]] = {
    **{fn.__name__: (False, fn) for fn in HERE},
    **{f'guest_{fn.__name__}': (True, fn) for fn in GUESTS},
}
UNKILLABLE = {fn.__name__: (False, fn) for fn in (lock, queue_get, read_pipe, backtrack)}
