"""contract: the owner of segments of shared memory, and its watcher."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tractor._code_load import load_module_from_path
from tractor._testing import _procs
from tractor.ipc import _shm_owner, _shm_watch
from tractor.ipc._mp_bs import SHM_DIR, SharedMemory
from tractor.ipc._shm_owner import Owner
from tractor.runtime import _state

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='looks into /dev/shm')

segments = sys.modules.get('segments') or load_module_from_path(
    Path(__file__).with_name('segments.py')
)
creation, exists = segments.creation, segments.exists


@pytest.fixture
def owner() -> Iterator[Owner]:
    owner = Owner()
    yield owner
    owner.release()
    assert (owner.held, owner.watcher_pid) == ([], None)


def wait_gone(pid: int | None, timeout: float = 10) -> None:
    """Wait for the end of a process; reap it if it is ours."""
    proc = _procs.scan().get(pid or 0)
    if proc is not None:
        _procs.wait_gone([proc], timeout)
    with suppress(ChildProcessError):
        assert os.waitpid(pid or 0, os.WNOHANG)[0] == pid


def segment(name: str, owner: Owner) -> SharedMemory:
    return SharedMemory.published(name, 8, ledger=owner)


def test_the_owner_removes_what_is_left(key: str, owner: Owner) -> None:
    kept = segment(key, owner)
    segment(f'{key}2', owner).unlink()
    assert owner.held == [key]
    assert key in repr(owner)
    pid = owner.watcher_pid
    owner.release()
    assert not exists(key)
    with pytest.raises(ProcessLookupError):
        os.kill(pid or 0, 0)
    with pytest.raises(FileNotFoundError):
        kept.unlink()


def test_the_owner_does_not_remove_that_of_another(key: str, owner: Owner) -> None:
    segment(key, owner)
    os.unlink(SHM_DIR / key)
    foreign = SharedMemory(key, create=True, size=8)
    owner.release()
    assert exists(key)
    foreign.unlink()


def test_what_cannot_be_removed_is_logged(
    key: str, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[Any] = []
    shm = segment(key, owner)
    monkeypatch.setattr(_shm_watch, 'remove', lambda *args: None)
    monkeypatch.setattr(_shm_owner.log, 'error', lambda *args: logged.append(args))
    owner.release()
    assert logged
    assert key in logged[0]
    shm.unlink()


def test_a_killed_watcher_is_replaced(key: str, owner: Owner) -> None:
    segment(key, owner)
    first = owner.watcher_pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    _procs.wait_gone([_procs.scan()[first]], 10)
    segment(f'{key}2', owner)
    second = owner.watcher_pid
    assert second != first
    # as if this process ended: the new one knows of both
    owner.disown()
    wait_gone(second)
    assert not exists(key)
    assert not exists(f'{key}2')


def test_a_watcher_that_cannot_start_fails_the_segment(
    key: str, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError(errno.EAGAIN, 'no more processes')

    monkeypatch.setattr(_shm_owner, '_start_watcher', fail)
    with pytest.raises(OSError, match='no more processes'):
        segment(key, owner)
    assert owner.held == []
    assert not exists(key)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_watchers_ignore_requests_to_end(key: str, owner: Owner, number: int) -> None:
    shm = segment(key, owner)
    pid = owner.watcher_pid
    assert pid is not None
    # it has read what it was told, hence is up
    wait_until_read(owner)
    os.kill(pid, number)
    shm.unlink()
    segment(f'{key}2', owner)
    assert owner.watcher_pid == pid
    assert os.getsid(pid) == pid


def wait_until_read(owner: Owner) -> None:
    """Return when the watcher has emptied its pipe; that is noticed by the room in it."""
    import fcntl
    import termios

    assert owner._watcher is not None
    assert owner._watcher.stdin is not None
    fd = owner._watcher.stdin.fileno()
    waiting = b'\1\0\0\0'
    while waiting != bytes(4):
        os.sched_yield()
        waiting = fcntl.ioctl(fd, termios.FIONREAD, bytes(4))


def test_what_is_not_held_is_not_dropped(owner: Owner) -> None:
    owner.drop('never_held', 1)
    assert owner.watcher_pid is None


def test_actors_get_their_owner_once(monkeypatch: pytest.MonkeyPatch, owner: Owner) -> None:
    actor: Any = SimpleNamespace(lifetime_stack=ExitStack())
    monkeypatch.setattr(_state, 'current_actor', lambda err_on_no_runtime: actor)
    monkeypatch.setattr(_shm_owner, 'owner', owner)
    assert _shm_owner.get_owner('it') is owner
    assert _shm_owner.get_owner('it') is owner
    assert len(actor.lifetime_stack._exit_callbacks) == 1
    actor.lifetime_stack.close()


def test_a_removal_elsewhere_is_fine() -> None:
    def gone() -> None:
        raise FileNotFoundError

    _shm_owner.unlink_if_there(gone)
    with pytest.raises(PermissionError):
        _shm_owner.unlink_if_there(lambda: (_ for _ in ()).throw(PermissionError))


@pytest.mark.usefixtures('creation')
@pytest.mark.parametrize('name', ['x' * 242, 'a b\nc', '+1 x', 'ünïcode'])
def test_odd_names_work(key: str, name: str) -> None:
    owner = Owner()
    name = f'{name}{key}'[-255:]
    SharedMemory.published(name, 8, ledger=owner)
    lost = SharedMemory.published(f'{name}2'[-255:], 8, ledger=owner)
    assert exists(name)
    pid = owner.watcher_pid
    # as if this process ended
    owner.disown()
    wait_gone(pid)
    assert not exists(name)
    assert not exists(lost.name)


# --- the watcher itself


def test_records_are_followed_to_the_end(key: str) -> None:
    kept, dropped, foreign = (SharedMemory(f'{key}{i}', create=True, size=8) for i in range(3))
    read_end, write_end = os.pipe()
    records = [
        f'+{kept._inode} {kept.name}',
        f'+{dropped._inode} {dropped.name}',
        f'-{dropped._inode} {dropped.name}',
        f'+{foreign._inode + 1} {foreign.name}',
        '+12 no_such_segment',
        '-12 never_held',
    ]
    data = b''.join(record.encode() + b'\0' for record in records)
    # what was being written when the owner was killed is not a record
    os.write(write_end, data + f'+{dropped._inode} {dropped.name}'.encode())
    os.close(write_end)
    _shm_watch.watch(read_end)
    os.close(read_end)
    assert [exists(shm.name) for shm in (kept, dropped, foreign)] == [False, True, True]
    dropped.unlink()
    foreign.unlink()


def test_records_come_in_any_pieces(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shm = SharedMemory(key, create=True, size=8)
    data = f'+{shm._inode} {key}\0-1 x\0'.encode()
    pieces = iter([data[i : i + 1] for i in range(len(data))] + [b''])
    monkeypatch.setattr(os, 'read', lambda fd, size: next(pieces))
    _shm_watch.watch(0)
    assert not exists(key)


def test_without_an_inode_the_name_decides(key: str) -> None:
    SharedMemory(key, create=True, size=8)
    _shm_watch.remove(key.encode(), 0)
    assert not exists(key)


@pytest.mark.parametrize(('length', 'kept'), [(29, True), (30, True), (31, False), (200, False)])
def test_long_keys_are_hashed_where_names_are_short(length: int, kept: bool) -> None:
    key = 'k' * length
    name = _shm_owner.short_key(key, 'shml_', limit=31)
    assert (name == key) is kept
    assert len(name) < 31
    assert kept or name.startswith('shml_')
    assert _shm_owner.short_key(key, 'shml_') == key
