"""end to end: the benchmark of linked tasks runs, on a twentieth of its size; no time is judged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / 'benchmarks' / 'aio.py'


def bench(*args):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *args],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize('case', ['hop', 'turn', 'floor', 'echo', 'task'])
def test_one_figure(case):
    (figure,) = bench(case, '50')
    assert 0 < float(figure) < 1


def test_the_table():
    where, head, row = bench('--quick')
    assert '250 echoes' in where
    assert head.split() == ['floor', 'tractor', 'ratio', 'from', 'to', 'best', 'target']
    cells = row.split()
    assert cells[:2] == ['aio', 'echo']
    assert cells[-2:] in (['3.00', 'met'], ['3.00', 'MISSED'])
    assert float(cells[5]) > 0
