"""What the tests of supervision run in other actors; loads nothing but the package itself."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import trio

import tractor
from tractor._testing import deaths
from tractor.spawn import _spawn


async def nothing() -> None:
    """Return at once."""


async def give(value: Any) -> Any:
    return value


async def whoami() -> dict[str, Any]:
    """Who runs this, and where."""
    actor = tractor.current_actor()
    return {
        'name': actor.name,
        'uuid': actor.aid.uuid,
        'pid': os.getpid(),
        'place': deaths.where_am_i(),
        'ppid': os.getppid(),
        'aid_pid': actor.pid,
        'method': actor.spawn_method,
        'default_method': _spawn._spawn_method,
        'loglevel': actor.loglevel,
        'is_root': actor.is_root,
        'modules': sorted(actor.enable_modules),
        'runtime_vars': tractor.get_runtime_vars(),
        'spec_vars': actor._spawn_spec._runtime_vars if actor._spawn_spec else None,
        'main_data': actor._parent_main_data,
    }


async def forever() -> None:
    await trio.sleep_forever()


async def fail(text: str = 'boom', delay: float = 0) -> None:
    await trio.sleep(delay)
    raise ValueError(text)


async def fail_in_a_group() -> None:
    raise ExceptionGroup('two', [ValueError('one'), KeyError('other')])


async def die(code: int = 3, at_once: bool = False) -> None:
    if not at_once:
        await become_known()
    deaths.exit_now(code)
    await trio.sleep_forever()


async def get_killed() -> None:
    await become_known()
    deaths.get_killed()
    await trio.sleep_forever()


async def become_known() -> None:
    """
    Let the caller of this actor's function hear that it was accepted.

    The parent, a registrar, answers over the connection on which it was told so before.
    """
    parent = tractor.current_actor()._parent_chan
    assert parent is not None
    await tractor.Portal(parent).run_from_ns('self', 'find_actor', name='nobody')


async def cancel_self() -> None:
    tractor.current_actor().cancel_soon()
    await trio.sleep_forever()


# --- actors that do not react


@tractor.context
async def spin(ctx: tractor.Context) -> None:
    await ctx.started(deaths.where_am_i())
    while True:  # stuck on purpose
        pass


@tractor.context
async def block(ctx: tractor.Context) -> None:
    await ctx.started(deaths.where_am_i())
    time.sleep(1000)  # noqa: ASYNC251  # stuck on purpose


@tractor.context
async def ignore_sigterm_and_spin(ctx: tractor.Context) -> None:
    # no signal reaches an interpreter
    if not deaths.is_in_process():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    await ctx.started(deaths.where_am_i())
    while True:  # stuck on purpose
        pass


@tractor.context
async def swallow_cancellation(ctx: tractor.Context) -> None:
    await ctx.started(deaths.where_am_i())
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


@tractor.context
async def slow_cleanup(ctx: tractor.Context, delay: float) -> None:
    """Needs `delay` seconds to end once it is cancelled, and yields meanwhile."""
    await ctx.started(deaths.where_am_i())
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(delay)


# --- sub-trees


async def fail_below(count: int = 1, depth: int = 0) -> None:
    """Run `count` failing one-shot actors; with a `depth`, below that many more actors."""
    async with tractor.open_nursery() as an:
        for index in range(count):
            if depth:
                await an.run_in_actor(
                    fail_below, name=f'below{index}', count=count, depth=depth - 1
                )
            else:
                await an.run_in_actor(fail, name=f'fail{index}', text=str(index))


async def whoami_below(start_method: str | None = None) -> list[dict[str, Any]]:
    """Two answers of `whoami()`: of an actor below this one, and of one below that."""
    async with tractor.open_nursery() as an:
        portal = await an.start_actor('child', enable_modules=[__name__], start_method=start_method)
        first = await portal.run(whoami)
        second = await portal.run(whoami_once_below)
        await an.cancel()
    return [first, second]


async def whoami_once_below() -> dict[str, Any]:
    async with tractor.open_nursery() as an:
        portal = await an.run_in_actor(whoami, name='grandchild')
        return dict(await portal.wait_for_result())


@tractor.context
async def tree(ctx: tractor.Context, depth: int, stuck: bool = False) -> None:
    """Hold a line of `depth` actors below; the last one may be stuck. Says where they all run."""
    if not depth:
        await ctx.started([deaths.where_am_i()])
        while stuck:  # stuck on purpose
            pass
        await trio.sleep_forever()
    async with tractor.open_nursery() as an:
        portal = await an.start_actor(f'level{depth}', enable_modules=[__name__])
        async with portal.open_context(tree, depth=depth - 1, stuck=stuck) as (_, places):
            await ctx.started([deaths.where_am_i(), *places])
            await trio.sleep_forever()


async def start_forever(count: int) -> None:
    """Start actors which nobody ends but a cancellation."""
    async with tractor.open_nursery() as an:
        for index in range(count):
            await an.start_actor(f'daemon{index}')


async def open_second_root() -> None:
    async with tractor.open_root_actor():
        pass


async def module_loaded(name: str) -> bool:
    return name in sys.modules


async def file_imported_at(name: str) -> float | None:
    """When `name` was imported in this process or, before the fork, in its server."""
    return getattr(sys.modules.get(name), '_supervised_loaded', None)


async def left_behind(within: float) -> list[str]:
    """What is left of this actor's other tasks after at most so many seconds: children, nurseries, tasks."""
    found: list[str] = []
    with trio.move_on_after(within):
        while found := _left_behind():
            await trio.lowlevel.checkpoint()
    return found


def _left_behind() -> list[str]:
    from tractor._testing import _leaks

    actor = tractor.current_actor()
    mine, _ = _leaks.mp_helpers()
    pids = Path(f'/proc/self/task/{os.getpid()}/children').read_text().split()
    found = [f'process {pid}' for pid in pids if int(pid) not in mine]
    found += [f'nursery for {uid}' for uid in actor._actoruid2nursery]
    found += [f'task {func}' for _, func, _ in actor._rpc_tasks.values() if func is not left_behind]
    return found
