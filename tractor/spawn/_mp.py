"""
The `mp_spawn` and `mp_forkserver` backends: a child is a process of `multiprocessing`.

Both use the same bootstrap as every other backend: all they are told is who they are and where their parent
listens; the rest comes in the `SpawnSpec`.
"""

from __future__ import annotations

import sys
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import trio

from tractor.spawn._life import supervise_child

if TYPE_CHECKING:
    from tractor.spawn._life import ChildSpec

_KINDS: dict[str, str] = {'mp_spawn': 'spawn', 'mp_forkserver': 'forkserver'}

# imported once in the fork server: a child then costs a fork instead of these imports; those in the second part are
# what every child comes to need, and nobody has to have
_PRELOAD: list[str] = [
    *('trio', 'msgspec', 'tractor', 'tractor.spawn._entry'),
    *('colorlog', 'encodings.idna', 'pkgutil', 'setproctitle'),
]


@cache
def get_context(method: str) -> Any:
    """The `multiprocessing` context of a spawn method; `None` for methods that have none."""
    kind = _KINDS.get(method)
    if kind is None:
        return None
    import multiprocessing

    ctx = multiprocessing.get_context(kind)
    if kind == 'forkserver':
        ctx.set_forkserver_preload(_PRELOAD)
    return ctx


class MpHandle:
    """
    A `multiprocessing` process with the verbs of a child's handle.

    Args:
        proc: the process, started.
    """

    def __init__(self, proc: Any) -> None:
        self._proc = proc
        self.pid: int = proc.pid
        self._returncode: int | None = None
        self._watched: trio.Event | None = None

    def __repr__(self) -> str:
        return f'<MpHandle {self._proc.name!r} pid={self.pid} returncode={self._returncode}>'

    @property
    def returncode(self) -> int | None:
        """How it ended: the exit code, or minus the signal; `None` while it runs."""
        return self.poll()

    def poll(self) -> int | None:
        """The same, looked up now."""
        if self._returncode is None:
            self._returncode = self._proc.exitcode
        return self._returncode

    def terminate(self) -> None:
        """Send SIGTERM."""
        if self.poll() is None:
            self._proc.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        if self.poll() is None:
            self._proc.kill()

    async def wait(self) -> int:
        """Wait for its end; its `returncode`. Several tasks may wait at once."""
        while self.poll() is None:
            if self._watched is None:
                await self._watch()
            else:
                await self._watched.wait()
        returncode = self.poll()
        assert returncode is not None
        return returncode

    async def _watch(self) -> None:
        # one task at a time can wait for a file descriptor; when it is done, or cancelled, the others look again
        self._watched = trio.Event()
        try:
            await wait_sentinel(self._proc)
        finally:
            watched, self._watched = self._watched, None
            watched.set()

    def close(self) -> None:
        """Free what belongs to a process that has ended."""
        self._proc.join()
        self._proc.close()


async def wait_sentinel(proc: Any) -> None:
    """Wait until a `multiprocessing` process has ended."""
    if sys.platform == 'win32':
        await trio.lowlevel.WaitForSingleObject(proc.sentinel)
    else:
        await trio.lowlevel.wait_readable(proc.sentinel)


async def start(spec: ChildSpec) -> MpHandle:
    """
    Start the process of a child.

    Raises:
        OSError: it cannot be started.
    """
    from tractor.spawn import _entry

    proc = get_context(spec.method).Process(
        target=_entry._mp_main,
        args=(
            *(spec.uid, spec.loglevel, spec.parent_addr, spec.infect_asyncio, spec.method),
            *(spec.authkey, spec.tls),
        ),
        name=spec.uid[0],
    )
    with _HiddenMain():
        proc.start()
    return MpHandle(proc)


class _HiddenMain:
    """
    While a process is started: `multiprocessing` must not replay `__main__` in it.

    The runtime does so itself, on every backend alike, when the child has connected and can report what goes wrong.
    """

    def __enter__(self) -> None:
        self._main = sys.modules['__main__']
        sys.modules['__main__'] = ModuleType('__main__')

    def __exit__(self, *exc: object) -> None:
        sys.modules['__main__'] = self._main


async def mp_proc(*args: Any, **kwargs: Any) -> None:
    """Start a child with this backend and stay with it; arguments as for `_spawn.new_proc()`."""
    await supervise_child(start, *args, **kwargs)
