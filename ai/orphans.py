"""
What `orphans.md` says, observed: the parent-death signal follows a thread, the guard follows the process.

Exit code 0 if both were seen. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

PR_SET_PDEATHSIG = 1

SLEEPER = 'import time\nprint("up", flush=True)\ntime.sleep(60)'

# a process that starts a child which is stuck for good, tells its pid, and waits to be killed
PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, '-c', sys.argv[1], str(os.getpid())], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
input()
"""

STUCK_AND_GUARDED = """
import sys
from tractor.runtime import _orphan
_orphan.start_guard(int(sys.argv[1]))
print('up', flush=True)
while True:
    pass
"""


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def signal_follows_the_thread() -> bool:
    """Start a child from a thread, end the thread: is the child killed although we live?"""
    started: list[subprocess.Popen[bytes]] = []
    may_end = threading.Event()

    def start() -> None:
        child = subprocess.Popen(
            [sys.executable, '-c', SLEEPER],
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent,  # noqa: PLW1509
        )
        assert child.stdout is not None
        child.stdout.readline()
        started.append(child)
        may_end.wait()

    thread = threading.Thread(target=start)
    thread.start()
    while not started:
        time.sleep(0.01)
    alive = started[0].poll() is None
    may_end.set()
    thread.join()
    try:
        code = started[0].wait(5)
    except subprocess.TimeoutExpired:
        code = None
        started[0].kill()
    print(f'parent-death signal: alive while the thread ran: {alive}; when it had ended: {code}')
    return alive and code == -signal.SIGKILL


def guard_follows_the_process() -> bool:
    """Kill a parent whose child is in an endless loop: how long does the child live on?"""
    parent = subprocess.Popen(
        [sys.executable, '-c', PARENT, STUCK_AND_GUARDED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    child = os.pidfd_open(pid)
    began = time.monotonic()
    parent.kill()
    parent.wait()
    while not ended(child) and time.monotonic() - began < 10:
        time.sleep(0.05)
    took = time.monotonic() - began
    os.close(child)
    print(f'guard: the stuck child ended {took:.1f} s after its parent was killed')
    return 1 < took < 4


def ended(pidfd: int) -> bool:
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


if __name__ == '__main__':
    results = [signal_follows_the_thread(), guard_follows_the_process()]
    sys.exit(0 if all(results) else 1)
