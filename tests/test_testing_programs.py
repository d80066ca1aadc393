"""end to end: the fixtures that run programs beside a test: `daemon` and `spawn`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tractor
from tractor._testing import run_bounded

pytestmark = [
    pytest.mark.spawns,
    pytest.mark.skipif(
        sys.platform == 'win32', reason='has neither SIGINT nor terminals like these'
    ),
]

pytest_plugins = ('pytester',)

Daemon = subprocess.Popen[bytes]

SCRIPT = """
import sys
import trio
import tractor
from tractor.spawn import _spawn

async def main():
    async with tractor.open_nursery(registry_addrs=[{addr!r}], enable_transports=[{tpt!r}]) as an:
        await an.start_actor('kid')
        print('method', _spawn._spawn_method, 'terminal', sys.stdout.isatty())
        print('hello', input('name? '))
        try:
            await trio.sleep_forever()
        finally:
            print('going down')

if __name__ == '__main__':
    trio.run(main)
"""


# --- daemon


def find(reg_addr: Any, tpt_proto: str) -> Any:
    """The address of the daemon, as its registrar knows it."""

    async def main() -> Any:
        async with (
            tractor.open_root_actor(
                name='guest', registry_addrs=[reg_addr], enable_transports=[tpt_proto]
            ),
            tractor.find_actor('daemon', registry_addrs=[reg_addr]) as portal,
        ):
            return portal and portal.chan.aid.pid

    return run_bounded(main, timeout=30)


def test_the_daemon_is_the_registrar(daemon: Daemon, reg_addr: Any, tpt_proto: str) -> None:
    assert find(reg_addr, tpt_proto) == daemon.pid
    assert daemon.poll() is None


def test_a_test_may_end_the_daemon(daemon: Daemon) -> None:
    daemon.send_signal(signal.SIGINT)
    assert daemon.wait(30) == -signal.SIGINT


@pytest.fixture
def session(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Run a test file in a session of its own."""
    monkeypatch.delenv('PYTEST_ADDOPTS', raising=False)
    monkeypatch.setenv('PYTHONPATH', str(Path(tractor.__file__).parents[1]), prepend=os.pathsep)

    def run(source: str) -> Any:
        pytester.makepyfile(source)
        plugins = ('-p', 'tractor._testing.pytest', '-p', 'no:cacheprovider')
        return pytester.runpytest_subprocess(*plugins, timeout=60)

    return run


def test_a_daemon_that_dies_fails_the_test(session: Callable[[str], Any]) -> None:
    done = session("""
        import os, signal, time

        def test_it(daemon):
            os.kill(daemon.pid, signal.SIGKILL)
            os.waitid(os.P_PID, daemon.pid, os.WEXITED | os.WNOWAIT)
    """)
    done.assert_outcomes(passed=1, errors=1)
    done.stdout.fnmatch_lines(['*the daemon died in the test, with -9*'])


def test_a_daemon_that_cannot_start_says_why(session: Callable[[str], Any]) -> None:
    done = session("""
        import pytest

        @pytest.fixture(scope='session')
        def reg_addr():
            return ('127.0.0.1', 99_999)

        def test_it(daemon):
            pass
    """)
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(['*the daemon ended with 1:*', '*99999*'])


# --- spawn


@pytest.fixture
def script(tmp_path: Path, reg_addr: Any, tpt_proto: str) -> Path:
    path = tmp_path / 'script.py'
    path.write_text(SCRIPT.format(addr=reg_addr, tpt=tpt_proto))
    return path


def test_a_script_on_a_terminal(spawn: Callable[..., Any], script: Path, start_method: str) -> None:
    child = spawn(script, expect_timeout=30)
    child.expect(f'method {start_method} terminal True')
    child.expect('name')
    child.sendline('Ada')
    child.expect('hello Ada')
    child.kill(signal.SIGINT)
    child.expect('going down')
    child.expect('KeyboardInterrupt')
    child.expect_exact(child.delimiter)
    child.wait()
    assert child.signalstatus == signal.SIGINT


def test_a_script_that_is_left_running_is_ended(spawn: Callable[..., Any], script: Path) -> None:
    """The check after each test would see it."""
    child = spawn(script, expect_timeout=30, loglevel='info')
    child.expect('name')
    assert child.isalive()


def test_one_that_does_not_listen_is_killed(
    spawn: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tractor._testing import _programs

    monkeypatch.setattr(_programs, 'DOWN_WITHIN', 0.2)
    deaf = tmp_path / 'deaf.py'
    deaf.write_text(
        'import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n'
        'print("deaf")\nwhile True: signal.pause()\n'
    )
    child = spawn(deaf, expect_timeout=30)
    child.expect('deaf')
    _programs._end(child)
    assert not child.isalive()
    assert child.signalstatus in {signal.SIGHUP, signal.SIGKILL}
