"""contract: clean-up after a child, replaying the main module, loading files as modules."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tractor._code_load import load_module_from_path
from tractor.ipc._tcp import TCPAddress
from tractor.ipc._uds import UDSAddress
from tractor.runtime import _state
from tractor.spawn import _mp_fixup_main, _reap
from tractor.spawn._reap import unlink_uds_bind_addrs

BOB: Any = SimpleNamespace(aid=SimpleNamespace(name='bob'))


@pytest.fixture
def bindspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(UDSAddress, 'def_bindspace', tmp_path)
    return tmp_path


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    logged: list[str] = []
    monkeypatch.setattr(_reap.log, 'warning', lambda text, *args, **_: logged.append(text % args))
    return logged


# -- socket files of dead children --------------------------------------------------------------


def test_told_socket_files_are_removed(bindspace: Path, warnings: list[str]) -> None:
    one, two, chosen = bindspace / 'one', bindspace / 'two', bindspace / 'bob@77.sock'
    for path in (one, two, chosen):
        path.touch()
    addrs = [UDSAddress(bindspace, 'one'), [str(bindspace), 'two'], TCPAddress.get_root()]
    unlink_uds_bind_addrs(SimpleNamespace(pid=77), bind_addrs=addrs, subactor=BOB)
    assert list(bindspace.iterdir()) == [chosen]
    unlink_uds_bind_addrs(SimpleNamespace(pid=77), bind_addrs=addrs, subactor=BOB)
    assert warnings == []


@pytest.mark.parametrize('bind_addrs', [None, [], [('127.0.0.1', 5)]])
def test_the_chosen_socket_file_is_removed(bindspace: Path, bind_addrs: Any) -> None:
    (bindspace / 'bob@77.sock').touch()
    (bindspace / 'bob@78.sock').touch()
    unlink_uds_bind_addrs(SimpleNamespace(pid=77), bind_addrs=bind_addrs, subactor=BOB)
    assert os.listdir(bindspace) == ['bob@78.sock']


def test_the_file_of_a_sub_interpreter(bindspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_state, 'current_interp_id', lambda: 0)
    pid = os.getpid()
    ours, theirs = f'bob@{pid}.sock', f'bob.i3@{pid}.sock'
    for name in (ours, theirs):
        (bindspace / name).touch()
    for interp_id in (None, 0):
        proc = SimpleNamespace(pid=pid, interp_id=interp_id)
        unlink_uds_bind_addrs(proc, subactor=BOB)
        assert sorted(os.listdir(bindspace)) == sorted((ours, theirs))
    unlink_uds_bind_addrs(SimpleNamespace(pid=pid, interp_id=3), subactor=BOB)
    assert os.listdir(bindspace) == [ours]


def test_nothing_known_nothing_removed(bindspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[Any] = []
    monkeypatch.setattr(_reap.os, 'unlink', removed.append)
    unlink_uds_bind_addrs(SimpleNamespace(pid=77))
    unlink_uds_bind_addrs(SimpleNamespace(pid=None), subactor=BOB)
    unlink_uds_bind_addrs(SimpleNamespace(), subactor=BOB)
    assert removed == []
    unlink_uds_bind_addrs(SimpleNamespace(pid=77), subactor=BOB)
    assert removed == [bindspace / 'bob@77.sock']


def test_a_name_that_cannot_be_rebuilt(
    bindspace: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[Any] = []
    monkeypatch.setattr(_reap.os, 'unlink', removed.append)
    monkeypatch.setattr(UDSAddress, 'def_bindspace', bindspace / ('d' * 120))
    unlink_uds_bind_addrs(SimpleNamespace(pid=77), subactor=BOB)
    assert removed == []
    assert len(warnings) == 1
    unlink_uds_bind_addrs(SimpleNamespace(pid=77), bind_addrs=[object()], subactor=BOB)
    assert removed == []
    assert len(warnings) == 2


def test_a_file_that_cannot_be_removed(
    bindspace: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlink(path: Path) -> None:
        raise PermissionError(13, 'denied', str(path))

    monkeypatch.setattr(_reap.os, 'unlink', unlink)
    unlink_uds_bind_addrs(SimpleNamespace(pid=77), subactor=BOB)
    assert len(warnings) == 1
    assert 'denied' in warnings[0]


def test_without_unix_sockets_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[Any] = []
    monkeypatch.setattr(_reap.os, 'unlink', removed.append)
    monkeypatch.setattr(_reap, 'HAS_UDS', False)
    unlink_uds_bind_addrs(SimpleNamespace(pid=77), bind_addrs=[UDSAddress('/tmp', 'x')])
    assert removed == []


# -- the main module ----------------------------------------------------------------------------


@pytest.fixture
def main_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    module = ModuleType('__main__')
    monkeypatch.setitem(sys.modules, '__main__', module)
    monkeypatch.setitem(sys.modules, '__mp_main__', module)
    monkeypatch.setattr(_mp_fixup_main, '_old_mains', [])
    yield module


def stdlib_answer() -> dict[str, Any]:
    from multiprocessing import spawn

    data = spawn.get_preparation_data('x')
    return {key: value for key, value in data.items() if key.startswith('init_main_from')}


@pytest.mark.parametrize(
    ('spec_name', 'path'),
    [
        ('pkg.mod', '/x/pkg/mod.py'),
        ('pkg.__main__', None),
        (None, '/x/../y/script.py'),
        (None, 'script.py'),
        (None, None),
    ],
)
def test_main_is_found_as_multiprocessing_does(
    main_module: ModuleType, spec_name: str | None, path: str | None
) -> None:
    main_module.__spec__ = SimpleNamespace(name=spec_name) if spec_name else None  # type: ignore[assignment]
    if path is not None:
        main_module.__file__ = path
    found = _mp_fixup_main._mp_figure_out_main()
    assert found == stdlib_answer()
    assert len(found) == (0 if spec_name is None and path is None else 1)
    assert _mp_fixup_main._mp_figure_out_main(inherit_parent_main=False) == {}


def test_a_main_without_guard_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    import multiprocessing.process

    monkeypatch.setattr(
        multiprocessing.process, 'current_process', lambda: SimpleNamespace(_inheriting=True)
    )
    with pytest.raises(RuntimeError, match='__main__'):
        _mp_fixup_main._mp_figure_out_main()
    assert _mp_fixup_main._mp_figure_out_main(inherit_parent_main=False) == {}


def test_replaying_a_file(main_module: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / 'script.py'
    script.write_text('names = [__name__]\ndef fn(): return names\nassert __name__ != "__main__"\n')
    _mp_fixup_main._fixup_main_from_path(str(script))
    replaced = sys.modules['__main__']
    assert replaced is not main_module
    assert replaced is sys.modules['__mp_main__']
    assert replaced.fn() == ['__mp_main__']
    assert replaced.fn.__module__ == '__mp_main__'
    assert _mp_fixup_main._old_mains == [main_module]
    # again it is nothing new
    _mp_fixup_main._fixup_main_from_path(str(script))
    assert sys.modules['__main__'] is replaced


def test_replaying_a_module(
    main_module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main_module.__spec__ = None
    (tmp_path / 'replayed_mod.py').write_text('def fn(): return __name__\n')
    monkeypatch.syspath_prepend(tmp_path)
    _mp_fixup_main._fixup_main_from_name('replayed_mod')
    replaced = sys.modules['__main__']
    assert replaced is sys.modules['__mp_main__']
    assert replaced.fn() == '__mp_main__'
    _mp_fixup_main._fixup_main_from_name('replayed_mod')
    assert sys.modules['__main__'] is replaced


@pytest.mark.parametrize('name', ['__main__', 'pkg.__main__'])
def test_a_main_file_of_a_package_is_left_alone(main_module: ModuleType, name: str) -> None:
    _mp_fixup_main._fixup_main_from_name(name)
    assert sys.modules['__main__'] is main_module


def test_ipython_is_left_alone(main_module: ModuleType) -> None:
    _mp_fixup_main._fixup_main_from_path('/usr/bin/ipython')
    assert sys.modules['__main__'] is main_module


def test_a_main_that_raises_replaces_nothing(main_module: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / 'broken.py'
    script.write_text('raise LookupError("broken")')
    with pytest.raises(LookupError, match='broken'):
        _mp_fixup_main._fixup_main_from_path(str(script))
    assert sys.modules['__main__'] is main_module


def test_the_module_does_not_load_multiprocessing() -> None:
    code = (
        'import sys; from tractor.spawn import _mp_fixup_main as m; '
        "assert m._mp_figure_out_main() == {}, 'a `-c` program has no main file'; "
        "assert 'multiprocessing' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr


# -- loading files ------------------------------------------------------------------------------


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    present = dict(sys.modules)
    monkeypatch.setattr(sys, 'modules', present)
    return present


@pytest.mark.parametrize(('filename', 'name'), [('loaded_mod.py', None), ('script', 'other.name')])
def test_a_file_becomes_a_module(
    tmp_path: Path, modules: dict[str, ModuleType], filename: str, name: str | None
) -> None:
    path = tmp_path / filename
    path.write_text('import sys\nme = sys.modules[__name__]\n')
    module = load_module_from_path(path, name)
    expected = name or 'loaded_mod'
    assert module.__name__ == expected
    assert module.me is sys.modules[expected] is module
    assert module.__file__ == str(path)


def test_a_file_that_raises_leaves_no_module(
    tmp_path: Path, modules: dict[str, ModuleType]
) -> None:
    path = tmp_path / 'broken_mod.py'
    path.write_text('raise LookupError("broken")')
    with pytest.raises(LookupError, match='broken'):
        load_module_from_path(path)
    assert 'broken_mod' not in sys.modules
    before = sys.modules['broken_mod'] = ModuleType('broken_mod')
    with pytest.raises(LookupError, match='broken'):
        load_module_from_path(path)
    assert sys.modules['broken_mod'] is before


def test_a_missing_file(tmp_path: Path, modules: dict[str, ModuleType]) -> None:
    with pytest.raises(FileNotFoundError):
        load_module_from_path(tmp_path / 'absent.py')
    assert 'absent' not in sys.modules
