"""contract: tokens of shared arrays, shared numbers, and what there is without NumPy."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tractor._code_load import load_module_from_path
from tractor.ipc import _shm_array
from tractor.ipc._mp_bs import SharedMemory
from tractor.ipc._shm import (
    NDToken,
    SharedInt,
    ShmArray,
    _known_tokens,
    attach_shm_ndarray,
    get_shm_token,
)

np = pytest.importorskip('numpy')

segments = sys.modules.get('segments') or load_module_from_path(
    Path(__file__).with_name('segments.py')
)
array = segments.array

DTYPE = np.dtype(segments.FIELDS)
SHM = Path('/dev/shm')


# --- tokens and numbers


def test_tokens(array: ShmArray, key: str) -> None:
    token = NDToken.from_msg(array.token)
    assert NDToken.from_msg(token) is token
    assert token.as_msg() == array.token
    assert token.dtype == DTYPE
    assert token.size == 10
    assert get_shm_token(key) == token
    assert _known_tokens[key] == token
    other = msgspec.structs.replace(token, key='other')
    assert other == token
    assert not other != token  # noqa: SIM202 - each operator by itself
    assert hash(other) == hash(token)
    assert token != msgspec.structs.replace(token, size=9)
    assert token != array.token
    with pytest.raises(AttributeError):
        token.size = 3  # type: ignore[misc]


def test_tokens_are_known_while_there_is_an_array(array: ShmArray, key: str) -> None:
    one, two = (attach_shm_ndarray(array.token) for _ in range(2))
    assert get_shm_token(key) == NDToken.from_msg(one.token)
    array.destroy()
    assert get_shm_token(key) is None
    assert get_shm_token('never heard of') is None
    assert two.index == 4


def test_shared_numbers(key: str) -> None:
    shm = SharedMemory(key, create=True, size=4)
    ours, theirs = SharedInt(shm), SharedInt(SharedMemory(key))
    for value in (0, 1, 2**32 - 1, 256):
        ours.value = value
        assert theirs.value == value
        assert int.from_bytes(shm.memory, sys.byteorder) == value
    assert '256' in repr(theirs)
    for wrong in (-1, 2**32, 1.5, None):
        with pytest.raises(ValueError, match='4 bytes'):
            ours.value = wrong  # type: ignore[assignment]
    assert theirs.value == 256
    ours.destroy()
    ours.destroy()
    assert not SHM.joinpath(key).exists()
    ours.close()
    assert 'closed' in repr(ours)
    with pytest.raises(ValueError, match='closed'):
        ours.value  # noqa: B018 - the property is what fails


# --- without NumPy


NO_NUMPY = """
import sys
from types import SimpleNamespace
from contextlib import ExitStack

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'numpy':
            raise {error}

sys.meta_path.insert(0, Refuse())
from tractor.ipc import _shm
from tractor.runtime import _state
_state.current_actor = lambda err_on_no_runtime=True: SimpleNamespace(lifetime_stack=ExitStack())
token = _shm.NDToken('a', 'b', 'c', (('index', '<i8'),), 3)
for use in (
    lambda: _shm.open_shm_ndarray(3, dtype=[('index', 'i8')]),
    lambda: _shm.attach_shm_array(token),
    lambda: _shm.maybe_open_shm_ndarray('x', 3, dtype='f8'),
    lambda: token.dtype,
):
    try:
        use()
    except ImportError as err:
        assert {text!r} in str(err), err
    except FileNotFoundError:
        pass
    else:
        raise AssertionError
"""


@pytest.mark.parametrize(
    ('error', 'text'),
    [
        ("ModuleNotFoundError('no', name='numpy')", 'pip install numpy'),
        ("ImportError('no sub-interpreters', name='numpy')", "start_method='trio'"),
    ],
)
def test_without_numpy_it_is_told_what_to_do(error: str, text: str) -> None:
    script = NO_NUMPY.format(error=error, text=text)
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, '-c', script], check=True, timeout=60, env=env)


def test_a_broken_numpy_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def broken(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == 'numpy':
            raise ModuleNotFoundError('no such part', name='numpy.part')
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', broken)
    with pytest.raises(ModuleNotFoundError, match='no such part'):
        _shm_array.import_numpy()
