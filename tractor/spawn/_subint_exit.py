"""
The end of a process which has hosted interpreters.

CPython crashes, by race, when it finalizes while another interpreter still runs code. So none may be left:

| left at the exit | what is done |
|---|---|
| nothing | nothing: the nurseries have seen to it |
| interpreters that can be killed | they are; what the runtime in a daemon thread says of that is not heard |
| one that cannot | the streams are flushed, it is reported, and the process is left with `os._exit()` |

The exit code is the one which the program has earned. An `atexit` callback cannot see it, so from the moment where an
interpreter had to be abandoned the exception that unwinds the main module is noted, through `sys.monitoring`.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from types import CodeType
from typing import Any

from tractor.runtime import _state
from tractor.spawn import _subint_spares

# seconds for all that is left to die
END_WITHIN: float = 3.0

_TOOL_NAME = 'tractor exit'


class _ExitNet:
    """Set up by the first interpreter that is started; one for each process."""

    def __init__(self, live: Any) -> None:
        self._live = live
        self._unwound: BaseException | None = None
        self._watches = False
        atexit.register(self._at_exit)
        if hasattr(os, 'register_at_fork'):
            os.register_at_fork(before=self._before_fork)
        self._warned_of_fork = False

    def watch_exit_code(self) -> None:
        """From now on note what the exit code will be."""
        monitoring = sys.monitoring
        if self._watches or threading.current_thread() is not threading.main_thread():
            return
        tool = next((tool for tool in (4, 3) if monitoring.get_tool(tool) is None), None)
        if tool is None:
            return
        self._watches = True
        monitoring.use_tool_id(tool, _TOOL_NAME)
        monitoring.register_callback(tool, monitoring.events.PY_UNWIND, self._note)
        monitoring.set_events(tool, monitoring.events.PY_UNWIND)

    def _note(self, code: CodeType, _: int, error: BaseException) -> None:
        if code.co_name == '<module>' and threading.current_thread() is threading.main_thread():
            self._unwound = error

    def _at_exit(self) -> None:
        _subint_spares.end()
        handles = self._live()
        _silence({handle.owner for handle in handles})
        for handle in handles:
            handle.kill()
        deadline = time.monotonic() + END_WITHIN
        for handle in handles:
            handle._driver.thread.join(max(0.0, deadline - time.monotonic()))
        left = [handle for handle in handles if handle._driver.thread.is_alive()]
        if left:
            self._leave(left)

    def _leave(self, left: list[Any]) -> None:
        names = ', '.join(map(repr, left))
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                continue
        os.write(2, f'tractor: leaving the process, this cannot be ended: {names}\n'.encode())
        error = self._unwound
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(_exit_code(error))

    def _before_fork(self) -> None:
        if self._warned_of_fork or not self._live():
            return
        self._warned_of_fork = True
        text = (
            'tractor: os.fork() in a process that hosts sub-interpreters: the child will crash; '
            "start processes through subprocess, or multiprocessing's 'spawn' or 'forkserver'\n"
        )
        os.write(2, text.encode())


def _silence(owners: set[int]) -> None:
    """
    Keep threads whose runtime loses its children now from failing aloud.

    They are daemon threads, or would have been waited for: in a moment they are stopped wherever they are.
    """
    hook = threading.excepthook

    def say_unless_owner(args: Any) -> None:
        if args.thread is None or args.thread.ident not in owners:
            hook(args)

    threading.excepthook = say_unless_owner


def _exit_code(error: BaseException | None) -> int:
    """As the interpreter would have computed it."""
    if error is None:
        return 0
    if not isinstance(error, SystemExit):
        return 1
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1


# of this process: one entry, written by `set_up()` only
_net: list[_ExitNet] = []


def set_up(live: Any) -> None:
    """
    Make sure that this process ends well; in another interpreter than the main one there is nothing to do.

    Args:
        live: returns the handles of those that have not ended.
    """
    if not _net and _state.current_interp_id() == 0:
        _net.append(_ExitNet(live))


def on_abandoned() -> None:
    """The process will have to be left by force."""
    for net in _net:
        net.watch_exit_code()
