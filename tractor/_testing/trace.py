"""Snapshots of what hangs: what the processes were doing when a time limit was over.

`fail_after_w_trace()` and `afk_alarm_w_trace()` are time limits that write one; `dump_all()` writes
one by hand. A snapshot is a directory::

    <$XDG_CACHE_HOME or ~/.cache>/tractor/hung-dumps/<label>__<time>/
        trace.txt        the process tree, what each thread waits in, Python stacks
        bindspace.txt    the socket files, and which of them have a live owner
        meta.json        pid, label, captured_at, sudo_cached

Nothing here needs pytest. With its plugin, the fixtures of the same names label the snapshots with
the test, and the summary at the end lists them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from datetime import datetime
from pathlib import Path
from types import FrameType

import trio

from tractor._testing._hangs import (
    dump_hung_state,
    dump_proc_tree,
    ensure_sudo_cached,
    is_sudo_cached,
    resolve_pids,
    scan_bindspace,
)

__all__ = [
    'AFKAlarmTimeout',
    'AfkAlarmWTraceFactory',
    'FailAfterWTraceFactory',
    'afk_alarm_w_trace',
    'dump_all',
    'dump_hung_state',
    'dump_proc_tree',
    'ensure_sudo_cached',
    'fail_after_w_trace',
    'is_sudo_cached',
    'resolve_pids',
    'scan_bindspace',
]

FailAfterWTraceFactory = Callable[..., AbstractAsyncContextManager[trio.CancelScope]]
"""Type of the fixture `fail_after_w_trace`: called with `seconds`, and options of the function."""

AfkAlarmWTraceFactory = Callable[..., AbstractContextManager[None]]
"""Type of the fixture `afk_alarm_w_trace`: called with `seconds`, and options of the function."""

_SNAPSHOT_INDEX: list[tuple[str, Path]] = []

_LABEL_LENGTH = 100


class AFKAlarmTimeout(TimeoutError):
    """The time limit of `afk_alarm_w_trace()` is over."""


def dump_all(
    pid: int,
    out_dir: str | os.PathLike[str] | None = None,
    *,
    label: str,
    allow_sudo_prompt: bool = False,
) -> Path:
    """Write a snapshot of a process and all below it; say on stderr where it is.

    Args:
        pid: the process.
        out_dir: where the directory of the snapshot is made; see the module for the default.
        label: what it is of, part of the directory's name.
        allow_sudo_prompt: see `dump_hung_state()`.

    Returns:
        The directory of the snapshot.

    Raises:
        OSError: it cannot be written.
    """
    moment = datetime.now().astimezone()
    folder = _new_folder(Path(out_dir) if out_dir is not None else _default_dir(), label, moment)
    sudo_cached = (ensure_sudo_cached if allow_sudo_prompt else is_sudo_cached)()
    tree = dump_proc_tree(pid, flag_tree=True)
    (folder / 'trace.txt').write_text(f'{tree}\n{dump_hung_state(pid)}', encoding='utf-8')
    (folder / 'bindspace.txt').write_text(scan_bindspace(), encoding='utf-8')
    meta = {
        'pid': pid,
        'label': label,
        'captured_at': moment.isoformat(),
        'sudo_cached': sudo_cached,
    }
    (folder / 'meta.json').write_text(json.dumps(meta, indent=2) + '\n', encoding='utf-8')
    _SNAPSHOT_INDEX.append((label, folder))
    _tell(f'{label}: a snapshot of what hangs is in {folder}')
    return folder


def _default_dir() -> Path:
    cache = os.environ.get('XDG_CACHE_HOME')
    return (Path(cache) if cache else Path.home() / '.cache') / 'tractor' / 'hung-dumps'


def _new_folder(parent: Path, label: str, moment: datetime) -> Path:
    name = re.sub(r'[^\w.=-]+', '_', label)[:_LABEL_LENGTH]
    stem = f'{name}__{moment:%Y%m%dT%H%M%S}'
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / (stem if number == 1 else f'{stem}_{number}')
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _tell(text: str) -> None:
    if sys.__stderr__ is not None:
        print(f'\n[tractor] {text}', file=sys.__stderr__, flush=True)


def _try_dump(pid: int | None, out_dir: str | os.PathLike[str] | None, label: str) -> None:
    try:
        dump_all(os.getpid() if pid is None else pid, out_dir, label=label)
    except Exception as err:  # noqa: BLE001 - a boundary: what hangs matters, not why that cannot be told
        _tell(f'{label}: no snapshot of what hangs: {err!r}')


class _Watch(trio.abc.Instrument):
    """Takes one snapshot when the deadline of a scope is over: right before trio cancels it."""

    def __init__(self, scope: trio.CancelScope, take: Callable[[], None]) -> None:
        self._scope = scope
        self._take = take
        self._taken = False

    def take(self) -> None:
        """Take the snapshot, if the deadline is over and it was not taken yet."""
        if not self._taken and trio.current_time() >= self._scope.deadline:
            self._taken = True
            self._take()

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio passes it
        """Called by trio in each round of its loop, before it looks at deadlines."""
        self.take()


@asynccontextmanager
async def fail_after_w_trace(
    seconds: float,
    *,
    label: str,
    pid: int | None = None,
    out_dir: str | os.PathLike[str] | None = None,
) -> AsyncIterator[trio.CancelScope]:
    """`trio.fail_after()` which writes a snapshot when the time is over.

    Args:
        seconds: the limit.
        label, pid, out_dir: see `dump_all()`; by default this process.

    Raises:
        trio.TooSlowError: the block took longer.

    The snapshot is taken when the deadline has come and nothing is cancelled yet, with the event loop
    held up meanwhile. Whatever the block raises is raised, also when the deadline was the reason;
    a snapshot that cannot be taken is only told on stderr.
    """
    with trio.fail_after(seconds) as scope:
        watch = _Watch(scope, lambda: _try_dump(pid, out_dir, label))
        trio.lowlevel.add_instrument(watch)
        try:
            yield scope
        finally:
            trio.lowlevel.remove_instrument(watch)


@contextmanager
def afk_alarm_w_trace(
    seconds: int,
    *,
    label: str,
    pid: int | None = None,
    out_dir: str | os.PathLike[str] | None = None,
) -> Iterator[None]:
    """A time limit for what may hold up the event loop itself: it is enforced by a signal.

    Args:
        seconds: the limit, a whole number of at least 1.
        label, pid, out_dir: see `dump_all()`; by default this process.

    Raises:
        AFKAlarmTimeout: the block took longer; a snapshot was taken before. It is raised wherever
            the main thread is, which within `trio.run()` can be trio's own code and ends that run.
        ValueError: `seconds` is none of the allowed.
        RuntimeError: this is not the main thread, or the system has no ``SIGALRM``.

    At the end the handler and the alarm that were set before are set again.
    """
    if not isinstance(seconds, int) or seconds < 1:
        raise ValueError(
            f'the limit must be a whole number of seconds, at least 1, not {seconds!r}'
        )
    if not hasattr(signal, 'SIGALRM'):
        raise RuntimeError('this system has no SIGALRM: use fail_after_w_trace() instead')
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError('only the main thread can be interrupted by an alarm')

    def on_alarm(_signum: int, _frame: FrameType | None) -> None:
        _try_dump(pid, out_dir, label)
        raise AFKAlarmTimeout(f'{label}: not done after {seconds} seconds')

    previous = signal.signal(signal.SIGALRM, on_alarm)
    started, outer = time.monotonic(), signal.alarm(seconds)
    try:
        yield
    finally:
        try:
            signal.alarm(0)
        finally:
            # it may have gone off right before
            signal.signal(signal.SIGALRM, previous)
            if outer:
                signal.alarm(max(1, outer - int(time.monotonic() - started)))
