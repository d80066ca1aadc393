"""Fixtures of the conformance suite."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tractor._code_load import load_module_from_path

kits = sys.modules.get('kits') or load_module_from_path(Path(__file__).with_name('kits.py'))


@pytest.fixture(params=kits.params())
def kit(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each transport in its turn, see `kits.Kit`."""
    # not `tmp_path`, which may be too long for the path of a socket
    with tempfile.TemporaryDirectory() as folder, kits.opened(request.param, Path(folder)) as kit:
        yield kit
