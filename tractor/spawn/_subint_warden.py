"""
The warden of a sub-interpreter: a thread in it which can stop every other one.

It waits in a raw read of a pipe, holds no lock that the actor could hold, and never touches the event loop except
through its token.

| order | what it does |
|---|---|
| `TERMINATE` | asks the actor to cancel itself, through the event loop |
| `KILL` | makes everything in the interpreter fail, and again every `AGAIN_AFTER` seconds until it is over |
| `DESCRIBE` | reports the stacks of all threads |
| `RETIRE` | leaves |

What `KILL` does, and to whom:

| stuck | what ends it |
|---|---|
| running, and swallowing every exception | `sys.monitoring`: each line, jump and call of user code raises `Killed` |
| parked in the event loop, shielded or not | each parked task is woken with `Killed` |
| in `time.sleep()` | which waits for an event here, see `_subint_shims.py` |
| in a system call on a socket | the socket is shut down |
| in another C call | nothing: it will be abandoned |

Spared is code that a scheduler calls: trio, outcome, the standard library (asyncio, threading), and what is no
coroutine of this package. An exception in the middle of a scheduler would leave its state behind, with every task in
it, and that keeps the memory of the interpreter alive. Their loops end by themselves once all that they run has.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import sys
import threading
import traceback
from contextlib import suppress
from functools import partial
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE
from types import CodeType, ModuleType
from typing import Any

import trio

from tractor.runtime import _state
from tractor.spawn import _subint_shims

TERMINATE, KILL, DESCRIBE, RETIRE = b'T', b'K', b'D', b'Q'

# seconds after which what was not hit by a kill is tried again, by harder means
AGAIN_AFTER: float = 0.05

_COROUTINE: int = CO_COROUTINE | CO_ASYNC_GENERATOR

_TOOL_NAME = 'tractor warden'


class Killed(BaseException):
    """Raised everywhere in an interpreter that is killed; never seen outside of it."""


class Warden:
    """
    The warden of this interpreter.

    Args:
        orders: a file descriptor to read orders from, one byte each; closed by the other side.
        retire_by: one to write to, whose other end is `orders`.
        report: called with what the other side is to know.

    Made in the thread that runs the actor.
    """

    def __init__(self, orders: int, retire_by: int, report: Any) -> None:
        self._orders = orders
        self._retire_by = retire_by
        self._report = report
        self._tool: int | None = None
        self._main = threading.get_ident()
        # when the actor is over, its thread cleans up
        self.spares_main = False
        self.killed = False
        # it was not up yet when it was told to
        self._is_to_terminate = False
        self.killed_children: list[Any] = []
        self._thread = threading.Thread(target=self._watch, name='tractor warden')

    def start(self) -> None:
        """Begin to wait for orders."""
        self._thread.start()

    def order(self, order: bytes) -> None:
        """Give it an order from within its interpreter, from any thread."""
        os.write(self._retire_by, order)

    def retire(self) -> None:
        """Make the warden leave, and wait for that."""
        self.order(RETIRE)
        self._thread.join()

    def is_warden(self, thread: threading.Thread) -> bool:
        """Whether it is this."""
        return thread is self._thread

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._orders, select.POLLIN)
        try:
            while True:
                waits = self.killed or self._is_to_terminate
                if not poll.poll(1000 * AGAIN_AFTER if waits else None):
                    self._again()
                    continue
                order = os.read(self._orders, 1)
                if order == TERMINATE:
                    self._is_to_terminate = not _cancel_actor()
                elif order == KILL:
                    self._kill()
                elif order == DESCRIBE:
                    self._report(stacks=self._stacks())
                else:
                    return
        finally:
            self._disarm()

    def _again(self) -> None:
        if self._is_to_terminate:
            self._is_to_terminate = not _cancel_actor()
        if self.killed:
            self._rouse_tasks()
            _shut_sockets()

    # -- killing ------------------------------------------------------------------------------------------------

    def _kill(self) -> None:
        if self.killed:
            return
        self.killed = True
        _be_quiet()
        for proc in _children():
            proc.kill()
            self.killed_children.append(proc)
        self._arm()
        _subint_shims.wake_sleepers()
        self._rouse_tasks()

    def _arm(self) -> None:
        monitoring = sys.monitoring
        events = monitoring.events
        me, get_ident = threading.get_ident(), threading.get_ident
        spares = _Spared()

        def raise_killed(code: CodeType, *_: object) -> None:
            ident = get_ident()
            if ident == me or spares(code):
                return
            if self.spares_main and ident == self._main:
                return
            raise Killed

        self._tool = next(tool for tool in (4, 3, 5, 2, 1, 0) if monitoring.get_tool(tool) is None)
        monitoring.use_tool_id(self._tool, _TOOL_NAME)
        mask = 0
        for event in (events.LINE, events.JUMP, events.PY_START, events.PY_RESUME):
            monitoring.register_callback(self._tool, event, raise_killed)
            mask |= event
        monitoring.set_events(self._tool, mask)

    def _disarm(self) -> None:
        if self._tool is not None:
            sys.monitoring.set_events(self._tool, 0)
            sys.monitoring.free_tool_id(self._tool)
            self._tool = None

    def _rouse_tasks(self) -> None:
        _in_event_loop(_fail_parked_tasks)

    def _stacks(self) -> str:
        # not through `threading.enumerate()`, which needs a lock
        names = {ident: thread.name for ident, thread in list(threading._active.items())}  # type: ignore[attr-defined]
        names[self._main] = 'the actor'
        parts = []
        for ident, frame in sys._current_frames().items():
            if ident == self._thread.ident:
                continue
            lines = ''.join(traceback.format_stack(frame))
            parts.append(f'{names.get(ident, ident)}:\n{lines}')
        return '\n'.join(parts)


def _in_event_loop(fn: Any) -> bool:
    actor = _state._current_actor
    token = actor._trio_token if actor is not None else None
    if token is None:
        return False
    try:
        token.run_sync_soon(fn)
    except trio.RunFinishedError:
        return False
    return True


def _cancel_actor() -> bool:
    """Whether it is up, and was told to cancel itself."""
    actor = _state._current_actor
    # its parent's connection is the last that is set up
    if actor is None or actor._parent_chan_cs is None:
        return False
    return _in_event_loop(partial(_cancel_soon, actor))


def _cancel_soon(actor: Any) -> None:
    # its nursery is closed: it ends already
    with suppress(RuntimeError):
        actor.cancel_soon()


def _raise_killed() -> None:
    raise Killed


def _fail_parked_tasks() -> None:
    # trio offers no way of failing a shielded task; what is done here is what its own cancellation does
    from trio._core import _run

    for task in list(_run.GLOBAL_RUN_CONTEXT.runner.tasks):
        if task._abort_func is not None and task.coro.cr_code.co_filename != _run.__file__:
            task._attempt_abort(_raise_killed)


def _shut_sockets() -> None:
    """End the system calls that wait for a socket of this interpreter; those that wake event loops are needed."""
    import socket

    from trio._core._wakeup_socketpair import WakeupSocketpair

    found: list[socket.socket] = []
    needed: set[int] = set()
    for candidate in gc.get_objects():
        if isinstance(candidate, socket.socket):
            found.append(candidate)
        elif isinstance(candidate, WakeupSocketpair):
            needed |= {candidate.wakeup_sock.fileno(), candidate.write_sock.fileno()}
    for sock in found:
        if sock.fileno() not in needed:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _children() -> list[Any]:
    """The handles of what this actor has started: nobody else would end it."""
    actor = _state._current_actor
    if actor is None:
        return []
    nurseries = {*actor._actoruid2nursery.values()}
    return [child.proc for nursery in nurseries for child in list(nursery._children.values())]


def _scheduler() -> list[ModuleType]:
    """Packages whose code runs within trio's scheduler."""
    names = ('trio', 'outcome', 'attr', 'sortedcontainers', 'sniffio')
    return [module for name in names if (module := sys.modules.get(name)) is not None]


class _Spared:
    """Which code is spared by a kill: not that of users, nor coroutines of this package."""

    def __init__(self) -> None:
        # by file name: spared, not spared, or only what is no coroutine
        self._verdicts: dict[str, bool | None] = {}
        self._ours = os.path.dirname(os.path.dirname(__file__)) + os.sep
        self._always = (
            os.path.join(os.path.dirname(__file__), '_subint'),
            *(os.path.dirname(str(package.__file__)) + os.sep for package in _scheduler()),
            '<attrs generated',
            '<frozen',
        )
        self._stdlib = os.path.dirname(os.__file__) + os.sep

    def __call__(self, code: CodeType) -> bool:
        file = code.co_filename
        if file not in self._verdicts:
            self._verdicts[file] = self._judge(file)
        verdict = self._verdicts[file]
        return not code.co_flags & _COROUTINE if verdict is None else verdict

    def _judge(self, file: str) -> bool | None:
        if file.startswith(self._always):
            return True
        if file.startswith(self._ours):
            return None
        rest = file.removeprefix(self._stdlib)
        return rest != file and not rest.startswith(('site-packages', 'dist-packages'))


def _be_quiet() -> None:
    """From now on every error in here is a consequence of the kill, which the other side reports."""
    sys.unraisablehook = _say_nothing
    threading.excepthook = _say_nothing
    # as `logging.disable()` does it, but for its lock, which what is to be killed may hold
    manager = logging.root.manager
    manager.disable = logging.CRITICAL
    for logger in (logging.root, *list(manager.loggerDict.values())):
        if isinstance(logger, logging.Logger):
            logger._cache.clear()  # type: ignore[attr-defined]


def free_locks() -> None:
    """Free those of `logging` and `threading`: who was killed with one of them has not released it."""
    logging._after_at_fork_child_reinit_locks()  # type: ignore[attr-defined]
    threading._active_limbo_lock._at_fork_reinit()  # type: ignore[attr-defined]


def _say_nothing(_: object) -> None:
    return None
