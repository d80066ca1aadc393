"""end to end: the benchmarks run, on a twentieth of their size; no time is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

RUN = Path(__file__).resolve().parents[1] / 'benchmarks' / 'run.py'
TIME_LIMIT = 840

# the quick run starts several hundred processes: a busy machine takes minutes
pytestmark = pytest.mark.timeout(TIME_LIMIT + 60)

COLUMNS = {
    'name',
    'group',
    'unit',
    'target',
    'floor',
    'ours',
    'ratio',
    'best',
    'ratios',
    'others',
    'verdict',
}
GROUPS = ['import', 'start', 'call', 'stream', 'payload', 'fan-in', 'contexts', 'tree', 'idle']
SVG = '{http://www.w3.org/2000/svg}'

HAS_INTERPRETERS = sys.version_info >= (3, 14)


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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One quick run of everything."""
    path = tmp_path_factory.mktemp('bench')
    done = bench('--quick', '--json', path / 'figures.json', '--plot', path / 'new' / 'bench.svg')
    assert done.returncode == 0, done.stdout + done.stderr
    (path / 'table').write_text(done.stdout)
    return path


@pytest.fixture(scope='module')
def figures(folder: Path) -> dict[str, Any]:
    """What it has written."""
    figures: dict[str, Any] = json.loads((folder / 'figures.json').read_text())
    return figures


def test_every_group_gives_figures(folder: Path, figures: dict[str, Any]) -> None:
    assert figures['quick'] is True
    groups = dict.fromkeys(row['group'] for row in figures['rows'])
    assert list(groups) == [*GROUPS, *(['actors'] if HAS_INTERPRETERS else [])]
    table = (folder / 'table').read_text()
    for row in figures['rows']:
        assert set(row) == COLUMNS
        assert row['name'] in table
        assert row['ours'] > 0 or row['name'].startswith(('wake-ups', 'growth'))


def test_ratios_are_to_a_floor(figures: dict[str, Any]) -> None:
    compared = [row for row in figures['rows'] if row['floor'] is not None]
    alone = [row for row in figures['rows'] if row['floor'] is None]
    assert len(compared) > len(alone) > 0
    for row in compared:
        assert row['floor'] > 0
        assert row['ratios'] == [row['ratio']]
    for row in alone:
        assert row['ratio'] is None
        assert row['ratios'] == [row['ours']]


def test_every_backend_and_transport_is_there(figures: dict[str, Any]) -> None:
    names = [row['name'] for row in figures['rows']]
    assert len(set(names)) == len(names)
    for method in ('trio', 'mp_spawn', *(['subint'] if HAS_INTERPRETERS else [])):
        for tpt in ('uds', 'tcp'):
            assert f'spawn {method} {tpt}' in names
        assert f'rpc {method} uds' in names


def test_the_standard_library_does_the_same(figures: dict[str, Any]) -> None:
    columns = {'multiprocessing', 'multiprocessing.Queue', 'ProcessPoolExecutor'}
    if HAS_INTERPRETERS:
        columns.add('InterpreterPoolExecutor')
    (rpc,) = [row for row in figures['rows'] if row['name'] == 'rpc trio uds']
    assert set(rpc['others']) == columns
    for row in figures['rows']:
        assert set(row['others']) <= columns
        assert all(ratio > 0 for ratio in row['others'].values())


# what a row must not exceed, as a ratio to its floor
RATIOS = {
    'import': 1.25,
    'rpc trio uds': 2.2,
    'rpc trio tcp': 2.2,
    'pingpong trio uds': 1.6,
    'down trio uds': 1.25,
    'up trio uds': 1.25,
    '1 MiB trio uds, socket': 1.25,
    'memory trio': 1.25,
}


def test_the_targets_are_compared(figures: dict[str, Any]) -> None:
    targets = {row['name']: row['target'] for row in figures['rows']}
    assert {name: targets[name] for name in RATIOS} == RATIOS
    for row in figures['rows']:
        figure = row['ours'] if row['ratio'] is None else row['ratio']
        met = None if row['target'] is None else figure <= row['target']
        assert row['verdict'] == {None: '', True: 'met', False: 'MISSED'}[met]


def test_the_plot_shows_every_ratio(folder: Path, figures: dict[str, Any]) -> None:
    root = ElementTree.fromstring((folder / 'new' / 'bench.svg').read_text())
    labels = {element.text for element in root.iter(f'{SVG}text')}
    compared = [row for row in figures['rows'] if row['ratio'] is not None]
    assert {row['name'] for row in compared} <= labels
    # one of the signs is that of the legend
    assert len(list(root.iter(f'{SVG}circle'))) == len(compared) + 1
    assert 'InterpreterPoolExecutor' in labels or not HAS_INTERPRETERS


def test_a_plot_is_drawn_from_figures(folder: Path, tmp_path: Path) -> None:
    done = bench('--from', folder / 'figures.json', '--plot', tmp_path / 'again.svg')
    assert done.returncode == 0, done.stderr
    assert done.stdout == ''
    again = (tmp_path / 'again.svg').read_text()
    assert again == (folder / 'new' / 'bench.svg').read_text()


def test_rows_are_chosen_by_group_and_name() -> None:
    done = bench('--quick', '--group', 'call', '--group', 'stream', 'down trio uds')
    assert done.returncode == 0, done.stderr
    assert '-- stream\ndown trio uds ' in done.stdout
    assert 'tcp' not in done.stdout
    assert '-- call' not in done.stdout


def test_a_group_runs_alone() -> None:
    """The one of `spawn.py`; where there are no sub-interpreters, it has no rows."""
    done = subprocess.run(
        [sys.executable, str(RUN.with_name('spawn.py')), '--quick', 'kill: spin'],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIME_LIMIT,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    assert ('kill: spin' in done.stdout) is HAS_INTERPRETERS


# without the one nothing is measured, without the other what needs it fails
@pytest.mark.parametrize(
    ('module', 'row'), [('msgspec', 'import'), ('multiprocessing', 'rpc trio uds')]
)
def test_a_crash_is_an_error(tmp_path: Path, module: str, row: str) -> None:
    """A program that is not there is not slow: the run fails."""
    (tmp_path / f'{module}.py').write_text('raise SystemError("no such thing here")')
    done = subprocess.run(
        [sys.executable, str(RUN), '--quick', row],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIME_LIMIT,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
    )
    assert done.returncode == 1
    assert 'no such thing here' in done.stderr


def test_what_shares_a_process_fails_alone() -> None:
    commands = [['floor.py', 'pingpong', count] for count in ('2', 'two', '3')]
    done = subprocess.run(
        [sys.executable, str(RUN.with_name('several.py'))],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=False,
        timeout=TIME_LIMIT,
    )
    first, failed, last = json.loads(done.stdout)
    assert failed is None
    assert "'two'" in done.stderr
    assert first[0] > 0
    assert last[0] > 0
