"""contract: lists in shared memory."""

from __future__ import annotations

import gc
import os
import pickle
import struct
import sys
from multiprocessing.shared_memory import ShareableList
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tractor.ipc import _shm, _shm_owner
from tractor.ipc._mp_bs import SharedMemory
from tractor.ipc._shm import ShmList, attach_shm_list, open_shm_list

VALUES = [1, 2.5, True, False, None, 'text', 'ünïcödé', b'bytes', '', -(2**63), 2**63 - 1]


def test_values_come_back(key: str, actor: Any) -> None:
    shml = open_shm_list(key, sequence=VALUES)
    assert (shml.key, shml.shm.name, shml.readonly) == (key, key, True)
    other = attach_shm_list(key)
    assert not other.readonly
    assert other.shm.name == key
    assert list(shml) == list(other) == VALUES
    assert list(map(type, other)) == list(map(type, VALUES))
    assert len(other) == len(VALUES)
    assert other.index('text') == 5
    assert other.count(None) == 1
    assert key in repr(other)


@pytest.mark.parametrize(('dtype', 'default'), [(float, 0.0), (int, 0), (bool, True), (None, None)])
def test_defaults(key: str, actor: Any, dtype: type | None, default: Any) -> None:
    shml = open_shm_list(key, size=3, dtype=dtype)
    assert shml[:] == [default] * 3
    assert {*map(type, shml)} == {type(default)}


def test_default_text_has_five_characters_and_room_for_eight(key: str, actor: Any) -> None:
    shml = open_shm_list(key, size=2, dtype=str, readonly=False)
    assert len(shml[0]) == 5
    shml[0] = '12345678'
    assert shml[:1] == ['12345678']
    with pytest.raises(ValueError, match='storage'):
        shml[0] = '123456789'


def test_default_size_and_type(key: str, actor: Any) -> None:
    assert open_shm_list(key)[:] == [0.0] * 1024


def test_other_types_have_no_default(key: str, actor: Any) -> None:
    with pytest.raises(TypeError, match='no default'):
        open_shm_list(key, dtype=complex)


def test_assignments_are_seen(key: str, actor: Any) -> None:
    ours = open_shm_list(key, sequence=VALUES, readonly=False)
    theirs = attach_shm_list(key)
    for i, value in enumerate(reversed(VALUES[:5])):
        theirs[i] = value
        assert ours[i] == value
    ours[-6] = 'öäü'
    assert theirs[5] == 'öäü'
    ours[0] = 'any'
    assert theirs[0] == 'any'


def test_readonly_refuses(key: str, actor: Any) -> None:
    shml = open_shm_list(key, sequence=[1])
    for shared in (shml, attach_shm_list(key, readonly=True)):
        with pytest.raises(ValueError, match='assignment destination is read-only'):
            shared[0] = 2
    assert shml[0] == 1


def test_slices_are_copies(key: str, actor: Any) -> None:
    shml = open_shm_list(key, sequence=range(6), readonly=False)
    part = shml[1:5:2]
    assert part == [1, 3]
    assert isinstance(part, list)
    assert shml[::-1] == [5, 4, 3, 2, 1, 0]
    part[0] = 9
    assert shml[1] == 1
    with pytest.raises(TypeError, match='one item at a time'):
        shml[0:2] = [1, 2]


@pytest.mark.parametrize('index', [3, -4, 100, -100])
def test_items_that_are_not_there(key: str, actor: Any, index: int) -> None:
    shml = open_shm_list(key, sequence=[1, 2, 3], readonly=False)
    with pytest.raises(IndexError):
        shml[index]
    with pytest.raises(IndexError):
        shml[index] = 1
    assert shml[:] == [1, 2, 3]


@pytest.mark.parametrize('value', [1j, [], Path(), object()])
def test_other_types_are_refused(key: str, actor: Any, value: Any) -> None:
    with pytest.raises(TypeError, match=f'item 1 is of type {type(value).__name__}'):
        open_shm_list(key, sequence=[1, value])
    shml = open_shm_list(key, sequence=[1], readonly=False)
    with pytest.raises(TypeError, match=type(value).__name__):
        shml[0] = value
    assert shml[0] == 1


@pytest.mark.parametrize('value', [2**63, -(2**63) - 1])
def test_numbers_that_do_not_fit(key: str, actor: Any, value: int) -> None:
    with pytest.raises(ValueError, match='does not fit'):
        open_shm_list(key, sequence=[value])
    shml = open_shm_list(key, sequence=[1], readonly=False)
    with pytest.raises(ValueError, match='does not fit'):
        shml[0] = value


def test_an_empty_list(key: str, actor: Any) -> None:
    assert list(open_shm_list(key, sequence=())) == []
    assert list(attach_shm_list(key)) == []


def test_keys_are_unique(key: str, actor: Any) -> None:
    shml = open_shm_list(key, sequence=[1])
    with pytest.raises(FileExistsError):
        open_shm_list(key, sequence=[2])
    assert shml[0] == 1


def test_attaching_to_nothing(key: str) -> None:
    with pytest.raises(FileNotFoundError):
        attach_shm_list(key)


@pytest.mark.parametrize(
    'content',
    [b'\1', b'\xff' * 64, struct.pack('9q', 3, 0, -8, -16, -99, 1, 1, 1, 1), b'\1' + bytes(23)],
)
def test_attaching_to_something_else(key: str, content: bytes) -> None:
    def fill(buf: memoryview) -> None:
        buf[:] = content

    shm = SharedMemory.published(key, len(content), fill=fill)
    with pytest.raises(ValueError, match='does not hold a list'):
        attach_shm_list(key)
    shm.unlink()


def test_the_actor_unlinks_before_it_closes(key: str, actor: Any) -> None:
    shml = open_shm_list(key, sequence=[1])
    attached = attach_shm_list(key)
    seen = []

    def look() -> None:
        seen.append((Path('/dev/shm', key).exists(), shml.shm.closed))

    # runs between the two
    close, unlink, *_ = reversed([*actor.lifetime_stack._exit_callbacks][-2:])
    callbacks = actor.lifetime_stack._exit_callbacks
    callbacks.clear()
    callbacks.extend([unlink, (True, lambda *_: look()), close])
    actor.lifetime_stack.close()
    assert seen == [(False, False)]
    assert shml.shm.closed
    assert 'closed' in repr(shml)
    with pytest.raises(ValueError, match='closed'):
        shml[0]
    with pytest.raises(FileNotFoundError):
        attach_shm_list(key)
    # as it has been unlinked only
    assert attached[0] == 1
    _shm_owner.owner.release()


def test_the_end_of_the_actor_ends_the_watcher(key: str, actor: Any) -> None:
    shml = open_shm_list(key, sequence=[1])
    other = open_shm_list(f'{key}2', sequence=[1])
    assert _shm_owner.owner.held == [key, f'{key}2']
    assert _shm_owner.owner.watcher_pid
    other.shm.unlink()
    assert _shm_owner.owner.held == [key]
    actor.lifetime_stack.close()
    assert shml.shm.closed
    assert _shm_owner.owner.watcher_pid is None
    # the next actor of this process
    assert open_shm_list(key, sequence=[2])[0] == 2
    assert _shm_owner.owner.watcher_pid


def test_a_list_that_is_gone_already_is_fine(key: str, actor: Any) -> None:
    shml = open_shm_list(key, sequence=[1])
    attach_shm_list(key).shm.unlink()
    actor.lifetime_stack.close()
    assert shml.shm.closed


def test_the_next_list_of_that_name_is_left_alone(key: str, actor: Any) -> None:
    open_shm_list(key, sequence=[1]).shm.unlink()
    second = ShmList([2], name=key)
    actor.lifetime_stack.close()
    assert attach_shm_list(key)[0] == 2
    second.shm.unlink()


def test_without_a_runtime_there_is_a_warning(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[Any] = []
    monkeypatch.setattr(_shm_owner.log, 'warning', lambda *args: logged.append(args))
    shml = open_shm_list(key, sequence=[1])
    assert 'must be unlinked' in logged[0][0]
    assert _shm_owner.owner.held == []
    shml.shm.unlink()


def test_attaching_needs_no_runtime_and_frees_by_itself(key: str) -> None:
    shml = ShmList([1], name=key)
    before = mappings(key), len(os.listdir('/proc/self/fd'))
    for _ in range(3000):
        attach_shm_list(key)
    gc.collect()
    assert (mappings(key), len(os.listdir('/proc/self/fd'))) == before
    many = [attach_shm_list(key) for _ in range(50)]
    assert mappings(key) == before[0] + 50
    many.clear()
    gc.collect()
    assert mappings(key) == before[0]
    shml.shm.unlink()


def mappings(name: str) -> int:
    with open('/proc/self/maps') as file:
        return sum(name in line for line in file)


def test_a_list_by_itself_has_a_name_of_its_own() -> None:
    shml = ShmList(['a', 1])
    assert attach_shm_list(shml.key)[:] == ['a', 1]
    shml.shm.unlink()


def test_pickled_it_is_attached_again(key: str, actor: Any) -> None:
    shml = open_shm_list(key, sequence=[1], readonly=False)
    again = pickle.loads(pickle.dumps(shml))
    assert (again.key, again.readonly, again[:]) == (key, False, [1])


def test_the_layout_is_that_of_the_stdlib(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # the tracker of this process shall not hear of it, on any Python version
    monkeypatch.setattr('multiprocessing.shared_memory.SharedMemory', SharedMemory)
    ascii_only = [value for value in VALUES if value != 'ünïcödé']
    ours = ShmList(ascii_only, name=key)
    theirs: Any = ShareableList(name=key)
    assert list(theirs) == ascii_only
    theirs[0] = 7
    assert ours[0] == 7
    assert ours.format == theirs.format
    ours.shm.unlink()
    theirs = ShareableList(ascii_only, name=key)
    assert attach_shm_list(key)[:] == ascii_only
    theirs.shm.unlink()


text = st.text(max_size=20).filter(lambda value: not value.endswith('\0'))
values = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.booleans(), st.none(), text
)


@settings(deadline=None)
@given(st.lists(values, max_size=20), st.data())
def test_any_values(sequence: list[Any], data: st.DataObject) -> None:
    shml = ShmList(sequence, readonly=False)
    try:
        model = list(sequence)
        other = attach_shm_list(shml.key)
        for index in data.draw(st.lists(st.sampled_from(range(len(model))))) if model else ():
            value = data.draw(values)
            room = (
                8 * (len(sequence[index].encode()) // 8 + 1)
                if isinstance(sequence[index], str)
                else 8
            )
            if isinstance(value, str) and len(value.encode()) > room:
                with pytest.raises(ValueError):
                    other[index] = value
            else:
                other[index] = value
                model[index] = value
        assert shml[:] == model
        assert list(map(type, other)) == list(map(type, model))
    finally:
        shml.shm.unlink()


def test_every_name_is_in_one_module() -> None:
    names = (
        'NDToken SharedInt SharedMemory ShmArray ShmList attach_shm_array attach_shm_list '
        'attach_shm_ndarray get_shm_token maybe_open_shm_ndarray open_shm_array open_shm_list '
        'open_shm_ndarray _known_tokens'
    )
    assert [name for name in names.split() if not hasattr(_shm, name)] == []
    assert _shm.open_shm_array is _shm.open_shm_ndarray
    assert _shm.attach_shm_array is _shm.attach_shm_ndarray


def test_nothing_of_it_loads_numpy_nor_does_the_package_load_it() -> None:
    import subprocess

    script = (
        'import sys, tractor\n'
        "assert not {'multiprocessing.shared_memory', 'tractor.ipc._shm'} & {*sys.modules}\n"
        'import tractor.ipc._shm, tractor.ipc._ringbuf\n'
        "assert 'numpy' not in sys.modules"
    )
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, '-c', script], check=True, timeout=60, env=env)
