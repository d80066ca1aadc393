"""
Which processes a tree has left behind: looked up in the system, not taken from what the runtime believes.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

# what the command line of an actor's process contains, whichever backend started it
_ACTOR_MARKS: tuple[str, ...] = ('_subactor[', 'tractor._child', 'multiprocessing')

# seconds for helpers which `multiprocessing` gave to an actor to notice that it has ended; actors have none
GRACE: float = 1.0


class Proc(NamedTuple):
    """A process at one instant; the start time tells it from a later one with the same pid."""

    pid: int
    ppid: int
    group: int
    started: str
    state: str


def scan() -> dict[int, Proc]:
    """All processes of this machine by pid; empty where there is no `/proc`."""
    if sys.platform != 'linux':
        return {}
    found = (_read(int(name)) for name in os.listdir('/proc') if name.isdigit())
    return {proc.pid: proc for proc in found if proc is not None}


def _read(pid: int) -> Proc | None:
    try:
        stat = Path(f'/proc/{pid}/stat').read_text(errors='replace')
    except OSError:
        return None
    # the name, in parentheses, may contain anything
    fields = stat.rpartition(')')[2].split()
    return Proc(pid, int(fields[1]), int(fields[2]), fields[19], fields[0])


def _command(pid: int) -> str:
    try:
        return Path(f'/proc/{pid}/cmdline').read_bytes().replace(b'\0', b' ').decode().strip()
    except (OSError, UnicodeDecodeError):
        return ''


def settle(before: dict[int, Proc], told: set[int]) -> list[str]:
    """
    What is left over: `find()` as lines of text, once helpers have had `GRACE` seconds to end.

    Args:
        before, told: as for `find()`.
    """
    deadline = time.monotonic() + GRACE
    left = find(before, told)
    while left and not told & left.keys() and time.monotonic() < deadline:
        time.sleep(0.02)
        left = find(before, told)
    return list(left.values())


def find(before: dict[int, Proc], told: set[int]) -> dict[int, str]:
    """
    What is still there of the trees started since `before`, one line a process by its pid.

    Args:
        before: an earlier `scan()`.
        told: pids of actors that are known to have been started.

    Children of this process, at any distance and zombies too, and actors which have lost their parent but not
    their process group. Where there is no `/proc`: those of `told` that are alive.
    """
    now = scan()
    if not now:
        return {pid: f'process {pid}' for pid in sorted(told) if _alive(pid)}
    me, group = os.getpid(), os.getpgrp()
    new = [
        proc
        for proc in now.values()
        if proc.pid not in _mp_helpers() | {me}
        and getattr(before.get(proc.pid), 'started', None) != proc.started
    ]
    ours = [
        proc
        for proc in new
        if _descends(proc, me, now) or (proc.group == group and _is_actor(proc.pid))
    ]
    return {
        proc.pid: f'process {proc.pid} (state {proc.state}): {_command(proc.pid) or "-"}'
        for proc in ours
    }


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _is_actor(pid: int) -> bool:
    command = _command(pid)
    return any(mark in command for mark in _ACTOR_MARKS)


def _descends(proc: Proc, ancestor: int, procs: dict[int, Proc]) -> bool:
    parent: Proc | None = proc
    while parent is not None and parent.pid != parent.ppid:
        if parent.ppid == ancestor:
            return True
        parent = procs.get(parent.ppid)
    return False


def _mp_helpers() -> set[int]:
    """The helpers which `multiprocessing` keeps until this process ends, by its design: no actors."""
    tracker: Any = sys.modules.get('multiprocessing.resource_tracker')
    server: Any = sys.modules.get('multiprocessing.forkserver')
    pids = (
        getattr(getattr(tracker, '_resource_tracker', None), '_pid', None),
        getattr(getattr(server, '_forkserver', None), '_forkserver_pid', None),
    )
    return {pid for pid in pids if pid is not None}
