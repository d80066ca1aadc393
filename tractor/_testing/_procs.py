"""The processes of one test session: found whoever their parent is now.

Two facts tie a process to a session. It descends from the process that runs pytest, or its
environment carries the session's tag (`TAG`), which children inherit and which survives when
their parent dies and they are adopted by process 1.

A process is named by its pid *and* its start time, so that a pid used again is never taken for
the process that had it before.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

TAG = 'TRACTOR_TEST_ID'
"""Environment variable naming the session, and the test within it, that started a process."""

HAS_PROC = sys.platform == 'linux'


class Proc(NamedTuple):
    """A process as seen at one instant."""

    pid: int
    started: int
    """Start time, in ticks of an arbitrary clock of this machine."""
    ppid: int
    state: str
    """State letter of ``/proc/<pid>/stat``; ``Z`` is a zombie."""
    name: str

    @property
    def key(self) -> tuple[int, int]:
        return self.pid, self.started

    @property
    def is_zombie(self) -> bool:
        return self.state == 'Z'


def scan() -> dict[int, Proc]:
    """Return every process of this machine that can be looked at, by pid."""
    if not HAS_PROC:
        return _scan_with_psutil()
    pids = (int(name) for name in os.listdir('/proc') if name.isdigit())
    return {proc.pid: proc for pid in pids if (proc := _read_stat(pid)) is not None}


def _read_stat(pid: int) -> Proc | None:
    try:
        raw = Path(f'/proc/{pid}/stat').read_bytes()
    except OSError:
        return None
    # the name is in parentheses and may itself contain any character
    head, _, tail = raw.rpartition(b')')
    fields = tail.split()
    name = head.partition(b'(')[2].decode(errors='replace')
    return Proc(pid, int(fields[19]), int(fields[1]), fields[0].decode(), name)


def _scan_with_psutil() -> dict[int, Proc]:
    import psutil

    procs = {}
    for ps in psutil.process_iter(['pid', 'ppid', 'create_time', 'status', 'name']):
        info = ps.info
        state = 'Z' if info['status'] == psutil.STATUS_ZOMBIE else str(info['status'])
        started = int((info['create_time'] or 0) * 100)
        procs[info['pid']] = Proc(info['pid'], started, info['ppid'] or 0, state, info['name'])
    return procs


def is_alive(pid: int) -> bool:
    """Tell whether there is such a process; a zombie does not count."""
    if pid <= 0:
        return False
    proc = _read_stat(pid) if HAS_PROC else None
    if proc is not None:
        return proc.state not in {'Z', 'X'}
    # without /proc, or where it hides the processes of others
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def read_tag(pid: int) -> str:
    """Return the session tag in the environment of `pid`; empty when it has none or is gone."""
    if HAS_PROC:
        try:
            raw = Path(f'/proc/{pid}/environ').read_bytes()
        except OSError:
            return ''
        prefix = f'{TAG}='.encode()
        values = (v[len(prefix) :] for v in raw.split(b'\0') if v.startswith(prefix))
        return next(values, b'').decode(errors='replace')

    import psutil

    try:
        return str(psutil.Process(pid).environ().get(TAG, ''))
    except psutil.Error:
        return ''


def command_line(proc: Proc) -> str:
    """Return what `proc` runs, for people; its bare name in brackets when it has no arguments."""
    raw = b''
    if HAS_PROC:
        with contextlib.suppress(OSError):
            raw = Path(f'/proc/{proc.pid}/cmdline').read_bytes()
    return raw.replace(b'\0', b' ').decode(errors='replace').strip() or f'[{proc.name}]'


def identity(info: os.stat_result) -> tuple[int, int]:
    """Return the device and inode of a file, which stay when it is renamed or unlinked."""
    return info.st_dev, info.st_ino


def files_of(pid: int) -> set[tuple[int, int]]:
    """Return the identity of each file that a process has open or mapped.

    Nothing is known of one that has ended or belongs to another user. A name would say less: a
    semaphore was mapped under another one.
    """
    base = Path('/proc', str(pid))
    found = set()
    try:
        for link in (base / 'fd').iterdir():
            # closed meanwhile
            with contextlib.suppress(FileNotFoundError):
                found.add(identity(link.stat()))
        mapped = (base / 'maps').read_text(errors='replace')
    except OSError:
        return found
    for line in mapped.splitlines():
        device, inode = line.split(maxsplit=5)[3:5]
        major, minor = (int(part, 16) for part in device.split(':'))
        found.add((os.makedev(major, minor), int(inode)))
    return found


def is_ours(proc: Proc) -> bool:
    """Tell whether `proc` runs as the same user as this process."""
    if not HAS_PROC:
        import psutil

        try:
            return bool(psutil.Process(proc.pid).uids().real == os.getuid())
        except psutil.Error:
            return False
    try:
        return os.stat(f'/proc/{proc.pid}').st_uid == os.getuid()
    except OSError:
        return False


def descends_from(proc: Proc, ancestor: int, procs: dict[int, Proc]) -> bool:
    """Tell whether `ancestor` is a parent of `proc`, at any distance, within `procs`."""
    seen: set[int] = set()
    parent = proc.ppid
    while parent not in seen:
        if parent == ancestor:
            return True
        seen.add(parent)
        if (above := procs.get(parent)) is None:
            return False
        parent = above.ppid
    return False


def of_session(session: str, *, exclude: set[tuple[int, int]]) -> list[Proc]:
    """Return the live and zombie processes of this session that are not in `exclude`.

    Args:
        session: the tag of the session; longer tags starting with it belong to it too.
        exclude: keys of processes to leave out, e.g. those seen before a test.
    """
    procs = scan()
    me = os.getpid()
    return [
        proc
        for proc in procs.values()
        if proc.key not in exclude
        and proc.pid != me
        and (descends_from(proc, me, procs) or read_tag(proc.pid).startswith(session))
    ]


def wait_gone(procs: Iterable[Proc], timeout: float) -> None:
    """Return as soon as all of `procs` have ended, or after `timeout` seconds.

    A process that ended and was not waited for by its parent counts as ended; nothing is reaped.
    """
    if not HAS_PROC:
        _wait_with_psutil(procs, timeout)
        return
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as stack:
        poller = select.poll()
        handles = {fd for proc in procs if (fd := _open_handle(proc)) is not None}
        for fd in handles:
            stack.callback(os.close, fd)
            poller.register(fd, select.POLLIN)
        while handles and (left := deadline - time.monotonic()) > 0:
            for fd, _event in poller.poll(left * 1000):
                poller.unregister(fd)
                handles.discard(fd)


def _open_handle(proc: Proc) -> int | None:
    """Return a new pidfd of `proc`, or `None` when that process is gone."""
    try:
        fd = os.pidfd_open(proc.pid)
    except ProcessLookupError:
        return None
    now = _read_stat(proc.pid)
    if now is None or now.key != proc.key:
        os.close(fd)
        return None
    return fd


def send(proc: Proc, signum: int) -> bool:
    """Send a signal to `proc` and to no later process with its pid.

    Returns:
        Whether it was sent; if not, the process was gone.

    Raises:
        PermissionError: it belongs to another user.
    """
    if not HAS_PROC:
        for ps in _open_with_psutil([proc]):
            ps.send_signal(signum)
            return True
        return False
    if (fd := _open_handle(proc)) is None:
        return False
    try:
        signal.pidfd_send_signal(fd, signum)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def kill(procs: Iterable[Proc], timeout: float = 5) -> None:
    """Kill `procs`, wait for their end and reap those that are our own children."""
    procs = list(procs)
    if not HAS_PROC:
        _kill_with_psutil(procs, timeout)
        return
    for proc in procs:
        send(proc, signal.SIGKILL)
    wait_gone(procs, timeout)
    reap_zombies(procs)


def reap_zombies(procs: Iterable[Proc]) -> None:
    """Wait for those of `procs` that have ended and are our own children."""
    for proc in procs:
        # not our child, or its owner was faster
        with contextlib.suppress(ChildProcessError):
            os.waitpid(proc.pid, os.WNOHANG)


def _open_with_psutil(procs: Iterable[Proc]) -> list[Any]:
    """Return a `psutil.Process` for each of `procs` that still exists."""
    import psutil

    found = []
    for proc in procs:
        with contextlib.suppress(psutil.NoSuchProcess):
            ps = psutil.Process(proc.pid)
            if int(ps.create_time() * 100) == proc.started:
                found.append(ps)
    return found


def _wait_with_psutil(procs: Iterable[Proc], timeout: float) -> None:
    import psutil

    psutil.wait_procs(_open_with_psutil(procs), timeout=timeout)


def _kill_with_psutil(procs: Iterable[Proc], timeout: float) -> None:
    import psutil

    victims = _open_with_psutil(procs)
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    psutil.wait_procs(victims, timeout=timeout)
