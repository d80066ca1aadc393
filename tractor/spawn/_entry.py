"""
What a child runs first, on every backend.

| child ends by | exit code |
|---|---|
| graceful cancellation, or an interrupt | 0 |
| a failure of its runtime | 1, and a traceback on stderr |
| a signal | minus its number |
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import trio

from tractor import log as _log
from tractor.ipc import _auth, _tls
from tractor.runtime import _state
from tractor.runtime._runtime import Actor, async_main
from tractor.spawn import _spawn
from tractor.trionics import patches

log = _log.get_logger()


def _actor_child_main(
    uid: tuple[str, str],
    loglevel: str | None,
    parent_addr: tuple[str, Any],
    infect_asyncio: bool,
    spawn_method: str = 'trio',
    authkey: bytes | None = None,
    tls: tuple[str, str] | None = None,
) -> None:
    """
    Be the actor `uid`: connect to the parent, learn the rest from it, run until cancelled.

    Args:
        uid: `(name, uuid)`.
        loglevel: console level; `None` for no console handler.
        parent_addr: where the parent listens, unwrapped.
        infect_asyncio: run trio as a guest of asyncio.
        spawn_method: the backend which started this.
        authkey: the key of the tree.
        tls: the name and the file of the function that makes the TLS contexts.
    """
    patches.apply_all()
    # children of this one are started like itself unless they say otherwise
    _spawn.try_set_start_method(spawn_method)
    name, uuid = uid
    actor = Actor(
        name, uuid, loglevel=loglevel, spawn_method=spawn_method, inherit_parent_main=False
    )
    if _state.current_interp_id() == 0:
        # of the whole process: it is this actor's only if it has one
        _set_title(actor)
    with _auth.current.holding(authkey), _tls.current.holding(_tls.from_travelling(tls)):
        _trio_main(actor, parent_addr=parent_addr, infect_asyncio=infect_asyncio)


def _set_title(actor: Actor) -> None:
    try:
        from setproctitle import setproctitle
    except ImportError:
        return
    setproctitle(f'_subactor[{actor.aid.reprol()}]')


def _trio_main(actor: Actor, *, parent_addr: Any = None, infect_asyncio: bool = False) -> None:
    """
    Run an actor's `async_main()` in this process until it ends.

    Args:
        actor: the actor.
        parent_addr: where its parent listens.
        infect_asyncio: run trio as a guest of asyncio.

    An interrupt ends it quietly: whoever pressed the key told the root too.
    """
    actor._infected_aio = infect_asyncio
    _state.set_current_actor(actor)
    if actor.loglevel:
        _log.get_console_log(actor.loglevel)
    try:
        _runner(infect_asyncio)(partial(async_main, actor, parent_addr=parent_addr))
    except KeyboardInterrupt:
        log.cancel('%s was interrupted', actor.aid.reprol())
    finally:
        _state.set_current_actor(None)


def _runner(infect_asyncio: bool) -> Callable[..., Any]:
    if not infect_asyncio:
        return trio.run
    from tractor import to_asyncio

    return to_asyncio.run_as_asyncio_guest


def _mp_main(
    uid: tuple[str, str],
    loglevel: str | None,
    parent_addr: tuple[str, Any],
    infect_asyncio: bool,
    spawn_method: str,
    authkey: bytes | None = None,
    tls: tuple[str, str] | None = None,
) -> None:
    """The target of a `multiprocessing` child: the same as for every other."""
    _auth.forget_env()
    _actor_child_main(uid, loglevel, parent_addr, infect_asyncio, spawn_method, authkey, tls)
