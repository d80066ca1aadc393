"""end to end: the benchmark of framing runs, on a twentieth of its size; no time is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / 'benchmarks' / 'framing.py'


def test_the_benchmark_runs(tmp_path: Path) -> None:
    path = tmp_path / 'figures.json'
    done = subprocess.run(
        [sys.executable, str(SCRIPT), '--quick', '--json', str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(path.read_text())
    assert figures['quick'] is True
    assert [row['name'] for row in figures['rows']] == ['send', 'receive']
    for row in figures['rows']:
        assert row['name'] in done.stdout
        assert row['bare'] > 0
        # the time is rounded, the rate is not
        assert abs(1e6 / row['ours'] / row['rate'] - 1) < 0.01
        assert (row['verdict'] == 'met') is (
            row['over'] <= 2.0 if row['name'] == 'send' else row['rate'] >= 400_000
        )
