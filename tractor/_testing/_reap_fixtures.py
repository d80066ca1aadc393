"""Fixtures of the pytest plugin that remove what actors have left behind.

The check for leaks of each test comes after those of a test and sees only what they have left.

PYTEST_DONT_REWRITE: no assertions.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

import pytest

from tractor._testing import _leaks, _procs, _reap
from tractor._testing._session import SESSION

GRACE = 3.0
"""Seconds that processes get to end after SIGINT."""


def _new_processes(
    request: pytest.FixtureRequest, before: set[tuple[int, int]]
) -> list[_procs.Proc]:
    """Return the processes of this session which are not in `before`, zombies too."""
    session = request.config.stash.get(SESSION, None)
    if session is not None:
        # those that were adopted by others, too
        procs = _procs.of_session(session.tag, exclude=before)
    else:
        now, me = _procs.scan(), os.getpid()
        procs = [proc for proc in now.values() if _procs.descends_from(proc, me, now)]
    helpers = _leaks.mp_helpers()[0]
    return [proc for proc in procs if proc.key not in before and proc.pid not in helpers]


def _reap_new(request: pytest.FixtureRequest, before: set[tuple[int, int]]) -> None:
    procs = _new_processes(request, before)
    _reap.reap((proc.pid for proc in procs if not proc.is_zombie), grace=GRACE)
    _procs.reap_zombies(procs)


def _all_processes() -> set[tuple[int, int]]:
    return {proc.key for proc in _procs.scan().values()}


@pytest.fixture(scope='session', autouse=True)
def _reap_orphaned_subactors(request: pytest.FixtureRequest) -> Iterator[None]:
    """End what is left of the session's processes when it is over, and remove dead socket files."""
    before = _all_processes()
    yield
    _reap_new(request, before)
    _reap.reap_uds(_reap.find_orphaned_uds())


@pytest.fixture
def reap_subactors_per_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """End the processes which the test has left behind, instead of failing it for them."""
    before = _all_processes()
    yield
    _reap_new(request, before)


@pytest.fixture
def track_orphaned_uds_per_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Remove, and warn of, socket files of dead actors that the test has left behind."""
    before = set(_reap.find_orphaned_uds())
    yield
    unlinked, _errors = _reap.reap_uds(
        path for path in _reap.find_orphaned_uds() if path not in before
    )
    if unlinked:
        names = ', '.join(path.name for path in unlinked)
        warnings.warn(
            f'{request.node.nodeid}: removed the socket files of dead actors: {names}',
            ResourceWarning,
            stacklevel=2,
        )


@pytest.fixture
def detect_runaway_subactors_per_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Warn of processes that the test has left behind and that keep a processor busy."""
    before = _all_processes()
    yield
    pids = [proc.pid for proc in _new_processes(request, before)]
    for pid, share, command in _reap.find_runaway_subactors(os.getpid(), only_pids=pids):
        warnings.warn(
            f'{request.node.nodeid}: process {pid} uses {share:.0f} % of a processor: {command}',
            ResourceWarning,
            stacklevel=2,
        )
