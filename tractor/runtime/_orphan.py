"""
No actor outlives its parent for long, not even one that is stuck in code which never yields.

The loss of the parent's connection makes an actor cancel itself (`runtime/_main.py`). What cannot react to that is
ended from here: a thread waits, without waking up, for the end of the parent's *process* and gives the actor some
time before it ends this process too.

    parent dies -> connection lost -> actor cancels itself -> process exits, and this thread with it
                \\-> this thread wakes, waits GRACE -> still there: kill

The signal which Linux can send at the death of a parent is of no use for that: it is sent when the *thread* that
started the child ends, and children are started from short-lived worker threads.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time

from tractor import log as _log

log = _log.get_logger()

# seconds which an orphan has for its own teardown; whoever looks finds nothing left after 3 s
GRACE: float = 2.0

_HAS_PIDFD: bool = sys.platform == 'linux' and hasattr(os, 'pidfd_open')


def start_guard(parent_pid: int | None) -> None:
    """
    From now on this process ends at most `GRACE` seconds after its parent's.

    Args:
        parent_pid: the process of the parent actor; nothing is done for an actor that shares it.

    Nothing is done either where the system has no pidfd: an orphan then depends on noticing the lost connection.
    """
    if not _HAS_PIDFD or parent_pid is None or parent_pid == os.getpid():
        return
    try:
        parent_fd = os.pidfd_open(parent_pid)
    except OSError as err:
        # gone already, or in another pid namespace: the lost connection has to do
        log.runtime('the process %s of the parent cannot be watched: %s', parent_pid, err)
        return
    threading.Thread(
        target=_watch, args=(parent_fd,), name='tractor orphan guard', daemon=True
    ).start()


def _watch(parent_fd: int) -> None:
    poll = select.poll()
    poll.register(parent_fd, select.POLLIN)
    poll.poll()
    time.sleep(GRACE)
    text = f'tractor: process {os.getpid()} lost its parent and did not end: it is killed\n'
    try:
        os.write(2, text.encode())
    finally:
        os.kill(os.getpid(), signal.SIGKILL)
