"""What the tests of shared memory share: segments, and the array which most look at."""

from __future__ import annotations

from typing import Any

import pytest

from tractor.ipc import _mp_bs
from tractor.ipc._mp_bs import SHM_DIR
from tractor.ipc._shm import ShmArray, open_shm_ndarray

FIELDS = [('index', 'i8'), ('price', 'f8'), ('size', 'i4')]


@pytest.fixture(params=['unnamed first', 'named at once'])
def creation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to create a segment: that of Linux, and that of systems without unnamed files."""
    if request.param == 'named at once':
        monkeypatch.setattr(_mp_bs, '_open_unnamed', lambda: None)


@pytest.fixture
def array(key: str, actor: Any) -> ShmArray:
    """Ten rows; the first one that is pushed is number 4."""
    return open_shm_ndarray(10, key=key, dtype=FIELDS, append_start_index=4)


def exists(name: str) -> bool:
    return (SHM_DIR / name).exists()


def left_of(key: str) -> list[str]:
    """The names of what is there whose name begins like this."""
    return sorted(path.name for path in SHM_DIR.glob(f'{key}*'))
