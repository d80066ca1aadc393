"""contract: the runner of the fuzzer: what it counts as a finding, and what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz import run as runner
from fuzz import targets

RUN = Path(runner.__file__)


def start(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(RUN), *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **env},
    )


def test_one_input_can_be_run_again(tmp_path: Path) -> None:
    path = tmp_path / 'input'
    path.write_bytes(targets.load('framing').seeds()[0])
    done = start('--target', 'framing', '--reproduce', str(path))
    assert (done.returncode, done.stderr) == (0, '')
    assert f'nothing wrong with {path}' in done.stdout


def test_an_input_belongs_to_one_target(tmp_path: Path) -> None:
    done = start('--reproduce', str(tmp_path))
    assert done.returncode == 2
    assert 'needs exactly one --target' in done.stderr


def test_without_the_fuzzer_it_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / 'atheris.py').write_text('raise ImportError\n')
    done = start('--seconds', '1', PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert 'make fuzz' in done.stderr


LOG = """\
#12	INITED cov: 41 ft: 45 corp: 9/1b exec/s: 0 rss: 50Mb
#99	NEW    cov: 43 ft: 47 corp: 10/2b lim: 4 exec/s: 0 rss: 50Mb
artifact_prefix='/f/framing-'; Test unit written to /f/framing-crash-0123456789abcdef
stat::number_of_executed_units: 123
"""


def test_what_the_fuzzer_says_is_understood(tmp_path: Path) -> None:
    log = tmp_path / 'log'
    log.write_text(LOG)
    result = runner.Result('framing')
    runner._read_log(log, result)
    assert (result.inputs, result.coverage) == (123, 43)
    (finding,) = result.findings
    assert finding.startswith('crash-')
    assert finding.endswith('/f/framing-crash-0123456789abcdef')


@pytest.mark.parametrize(
    ('early', 'late', 'found'),
    [
        ((100.0, 5), (130.0, 18), []),
        ((100.0, 5), (140.0, 5), ['memory grew from 100 to 140 MiB']),
        ((100.0, 5), (90.0, 40), ['open files grew from 5 to 40']),
    ],
)
def test_growth_is_a_finding(
    tmp_path: Path, early: tuple[float, int], late: tuple[float, int], found: list[str]
) -> None:
    watch = runner.Watch(os.getpid(), tmp_path / 'log', seconds=100)
    watch.early = early
    # the least of the last readings counts
    watch._seen += [late, (late[0] + 500, late[1] + 500)]
    result = runner.Result('framing')
    watch.report(result)
    assert result.findings == found


def test_short_runs_say_nothing_of_growth(tmp_path: Path) -> None:
    watch = runner.Watch(os.getpid(), tmp_path / 'log', seconds=5)
    watch.early = 1.0, 1
    watch._seen.append((1000.0, 1000))
    result = runner.Result('framing')
    watch.report(result)
    assert result.memory == [1.0, 1000.0]
    assert not result.findings


@pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='the system has no /proc')
def test_a_process_is_looked_at_once_it_has_begun(tmp_path: Path) -> None:
    log = tmp_path / 'log'
    log.write_text('loading')
    watch = runner.Watch(os.getpid(), log, seconds=0)
    watch.look()
    assert not watch._seen
    log.write_text(LOG)
    watch.look()
    ((memory, files),) = watch._seen
    assert memory > 5
    assert files >= 3
    assert watch.early == (memory, files)


def test_the_table_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    results = [
        runner.Result('framing', 10, 100, 7, [50.0, 51.0], [3, 4]),
        runner.Result('errors', findings=['crash-1: x']),
    ]
    runner.print_table(results)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ['framing', '10', '100', '10', '7', '50', '51', '3-4', '0']
    assert lines[-1] == 'FINDING errors: crash-1: x'
