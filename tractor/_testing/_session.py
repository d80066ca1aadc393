"""What was chosen for a test session on the command line, and what the session owns."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast, get_args

import pytest

from tractor._testing import _procs
from tractor.discovery import _addr
from tractor.spawn import _mp, _spawn

BACKENDS: tuple[str, ...] = get_args(_spawn.SpawnMethodKey)


@dataclass
class Session:
    """What was chosen on the command line, and what this session owns."""

    tpt_proto: str
    backends: dict[str, str | None] = field(default_factory=dict)
    """Chosen backends; the value says why this Python cannot run one, `None` if it can."""
    tag: str = ''
    runtime_dir: Path = Path()
    environ: pytest.MonkeyPatch = field(default_factory=pytest.MonkeyPatch)
    tests: int = 0
    snapshots: int = 0
    """How many hang snapshots there were before it."""

    @property
    def default_backend(self) -> str:
        """The first chosen backend that can run; used by tests that do not take any."""
        return next((key for key, unable in self.backends.items() if unable is None), 'trio')

    @property
    def forks(self) -> bool:
        """Whether an actor of the default backend is forked off another process."""
        return is_forking(self.default_backend)

    def isolate(self) -> None:
        """Give it a runtime directory and a tag of its own, both inherited by every child."""
        # Short: the path of a UNIX socket has to fit 108 bytes. Private: sessions on one machine
        # use the same default names.
        parent = '/tmp' if os.path.isdir('/tmp') else None
        self.runtime_dir = Path(tempfile.mkdtemp(prefix='tr-', dir=parent))
        # a session inside a test of another one belongs to that one too
        outer = os.environ.get(_procs.TAG)
        self.tag = f'{outer}/{secrets.token_hex(6)}' if outer else secrets.token_hex(6)
        self.environ.setenv('XDG_RUNTIME_DIR', str(self.runtime_dir))
        self.environ.setenv(_procs.TAG, self.tag)
        # a process title must not be written over the environment that carries the tag
        self.environ.setenv('SPT_NOENV', '1')
        # it would overrule every `start_method`, and reports would name backends that never ran
        self.environ.delenv('TRACTOR_SPAWN_METHOD', raising=False)

    def undo(self) -> None:
        """Restore the environment and remove the directory."""
        self.environ.undo()
        shutil.rmtree(self.runtime_dir, ignore_errors=True)


SESSION = pytest.StashKey[Session]()


def chosen_backends(values: Iterable[str] | None) -> dict[str, str | None]:
    """Validate the values of ``--spawn-backend``; see `Session.backends`.

    Args:
        values: each a key, several of them separated by commas, or ``all``.

    Raises:
        pytest.UsageError: one names no backend.
    """
    names = [name.strip() for value in values or ['trio'] for name in value.split(',')]
    if unknown := sorted(set(names) - {*BACKENDS, 'all'}):
        raise pytest.UsageError(
            f'--spawn-backend: unknown {", ".join(map(repr, unknown))}; '
            f'choose from {", ".join(BACKENDS)} or all'
        )
    if 'all' in names:
        usable = {key: why_unable(key) for key in BACKENDS}
        return {key: unable for key, unable in usable.items() if unable is None or key in names}
    return {key: why_unable(key) for key in names}


def why_unable(key: str) -> str | None:
    """Return why this Python cannot run the backend `key`, or `None` if it can."""
    try:
        _spawn.check_method(key)
    except (RuntimeError, ValueError) as err:
        return str(err)
    return None


def is_forking(key: str) -> bool:
    """Tell whether an actor of this backend is forked off another process."""
    context = _mp.get_context(key) if why_unable(key) is None else None
    return context is not None and 'fork' in context.get_start_method()


def chosen_transport(values: Iterable[str] | None) -> str:
    """Validate the values of ``--tpt-proto``.

    Raises:
        pytest.UsageError: there is not exactly one, or it names no transport.
    """
    keys = [value.strip('\'"') for value in values or ['tcp']]
    if len(keys) != 1:
        raise pytest.UsageError(f'--tpt-proto: exactly one transport can be tested, not {keys}')
    if keys[0] not in _addr._address_types:
        raise pytest.UsageError(
            f'--tpt-proto: unknown {keys[0]!r}; choose from {", ".join(_addr._address_types)}'
        )
    return keys[0]


def use_backend(key: str) -> None:
    """Make `key` the backend of this process."""
    if _spawn._spawn_method != key:
        _spawn.try_set_start_method(cast(_spawn.SpawnMethodKey, key))
