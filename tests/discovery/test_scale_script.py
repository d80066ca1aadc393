"""end to end: the measurement of the registry runs, on a small scale; no time is judged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tractor._code_load import load_module_from_path

programs = sys.modules.get('programs') or load_module_from_path(
    Path(__file__).parents[1] / 'programs.py'
)

SCRIPT = Path(__file__).parents[2] / 'benchmarks' / 'discovery.py'


@pytest.mark.parametrize('transport', ['tcp', 'uds'])
def test_it_measures(transport: str) -> None:
    small = ['--many', '20', '--seconds', '0.5', '--rate', '20']
    done = subprocess.run(
        [sys.executable, str(SCRIPT), '--transport', transport, *small],
        env=programs.environ(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    # 1 is a target that a busy machine misses, a crash has a traceback
    assert done.returncode in {0, 1}
    assert 'Traceback' not in done.stderr
    assert 'size: find_actor() among 20' in done.stdout
    assert 'wrong: 0' in done.stdout
