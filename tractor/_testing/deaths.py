"""Where an actor runs, whether that still exists, and sudden ends of actors: on every spawn backend.

A process can end itself at once; a sub-interpreter cannot, without ending all that share its process.
What is here does to an actor of the `subint` backend what is most like it.
"""

from __future__ import annotations

import os
import signal

import trio

from tractor.runtime import _state

Place = tuple[int, int]
"""A pid and the id of an interpreter in that process."""


def where_am_i() -> Place:
    """Return the process and the interpreter in it which this runs in; 0 is the main one."""
    return os.getpid(), _state.current_interp_id()


def is_there(place: Place) -> bool:
    """Return whether that interpreter still exists.

    Of another process only the process is looked for: interpreters are known to their own one.
    """
    from tractor._testing._procs import is_alive

    pid, interp_id = place
    if interp_id == 0 or pid != os.getpid():
        return is_alive(pid)
    import _interpreters

    # the public list holds references: one to what is just being created would end it when it goes
    return interp_id in {found for found, *_ in _interpreters.list_all()}


def is_in_process() -> bool:
    """Return whether this actor is a sub-interpreter."""
    return _state.current_interp_id() != 0


def get_killed() -> None:
    """End this actor as `kill()` of its handle does; any thread of it may call this.

    In a sub-interpreter it returns, and whatever runs there fails soon after.
    """
    if is_in_process():
        # not for processes: it changes the interpreter that imports it
        from tractor.spawn import _subint_child

        _subint_child.kill_me()
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def exit_now(code: int) -> None:
    """End this actor by `os._exit(code)`; any thread of it may call this.

    In a sub-interpreter its connections break and its event loop fails, and this returns; `exit_code()` tells how
    that is seen.
    """
    if not is_in_process():
        os._exit(code)
    from tractor.spawn import _subint_warden

    _subint_warden._shut_sockets()
    fail_event_loop()


def fail_event_loop() -> None:
    """Make the event loop of this actor fail: its tasks stay where they are, not even cancelled; from any thread."""
    actor = _state.current_actor()
    assert actor._trio_token is not None
    actor._trio_token.run_sync_soon(trio.lowlevel.spawn_system_task, _fail_in_scheduler)


def exit_code(start_method: str, code: int) -> int:
    """Return the code with which an actor of that backend is seen to end after `exit_now(code)`."""
    return 1 if start_method == 'subint' else code


async def _fail_in_scheduler() -> None:
    def fail(_: object) -> trio.lowlevel.Abort:
        raise RuntimeError('the event loop of this actor fails')

    # the deadline is noticed in the scheduler, which then calls this
    with trio.move_on_after(0):
        await trio.lowlevel.wait_task_rescheduled(fail)
