"""
Socket files: binding to them, telling stale ones, connecting to them.

A socket file outlives its socket, hence a crashed actor leaves a stale one which makes every later
bind to that path fail. Whoever wants the path then connects to it; when nobody answers it removes
the file and binds anew. The rules that keep this safe:

- Finding a file stale, removing it and binding are done under a lock (`flock`) on the directory, and
  so is every other bind. Without it, two actors could find the same file stale and the slower one
  would remove the socket which the faster one has just bound; and a socket that is bound but does
  not listen yet would look stale.
- The lock is on the directory, not on a file of its own, which could never be removed safely. The
  directory must be ours: its owner could replace the socket anyway.
- Only a socket file is ever removed, and at close only the very file that was bound.

What is done under the lock are a few system calls on a local file system. They are made without
leaving the event loop: nothing can be cancelled half-way, and no worker thread is needed.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != 'win32':
    import fcntl

# device, inode, time of creation; see `identify()`
FileId = tuple[int, int, int]

# what `flock()` fails with on file systems that have no such lock
_NO_LOCKS: frozenset[int] = frozenset(
    {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
)

# Linux tells a full backlog (a sign of life) from a dead socket. Elsewhere both refuse, so that it
# takes several refusals, this many seconds apart, to find a socket dead.
_PROBES: int = 1 if sys.platform == 'linux' else 5
_PROBE_PAUSE: float = 0.01


class ForeignDirectory(PermissionError):
    """A directory for sockets belongs to another user."""


def make_private(directory: Path) -> None:
    """
    Create a directory where it is missing, and those above it, for their owner only.

    (`Path.mkdir()` would give those above it the mode that happens to be usual.)

    Raises:
        OSError: it cannot be created.
    """
    for missing in reversed(
        [place for place in (directory, *directory.parents) if not place.exists()]
    ):
        missing.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def opened(directory: Path) -> Iterator[int]:
    """
    A file descriptor of a directory of ours; closing it at the end releases its lock.

    Raises:
        ForeignDirectory: it belongs to another user.
        OSError: it does not exist, or cannot be opened.
    """
    dir_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        owner, uid = os.fstat(dir_fd).st_uid, os.getuid()
        if owner != uid:
            raise ForeignDirectory(f'{directory} belongs to uid {owner}, we are uid {uid}')
        yield dir_fd
    finally:
        os.close(dir_fd)


def try_lock(dir_fd: int) -> bool:
    """Take the lock of a directory unless another holds it; returns whether to go on."""
    try:
        fcntl.flock(dir_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as err:
        if err.errno not in _NO_LOCKS:
            raise
        # without locks two actors may race for a stale path, which is better than not to start
    return True


def identify(path: Path) -> FileId:
    """
    What tells a socket file from a later one of the same path.

    The time of creation is part of it, as file systems give out the number of a removed file again.
    It is the time of the last modification, which a socket file never sees, and not that of the
    last change, which moves when its owner changes its mode.
    """
    status = os.lstat(path)
    return status.st_dev, status.st_ino, status.st_mtime_ns


def bind(path: Path, backlog: int) -> tuple[socket.socket, FileId]:
    """
    Bind and listen, replacing a stale file; the lock of the directory must be held.

    Raises:
        OSError: the path is taken, or cannot be bound.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            sock.bind(os.fspath(path))
        except OSError as err:
            if err.errno != errno.EADDRINUSE or not _is_stale(path):
                raise
            os.unlink(path)
            sock.bind(os.fspath(path))
        sock.listen(backlog)
        return sock, identify(path)
    except BaseException:
        sock.close()
        raise


def _is_stale(path: Path) -> bool:
    """Whether a path is that of a socket on which nobody listens."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except FileNotFoundError:
        # removed since, by something that does not know the lock
        return False
    for attempt in range(_PROBES):
        if attempt:
            time.sleep(_PROBE_PAUSE)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            if probe.connect_ex(os.fspath(path)) != errno.ECONNREFUSED:
                return False
    return True


def connect(path: str | os.PathLike[str]) -> socket.socket | None:
    """
    Try to connect; `None` if the listener has too many connections to accept, so try again.

    (Waiting for the socket to become writable instead, as is right for other families, would end
    at once, with a socket that is not connected.)

    Raises:
        OSError: nobody listens there, or it cannot be reached.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(os.fspath(path))
    except BlockingIOError:
        sock.close()
        return None
    except BaseException:
        sock.close()
        raise
    return sock
