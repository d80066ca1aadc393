"""end to end: actors in sub-interpreters that come and go in every way: nothing crashes, hangs or stays.

By default so many cycles as take half a minute; `TRACTOR_SUBINT_SOAK=full` for all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tractor._code_load import load_module_from_path

HERE = Path(__file__).parent
PROGRAMS = HERE / 'programs'

backend = load_module_from_path(HERE / 'backend_peers.py')
programs = load_module_from_path(HERE.parent / 'programs.py')

pytestmark = backend.needs_subint

FULL = os.environ.get('TRACTOR_SUBINT_SOAK') == 'full'
CYCLES = 300 if FULL else 72
# on a machine that does much else
ENDED_WITHIN = 280 if not FULL else 900

# MiB between the first sixth and the end. An actor that is not given back costs 5, so this is fewer than seven of them;
# a spare comes and goes with about 12
GROWTH = 32.0
# MiB that stay when all is over: of what was imported for it, and of the allocator of C
STAYS = 36.0


def soak(program: str, *args: str) -> tuple[str, Any]:
    """Run a program that prints its seed first and its report last."""
    done = subprocess.run(
        [sys.executable, '-X', 'faulthandler', str(PROGRAMS / program), *args],
        env=programs.environ(PYTHONPATH=os.pathsep.join([str(HERE), str(HERE.parents[1])])),
        capture_output=True,
        text=True,
        timeout=ENDED_WITHIN,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seed, *_, report = done.stdout.splitlines()
    return seed, json.loads(report)


@pytest.mark.timeout(ENDED_WITHIN + 20)
def test_random_ends() -> None:
    seed, report = soak('soak.py', str(CYCLES))
    print(seed, report)
    first, last = report['parts'][0], report['parts'][-1]
    assert sum(report['ended'].values()) == CYCLES
    assert report['leaks'] == {}, seed
    assert last['rss_mib'] - first['rss_mib'] < GROWTH, (seed, report)
    assert report['after']['rss_mib'] - report['before']['rss_mib'] < STAYS, (seed, report)
    for kind in ('threads', 'fds', 'socket_files'):
        assert report['after'][kind] <= report['before'][kind], (seed, kind, report)
    assert report['python_threads'] == ['MainThread']
