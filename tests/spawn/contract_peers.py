"""What the tests of the backends' contract run in other actors; loads nothing but the package itself."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

import tractor
from tractor.runtime import _state
from tractor.spawn import _spawn


async def whoami() -> dict[str, Any]:
    """Who runs this, and where."""
    actor = tractor.current_actor()
    return {
        'name': actor.name,
        'uuid': actor.aid.uuid,
        'pid': os.getpid(),
        'aid_pid': actor.aid.pid,
        'actor_pid': actor.pid,
        'method': actor.spawn_method,
        'default_method': _spawn._spawn_method,
        'interp_id': actor.interp_id,
        'real_interp_id': _state.current_interp_id(),
        'loglevel': actor.loglevel,
        'is_root': actor.is_root,
        'infected': actor.is_infected_aio(),
        'transports': _state.current_ipc_protos(),
        'proto': actor.accept_addr[0] if len(actor.accept_addr) else None,
    }


async def spawn_spec() -> dict[str, Any]:
    """What this actor was told by its parent."""
    actor = tractor.current_actor()
    spec = actor._spawn_spec
    assert spec is not None
    return {
        'vars': spec._runtime_vars,
        'main': dict(spec._parent_main_data),
        'modules': dict(spec.enable_modules),
        'reg_addrs': spec.reg_addrs,
        'bind_addrs': spec.bind_addrs,
        'live_vars': tractor.get_runtime_vars(),
        'accept_addrs': actor.accept_addrs,
    }


async def log_line() -> str:
    """A line of the log as it would be printed here."""
    from tractor import log as tractor_log

    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(tractor_log._mk_formatter(stream))
    log = tractor_log.get_logger(name='contract')
    log.logger.addHandler(handler)
    try:
        log.critical('here I am')
    finally:
        log.logger.removeHandler(handler)
    return stream.getvalue()


async def give(value: Any) -> Any:
    return value


async def forever() -> None:
    await trio.sleep_forever()


async def fail(kind: str) -> None:
    """Fail in one of several ways."""
    if kind == 'group':
        raise ExceptionGroup('two', [ValueError('one'), KeyError('other')])
    if kind == 'nursery':
        async with trio.open_nursery() as tn:
            tn.start_soon(fail, 'KeyError')
    if kind == 'exit':
        sys.exit(3)
    raise {'ValueError': ValueError, 'KeyError': KeyError}[kind]('on purpose')


async def cancel_self() -> None:
    tractor.current_actor().cancel_soon()
    await trio.sleep_forever()


@tractor.context
async def hold(ctx: tractor.Context) -> None:
    """Tell who this is, then wait to be cancelled."""
    await ctx.started(await whoami())
    await trio.sleep_forever()


@tractor.context
async def leave_traces(ctx: tractor.Context, path: str) -> None:
    """Write down each step of this actor's end."""

    def note(text: str) -> None:
        with Path(path).open('a', encoding='utf-8') as file:
            file.write(f'{text}\n')

    tractor.current_actor().lifetime_stack.callback(note, 'lifetime stack')
    await ctx.started()
    try:
        await trio.sleep_forever()
    finally:
        note('task')


@tractor.context
async def echo(ctx: tractor.Context) -> int:
    """Send everything back; the result is how much that was."""
    await ctx.started('ready')
    count = 0
    async with ctx.open_stream() as stream:
        async for item in stream:
            await stream.send(item)
            count += 1
    return count


# --- actors that do not react


def _spin() -> None:
    while True:  # stuck on purpose
        pass


def _swallow() -> None:
    while True:  # stuck on purpose
        try:
            time.sleep(0.001)  # stuck on purpose
        except BaseException:  # noqa: BLE001, S112 - stuck on purpose
            continue


def _sleep() -> None:
    time.sleep(1000)  # stuck on purpose


async def _shielded() -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


async def _catch_all() -> None:
    while True:  # stuck on purpose
        try:
            with trio.CancelScope(shield=True):
                await trio.sleep_forever()
        except BaseException:  # noqa: BLE001, S112 - stuck on purpose
            continue


async def _in_thread() -> None:
    await trio.to_thread.run_sync(_spin)


STUCK: dict[str, Callable[[], Any]] = {
    'spin': _spin,
    'swallow': _swallow,
    'sleep': _sleep,
    'shielded': _shielded,
    'catch_all': _catch_all,
    'thread': _in_thread,
}


@tractor.context
async def stuck(ctx: tractor.Context, kind: str) -> None:
    """Never react to anything again."""
    await ctx.started(await whoami())
    waits = STUCK[kind]()
    if waits is not None:
        await waits


async def thread_names() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate())


async def use_everything() -> None:
    """Use what an actor may own when it ends: worker threads, a process, files."""
    async with trio.open_nursery() as tn:
        for _ in range(3):
            tn.start_soon(trio.to_thread.run_sync, os.getpid)
        tn.start_soon(trio.run_process, ['true'])
        tn.start_soon(trio.Path('/tmp').exists)
        tn.start_soon(trio.socket.getaddrinfo, 'localhost', 80)
