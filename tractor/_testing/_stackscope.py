"""The option ``--enable-stackscope``: a signal prints the task tree of the process that runs pytest."""

from __future__ import annotations

import os
import signal
import warnings
from types import FrameType
from typing import Any

import pytest
import trio

ENV = 'TRACTOR_ENABLE_STACKSCOPE'


def configure(config: pytest.Config, environ: pytest.MonkeyPatch) -> None:
    """Act upon the option: install the handler until the end of the session, or make sure there is none.

    Args:
        config: of the session.
        environ: by which the session changes the environment. The variable `ENV` is set, or
            removed, as what programs under test are started with.

    Without the package `stackscope` there is a warning and no handler.
    """
    if not config.getoption('enable_stackscope'):
        environ.delenv(ENV, raising=False)
        return
    environ.setenv(ENV, '1')
    stackscope = _load()
    signum = getattr(signal, 'SIGUSR1', None)
    if stackscope is None or signum is None:
        what = 'this system has no SIGUSR1' if stackscope else 'the package stackscope is missing'
        config.issue_config_time_warning(
            pytest.PytestConfigWarning(f'--enable-stackscope has no effect: {what}'), stacklevel=2
        )
        return
    # nothing is captured yet: later this descriptor leads to a file of pytest's
    output = os.dup(2)

    def dump(_signum: int, _frame: FrameType | None) -> None:
        os.write(output, task_tree(stackscope).encode(errors='backslashreplace'))

    previous = signal.signal(signum, dump)

    def restore() -> None:
        signal.signal(signum, previous)
        os.close(output)

    config.add_cleanup(restore)


def _load() -> Any:
    try:
        with warnings.catch_warnings():
            # it warns of being imported when trio runs already
            warnings.simplefilter('ignore')
            import stackscope
    except ImportError:
        return None
    return stackscope


def task_tree(stackscope: Any) -> str:
    """Return the tasks of the trio run of this thread, as text; says so if there is none."""
    head = f'------ tasks of process {os.getpid()} ------\n'
    try:
        root = trio.lowlevel.current_root_task()
    except RuntimeError:
        root = None
    if root is None:
        return f'{head}no trio run in this thread\n'
    try:
        with warnings.catch_warnings():
            # that it sees less on this Python is no error of whoever runs
            warnings.simplefilter('ignore')
            return f'{head}{stackscope.extract(root, recurse_child_tasks=True)}\n'
    except Exception as err:  # noqa: BLE001 - a boundary: a signal must not end what it looks at
        return f'{head}cannot be told: {err!r}\n'
