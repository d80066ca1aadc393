"""Where the examples are and how to start one."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path


def repodir() -> Path:
    """Return the absolute path of the checkout that holds the examples and tests.

    It is the one the package is imported from, else the one around the working directory (the
    package may be installed elsewhere).

    Raises:
        FileNotFoundError: neither is a checkout.
    """
    here = Path.cwd().resolve()
    for candidate in (Path(__file__).resolve().parents[2], here, *here.parents):
        if (candidate / 'examples').is_dir() and (candidate / 'tractor').is_dir():
            return candidate
    raise FileNotFoundError(
        f'no checkout with an `examples` and a `tractor` directory at or above {here}; '
        'run the tests from within one'
    )


def examples_dir() -> Path:
    """Return the absolute path of the examples.

    Raises:
        FileNotFoundError: see `repodir()`.
    """
    return repodir() / 'examples'


def mk_cmd(ex_name: str, exs_subpath: str = 'debugging') -> str:
    """Return the shell-quoted command that runs an example with this interpreter.

    Sets ``PYTHON_COLORS=0`` in this process' environment, so that a child's output can be
    compared as plain text.

    Args:
        ex_name: name of the script, without ``.py``.
        exs_subpath: its directory below the examples.
    """
    os.environ['PYTHON_COLORS'] = '0'
    script = examples_dir() / exs_subpath / f'{ex_name}.py'
    return shlex.join([sys.executable, str(script)])
