"""
The inside of a sub-interpreter: what is run in it, stage by stage, on the thread that owns it.

| stage | what happens | the other side |
|---|---|---|
| boot | the loader, then this module with all of the runtime: no code of the user's | waits, or keeps it as a spare |
| run | it gets its identity and is an actor, under a warden | supervises |
| end | its threads have ended, the warden retires, nothing of the user's runs any more | - |
| give back | modules are dropped, memory of private extensions is freed | closes the interpreter |

The stages "boot" and "give back" are those of `_subint_loader.py`; reports are literals, one in a line.
"""

from __future__ import annotations

import atexit
import gc
import os
import socket
import sys
import threading
import time
import traceback
from ast import literal_eval
from contextlib import suppress
from functools import partial
from typing import Any

from tractor import log as _log
from tractor.runtime import _state
from tractor.spawn import _entry, _subint, _subint_shims, _subint_spares
from tractor.spawn._subint_warden import KILL, Killed, Warden, free_locks

log = _log.get_logger()

# seconds
_REAP_WITHIN: float = 1.0
_REAP_EVERY: float = 0.005

_SERVERS: tuple[tuple[str, str], ...] = (
    ('multiprocessing.forkserver', '_forkserver'),
    ('multiprocessing.resource_tracker', '_resource_tracker'),
)

# the one of this interpreter, once it is an actor
_wardens: list[Warden] = []

if _state.current_interp_id() != 0:
    # what they replace belongs to the whole process otherwise
    _subint_shims.apply()


def kill_me() -> None:
    """
    End this actor as its parent's handle does by `kill()`; for tests of sudden deaths.

    Any thread of its interpreter may call this. It returns at once: what runs here fails soon after.

    Raises:
        RuntimeError: this interpreter runs no actor of this backend.
    """
    if not _wardens:
        raise RuntimeError('this interpreter runs no actor that could be killed in it')
    _wardens[0].order(KILL)


def run(order: str) -> None:
    """
    Be an actor until it has ended.

    Args:
        order: the literal of a dict: `path` (of modules), `argv`, `fds` (orders, retire_by, report) and `actor`
            (arguments of `_entry._actor_child_main()`).
    """
    told: dict[str, Any] = literal_eval(order)
    sys.path[:] = told['path']
    sys.argv[:] = told['argv']
    os.reload_environ()
    orders, retire_by, report_to = told['fds']
    warden = Warden(orders, retire_by, partial(report, report_to))
    _wardens.append(warden)
    warden.start()
    ended, error = _run_actor(warden, told['actor'])
    warden.spares_main = True
    if warden.killed:
        free_locks()
    _end_threads(warden)
    if ended != 'returned':
        _close_sockets()
    if warden.killed:
        # the actor itself may have returned, and have left threads which had to be
        ended, error = 'killed', ''
    warden.spares_main = False
    _run_exit_functions()
    warden.spares_main = True
    _end_processes(warden)
    _flush()
    warden.retire()
    report(report_to, ended=ended, error=error)


def _run_actor(warden: Warden, actor: dict[str, Any]) -> tuple[str, str]:
    """How it ended, and with what."""
    try:
        _entry._actor_child_main(**actor)
    except Killed:
        return 'killed', ''
    except BaseException as err:  # noqa: BLE001 - the end of the actor's thread: it becomes its exit code
        if warden.killed:
            return 'killed', ''
        traceback.print_exc()
        return 'failed', ''.join(traceback.format_exception_only(err)).strip()
    return 'returned', ''


def _end_threads(warden: Warden) -> None:
    """Wait for the threads which the actor leaves behind, as a process does at its end."""
    _subint_spares.end()
    # of an event loop that has failed: nobody supervises them any more, and they are threads to wait for
    for child in _subint.live_children():
        child.kill()
    _subint_shims.end_idle_workers()
    # this thread was not started from here: it is a dummy to the module, and "main" is that of the whole process
    rest = [
        thread
        for thread in threading.enumerate()
        if thread is not threading.main_thread()
        and not isinstance(thread, threading._DummyThread)
        and not warden.is_warden(thread)
    ]
    if rest:
        log.warning(
            'the actor has ended, and waits for its thread %s', ', '.join(t.name for t in rest)
        )
    for thread in rest:
        thread.join()
    # they may have used workers in their turn
    _subint_shims.end_idle_workers()


def _close_sockets() -> None:
    # what a process leaves open is closed by the system; here tasks that were left where they were hold it open
    for sock in [found for found in gc.get_objects() if isinstance(found, socket.socket)]:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            sock.close()


def _run_exit_functions() -> None:
    # now, since what they refer to is given back before the interpreter would call them
    try:
        atexit._run_exitfuncs()
    except Killed:
        return


def _end_processes(warden: Warden) -> None:
    """Wait for those that were killed along, and end the servers which `multiprocessing` leaves to a process's end."""
    deadline = time.monotonic() + _REAP_WITHIN
    for proc in warden.killed_children:
        while not _has_ended(proc) and time.monotonic() < deadline:
            _subint_shims.sleep_anyway(_REAP_EVERY)
        _close_handle(proc)
    for name, attribute in _SERVERS:
        stop = getattr(getattr(sys.modules.get(name), attribute, None), '_stop', None)
        if stop is not None:
            with suppress(OSError):
                stop()


def _close_handle(proc: Any) -> None:
    # who would do that was killed, perhaps after it had been done
    close = getattr(proc, 'close', None)
    if close is not None and _has_ended(proc):
        with suppress(ValueError):
            close()


def _has_ended(proc: Any) -> bool:
    try:
        return proc.poll() is not None
    except RuntimeError:
        # trio's own has been reaped, and would tell an event loop so
        return True


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            # closed, or nobody reads it any more
            continue


def report(to: int, **facts: Any) -> None:
    """Tell the other side."""
    text = repr(facts) + '\n'
    try:
        os.write(to, text.encode('utf-8', 'backslashreplace'))
    except OSError as err:
        log.error('the end of this actor cannot be reported: %s', err)
