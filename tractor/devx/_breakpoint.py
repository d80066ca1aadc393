"""
`breakpoint()` while an actor runtime is up.

Stopping one process of a tree at a prompt while the others go on talking to it, and to the same terminal, helps
nobody. So the builtin is disarmed for the life of the runtime: in this process with a message that says why, in
children by the environment variable which they inherit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

_ENV = 'PYTHONBREAKPOINT'


@contextmanager
def maybe_block_bp() -> Iterator[None]:
    """Disarm `breakpoint()` for the block; hook and variable are as before afterwards."""
    hook, env = sys.breakpointhook, os.environ.get(_ENV)
    sys.breakpointhook = _refuse
    os.environ[_ENV] = '0'
    try:
        yield
    finally:
        sys.breakpointhook = hook
        if env is None:
            os.environ.pop(_ENV, None)
        else:
            os.environ[_ENV] = env


def _refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
    raise RuntimeError(
        'Trying to use `breakpoint()` eh? It would stop one actor of a tree while the others go on.\n'
        'Use it outside of the actor runtime.'
    )
