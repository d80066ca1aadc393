"""Running whole programs: what a user would start from a shell."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tractor

PACKAGE_DIR = Path(tractor.__file__).parents[1]
TIMEOUT = 60


def environ(**extra: str) -> dict[str, str]:
    """This process's environment, in which the package under test is found from anywhere."""
    path = os.pathsep.join(filter(None, (str(PACKAGE_DIR), os.environ.get('PYTHONPATH'))))
    return {**os.environ, 'PYTHONPATH': path, **extra}


def run(*args: str, cwd: Path, stdin: str | None = None, **extra: str) -> str:
    """
    Run Python with these arguments to its end; its standard output.

    Args:
        cwd: where.
        stdin: its standard input.
        extra: environment variables.
    """
    done = subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env=environ(**extra),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def started(*args: str, cwd: Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """
    A Python program that runs during the block, with its outputs as pipes; killed at the end if need be.

    Args:
        cwd: where.
        options: for `subprocess.Popen`.
    """
    proc = subprocess.Popen(
        [sys.executable, *args],
        cwd=cwd,
        env=environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    with proc:
        try:
            yield proc
        finally:
            proc.kill()
