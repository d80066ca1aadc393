"""
The `subint` backend: a child is a sub-interpreter of this process with its own GIL, on a thread of its own.

Needs CPython 3.14. It talks to its parent through the same sockets as every other child. Its handle has the face of
a process:

| verb | what it does |
|---|---|
| `terminate()` | asks the actor to cancel itself, past a broken connection |
| `kill()` | makes whatever runs in the interpreter fail, until it is over |
| `describe()` | tells where it is stuck |

| `returncode` | meaning |
|---|---|
| `None` | it runs |
| 0 | it ended by itself, or because it was asked to |
| 1 | it failed |
| -9 | it was killed |

What cannot be ended is abandoned (see `_life.py`); `MAX_ABANDONED` such interpreters and no more are started.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio

from tractor._exceptions import ActorFailure
from tractor.spawn import _subint_exit, _subint_spares
from tractor.spawn._life import supervise_child

if TYPE_CHECKING:
    from tractor.spawn._life import ChildSpec
    from tractor.spawn._subint_driver import Driver

REQUIRED_PYTHON: tuple[int, int] = (3, 14)

# interpreters which could not be ended, in one process; a further spawn is refused
MAX_ABANDONED: int = 4

# file descriptors of this process which a child needs until it is up: pipes, its event loop, sockets on both ends
NEEDED_FDS: int = 16

# seconds within which the warden tells where an interpreter is stuck
DESCRIBE_WITHIN: float = 0.5

_live: set[SubintHandle] = set()


class SubintHandle:
    """
    A sub-interpreter with the verbs of a child's handle.

    Args:
        uid: of its actor.
        driver: what owns the interpreter.
    """

    # seconds; asking its event loop is all that `terminate()` does: no reason to wait for long
    terminate_after: float = 0.2

    # of whoever waits for its end after `kill()`, a process's being 1
    patience: float = 3.0

    def __init__(self, uid: tuple[str, str], driver: Driver) -> None:
        self.uid = uid
        self.pid: int = os.getpid()
        # the thread of its parent
        self.owner: int = threading.get_ident()
        self.abandoned = False
        self._driver = driver
        self._returncode: int | None = None
        self._gone = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        _live.add(self)

    def __repr__(self) -> str:
        error = f': {self._driver.error}' if self._driver.error else ''
        return (
            f'<SubintHandle {self.uid[0]!r} interpreter {self.interp_id} of pid {self.pid} '
            f'returncode={self.returncode}{error}>'
        )

    @property
    def interp_id(self) -> int | None:
        """The id of its interpreter; `None` before it has one."""
        return self._driver.interp_id

    @property
    def returncode(self) -> int | None:
        """How it ended, see above."""
        return self._returncode

    exitcode = returncode

    def poll(self) -> int | None:
        """The same."""
        return self._returncode

    def terminate(self) -> None:
        """Ask the actor to cancel itself, not through its connection."""
        self._driver.command(b'T')

    def kill(self) -> None:
        """End it, whatever its Python code does."""
        self._driver.kill()

    async def wait(self) -> int:
        """Wait for its end; its `returncode`. Several tasks may wait at once."""
        await self._gone.wait()
        assert self._returncode is not None
        return self._returncode

    def close(self) -> None:
        """Wait for the last moments of the thread of one that has ended."""
        self._driver.thread.join()

    async def describe(self) -> str:
        """The Python stacks of its threads, as far as they can be had; it is considered abandoned from now on."""
        self.abandoned = True
        _subint_exit.on_abandoned()
        self._driver.command(b'D')
        with trio.move_on_after(DESCRIBE_WITHIN):
            while not self._driver.stacks and self._returncode is None:
                await trio.sleep(0.02)
                self._driver.read_reports()
        return self._driver.stacks or 'its Python stack cannot be had: it does not run Python code'

    def _assign(self, actor: dict[str, Any]) -> None:
        self._driver.assign(actor, self._on_gone)

    def _on_gone(self) -> None:
        driver = self._driver
        if driver.ended == 'returned':
            self._returncode = 0
        elif driver.killed or driver.ended == 'killed':
            self._returncode = -9
        else:
            self._returncode = 1
        _live.discard(self)
        # the event loop of this child's parent may be over
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._gone.set)


def live_children() -> list[SubintHandle]:
    """The interpreters which this one has started and which have not ended."""
    return list(_live)


def check_python() -> None:
    """
    Raises:
        RuntimeError: this Python is too old.
    """
    if sys.version_info < REQUIRED_PYTHON:
        required = '.'.join(map(str, REQUIRED_PYTHON))
        running = '.'.join(map(str, sys.version_info[:3]))
        raise RuntimeError(
            f"the spawn method 'subint' needs CPython {required} or newer, this is {running}: use 'trio'"
        )


def check_descriptors() -> None:
    """
    Raises:
        OSError: this process has not enough file descriptors left for one more child.

    Found out now, it is one error of the parent; later it would be any error of the child, or a connection that
    cannot be accepted.
    """
    fds: list[int] = []
    try:
        while len(fds) < NEEDED_FDS:
            fds += os.pipe()
    except OSError as err:
        raise OSError(
            err.errno,
            f'{err.strerror}: a sub-interpreter needs about {NEEDED_FDS} file descriptors of this process. '
            "Raise its limit (`ulimit -n`), or use start_method='trio' for this actor",
        ) from None
    finally:
        for fd in fds:
            os.close(fd)


async def start(spec: ChildSpec) -> SubintHandle:
    """
    Start the interpreter of a child.

    Raises:
        RuntimeError: this Python is too old.
        ActorFailure: too many interpreters of this process could not be ended.
        OSError: it cannot be started.
    """
    check_python()
    check_descriptors()
    stuck = [handle for handle in live_children() if handle.abandoned]
    if len(stuck) >= MAX_ABANDONED:
        raise ActorFailure(
            f'no further sub-interpreter is started: {len(stuck)} of this process could not be ended\n'
            + '\n'.join(map(repr, stuck))
        )
    from tractor.spawn._subint_driver import Driver

    _subint_exit.set_up(live_children)
    driver = _subint_spares.get().take() or Driver(f'tractor subint {spec.uid[0]}')
    handle = SubintHandle(spec.uid, driver)
    handle._assign(
        {
            'uid': spec.uid,
            'loglevel': spec.loglevel,
            'parent_addr': spec.parent_addr,
            'infect_asyncio': spec.infect_asyncio,
            'spawn_method': spec.method,
            'authkey': spec.authkey,
            'tls': spec.tls,
        }
    )
    return handle


class _Started(trio.TaskStatus[Any]):
    """Between a child's life cycle and who waits for its portal: the spares hear of it, too."""

    def __init__(self, task_status: Any) -> None:
        self._task_status = task_status
        self.was_called = False

    def started(self, value: Any = None) -> None:
        self.was_called = True
        self._task_status.started(value)
        _subint_spares.get().settled(fill=True)


async def subint_proc(
    *args: Any, task_status: Any = trio.TASK_STATUS_IGNORED, **kwargs: Any
) -> None:
    """Start a child with this backend and stay with it; arguments as for `_spawn.new_proc()`."""
    _subint_spares.wanted()
    started = _Started(task_status)
    try:
        await supervise_child(start, *args, task_status=started, **kwargs)
    finally:
        if not started.was_called:
            _subint_spares.get().settled(fill=False)
