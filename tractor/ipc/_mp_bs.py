"""
Shared memory that multiprocessing's resource tracker never hears of.

`multiprocessing.shared_memory.SharedMemory` reports every segment to a tracker process, on Python
3.12 each attached one too. That tracker is started once per process and shared with children that
multiprocessing starts: it unlinks segments that others still use, warns about segments that are
not leaked, and keeps those of a dead child until the last process that shares it has ended. Who
owns a segment here, and who removes it when the owner cannot, is told by `tractor.ipc._shm`.

`SharedMemory` is the stdlib's class with its own way of opening and closing; nothing of the stdlib
is replaced for others. What differs:

==============  ==================================================================================
tracker         never involved, on no Python version (3.12 has no `track` argument)
creation        all or nothing on Linux: a segment gets its name when its contents are complete,
                hence nobody can attach to half of one
memory          reserved at creation: a full ``/dev/shm`` is an `OSError` there and then, not a
                SIGBUS at some later write
descriptors     none stays open (one on Python 3.12)
`close()`       with views alive, e.g. NumPy arrays, the mapping lives until the last one is gone
`unlink()`      removes this very segment, never another one that has got the same name since
==============  ==================================================================================
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import secrets
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any, Protocol, Self

if sys.platform != 'win32':
    import _posixshmem  # type: ignore[import-not-found]

SHM_DIR = Path('/dev/shm')
"""Where Linux shows its segments as files."""

_MAX_NAME = 255

# trackfd: the mapping needs no descriptor of its own
_MMAP_ARGS: dict[str, Any] = (
    {'trackfd': False} if sys.version_info >= (3, 13) and sys.platform != 'win32' else {}
)

# what opening an unnamed file fails with on kernels and file systems that have none
_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})


class Ledger(Protocol):
    """Who notes which segments are to be removed when their owner cannot do it."""

    def hold(self, name: str, inode: int) -> None:
        """Note a segment, right before it gets its name; `inode` 0 if it is not known."""

    def drop(self, name: str, inode: int) -> None:
        """Forget a segment that was removed, or did not get its name."""


def check_name(name: str) -> None:
    """
    Raises:
        ValueError: `name` cannot be that of a segment.
    """
    if not name or name in {'.', '..'} or '/' in name or '\0' in name:
        raise ValueError(
            f'{name!r} is no name for shared memory: it must be a file name without slashes.'
        )
    if len(os.fsencode(name)) > _MAX_NAME:
        raise ValueError(f'the name {name[:20]!r}... is longer than {_MAX_NAME} bytes.')


def inode_of(name: str) -> int:
    """The inode of the segment now called `name`; 0 if there is none, or none can be told."""
    try:
        return os.lstat(SHM_DIR / name).st_ino
    except OSError:
        return 0


def disable_mantracker() -> partial[SharedMemory]:
    """
    What to create and attach segments with instead of the stdlib's class.

    Named like what it stands in for: nothing has to be disabled.

    Returns:
        `SharedMemory`, bound to `track=False`.
    """
    return partial(SharedMemory, track=False)


class SharedMemory(shared_memory.SharedMemory):
    """
    A shared memory segment, mapped; see the module for what differs from the stdlib's class.

    Args:
        name: of the segment; a free one is chosen for a new segment by default.
        create: make a new segment, full of zeros; otherwise attach to the one called `name`.
        size: bytes of the new segment; ignored otherwise.
        track: `False`; for the sake of the stdlib's signature.

    Raises:
        FileExistsError: a new segment is to be called like an existing one.
        FileNotFoundError: there is none of that name to attach to.
        OSError: there is no room for it.
        ValueError: an argument makes no sense.
    """

    _ledger: Ledger | None = None
    _inode: int = 0

    def __init__(
        self, name: str | None = None, create: bool = False, size: int = 0, *, track: bool = False
    ) -> None:
        if track:
            raise ValueError('this class never involves the resource tracker: leave `track` out.')
        if sys.platform == 'win32':
            super().__init__(name, create, size)
        elif create:
            self._create(name, size)
        elif name is None:
            raise ValueError('attaching to a segment needs its name.')
        else:
            check_name(name)
            self._open(name, os.O_RDWR)

    @classmethod
    def published(
        cls,
        name: str | None,
        size: int,
        *,
        fill: Callable[[memoryview], None] | None = None,
        ledger: Ledger | None = None,
    ) -> Self:
        """
        Create a segment together with its contents.

        Args:
            name: of the segment; a free one is chosen by default.
            size: in bytes.
            fill: writes the contents; afterwards only does the segment get its name (on Linux).
            ledger: told of the segment before it has its name, and again when it is removed.

        Raises:
            FileExistsError: the name is taken.
            OSError: there is no room for it.
            ValueError: the name or the size makes no sense.
        """
        shm = cls.__new__(cls)
        if sys.platform == 'win32':
            super(SharedMemory, shm).__init__(name, True, size)
            if fill is not None:
                fill(shm.buf)
        else:
            shm._create(name, size, fill, ledger)
        return shm

    def _create(
        self,
        name: str | None,
        size: int,
        fill: Callable[[memoryview], None] | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        if size <= 0:
            raise ValueError(f'a segment of {size} bytes: it must be a positive number.')
        if name is not None:
            check_name(name)
        self._ledger = ledger
        fd = _open_unnamed()
        chosen = name or _random_name()
        try:
            if fd is None:
                self._create_named(chosen, size, fill)
            else:
                self._create_unnamed(fd, chosen, size, fill)
        except FileExistsError:
            self.close()
            if name is not None:
                raise
            self._create(None, size, fill, ledger)
        finally:
            if fd is not None:
                os.close(fd)

    def _create_unnamed(
        self, fd: int, name: str, size: int, fill: Callable[[memoryview], None] | None
    ) -> None:
        _reserve(fd, size)
        self._map(fd, name)
        if fill is not None:
            fill(self.memory)
        # Noted first: killed at any point from here on, the segment is removed, and with its
        # inode noted nobody can remove that of another by mistake.
        if self._ledger is not None:
            self._ledger.hold(name, self._inode)
        try:
            _link(fd, name)
        except BaseException:
            if self._ledger is not None:
                self._ledger.drop(name, self._inode)
            raise
        self._map_by_name(name)

    def _map_by_name(self, name: str) -> None:
        """Map a segment again by its name: tools look for that in what a process has mapped."""
        with contextlib.suppress(OSError):
            named = _posixshmem.shm_open(f'/{name}', os.O_RDWR, mode=0o600)
            try:
                if os.fstat(named).st_ino == self._inode:
                    self._map(named, name)
            finally:
                os.close(named)

    def _create_named(
        self, name: str, size: int, fill: Callable[[memoryview], None] | None
    ) -> None:
        self._open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, size)
        try:
            if self._ledger is not None:
                self._ledger.hold(name, self._inode)
            if fill is not None:
                fill(self.memory)
        except BaseException:
            self.unlink()
            raise

    def _open(self, name: str, flags: int, size: int = 0) -> None:
        fd = _posixshmem.shm_open(f'/{name}', flags, mode=0o600)
        try:
            if size:
                _reserve(fd, size)
            self._map(fd, name)
        except BaseException:
            if flags & os.O_CREAT:
                _posixshmem.shm_unlink(f'/{name}')
            raise
        finally:
            os.close(fd)

    def _map(self, fd: int, name: str) -> None:
        info = os.fstat(fd)
        if not info.st_size:
            raise ValueError(f'the segment {name!r} is empty: whoever creates it has not finished.')
        self._name = f'/{name}'
        self._size = info.st_size
        self._inode = info.st_ino
        self._track = False
        self._mmap: mmap.mmap | None = mmap.mmap(fd, info.st_size, **_MMAP_ARGS)
        self._buf: memoryview | None = memoryview(self._mmap)

    @property
    def memory(self) -> memoryview:
        """
        The contents.

        Raises:
            ValueError: `close()` was called.
        """
        if self._buf is None:
            raise ValueError(f'the shared memory {self.name!r} is closed.')
        return self._buf

    @property
    def closed(self) -> bool:
        """Whether `close()` was called; `buf` is `None` then."""
        return self._buf is None

    def close(self) -> None:
        """
        Give the mapping up; the segment stays. May be called again.

        Views of `buf` stay valid: the memory is unmapped when the last of them is gone.
        """
        # Unmapping at once, as the stdlib does, would be a trap: an array made from `buf` refers to
        # the mapping, but does not lock it, so that it would read unmapped memory.
        self._buf = None
        self._mmap = None

    def unlink(self) -> None:
        """
        Remove the segment: its memory is freed once everybody has unmapped it.

        Raises:
            FileNotFoundError: it was removed already, even if another one has its name now.
        """
        if sys.platform == 'win32':
            return
        try:
            if SHM_DIR.is_dir() and inode_of(self.name) != self._inode:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.name)
            _posixshmem.shm_unlink(self._name)
        finally:
            if self._ledger is not None:
                self._ledger.drop(self.name, self._inode)


def _random_name() -> str:
    return f'tractor_{secrets.token_hex(8)}'


def _open_unnamed() -> int | None:
    """A new file without a name where segments live; `None` where there is no such thing."""
    if not hasattr(os, 'O_TMPFILE'):
        return None
    try:
        return os.open(SHM_DIR, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as err:
        if err.errno in _NO_TMPFILE:
            return None
        raise


def _link(fd: int, name: str) -> None:
    """Name an unnamed file."""
    folder = os.open(SHM_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(f'/proc/self/fd/{fd}', name, dst_dir_fd=folder, follow_symlinks=True)
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, 'shared memory of that name exists', name) from None
    finally:
        os.close(folder)


def _reserve(fd: int, size: int) -> None:
    """Give the segment its size and, where that is possible, its memory."""
    os.ftruncate(fd, size)
    if not hasattr(os, 'posix_fallocate'):
        return
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as err:
        if err.errno in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
            # the memory comes with the first write, then
            return
        if err.errno != errno.ENOSPC:
            raise
        raise OSError(
            err.errno,
            f'there is no room for {size} bytes of shared memory: make it smaller, remove what '
            f'is left over in {SHM_DIR}, or enlarge that file system',
        ) from err
