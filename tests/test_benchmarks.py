"""end to end: the benchmarks run, on a twentieth of their size; no time is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RUN = Path(__file__).resolve().parents[1] / 'benchmarks' / 'run.py'
TIME_LIMIT = 120

COLUMNS = {'name', 'unit', 'target', 'floor', 'ours', 'ratio', 'best', 'ratios', 'verdict'}


def bench(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(RUN), *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIME_LIMIT,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
    )


@pytest.fixture(scope='module')
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One quick run of everything."""
    path = tmp_path_factory.mktemp('bench') / 'figures.json'
    done = bench('--quick', '--json', path)
    assert done.returncode == 0, done.stdout + done.stderr
    figures: dict[str, Any] = json.loads(path.read_text())
    assert all(row['name'] in done.stdout for row in figures['rows'])
    return figures


def test_every_case_gives_figures(figures: dict[str, Any]) -> None:
    assert figures['quick'] is True
    names = {row['name'].split()[0] for row in figures['rows']}
    assert names == {'import', 'spawn', 'rpc', 'pingpong', 'many', 'down', 'up', 'large'}
    for row in figures['rows']:
        assert set(row) == COLUMNS
        assert row['floor'] > 0
        assert row['ours'] > 0
        assert row['ratios'] == [row['ratio']]


# how much longer than bare trio and msgspec these may take
STREAMS = {'pingpong': 2.2, 'many': 1.5, 'down': 2.0, 'up': 2.0, 'large': 1.67}


def test_the_targets_are_compared(figures: dict[str, Any]) -> None:
    targets = {row['name']: row['target'] for row in figures['rows'] if row['target'] is not None}
    assert targets == {
        'import': 1.35,
        'spawn trio uds': 1.5,
        'spawn trio tcp': 1.5,
        'spawn mp_forkserver uds': 4.0,
        'spawn mp_forkserver tcp': 4.0,
        'rpc uds': 3.0,
        'rpc tcp': 3.0,
        **{f'{name} {tpt}': ratio for name, ratio in STREAMS.items() for tpt in ('uds', 'tcp')},
    }
    for row in figures['rows']:
        met = {None: ''}.get(
            row['target'], 'met' if row['ratio'] <= (row['target'] or 0) else 'MISSED'
        )
        assert row['verdict'] == met


def test_a_crash_is_an_error(tmp_path: Path) -> None:
    """A program that is not there is not slow: the run fails."""
    (tmp_path / 'msgspec.py').write_text('raise SystemError("no such thing here")')
    done = subprocess.run(
        [sys.executable, str(RUN), '--quick', 'import'],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIME_LIMIT,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
    )
    assert done.returncode == 1
    assert 'no such thing here' in done.stderr
