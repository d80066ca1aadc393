"""Fixtures of the pytest plugin that run programs beside the tests: a root actor to connect to, a script on a terminal.

PYTEST_DONT_REWRITE: no assertions.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# seconds: a loaded machine needs for the start of a program; SIGINT has to end one; between two looks
UP_WITHIN = 30.0
DOWN_WITHIN = 5.0
_LOOK_EVERY = 0.02

_DAEMON = """
import pathlib
import signal
import trio
import tractor

# a session that runs in the background ignores it, and so would this program
signal.signal(signal.SIGINT, signal.default_int_handler)

async def main():
    async with tractor.open_root_actor(
        name='daemon', registry_addrs=[{addr!r}], enable_transports=[{tpt!r}]
    ):
        pathlib.Path({ready!r}).touch()
        await trio.sleep_forever()

trio.run(main)
"""


def _environ(**extra: str) -> dict[str, str]:
    # where this process found the package, and the modules of the tests
    path = os.pathsep.join(filter(None, sys.path))
    return {**os.environ, 'PYTHONPATH': path, **extra}


@pytest.fixture
def daemon(
    reg_addr: tuple[Any, ...], tpt_proto: str, tmp_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """
    A root actor in a process of its own, the registrar at `reg_addr`, which does nothing but serve.

    Gives its process, once it is up. At the end it gets a SIGINT, and the test fails if it has died before, unless
    the test has waited for that, or does not die from it.
    """
    ready, said = tmp_path / 'daemon-is-up', tmp_path / 'daemon-said'
    program = _DAEMON.format(addr=reg_addr, tpt=tpt_proto, ready=str(ready))
    with said.open('wb') as output:
        proc = subprocess.Popen(
            [sys.executable, '-c', program], env=_environ(), stdout=output, stderr=output
        )
    try:
        _wait_until_up(proc, ready, said)
        yield proc
        if proc.returncode is None:
            _interrupt(proc, said)
    finally:
        if proc.poll() is None:
            proc.kill()
        proc.wait()


def _wait_until_up(proc: subprocess.Popen[bytes], ready: Path, said: Path) -> None:
    deadline = time.monotonic() + UP_WITHIN
    while not ready.exists():
        if proc.poll() is not None:
            pytest.fail(f'the daemon ended with {proc.returncode}:\n{said.read_text()}')
        if time.monotonic() > deadline:
            pytest.fail(f'the daemon is not up after {UP_WITHIN} s:\n{said.read_text()}')
        time.sleep(_LOOK_EVERY)


def _interrupt(proc: subprocess.Popen[bytes], said: Path) -> None:
    if proc.poll() is not None:
        pytest.fail(f'the daemon died in the test, with {proc.returncode}:\n{said.read_text()}')
    proc.send_signal(signal.SIGINT)
    try:
        code = proc.wait(DOWN_WITHIN)
    except subprocess.TimeoutExpired:
        pytest.fail(f'the daemon lives {DOWN_WITHIN} s after SIGINT:\n{said.read_text()}')
    if code != -signal.SIGINT:
        pytest.fail(f'the daemon ended with {code} after SIGINT:\n{said.read_text()}')


@pytest.fixture
def spawn(start_method: str) -> Iterator[Callable[..., Any]]:
    """
    Run a script on a pseudo-terminal: `spawn(script, expect_timeout=4, loglevel=None)` is a `pexpect.spawn`.

    Args of what it gives:
        script: path of a Python file.
        expect_timeout: seconds which `expect()` waits for a text.
        loglevel: of its runtime.

    Its actors are started like those of the test. At the end of the test it is ended: SIGINT again and again for five
    seconds, then SIGKILL. The test is skipped where there is no `pexpect`.
    """
    pexpect = pytest.importorskip('pexpect', reason='scripts are driven through pexpect')
    running: list[Any] = []

    def spawn(script: str | Path, expect_timeout: float = 4, loglevel: str | None = None) -> Any:
        extra = {'PYTHON_COLORS': '0', 'TRACTOR_SPAWN_METHOD': start_method}
        if loglevel is not None:
            extra['TRACTOR_LOGLEVEL'] = loglevel
        with warnings.catch_warnings():
            # the forked process runs another program at once, whatever threads there were
            warnings.simplefilter('ignore', DeprecationWarning)
            child = pexpect.spawn(
                sys.executable,
                [str(script)],
                timeout=expect_timeout,
                env=_environ(**extra),
                encoding='utf-8',
            )
        running.append(child)
        return child

    try:
        yield spawn
    finally:
        for child in running:
            _end(child)


def _end(child: Any) -> None:
    deadline = time.monotonic() + DOWN_WITHIN
    while child.isalive() and time.monotonic() < deadline:
        child.kill(signal.SIGINT)
        time.sleep(_LOOK_EVERY)
    child.close(force=True)
