"""
What a child runs first, on every backend.

| child ends by | exit code |
|---|---|
| graceful cancellation, or an interrupt | 0 |
| a failure of its runtime | 1, and a traceback on stderr |
| a signal | minus its number |
"""

from __future__ import annotations

from functools import partial
from typing import Any

import trio

from tractor import log as _log
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
) -> None:
    """
    Be the actor `uid`: connect to the parent, learn the rest from it, run until cancelled.

    Args:
        uid: `(name, uuid)`.
        loglevel: console level; `None` for no console handler.
        parent_addr: where the parent listens, unwrapped.
        infect_asyncio: run trio as a guest of asyncio.
        spawn_method: the backend which started this.
    """
    patches.apply_all()
    # children of this one are started like itself unless they say otherwise
    _spawn.try_set_start_method(spawn_method)
    name, uuid = uid
    actor = Actor(
        name, uuid, loglevel=loglevel, spawn_method=spawn_method, inherit_parent_main=False
    )
    _set_title(actor)
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
    if infect_asyncio:
        raise RuntimeError('running trio as a guest of asyncio is not supported by this version')
    _state.set_current_actor(actor)
    if actor.loglevel:
        _log.get_console_log(actor.loglevel)
    try:
        trio.run(partial(async_main, actor, parent_addr=parent_addr))
    except KeyboardInterrupt:
        log.cancel('%s was interrupted', actor.aid.reprol())
    finally:
        _state.set_current_actor(None)


def _mp_main(
    uid: tuple[str, str],
    loglevel: str | None,
    parent_addr: tuple[str, Any],
    infect_asyncio: bool,
    spawn_method: str,
) -> None:
    """The target of a `multiprocessing` child: the same as for every other."""
    _actor_child_main(uid, loglevel, parent_addr, infect_asyncio, spawn_method)
