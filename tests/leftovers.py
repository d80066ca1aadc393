"""Processes and files such as actors leave behind, for the tests of what finds and removes them."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tractor._testing import _procs

WAIT = 'print(flush=True); sys.stdin.read()'
SPIN = 'print(flush=True)\nwhile True: pass'


class Processes:
    """Starts processes that are ready, and ends all of them with the block.

    Args:
        folder: where they work.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> 'Processes':
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def start(self, *args: str, executable: str | None = None) -> subprocess.Popen[str]:
        """Start a process and wait for its first line."""
        process = subprocess.Popen(
            args,
            executable=executable,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.folder,
        )
        self._stack.enter_context(process)
        self._stack.callback(_end, process)
        assert process.stdout is not None
        process.first_line = process.stdout.readline().strip()  # type: ignore[attr-defined]
        return process

    def python(self, code: str, *args: str) -> subprocess.Popen[str]:
        return self.start(sys.executable, '-c', f'import os, sys\n{code}', *args)

    def shell(self, code: str) -> subprocess.Popen[str]:
        return self.start('/bin/sh', '-c', code)

    def actor(self, name: str = 'fake') -> subprocess.Popen[str]:
        """A process with the title of an actor."""
        return self.start(
            f'_subactor[{name}]', '-c', 'echo; exec 1>&-; read x', executable='/bin/sh'
        )

    def orphan(self) -> int:
        """The pid of a process with the title of an actor, whose parent has ended."""
        title = '_subactor[orphan]'
        code = f'echo $$; exec 1>&-; exec -a "{title}" sleep 300'
        command = f'[{title!r}, "-c", {code!r}], executable="/bin/bash"'
        process = self.start(
            sys.executable, '-c', f'import subprocess; subprocess.Popen({command})'
        )
        pid = int(process.first_line)  # type: ignore[attr-defined]
        self._stack.callback(_kill, pid)
        process.wait(timeout=30)
        return pid


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a process and all below it."""
    procs = _procs.scan()
    below = [proc for proc in procs.values() if _procs.descends_from(proc, process.pid, procs)]
    process.kill()
    _procs.kill(below)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 9)


def dead_pid() -> int:
    """The pid of a process that has ended."""
    process = subprocess.Popen(['true'])
    process.wait(timeout=30)
    return process.pid


def socket_file(path: Path) -> Path:
    """A socket file nobody listens at."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    return path


@contextlib.contextmanager
def listening(path: Path) -> Iterator[Path]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        yield path
