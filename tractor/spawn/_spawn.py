"""
The core of spawning: the one list of backends, the choice of one, and the registry.

A backend contributes how to start a child: a coroutine that takes a frozen `ChildSpec` and returns a `ChildHandle`.
What happens then is the same for all and lives in `_life.py`: the states of a child, and the one ladder by which it
is ended.

To add a backend: a module with a coroutine over `supervise_child()`, a name in `SpawnMethodKey`, an entry in
`_methods`.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

import trio

from tractor import log as _log
from tractor.runtime import _state
from tractor.spawn import _mp
from tractor.spawn._life import Child as Child
from tractor.spawn._life import ChildHandle as ChildHandle
from tractor.spawn._life import ChildSpec as ChildSpec
from tractor.spawn._life import describe_exit as describe_exit
from tractor.spawn._life import end_child as end_child
from tractor.spawn._life import hard_kill as hard_kill
from tractor.spawn._life import soft_kill as soft_kill
from tractor.spawn._life import supervise_child as supervise_child
from tractor.spawn._mp import mp_proc as mp_proc
from tractor.spawn._subint import check_python
from tractor.spawn._subint import subint_proc as subint_proc
from tractor.spawn._trio import trio_proc as trio_proc

if TYPE_CHECKING:
    from tractor.runtime._portal import Portal
    from tractor.runtime._runtime import Actor
    from tractor.runtime._supervise import ActorNursery

log = _log.get_logger()

SpawnMethodKey = Literal['trio', 'mp_spawn', 'mp_forkserver', 'subint']

_spawn_method: SpawnMethodKey = 'trio'
_ctx: Any = None

# where the method of a child travels, in its runtime variables
METHOD_VAR = '_spawn_method'


def check_method(key: str) -> SpawnMethodKey:
    """
    The key itself, if it names a backend that this system has.

    Raises:
        ValueError: it names none.
        RuntimeError: it names one which does not work here.
    """
    if key not in get_args(SpawnMethodKey):
        raise ValueError(
            f'unknown spawn method {key!r}: choose one of {", ".join(get_args(SpawnMethodKey))}'
        )
    if key == 'mp_forkserver' and sys.platform == 'win32':
        raise RuntimeError("the spawn method 'mp_forkserver' does not exist on Windows: use 'trio'")
    if key == 'subint':
        check_python()
    return key  # type: ignore[return-value]


def try_set_start_method(key: str) -> Any:
    """
    Choose the backend for all children which this process starts from now on.

    Args:
        key: one of `typing.get_args(SpawnMethodKey)`.

    Returns:
        The `multiprocessing` context in use; `None` for backends without one.

    Raises:
        ValueError: no such backend.
        RuntimeError: it does not work on this system or Python.
    """
    global _spawn_method, _ctx
    method = check_method(key)
    _ctx = _mp.get_context(method)
    _spawn_method = method
    _state._runtime_vars.pop(METHOD_VAR, None)
    return _ctx


def _inherited() -> str | None:
    """The method this actor was started with: its children get the same, unless it chose another since."""
    method: str | None = _state._runtime_vars.get(METHOD_VAR)
    return method


async def new_proc(
    name: str,
    actor_nursery: ActorNursery,
    subactor: Actor,
    errors: dict[tuple[str, str], BaseException],
    bind_addrs: list[Any],
    parent_addr: tuple[str, Any],
    _runtime_vars: dict[str, Any],
    *,
    infect_asyncio: bool = False,
    task_status: trio.TaskStatus[Portal] = trio.TASK_STATUS_IGNORED,
    proc_kwargs: dict[str, Any] | None = None,
    start_method: str | None = None,
) -> None:
    """
    Start a child and stay with it until it is gone; the started value is its portal.

    Args:
        name: its name.
        actor_nursery: the nursery it belongs to.
        subactor: its description.
        errors: the nursery's errors by uid.
        bind_addrs: where it shall listen; empty for an address of its own choice.
        parent_addr: where it connects back to.
        _runtime_vars: its runtime variables.
        infect_asyncio: run trio as a guest of asyncio in it.
        proc_kwargs: for `trio.lowlevel.open_process()`.
        start_method: the backend of this one child; the process's choice by default.

    Raises:
        ActorFailure: it died before it connected back.
        OSError: it could not be started.

    Cancelled before the portal is there, the half-born child is killed.
    """
    method = check_method(start_method or _inherited() or _spawn_method)
    subactor._spawn_method = method
    _runtime_vars[METHOD_VAR] = method
    await _methods[method](
        name,
        actor_nursery,
        subactor,
        errors,
        bind_addrs,
        parent_addr,
        _runtime_vars,
        infect_asyncio=infect_asyncio,
        task_status=task_status,
        proc_kwargs=proc_kwargs or {},
    )


async def proc_waiter(proc: Any) -> None:
    """Wait for the end of a `multiprocessing` process."""
    await _mp.wait_sentinel(proc)


async def exhaust_portal(portal: Portal, actor: Actor) -> Any:
    """The result of a one-shot actor's main task, or the exception it ended with, as a value."""
    try:
        return await portal.wait_for_result()
    except (Exception, trio.Cancelled) as err:  # noqa: BLE001 - the exception is the answer
        return err


async def cancel_on_completion(
    portal: Portal, actor: Actor, errors: dict[tuple[str, str], BaseException]
) -> None:
    """
    Wait for the result of a one-shot actor, note its error if it has one, then cancel it.

    Args:
        portal: the portal to it.
        actor: its description.
        errors: where an `Exception` is noted, under its uid.
    """
    result = await exhaust_portal(portal, actor)
    if isinstance(result, Exception):
        errors[actor.aid.uid] = result
    await portal.cancel_actor()


_methods: dict[SpawnMethodKey, Callable[..., Awaitable[None]]] = {
    'trio': trio_proc,
    'mp_spawn': mp_proc,
    'mp_forkserver': mp_proc,
    'subint': subint_proc,
}
