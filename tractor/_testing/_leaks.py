"""Find what a test left behind.

`Snapshot.take()` before the test, `settle()` after it. What is looked at:

==============  =====================================================================
processes       children, grandchildren and orphans of this session, zombies included
threads         live ones, except trio's idle cache threads
descriptors     open files, sockets, pipes, event and process descriptors of this process
interpreters    sub-interpreters of this process, whoever has created them
socket files    in the runtime directory
shared memory   files of ours below ``/dev/shm``
==============  =====================================================================

Allowed to stay: multiprocessing's fork server and resource tracker with the descriptors that
hold them. The stdlib starts one of each per process on first use and keeps them to its end, by
design; a later test uses the same ones. And the spare interpreters of a runtime that outlives the
test: they end with it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import stat
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tractor._testing import _procs

GRACE = 3.0
"""Seconds that processes, threads, interpreters and shared memory get to go by themselves after a test."""

SHM_DIR = Path('/dev/shm')

_IDLE_TRIO_THREAD = re.compile(r'Trio thread \d+')


def mp_helpers() -> tuple[set[int], set[int]]:
    """Return pids and descriptors of multiprocessing's own per-process helpers."""
    tracker: Any = sys.modules.get('multiprocessing.resource_tracker')
    server: Any = sys.modules.get('multiprocessing.forkserver')
    tracker = getattr(tracker, '_resource_tracker', None)
    server = getattr(server, '_forkserver', None)
    pids = getattr(tracker, '_pid', None), getattr(server, '_forkserver_pid', None)
    fds = getattr(tracker, '_fd', None), getattr(server, '_forkserver_alive_fd', None)
    return {pid for pid in pids if pid is not None}, {fd for fd in fds if fd is not None}


def _open_fds() -> dict[tuple[int, int, int, str], str]:
    """Map the identity of every open descriptor to the text of what it refers to."""
    if not _procs.HAS_PROC:
        return {}
    found = {}
    for name in os.listdir('/proc/self/fd'):
        try:
            target = os.readlink(f'/proc/self/fd/{name}')
            info = os.fstat(int(name))
        except OSError:
            # the one that listed the directory
            continue
        # All anonymous inodes share one number, only their text differs; the text of a file
        # changes when it is unlinked, its number does not.
        kind = target if target.startswith('anon_inode:') else ''
        found[int(name), info.st_dev, info.st_ino, kind] = target
    return found


def _socket_files(directory: Path) -> set[Path]:
    found: set[Path] = set()
    for folder, _dirs, names in os.walk(directory):
        paths = (Path(folder, name) for name in names)
        found.update(path for path in paths if path.is_socket())
    return found


def _own_shm_files() -> set[Path]:
    if not SHM_DIR.is_dir():
        return set()
    found = set()
    for path in SHM_DIR.iterdir():
        try:
            info = path.lstat()
        except FileNotFoundError:
            continue
        if info.st_uid == os.getuid() and stat.S_ISREG(info.st_mode):
            found.add(path)
    return found


def _interpreters() -> set[int]:
    # not imported for the occasion: without it no sub-interpreter was ever created
    module: Any = sys.modules.get('_interpreters')
    if module is None:
        return set()
    # the public list holds references: one to what is just being created would end it when it goes
    return {found for found, *_ in module.list_all()} - {module.get_main()[0]}


def _warm_spares() -> tuple[Any, ...]:
    """Return what drives the spare interpreters of a runtime that is still up, e.g. a session's."""
    # not imported for the occasion: without it there is none
    module: Any = sys.modules.get('tractor.spawn._subint_spares')
    return () if module is None else module.drivers()


def _used_by_others(path: Path, session: str) -> bool:
    """Tell whether a process outside of this session has the file `path` open or mapped."""
    try:
        wanted = _procs.identity(path.stat())
    except FileNotFoundError:
        return False
    ours = {proc.pid for proc in _procs.of_session(session, exclude=set())} | {os.getpid()}
    return any(wanted in _procs.files_of(pid) for pid in _procs.scan() if pid not in ours)


@dataclass(frozen=True)
class Snapshot:
    """What existed at one instant, before a test."""

    session: str
    runtime_dir: Path
    procs: set[tuple[int, int]]
    threads: set[threading.Thread]
    fds: set[tuple[int, int, int, str]]
    interpreters: set[int]
    sockets: set[Path]
    shm: set[Path]

    @classmethod
    def take(cls, session: str, runtime_dir: Path) -> Snapshot:
        """Look at everything now.

        Args:
            session: value of the session's tag, see `_procs.TAG`.
            runtime_dir: directory in which actors of this session put their socket files.
        """
        return cls(
            session,
            runtime_dir,
            procs={proc.key for proc in _procs.scan().values()},
            threads=set(threading.enumerate()),
            fds=set(_open_fds()),
            interpreters=_interpreters(),
            sockets=_socket_files(runtime_dir),
            shm=_own_shm_files(),
        )


@dataclass
class Leaks:
    """What exists now and did not before; false when that is nothing."""

    procs: list[_procs.Proc] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)
    fds: dict[int, str] = field(default_factory=dict)
    interpreters: list[int] = field(default_factory=list)
    sockets: list[Path] = field(default_factory=list)
    shm: list[Path] = field(default_factory=list)

    def __bool__(self) -> bool:
        parts = (self.procs, self.threads, self.fds, self.interpreters, self.sockets, self.shm)
        return any(parts)

    @property
    def may_still_end(self) -> bool:
        """Whether waiting can help: a zombie of our own is only ever reaped by its owner."""
        me = os.getpid()
        # The thread that ends an interpreter may itself be in another one, where it is not seen; and
        # shared memory may be about to be mapped or unlinked by a session beside this one.
        if self.threads or self.interpreters or self.shm:
            return True
        return any(not p.is_zombie or p.ppid != me for p in self.procs)

    def describe(self) -> Iterator[str]:
        """Yield one line for each leak."""
        for proc in self.procs:
            yield (
                f'process {proc.pid} (state {proc.state}, parent {proc.ppid}): '
                f'{_procs.command_line(proc)}'
            )
        for thread in self.threads:
            yield f'thread {thread.name!r} (ident {thread.ident}, daemon {thread.daemon})'
        for fd, target in sorted(self.fds.items()):
            yield f'file descriptor {fd} -> {target}'
        for interp in self.interpreters:
            yield f'interpreter {interp}'
        for path in self.sockets:
            yield f'socket file {path}'
        for path in self.shm:
            yield f'shared memory {path}'

    def clear(self) -> None:
        """Kill the processes and unlink the files.

        Threads, interpreters and descriptors stay: an object of this process may still use them.
        """
        _procs.kill(self.procs)
        for path in (*self.sockets, *self.shm):
            path.unlink(missing_ok=True)


def find(before: Snapshot) -> Leaks:
    """Return what exists now and not in `before`, less what is allowed to stay."""
    mp_pids, mp_fds = mp_helpers()
    spares = _warm_spares()
    kept_threads = {spare.thread for spare in spares} | before.threads
    kept_interpreters = {spare.interp_id for spare in spares} | before.interpreters
    kept_fds = {fd for spare in spares for fd in spare._fds} | mp_fds
    return Leaks(
        procs=[
            proc
            for proc in _procs.of_session(before.session, exclude=before.procs)
            if proc.pid not in mp_pids
        ],
        threads=[
            thread
            for thread in threading.enumerate()
            if thread not in kept_threads and not _IDLE_TRIO_THREAD.fullmatch(thread.name)
        ],
        fds={
            key[0]: target
            for key, target in _open_fds().items()
            if key not in before.fds and key[0] not in kept_fds
        },
        interpreters=sorted(_interpreters() - kept_interpreters),
        sockets=sorted(_socket_files(before.runtime_dir) - before.sockets),
        shm=sorted(
            path
            for path in _own_shm_files() - before.shm
            if not _used_by_others(path, before.session)
        ),
    )


def settle(before: Snapshot, grace: float | None = None) -> Leaks:
    """Return what a test left behind, once that cannot get less or `grace` seconds are over.

    Args:
        before: taken before the test.
        grace: seconds that processes, threads and interpreters get to end; `GRACE` by default.
    """
    deadline = time.monotonic() + (GRACE if grace is None else grace)
    leaks = find(before)
    while leaks.may_still_end and (left := deadline - time.monotonic()) > 0:
        _wait_some(leaks, left)
        leaks = find(before)
    if leaks:
        # What only the cycle collector holds is closed by it, and reported by it as unclosed.
        gc.collect()
        leaks = find(before)
    return leaks


def _wait_some(leaks: Leaks, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    _procs.wait_gone(leaks.procs, timeout)
    for thread in leaks.threads:
        # one that is just starting, or was not started by Python, cannot be joined
        with contextlib.suppress(RuntimeError):
            thread.join(max(0, deadline - time.monotonic()))
    # neither a zombie whose parent lives nor an interpreter says when it is gone: look again soon
    time.sleep(min(0.01, max(0, deadline - time.monotonic())))
