"""Subprocesses as tasks: run one in a nursery, log what it prints, fail if it fails."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from typing import Any, Final

import trio

from ..log import get_logger
from ._beg import collapse_eg

log = get_logger()


class _Unset:
    """The type of the mark for an argument that was not given."""


_UNSET: Final = _Unset()

# bytes of the error output that an error carries: the end says what went wrong
_STDERR_TAIL: int = 16 * 1024

_READ_SIZE: int = 64 * 1024


async def supervise_run_process(
    cmd: str | bytes | Sequence[Any],
    *,
    check: bool = True,
    label: str | None = None,
    relay_stdout: bool = False,
    relay_stderr: bool = False,
    relay_level: str = 'io',
    stdout: Any = _UNSET,
    task_status: trio.TaskStatus[trio.Process] = trio.TASK_STATUS_IGNORED,
    **run_process_kwargs: Any,
) -> None:
    """Run a process to its end, as a task: `proc = await tn.start(partial(supervise_run_process, cmd))`.

    Args:
        cmd: the command, as for `trio.run_process()`.
        check: raise if the exit code is not 0.
        label: names the process in log records; the command by default.
        relay_stdout, relay_stderr: log each line that it prints there.
        relay_level: name of the level of these records.
        stdout: where its output goes if it is not relayed; `None` for this process's own, `DEVNULL` by default.
        task_status: started with the running `trio.Process`.
        run_process_kwargs: further options of `trio.run_process()`. The process's input is always `DEVNULL`.

    Raises:
        ValueError: `capture_stdout`, `capture_stderr`, or `stdout=PIPE`, which nobody would read.
        OSError: the process cannot be started.
        subprocess.CalledProcessError: its exit code is not 0. Its `stderr`, also shown in a note, is the last 16 KiB
            of what the process printed there.

    All that it printed has been relayed before this returns or raises. Cancelled, the process is terminated, and
    killed if need be, as by `trio.run_process()`.
    """
    _refuse_unread_pipes(stdout, relay_stdout, run_process_kwargs)
    name = label if label is not None else _as_text(cmd)
    options = {
        **run_process_kwargs,
        'stdin': subprocess.DEVNULL,
        'stdout': _choose_stdout(stdout, relay_stdout),
        'stderr': subprocess.PIPE if relay_stderr or check else subprocess.DEVNULL,
        'check': False,
    }
    tail = bytearray()
    emit = getattr(log, relay_level) if relay_stdout or relay_stderr else None
    async with collapse_eg(), trio.open_nursery() as tn:
        proc: trio.Process = await tn.start(_run, cmd, options)
        if proc.stdout is not None:
            tn.start_soon(_drain, proc.stdout, _Lines(emit, f'[{name}:out] ').feed)
        if proc.stderr is not None:
            lines = _Lines(emit if relay_stderr else None, f'[{name}:err] ')
            tn.start_soon(_drain, proc.stderr, lines.feed, tail)
        task_status.started(proc)
    # outside of the nursery, which would make a group of it
    if check and proc.returncode:
        raise _failed(proc.returncode, cmd, bytes(tail))


def _refuse_unread_pipes(stdout: Any, relayed: bool, options: dict[str, Any]) -> None:
    for option in ('capture_stdout', 'capture_stderr'):
        if option in options:
            raise ValueError(
                f'`{option}` is for `trio.run_process()`: here use `relay_{option.removeprefix("capture_")}`'
            )
    if stdout == subprocess.PIPE and not relayed:
        raise ValueError(
            '`stdout=PIPE` has no reader: the process would stop after some 64 KiB. '
            'Use `relay_stdout=True`, or give a file'
        )


def _choose_stdout(stdout: Any, relayed: bool) -> Any:
    if relayed:
        return subprocess.PIPE
    return subprocess.DEVNULL if isinstance(stdout, _Unset) else stdout


def _as_text(cmd: str | bytes | Sequence[Any]) -> str:
    if isinstance(cmd, (str, bytes)):
        return _decode(cmd)
    return ' '.join(_decode(part) for part in cmd)


def _decode(part: Any) -> str:
    return part.decode(errors='replace') if isinstance(part, bytes) else str(part)


async def _run(
    cmd: Any, options: dict[str, Any], task_status: trio.TaskStatus[trio.Process]
) -> None:
    await trio.run_process(cmd, task_status=task_status, **options)


async def _drain(
    stream: trio.abc.ReceiveStream, feed: Callable[[bytes], None], tail: bytearray | None = None
) -> None:
    """Read until the last writer has closed the stream; keep the end of it in `tail`."""
    async with stream:
        while data := await stream.receive_some(_READ_SIZE):
            feed(bytes(data))
            if tail is not None:
                tail += data
                del tail[:-_STDERR_TAIL]
    feed(b'')


class _Lines:
    """Hands on complete lines of a stream of bytes; at its end, told by empty data, also an incomplete one."""

    def __init__(self, emit: Callable[..., None] | None, prefix: str) -> None:
        self._emit = emit
        self._prefix = prefix
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> None:
        if self._emit is None:
            return
        if not data:
            if any(self._parts):
                self._flush()
            return
        first, *others = data.split(b'\n')
        self._parts.append(first)
        for line in others:
            self._flush()
            self._parts.append(line)

    def _flush(self) -> None:
        line = b''.join(self._parts)
        self._parts.clear()
        assert self._emit is not None
        self._emit(self._prefix + line.decode(errors='replace').rstrip('\r'))


def _failed(code: int, cmd: Any, stderr: bytes) -> subprocess.CalledProcessError:
    error = subprocess.CalledProcessError(code, cmd, stderr=stderr)
    if stderr:
        error.add_note(f'stderr:\n{stderr.decode(errors="replace")}')
    return error
