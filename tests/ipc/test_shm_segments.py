"""contract: segments of shared memory, who owns them, and the watcher."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import subprocess
import sys
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from typing import Any

import pytest

from tractor._code_load import load_module_from_path
from tractor.ipc import _mp_bs
from tractor.ipc._mp_bs import SHM_DIR, SharedMemory

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='looks into /dev/shm')

segments = sys.modules.get('segments') or load_module_from_path(
    Path(__file__).with_name('segments.py')
)
creation, exists = segments.creation, segments.exists


class Notes:
    """A ledger that notes what it is told, and whether the segment had its name by then."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool]] = []

    def hold(self, name: str, inode: int) -> None:
        assert inode
        self.seen.append(('hold', exists(name)))

    def drop(self, name: str, inode: int) -> None:
        assert inode
        self.seen.append(('drop', exists(name)))


# --- segments


@pytest.mark.usefixtures('creation')
def test_a_segment_is_created_attached_and_removed(key: str) -> None:
    shm = SharedMemory(key, create=True, size=100)
    other = SharedMemory(key)
    assert (shm.name, shm.size, other.size) == (key, 100, 100)
    assert bytes(shm.memory) == bytes(100)
    shm.memory[:3] = b'abc'
    assert bytes(other.memory[:3]) == b'abc'
    shm.unlink()
    assert not exists(key)
    with pytest.raises(FileNotFoundError):
        SharedMemory(key)
    assert bytes(other.memory[:3]) == b'abc'
    shm.close()
    shm.close()
    assert shm.closed
    with pytest.raises(ValueError, match='closed'):
        shm.memory  # noqa: B018 - the property is what fails


@pytest.mark.usefixtures('creation')
def test_the_stdlib_and_we_attach_to_each_other(key: str) -> None:
    ours = SharedMemory(key, create=True, size=8)
    script = (
        'import sys; from multiprocessing import shared_memory as m, resource_tracker as r\n'
        'r.register = r.unregister = lambda *a: None\n'
        'shm = m.SharedMemory(sys.argv[1]); shm.buf[0] = 7; shm.close()'
    )
    subprocess.run([sys.executable, '-c', script, key], check=True, timeout=60)
    assert ours.memory[0] == 7
    assert isinstance(ours, shared_memory.SharedMemory)
    ours.unlink()


@pytest.mark.usefixtures('creation')
def test_a_name_is_given_once(key: str) -> None:
    shm = SharedMemory(key, create=True, size=8)
    with pytest.raises(FileExistsError):
        SharedMemory(key, create=True, size=8)
    shm.memory[0] = 1
    shm.unlink()
    assert SharedMemory(create=True, size=8, name=key).unlink() is None


@pytest.mark.usefixtures('creation')
def test_names_are_made_up(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter([key, key, f'{key}2'])
    monkeypatch.setattr(_mp_bs, '_random_name', lambda: next(names))
    segments = [SharedMemory(create=True, size=8) for _ in range(2)]
    assert [shm.name for shm in segments] == [key, f'{key}2']
    for shm in segments:
        shm.unlink()


@pytest.mark.parametrize('name', ['', '.', '..', 'a/b', '/a', 'a\0b', 'x' * 256, 'ä' * 128])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match='name'):
        SharedMemory(name, create=True, size=8)
    with pytest.raises(ValueError, match='name'):
        SharedMemory(name)


@pytest.mark.parametrize('arguments', [{'size': 0}, {'size': -1}, {'size': 8, 'track': True}])
def test_bad_arguments_are_refused(key: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        SharedMemory(key, create=True, **arguments)
    assert not exists(key)


def test_attaching_needs_a_name() -> None:
    with pytest.raises(ValueError, match='needs its name'):
        SharedMemory()


@pytest.mark.usefixtures('creation')
def test_a_full_file_system_is_told_at_once(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, 'full')

    monkeypatch.setattr(os, 'posix_fallocate', full)
    with pytest.raises(OSError, match='no room for 4096 bytes') as caught:
        SharedMemory(key, create=True, size=4096)
    assert caught.value.errno == errno.ENOSPC
    assert not exists(key)


def test_more_than_there_is_is_refused(key: str) -> None:
    room = os.statvfs(SHM_DIR)
    with pytest.raises(OSError, match='no room'):
        SharedMemory(key, create=True, size=room.f_frsize * (room.f_blocks + 1))
    assert os.statvfs(SHM_DIR).f_bfree > 0


@pytest.mark.usefixtures('creation')
def test_file_systems_that_cannot_reserve_are_fine(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, 'no')

    monkeypatch.setattr(os, 'posix_fallocate', unsupported)
    shm = SharedMemory(key, create=True, size=4096)
    assert shm.memory[4095] == 0
    shm.unlink()


@pytest.mark.parametrize('code', sorted(_mp_bs._NO_TMPFILE))
def test_file_systems_without_unnamed_files_are_fine(
    key: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = os.open

    def no_tmpfile(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(code, 'no')
        return real_open(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, 'open', no_tmpfile)
    shm = SharedMemory(key, create=True, size=8)
    assert exists(key)
    shm.unlink()


def test_a_segment_that_nobody_has_finished_is_refused(key: str) -> None:
    (SHM_DIR / key).touch()
    try:
        with pytest.raises(ValueError, match='has not finished'):
            SharedMemory(key)
    finally:
        (SHM_DIR / key).unlink()


def test_contents_come_before_the_name(key: str) -> None:
    notes = Notes()

    def fill(buf: memoryview) -> None:
        assert not exists(key)
        buf[:] = b'contents'

    shm = SharedMemory.published(key, 8, fill=fill, ledger=notes)
    assert notes.seen == [('hold', False)]
    assert bytes(SharedMemory(key).memory) == b'contents'
    shm.unlink()
    assert notes.seen == [('hold', False), ('drop', False)]


@pytest.mark.usefixtures('creation')
def test_a_failure_to_fill_leaves_nothing(key: str) -> None:
    notes = Notes()

    def fill(buf: memoryview) -> None:
        raise KeyError('on purpose')

    with pytest.raises(KeyError, match='on purpose'):
        SharedMemory.published(key, 8, fill=fill, ledger=notes)
    assert not exists(key)
    held = [what for what, _ in notes.seen]
    assert held.count('hold') == held.count('drop')


def test_a_taken_name_leaves_the_ledger(key: str) -> None:
    shm = SharedMemory(key, create=True, size=8)
    notes = Notes()
    with pytest.raises(FileExistsError):
        SharedMemory.published(key, 8, ledger=notes)
    assert notes.seen == [('hold', True), ('drop', True)]
    assert exists(key)
    shm.unlink()


def test_views_keep_the_mapping(key: str) -> None:
    shm = SharedMemory(key, create=True, size=8)
    view = shm.memory[2:4]
    shm.unlink()
    shm.close()
    del shm
    gc.collect()
    assert mapped(key)
    view[0] = 5
    assert view.tolist() == [5, 0]
    view.release()
    del view
    gc.collect()
    assert not mapped(key)


def mapped(name: str) -> bool:
    with open('/proc/self/maps') as file:
        return any(name in line for line in file)


def test_another_segment_of_that_name_is_not_unlinked(key: str) -> None:
    first = SharedMemory(key, create=True, size=8)
    first.unlink()
    second = SharedMemory(key, create=True, size=8)
    with pytest.raises(FileNotFoundError):
        first.unlink()
    assert exists(key)
    second.unlink()
    with pytest.raises(FileNotFoundError):
        second.unlink()


def test_segments_can_be_pickled(key: str) -> None:
    shm = SharedMemory(key, create=True, size=8)
    shm.memory[0] = 9
    again = pickle.loads(pickle.dumps(shm))
    assert (again.name, again.memory[0]) == (key, 9)
    shm.unlink()


def test_no_descriptor_and_no_tracker_stays(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise AssertionError('the tracker was told')

    monkeypatch.setattr(resource_tracker._resource_tracker, '_send', fail)
    before = len(os.listdir('/proc/self/fd'))
    shm = SharedMemory(key, create=True, size=8)
    others = [SharedMemory(key) for _ in range(100)]
    after = len(os.listdir('/proc/self/fd'))
    assert after - before <= (0 if sys.version_info >= (3, 13) else 101)
    others.clear()
    shm.unlink()
    shm.close()
    assert len(os.listdir('/proc/self/fd')) == before


def test_the_stdlib_is_left_as_it_is(key: str) -> None:
    register = resource_tracker.register
    make = _mp_bs.disable_mantracker()
    shm = make(name=key, create=True, size=8)
    assert resource_tracker.register is register
    assert shared_memory.SharedMemory is not make.func
    assert make.keywords == {'track': False}
    shm.unlink()
