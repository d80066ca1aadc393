"""contract: arrays in shared memory."""

from __future__ import annotations

import gc
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tractor._code_load import load_module_from_path
from tractor._exceptions import NoRuntime
from tractor.ipc import _shm_owner
from tractor.ipc._mp_bs import SharedMemory
from tractor.ipc._shm import (
    ShmArray,
    _known_tokens,
    attach_shm_array,
    attach_shm_ndarray,
    get_shm_token,
    maybe_open_shm_ndarray,
    open_shm_array,
    open_shm_ndarray,
)
from tractor.runtime import _state

np = pytest.importorskip('numpy')

segments = sys.modules.get('segments') or load_module_from_path(
    Path(__file__).with_name('segments.py')
)
array = segments.array

DTYPE = np.dtype(segments.FIELDS)
SHM = Path('/dev/shm')


def rows(*prices: float, dtype: Any = DTYPE) -> Any:
    made = np.zeros(len(prices), dtype=dtype)
    made['price'] = prices
    made['size'] = np.arange(len(prices)) + 1
    # never copied
    made['index'] = 99
    return made


# --- the array


def test_a_new_array_has_no_rows_in_use(array: ShmArray, key: str) -> None:
    assert len(array.array) == 0
    assert array.index == 4
    assert sorted(path.name for path in SHM.glob(f'{key}*')) == [key, f'{key}_first', f'{key}_last']
    assert SHM.joinpath(f'{key}_first').stat().st_size == 4
    assert 'rows 4:4 of 10' in repr(array)


@pytest.mark.parametrize(('size', 'start'), [(10, 6), (1000, 616), (1, 1), (3, 2)])
def test_rows_start_at_a_fraction_by_default(key: str, actor: Any, size: int, start: int) -> None:
    array = open_shm_array(size, key=key, dtype=DTYPE)
    assert array._first.value == array._last.value == start


def test_rows_are_pushed_and_seen(array: ShmArray) -> None:
    other = attach_shm_ndarray(array.token)
    assert array.push(rows(1, 2, 3)) == 7
    assert other.array['price'].tolist() == [1, 2, 3]
    assert other.array['size'].tolist() == [1, 2, 3]
    assert other.array['index'].tolist() == [4, 5, 6]
    assert array.push(rows(4)) == 8
    assert other.last()['price'].tolist() == [4]
    assert other.last(2)['price'].tolist() == [3, 4]
    assert other.last(100)['price'].tolist() == [1, 2, 3, 4]
    assert len(other.last(0)) == 0
    assert array.index == other.index == 8
    assert array.push(rows(5, 6)) == 10
    assert array.index == 0


def test_rows_are_prepended(array: ShmArray) -> None:
    array.push(rows(1))
    assert array.prepend(rows(7, 8)) == 4
    assert array.array['price'].tolist() == [7, 8, 1]
    assert array.array['index'].tolist() == [2, 3, 4]
    array.push(rows(5, 6), prepend=True, update_first=False)
    assert array.array['price'].tolist() == [7, 8, 1]
    assert array._array['price'][:2].tolist() == [5, 6]
    array.push(rows(9, 9), prepend=True)
    assert array.array['price'].tolist() == [9, 9, 7, 8, 1]
    array.push(rows(3), prepend=True, start=2)
    assert array.array['price'].tolist() == [9, 3, 7, 8, 1]


def test_one_row_is_pushed(array: ShmArray) -> None:
    assert array.push(rows(5)[0]) == 5
    assert array.array['price'].tolist() == [5]


def test_no_row_is_pushed(array: ShmArray) -> None:
    assert array.push(rows()) == 4
    assert array.prepend(rows()) == 4
    assert len(array.array) == 0


@pytest.mark.parametrize(
    ('count', 'options'),
    [
        (7, {}),
        (5, {'prepend': True}),
        (2, {'start': 9}),
        (1, {'start': -1}),
        (3, {'prepend': True, 'start': 2}),
        (1, {'start': 1}),
        (1, {'prepend': True, 'start': 11}),
    ],
)
def test_rows_that_do_not_fit(array: ShmArray, count: int, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r'do not fit|before the first'):
        array.push(rows(*range(count)), **options)
    assert (array._first.value, array._last.value) == (4, 4)
    assert not array._array['price'].any()


def test_rows_are_rewritten_from_a_start(array: ShmArray) -> None:
    array.push(rows(1, 2, 3))
    assert array.push(rows(8), start=5) == 6
    assert array.array['price'].tolist() == [1, 8]


def test_fields_are_mapped(array: ShmArray) -> None:
    given = np.array([(1.5, 'x'), (2.5, 'y')], dtype=[('cost', 'f4'), ('tag', 'U1')])
    array.push(given, field_map={'cost': 'price'})
    assert array.array['price'].tolist() == [1.5, 2.5]
    assert array.array['size'].tolist() == [0, 0]


def test_further_fields_are_ignored(array: ShmArray) -> None:
    array.push(rows(1, dtype=[*DTYPE.descr, ('more', 'i8')]))
    assert array.array['price'].tolist() == [1]


@pytest.mark.parametrize(
    ('given', 'options', 'listed'),
    [
        (np.zeros(1, [('price', 'f8')]), {}, r"Missing in the data: \['size'\]"),
        (np.zeros(1), {}, r"\['price', 'size'\]; .* The data has \[\]"),
        (rows(1), {'field_map': {'cost': 'price'}}, r"\['cost'\]"),
        (rows(1), {'field_map': {'price': 'cost'}}, r"not to be written: \['cost'\]"),
        (rows(1), {'field_map': {'price': 'index'}}, r"not to be written: \['index'\]"),
    ],
)
def test_fields_that_do_not_match(
    array: ShmArray, given: Any, options: dict[str, Any], listed: str
) -> None:
    with pytest.raises(TypeError, match=listed):
        array.push(given, **options)
    assert len(array.array) == 0


def test_readonly_refuses_to_push(array: ShmArray, key: str) -> None:
    other = attach_shm_array(array.token)
    with pytest.raises(ValueError, match='read-only'):
        other.push(rows(1))
    assert len(array.array) == 0
    assert array.push(rows(1)) == 5
    with pytest.raises(ValueError, match='read-only'):
        other.array['price'] = 2


def test_no_rows_after_a_push_is_an_error(array: ShmArray) -> None:
    array.push(rows(1))
    array._last.value = 4
    with pytest.raises(RuntimeError, match='another actor'):
        array.array  # noqa: B018 - the property is what fails
    other = attach_shm_array(array.token)
    assert len(other.array) == 0


def test_a_plain_copy_of_all_rows(array: ShmArray) -> None:
    array.push(rows(1, 2))
    plain = array.ustruct()
    assert plain.shape == (10, 3)
    assert plain.dtype == float
    assert plain[4].tolist() == [4, 1, 1]
    prices = array.ustruct(['price', 'size'])
    assert prices[5].tolist() == [2, 2]
    prices[5] = 9
    assert array.array['price'][1] == 2


def test_any_dtype_survives_the_token(key: str, actor: Any) -> None:
    inner = np.dtype([('a', '>i2', (2, 3)), ('b', 'S5')])
    dtype = np.dtype([('index', 'u4'), ('x', inner), ('when', 'M8[ns]'), ('z', 'c16')], align=True)
    array = open_shm_ndarray(3, key=key, dtype=dtype, append_start_index=0)
    token = msgspec.msgpack.decode(msgspec.msgpack.encode(array.token))
    other = attach_shm_ndarray(token)
    assert other._array.dtype == dtype
    new = np.zeros(1, dtype)
    new['x']['a'] = 7
    array.push(new)
    assert other.array['x']['a'].tolist() == [[[7] * 3] * 2]


pushes = st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=12)


@settings(deadline=None)
@given(size=st.integers(1, 12), start=st.integers(0, 12), pushes=pushes)
def test_pushes_are_those_of_a_list(size: int, start: int, pushes: list[tuple[bool, int]]) -> None:
    start = min(start, size)
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        actor = SimpleNamespace(lifetime_stack=stack.enter_context(ExitStack()))
        patch.setattr(_state, 'current_actor', lambda err_on_no_runtime=True: actor)
        array = open_shm_ndarray(size, dtype=DTYPE, append_start_index=start)
        reader = attach_shm_ndarray(array.token)
        model: list[float] = []
        first = start
        for number, (prepend, count) in enumerate(pushes):
            new = [number + i / 8 for i in range(count)]
            fits = count <= (first if prepend else size - first - len(model))
            if not fits:
                with pytest.raises(ValueError):
                    array.push(rows(*new), prepend=prepend)
                continue
            array.push(rows(*new), prepend=prepend)
            model = new + model if prepend else model + new
            first -= count * prepend
            assert reader.array['price'].tolist() == model
            assert reader.array['index'].tolist() == [*range(first, first + len(model))]


# --- opening


@pytest.mark.parametrize(
    ('arguments', 'error', 'text'),
    [
        ({'size': 0, 'dtype': DTYPE}, ValueError, '0 rows'),
        ({'size': 3, 'dtype': DTYPE, 'append_start_index': 4}, ValueError, 'row 4'),
        ({'size': 3, 'dtype': DTYPE, 'append_start_index': -1}, ValueError, 'row -1'),
        ({'size': 3}, ValueError, 'pass the `dtype`'),
        ({'size': 3, 'dtype': float}, ValueError, 'no field `index`'),
        ({'size': 3, 'dtype': [('x', 'f8')]}, ValueError, 'no field `index`'),
        ({'size': 3, 'dtype': [('index', 'i8'), ('x', 'O')]}, TypeError, 'Python objects'),
    ],
)
def test_bad_arguments(
    key: str, actor: Any, arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        open_shm_ndarray(key=key, **arguments)
    assert not list(SHM.glob(f'{key}*'))


def test_an_array_needs_a_runtime(key: str) -> None:
    with pytest.raises(NoRuntime):
        open_shm_ndarray(3, key=key, dtype=DTYPE)


@pytest.mark.parametrize('taken', ['', '_first', '_last'])
def test_a_key_in_use_leaves_nothing(key: str, actor: Any, taken: str) -> None:
    other = SharedMemory(f'{key}{taken}', create=True, size=4)
    with pytest.raises(FileExistsError):
        open_shm_ndarray(3, key=key, dtype=DTYPE)
    assert [path.name for path in SHM.glob(f'{key}*')] == [other.name]
    other.unlink()


def test_keys_are_made_up(actor: Any) -> None:
    one, two = (open_shm_ndarray(3, dtype=DTYPE) for _ in range(2))
    assert one.token['shm_name'] != two.token['shm_name']


def test_the_index_may_be_any_field(key: str, actor: Any) -> None:
    array = open_shm_ndarray(
        3, key=key, dtype=[('price', 'f8'), ('index', 'i8')], append_start_index=0
    )
    array.push(np.array([(1.5, 99)], array._array.dtype))
    assert array.array.tolist() == [(1.5, 0)]


def test_the_actor_removes_it(array: ShmArray, key: str, actor: Any) -> None:
    other = attach_shm_ndarray(array.token)
    array.push(rows(1, 2))
    view = array.array
    actor.lifetime_stack.close()
    assert not list(SHM.glob(f'{key}*'))
    assert other.array['price'].tolist() == [1, 2]
    assert view['price'].tolist() == [1, 2]
    assert 'closed' in repr(array)
    with pytest.raises(ValueError, match='closed'):
        array.array  # noqa: B018 - the property is what fails
    assert _shm_owner.owner.watcher_pid is None


def test_destroyed_it_is_gone_at_once(array: ShmArray, key: str) -> None:
    array.destroy()
    array.destroy()
    assert not list(SHM.glob(f'{key}*'))
    assert _shm_owner.owner.held == []
    assert get_shm_token(key) is None
    array.push(rows(1))
    again = open_shm_ndarray(10, key=key, dtype=DTYPE)
    assert len(again.array) == 0


# --- attaching


def test_attaching_to_nothing_is_tried_again(
    key: str, actor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = open_shm_ndarray(3, key=key, dtype=DTYPE)
    token = array.token
    array.destroy()
    pauses = []
    monkeypatch.setattr(time, 'sleep', pauses.append)
    with pytest.raises(FileNotFoundError):
        attach_shm_ndarray(token)
    assert pauses == [0.1, 0.1]
    # it comes while we wait
    opened = []

    def open_it(pause: float) -> None:
        opened.append(open_shm_ndarray(3, key=key, dtype=DTYPE))

    monkeypatch.setattr(time, 'sleep', open_it)
    assert len(attach_shm_ndarray(token)._array) == 3
    assert len(opened) == 1


def test_attaching_to_something_smaller(array: ShmArray) -> None:
    with pytest.raises(ValueError, match='another one'):
        attach_shm_ndarray(array.token | {'size': 11})


@pytest.mark.parametrize('token', [{}, {'shm_name': 'x'}, 'text', 3, None])
def test_attaching_by_what_is_no_token(token: Any) -> None:
    with pytest.raises(TypeError, match='not the token'):
        attach_shm_ndarray(token)


def test_attached_arrays_are_freed(array: ShmArray, key: str) -> None:
    token = array.token
    before = mappings(key), len(os.listdir('/proc/self/fd'))
    for _ in range(1000):
        attach_shm_ndarray(token)
    kept = attach_shm_ndarray(token)
    kept.close()
    kept.close()
    gc.collect()
    assert (mappings(key), len(os.listdir('/proc/self/fd'))) == before


def mappings(name: str) -> int:
    with open('/proc/self/maps') as file:
        return sum(name in line for line in file)


def test_closed_with_views_alive(array: ShmArray, key: str) -> None:
    array.push(rows(1, 2))
    other = attach_shm_ndarray(array.token)
    view = other.array
    other.close()
    del other
    gc.collect()
    assert view['price'].tolist() == [1, 2]


# --- opening or attaching


def test_opened_once_then_attached(key: str, actor: Any) -> None:
    array, opened = maybe_open_shm_ndarray(key, 5, dtype=DTYPE, readonly=False)
    assert opened
    array.push(rows(3))
    other, opened = maybe_open_shm_ndarray(key, 5)
    assert not opened
    assert other.array['price'].tolist() == [3]
    with pytest.raises(ValueError, match='read-only'):
        other.push(rows(1))


def test_unknown_arrays_are_attached_first(key: str, actor: Any) -> None:
    open_shm_ndarray(5, key=key, dtype=DTYPE, append_start_index=0)
    _known_tokens.pop(key)
    assert maybe_open_shm_ndarray(key, 5, dtype=DTYPE)[1] is False


def test_without_dtype_it_must_be_known(key: str, actor: Any) -> None:
    with pytest.raises(ValueError, match='pass the `dtype`'):
        maybe_open_shm_ndarray(key, 5)


def test_another_array_of_that_key_is_refused(key: str, actor: Any) -> None:
    array, _ = maybe_open_shm_ndarray(key, 5, dtype=DTYPE)
    with pytest.raises(ValueError, match='another one'):
        maybe_open_shm_ndarray(key, 6, dtype=DTYPE)
    assert len(array._array) == 5


def test_two_open_it_at_once(key: str, actor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # somebody else has created the first part when we look
    part = SharedMemory(f'{key}_first', create=True, size=4)
    finished = []

    def finish(pause: float) -> None:
        part.unlink()
        finished.append(open_shm_ndarray(5, key=key, dtype=DTYPE))

    monkeypatch.setattr(time, 'sleep', finish)
    array, opened = maybe_open_shm_ndarray(key, 5, dtype=DTYPE)
    assert not opened
    assert len(finished) == 1
    assert len(array._array) == 5
