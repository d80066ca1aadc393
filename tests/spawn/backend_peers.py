"""What the tests of all backends share on their own side: the backends, and counting what there is."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

import tractor
from tractor._code_load import load_module_from_path
from tractor._testing import _leaks, _procs
from tractor._testing._session import why_unable
from tractor.spawn import _life, _spawn

HERE = Path(__file__).parent
METHODS: tuple[str, ...] = get_args(_spawn.SpawnMethodKey)


def param(*methods: str) -> Any:
    """These backends as a parameter; skipped, with the reason, if one does not work on this Python."""
    unable = [reason for method in methods if (reason := why_unable(method)) is not None]
    marks = [pytest.mark.skip(reason=unable[0])] if unable else []
    return pytest.param(*methods, marks=marks, id='-'.join(methods))


# whatever the backends of the session are
on_each_backend = pytest.mark.parametrize(
    'start_method', [param(method) for method in METHODS], indirect=True
)
on_subint = pytest.mark.parametrize('start_method', [param('subint')], indirect=True)
# of modules whose actors are in sub-interpreters, whatever the backends of the session are
needs_subint = [
    pytest.mark.spawns,
    pytest.mark.skipif(sys.version_info < (3, 14), reason='sub-interpreters need CPython 3.14'),
]
usable_methods = [method for method in METHODS if why_unable(method) is None]

# seconds in which the ladder ends whatever there is: from its first step on, and from `terminate()` on
LADDER_WITHIN = (
    _life.DONE_WITHIN + _life.ALIVE_WITHIN + _life.TERMINATE_AFTER + _life.KILL_WITHIN + 0.5
)
HARD_KILL_WITHIN = _life.TERMINATE_AFTER + _life.KILL_WITHIN + 0.5


@pytest.fixture
def in_subint(tpt_proto: str, reg_addr: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """For a runtime whose children are sub-interpreters, each of them made for it."""
    monkeypatch.setenv('TRACTOR_SUBINT_SPARES', '0')
    return {
        'start_method': 'subint',
        'enable_transports': [tpt_proto],
        'registry_addrs': [reg_addr],
        'loglevel': 'critical',
    }


def load(name: str) -> ModuleType:
    """The module of a file beside this one, under the name by which actors import it."""
    return sys.modules.get(name) or load_module_from_path(HERE / f'{name}.py')


def interpreters() -> set[int]:
    """Ids of all interpreters of this process but the main one."""
    return _leaks._interpreters()


def is_alive(pid: int) -> bool:
    """Whether there is such a process which has not ended."""
    proc = _procs.scan().get(pid)
    return proc is not None and not proc.is_zombie


def counts() -> dict[str, int]:
    """How many there are in this process: file descriptors, threads, interpreters, children."""
    gc.collect()
    helpers, _ = _leaks.mp_helpers()
    me = os.getpid()
    return {
        'fds': len(_leaks._open_fds()),
        'threads': sum(
            not _leaks._IDLE_TRIO_THREAD.fullmatch(thread.name) for thread in threading.enumerate()
        ),
        'interpreters': len(interpreters()),
        'children': sum(p.ppid == me and p.pid not in helpers for p in _procs.scan().values()),
    }


async def settled_counts(root: tractor.Actor) -> dict[str, int]:
    """The same, once the connections of children that are gone have been closed."""
    await root.ipc_server.wait_for_no_more_peers()
    return counts()


async def failure_of(fn: Callable[..., Awaitable[object]], *args: Any, **kwargs: Any) -> Any:
    """The exception, of whatever kind but a cancellation, that `fn(*args, **kwargs)` raises."""
    try:
        value = await fn(*args, **kwargs)
    except Exception as err:  # noqa: BLE001 - it is what is looked at
        return err
    raise AssertionError(f'{fn} returned {value!r}')
