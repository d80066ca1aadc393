"""
What an actor finds different in a sub-interpreter, and made to fit.

| in an isolated interpreter | here |
|---|---|
| daemon threads are refused, which is all that trio's worker cache makes | the cache makes others, which leave when told to |
| nothing can end a `time.sleep()` | it waits for an event that a kill sets |
| `_thread.interrupt_main()` interrupts the main interpreter | it cancels this actor |
| the working directory belongs to the whole process | `os.chdir()` to another one is refused |

The interpreter itself refuses `os.fork()`, `os.exec*()`, `signal.signal()` and daemon threads of the user; and what
`os._exit()` and a crash in C end is the process, with every actor in it.
"""

from __future__ import annotations

import _thread
import os
import threading
import time
from functools import partial
from typing import Any

from trio._core import _thread_cache

from tractor.runtime import _state

_real_sleep = time.sleep
_killed = threading.Event()


def apply() -> None:
    """Put them in place; once, before anything of the user's is loaded."""
    cache: Any = _thread_cache
    cache.Thread = partial(_worker_thread, threading.Thread)
    time.sleep = _sleep  # type: ignore[assignment]
    os.chdir = _stay
    os.fchdir = _stay_at
    _thread.interrupt_main = _interrupt_actor


def wake_sleepers() -> None:
    """End every `time.sleep()` of this interpreter."""
    _killed.set()


def sleep_anyway(seconds: float) -> None:
    """Sleep, in an actor that was killed too."""
    _real_sleep(seconds)


def end_idle_workers() -> None:
    """Make trio's idle worker threads leave now; after the event loop has ended."""
    cache: Any = _thread_cache
    cache.IDLE_TIMEOUT = 0
    idle = cache.THREAD_CACHE._idle_workers
    while idle:
        try:
            worker, _ = idle.popitem()
        except KeyError:
            return
        worker._job = (_nothing, _ignore, None)
        worker._worker_lock.release()
        worker._thread.join()


def _worker_thread(thread: Any, *args: Any, daemon: bool = False, **kwargs: Any) -> Any:
    return thread(*args, daemon=False, **kwargs)


def _nothing() -> None:
    return None


def _ignore(_: object) -> None:
    return None


def _sleep(seconds: float, /) -> None:
    """As `time.sleep()`, which it replaces; ended early when the actor is killed."""
    if not seconds > 0:
        # nothing to wait for, or nothing it accepts
        _real_sleep(seconds)
    else:
        _killed.wait(seconds)


def _interrupt_actor(signum: int = 2, /) -> None:
    actor = _state._current_actor
    if actor is not None and actor._trio_token is not None:
        actor._trio_token.run_sync_soon(actor.cancel_soon)


def _stay(path: Any) -> None:
    """As `os.chdir()`, for the directory which is the current one already: a replayed main module may say so."""
    if not os.path.samestat(os.stat(path), os.stat(os.curdir)):
        raise RuntimeError(
            'the working directory belongs to the whole process, with other actors in it: use absolute paths '
            "(for a subprocess its cwd=), or start_method='trio' for this actor"
        )


def _stay_at(fd: Any) -> None:
    """As `os.fchdir()`; the same."""
    _stay(fd if isinstance(fd, int) else fd.fileno())
