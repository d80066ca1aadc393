"""contract: processes as tasks: what they print, how they fail, how they are cancelled."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tractor.trionics import _subproc, collapse_eg, supervise_run_process

PY = sys.executable


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(20):
            await main()

    trio.run(bounded)


class Recorder:
    """Stands for the logger: keeps lines by level."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[tuple[str, str]] = []
        monkeypatch.setattr(_subproc, 'log', self)

    def io(self, line: str) -> None:
        self.lines.append(('io', line))

    def error(self, line: str) -> None:
        self.lines.append(('error', line))

    def of(self, prefix: str) -> list[str]:
        return [line.removeprefix(prefix) for _, line in self.lines if line.startswith(prefix)]


async def supervise(code: str, *args: str, **options: Any) -> trio.Process:
    async with collapse_eg(), trio.open_nursery() as tn:
        cmd = [PY, '-c', code, *args]
        proc: trio.Process = await tn.start(partial(supervise_run_process, cmd, **options))
        assert isinstance(proc, trio.Process)
    return proc


def test_started_with_the_running_process() -> None:
    async def main() -> None:
        async with trio.open_nursery() as tn:
            cmd = [PY, '-c', 'import time; time.sleep(1000)']
            proc = await tn.start(partial(supervise_run_process, cmd))
            assert proc.poll() is None
            assert proc.stdin is None
            tn.cancel_scope.cancel()
        assert proc.returncode == -signal.SIGTERM

    run(main)


def test_lines_are_relayed(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        'import sys; out = sys.stdout.buffer; err = sys.stderr.buffer\n'
        'out.write(b"one\\r\\n\\ntwo \\xff\\nlast"); err.write(b"oh\\nno\\n")\n'
    )

    async def main() -> None:
        log = Recorder(monkeypatch)
        await supervise(code, relay_stdout=True, relay_stderr=True, label='x')
        assert log.of('[x:out] ') == ['one', '', 'two \ufffd', 'last']
        assert log.of('[x:err] ') == ['oh', 'no']
        assert {level for level, _ in log.lines} == {'io'}

        log.lines.clear()
        await supervise('print("%s %d")', relay_stdout=True, relay_level='error')
        (line,) = log.lines
        assert line == ('error', f'[{PY} -c print("%s %d"):out] %s %d')

    run(main)


def test_relayed_by_the_real_logger(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await supervise(
            'print("100 % of it")', relay_stdout=True, relay_level='warning', label='it'
        )

    with caplog.at_level(logging.WARNING):
        run(main)
    assert '[it:out] 100 % of it' in caplog.text


def test_long_line_comes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        log = Recorder(monkeypatch)
        await supervise('import sys; sys.stdout.write("x" * 200_000)', relay_stdout=True, label='x')
        assert log.of('[x:out] ') == ['x' * 200_000]

    run(main)


def test_nothing_is_logged_that_is_not_relayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_subproc, 'log', None)

    async def main() -> None:
        # more than a pipe holds: it has a reader all the same
        await supervise('import sys; sys.stderr.write("x" * 300_000); print("y" * 300_000)')

    run(main)


def test_output_goes_where_it_is_told_to(tmp_path: Path) -> None:
    async def main() -> None:
        with (tmp_path / 'out').open('wb') as file:
            await supervise('print("hello")', stdout=file)
        assert (tmp_path / 'out').read_text() == 'hello\n'
        # what is managed here cannot be changed by an option
        with (tmp_path / 'in').open('wb') as file:
            code = 'import sys; print(repr(sys.stdin.read()), file=sys.stderr); sys.exit(1)'
            with pytest.raises(subprocess.CalledProcessError) as failed:
                await supervise(code, stdin=file, stderr=file)
        assert failed.value.stderr == b"''\n"

    run(main)


@pytest.mark.parametrize('relay', [False, True])
def test_failure(relay: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        log = Recorder(monkeypatch)
        code = 'import sys; sys.stderr.write("a" * 20_000 + "\\nthe reason\\n"); sys.exit(3)'
        with pytest.raises(subprocess.CalledProcessError) as failed:
            await supervise(code, relay_stderr=relay, label='x')
        error = failed.value
        assert error.returncode == 3
        assert error.cmd == [PY, '-c', code]
        assert error.stderr.endswith(b'a\nthe reason\n')
        assert len(error.stderr) == 16 * 1024
        assert any('the reason' in note for note in error.__notes__)
        assert log.of('[x:err] ') == (['a' * 20_000, 'the reason'] if relay else [])

        proc = await supervise(code, check=False)
        assert proc.returncode == 3
        assert proc.stderr is None

    run(main)


def test_killed_process_is_a_failure() -> None:
    async def main() -> None:
        with pytest.raises(subprocess.CalledProcessError) as failed:
            await supervise('import os; os.kill(os.getpid(), 9)')
        assert failed.value.returncode == -signal.SIGKILL
        assert not any('stderr' in note for note in failed.value.__notes__)

    run(main)


def test_shell_command_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        log = Recorder(monkeypatch)
        async with trio.open_nursery() as tn:
            await tn.start(partial(supervise_run_process, 'echo $0', shell=True, relay_stdout=True))
        assert [line.split(' ')[0] for _, line in log.lines] == ['[echo']

    run(main)


@pytest.mark.parametrize(
    'options',
    [
        {'capture_stdout': True},
        {'capture_stderr': False},
        {'stdout': subprocess.PIPE},
    ],
)
def test_what_nobody_would_read_is_refused(options: dict[str, Any]) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match=r'relay_std(out|err)'):
            await supervise('print()', **options)

    run(main)


def test_pipe_that_is_relayed_has_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        log = Recorder(monkeypatch)
        await supervise('print(1)', stdout=subprocess.PIPE, relay_stdout=True, label='x')
        assert log.of('[x:out] ') == ['1']

    run(main)


def test_program_that_is_not_there() -> None:
    async def main() -> None:
        with pytest.raises(FileNotFoundError):
            async with collapse_eg(), trio.open_nursery() as tn:
                await tn.start(partial(supervise_run_process, ['/no/such/program']))

    run(main)


def test_cancelled_at_any_moment_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leak check of the harness looks at processes and descriptors."""

    async def main() -> None:
        Recorder(monkeypatch)
        code = 'import sys, time\nwhile True: print(1, flush=True); print(2, file=sys.stderr)'
        for steps in range(12):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as tn:
                    tn.start_soon(
                        partial(
                            supervise_run_process,
                            [PY, '-S', '-c', code],
                            relay_stdout=True,
                            relay_stderr=True,
                        )
                    )
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

    before = set(os.listdir('/proc/self/fd')) if os.path.isdir('/proc/self/fd') else set()
    run(main)
    if before:
        assert len(os.listdir('/proc/self/fd')) <= len(before)
