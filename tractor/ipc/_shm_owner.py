"""
The segments of this actor, and the watcher which removes them should the actor be killed.

There is one `Owner` per interpreter, hence per actor, whatever the backend. It starts the watcher
with the first segment and ends it with the actor; `tractor.ipc._shm` has the table of all cases.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from tractor import log as _log
from tractor.ipc import _mp_bs, _shm_watch
from tractor.runtime import _state

if TYPE_CHECKING:
    from collections.abc import Callable

    from tractor.runtime._runtime import Actor

log = _log.get_logger()


class Owner:
    """Notes which segments to remove, here and in a watcher process which survives this one."""

    def __init__(self) -> None:
        self._held: set[tuple[str, int]] = set()
        self._watcher: subprocess.Popen[bytes] | None = None
        self._actor: Actor | None = None
        # segments may be opened from worker threads
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        names = sorted(name for name, _ in self._held)
        return f'<{type(self).__name__} of {names}, watcher {self.watcher_pid}>'

    @property
    def watcher_pid(self) -> int | None:
        """The process id of the watcher; `None` while there is none."""
        return None if self._watcher is None else self._watcher.pid

    @property
    def held(self) -> list[str]:
        """The names of the segments to be removed with the actor."""
        return sorted(name for name, _ in self._held)

    def serve(self, actor: Actor) -> None:
        """See to it that everything is removed at the end of `actor`."""
        with self._lock:
            if self._actor is actor:
                return
            self._actor = actor
        # first on the stack, hence after whatever is registered for a segment
        actor.lifetime_stack.callback(self.release)
        # For an interpreter that is closed without its actor having been torn down. A process that
        # ends so is the watcher's business.
        atexit.register(self.release)

    def hold(self, name: str, inode: int) -> None:
        """
        Note a segment, right before it gets its name.

        Raises:
            OSError: the watcher cannot be started.
        """
        with self._lock:
            self._held.add((name, inode))
            try:
                self._tell('+', name, inode)
            except BaseException:
                self._held.discard((name, inode))
                raise

    def drop(self, name: str, inode: int) -> None:
        """Forget a segment; one that is not held is ignored."""
        with self._lock:
            if (name, inode) not in self._held:
                return
            self._held.discard((name, inode))
            # a watcher that takes over is not even told
            with contextlib.suppress(OSError):
                self._tell('-', name, inode)

    def _tell(self, sign: str, name: str, inode: int) -> None:
        if self._watcher is not None:
            try:
                self._write(sign, name, inode)
            except BrokenPipeError:
                log.warning('the watcher of shared memory was killed: starting another one')
                self._stop()
            else:
                return
        if self._held:
            self._watcher = _start_watcher()
        for held_name, held_inode in self._held:
            self._write('+', held_name, held_inode)

    def _write(self, sign: str, name: str, inode: int) -> None:
        assert self._watcher is not None
        assert self._watcher.stdin is not None
        # shorter than what a pipe takes at once
        self._watcher.stdin.write(b'%s%d %s\0' % (sign.encode(), inode, os.fsencode(name)))

    def release(self) -> None:
        """Remove what is left and end the watcher. Does not fail; what cannot be removed is logged."""
        with self._lock:
            self._actor = None
            atexit.unregister(self.release)
            for name, inode in self._held:
                _shm_watch.remove(os.fsencode(name), inode)
                if inode and _mp_bs.inode_of(name) == inode:
                    log.error('the shared memory %r cannot be removed', name)
            self._held.clear()
            self._stop()

    def _stop(self) -> None:
        """End the watcher: what it holds is removed already, or it is dead."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            assert watcher.stdin is not None
            watcher.stdin.close()
            # without waiting for a start that may not be through yet
            watcher.kill()
            watcher.wait()

    def disown(self) -> None:
        """In a forked process: these are the segments of the other one."""
        self._lock = threading.Lock()
        self._held.clear()
        self._actor = None
        atexit.unregister(self.release)
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            assert watcher.stdin is not None
            # open here, it would keep the watcher from seeing the end of the owner
            watcher.stdin.close()
            # not our child: nothing to wait for
            watcher.returncode = 0


def _start_watcher() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, '-I', '-S', _shm_watch.__file__],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd='/',
        # out of reach of Ctrl-C and of whoever kills the process group of the tree
        start_new_session=True,
    )


owner = Owner()
"""The segments of the actor of this interpreter."""

if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=owner.disown)


def get_owner(what: str) -> Owner | None:
    """
    The owner of new segments; `None` without a runtime, which is logged as a warning.

    Args:
        what: what is about to be created, for the warning.
    """
    actor = _state.current_actor(err_on_no_runtime=False)
    if actor is None:
        log.warning('no actor runs here: %s must be unlinked by whoever made it', what)
        return None
    owner.serve(actor)
    return owner


def at_end(close: Callable[[], None], unlink: Callable[[], None]) -> None:
    """Have the current actor call `unlink` and then `close` when it ends."""
    stack = _state.current_actor().lifetime_stack
    stack.callback(close)
    stack.callback(unlink_if_there, unlink)


def unlink_if_there(unlink: Callable[[], None]) -> None:
    """Call `unlink`; a segment that somebody else has removed is fine."""
    with contextlib.suppress(FileNotFoundError):
        unlink()


def short_key(key: str, prefix: str = '', limit: int | None = None) -> str:
    """
    `key` as the name of a segment.

    Args:
        key: what the user calls it.
        prefix: of the name made up for a key that is too long.
        limit: how long a name may be; by default 31 on macOS and any length elsewhere.
    """
    if limit is None:
        limit = 31 if sys.platform == 'darwin' else sys.maxsize
    if len(key) < limit:
        return key
    import hashlib

    # one less for the slash in front
    return (prefix + hashlib.sha256(key.encode()).hexdigest())[: limit - 1]
