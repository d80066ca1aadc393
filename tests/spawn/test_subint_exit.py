"""end to end: the exit of a program with sub-interpreters, whatever runs in them: its exit code, what it prints."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tractor._code_load import load_module_from_path

HERE = Path(__file__).parent
PROGRAMS = HERE / 'programs'

backend = load_module_from_path(HERE / 'backend_peers.py')
programs = load_module_from_path(HERE.parent / 'programs.py')

pytestmark = backend.needs_subint

# how many exits of each kind; seconds: for booting on a loaded machine, for ending
EXITS = 15 if os.environ.get('TRACTOR_SUBINT_SOAK') == 'full' else 3
UP_WITHIN = 60.0
ENDED_WITHIN = 3.0


@contextmanager
def started(monkeypatch: pytest.MonkeyPatch, program: str, *args: str) -> Iterator[Any]:
    """One of the programs, which finds the modules beside this one."""
    monkeypatch.setenv('PYTHONPATH', str(HERE))
    monkeypatch.setenv('TRACTOR_SUBINT_SPARES', '1')
    with programs.started('-X', 'faulthandler', str(PROGRAMS / program), *args, cwd=HERE) as proc:
        yield proc


# --- with actors that spin


@pytest.mark.parametrize('_nth', range(EXITS))
def test_sys_exit(monkeypatch: pytest.MonkeyPatch, _nth: int) -> None:
    with started(monkeypatch, 'exits.py', 'exit', '4') as proc:
        stdout, stderr = proc.communicate(timeout=UP_WITHIN)
    assert (proc.returncode, stdout, stderr) == (7, 'up\n', '')


@pytest.mark.parametrize('_nth', range(EXITS))
def test_an_error(monkeypatch: pytest.MonkeyPatch, _nth: int) -> None:
    with started(monkeypatch, 'exits.py', 'error', '4') as proc:
        stdout, stderr = proc.communicate(timeout=UP_WITHIN)
    assert (proc.returncode, stdout) == (1, 'up\n'), stderr
    only_a_traceback(stderr, 'ValueError: as asked')


@pytest.mark.parametrize('_nth', range(EXITS))
def test_an_interrupt(monkeypatch: pytest.MonkeyPatch, _nth: int) -> None:
    interrupted(monkeypatch, 4)


def test_an_interrupt_with_sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(monkeypatch, 16)


@pytest.mark.parametrize('_nth', range(EXITS))
def test_the_main_thread_ends_and_the_runtime_is_in_another(
    monkeypatch: pytest.MonkeyPatch, _nth: int
) -> None:
    """No nursery sees to it: what the process itself does at its end."""
    with started(monkeypatch, 'exits.py', 'thread', '4') as proc:
        stdout, stderr = proc.communicate(timeout=UP_WITHIN)
    assert (proc.returncode, stdout, stderr) == (0, 'up\n', '')


def interrupted(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    with started(monkeypatch, 'exits.py', 'wait', str(count)) as proc:
        assert proc.stdout.readline() == 'up\n'
        began = time.monotonic()
        proc.send_signal(signal.SIGINT)
        _, stderr = proc.communicate(timeout=UP_WITHIN)
        took = time.monotonic() - began
    assert proc.returncode == -signal.SIGINT, stderr
    only_a_traceback(stderr, 'KeyboardInterrupt')
    # so many cores are shared with so many that spin, and with other tests
    assert took < ENDED_WITHIN * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def only_a_traceback(stderr: str, error: str) -> None:
    assert stderr.startswith('Traceback (most recent call last):\n'), stderr
    assert stderr.count('Traceback (most recent call last):') == 1, stderr
    last = [line for line in stderr.splitlines() if line and not line.startswith((' ', '('))]
    assert last == ['Traceback (most recent call last):', error], stderr


# --- with one that cannot be ended

RETURNCODES = {'return': 0, 'exit': 3, 'error': 1, 'interrupt': -signal.SIGINT}
IS_IN = {
    'lock': 'taken.acquire()',
    'queue_get': 'SimpleQueue[int]().get()',
    'read_pipe': 'os.read(ours, 1)',
}


@pytest.mark.parametrize('how', RETURNCODES)
def test_exit_code_with_one_abandoned(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    report, returncode, stdout, stderr = abandon(monkeypatch, 'lock', how)
    assert report['returncode'] is None
    assert returncode == RETURNCODES[how], stderr
    # flushed, though it leaves by force; and told on the way
    assert stdout == 'the last words\n'
    assert 'tractor: leaving the process, this cannot be ended:' in stderr.splitlines()[-1]
    assert 'Fatal' not in stderr
    assert 'remaining subinterpreters' not in stderr


@pytest.mark.parametrize('kind', IS_IN)
def test_abandoned(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    report, returncode, _, stderr = abandon(monkeypatch, kind, 'return')
    assert returncode == 0, stderr
    assert "'stuck'" in report['failure']
    assert 'abandoned' in report['failure']
    where = report['notes'][0]
    assert f'in {kind}\n' in where
    assert IS_IN[kind] in where
    assert any("'stuck'" in text and 'abandoned' in text for text in report['critical'])
    # its waiters are woken, in one process nobody else would
    assert report['caller'] == 'TransportClosed'
    assert report['connected'] is False
    # 0.5 s without a sign of life, 0.2 s for terminating itself, 0.5 s (of the program) for dying, 0.5 s to tell where
    assert report['took'] < 1.7 + 2.0
    assert 'no further sub-interpreter is started: 1 of this process' in report['refusal']
    assert "'stuck'" in report['refusal']


def abandon(monkeypatch: pytest.MonkeyPatch, kind: str, how: str) -> tuple[Any, int, str, str]:
    with started(monkeypatch, 'abandon.py', kind, how) as proc:
        stdout, stderr = proc.communicate(timeout=UP_WITHIN)
    report, _, rest = stdout.partition('\n')
    assert report, stderr
    return json.loads(report), proc.returncode, rest, stderr
