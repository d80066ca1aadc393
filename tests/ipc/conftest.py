"""Fixtures of the conformance suite, and of the tests of shared memory."""

from __future__ import annotations

import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tractor._code_load import load_module_from_path
from tractor.runtime import _state

kits = sys.modules.get('kits') or load_module_from_path(Path(__file__).with_name('kits.py'))


@pytest.fixture(params=kits.params())
def kit(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each transport in its turn, see `kits.Kit`."""
    # not `tmp_path`, which may be too long for the path of a socket
    with tempfile.TemporaryDirectory() as folder, kits.opened(request.param, Path(folder)) as kit:
        yield kit


@pytest.fixture
def key() -> str:
    """A name of shared memory which nothing else has."""
    return f'tractor_test_{secrets.token_hex(4)}'


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The current actor; it ends with the test."""
    actor = SimpleNamespace(lifetime_stack=ExitStack())
    monkeypatch.setattr(_state, 'current_actor', lambda err_on_no_runtime=True: actor)
    with actor.lifetime_stack:
        yield actor
