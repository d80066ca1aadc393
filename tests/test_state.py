"""contract: the process-wide state and the runtime directory."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import platformdirs
import pytest

from tractor import log
from tractor._exceptions import InternalError, NoRuntime
from tractor.runtime import _state


@pytest.fixture(autouse=True)
def untouched_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_state, '_current_actor', None)
    monkeypatch.setattr(_state, '_last_actor_terminated', None)
    snap = _state.snapshot()
    yield
    _state.restore(snap)


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / 'rt' / 'tractor'
    monkeypatch.setattr(platformdirs, 'user_runtime_dir', lambda appname: str(path))
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, '-c', code],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# -- runtime variables --------------------------------------------------------------------------


def test_runtime_vars_are_given_out_as_copies() -> None:
    rtvars = _state.get_runtime_vars()
    assert rtvars == _state._runtime_vars
    rtvars['_root_addrs'].append(('127.0.0.1', 1))
    rtvars['_is_root'] = True
    assert _state._runtime_vars['_root_addrs'] == []
    assert not _state.is_root_process()


def test_cleared_vars_are_the_defaults_and_never_alias_them() -> None:
    _state._runtime_vars['_debug_mode'] = True
    cleared = _state.get_runtime_vars(clear_values=True)
    assert cleared == _state._RUNTIME_VARS_DEFAULTS
    cleared['_enable_tpts'].append('uds')
    assert _state._RUNTIME_VARS_DEFAULTS['_enable_tpts'] == ['tcp']
    assert _state.is_debug_mode()


def test_set_runtime_vars_replaces_in_place_and_copies() -> None:
    live = _state._runtime_vars
    mine: dict[str, Any] = {'_is_root': True, '_registry_addrs': [('h', 1)], 'app': {'x': [1]}}
    _state.set_runtime_vars(mine)
    assert _state._runtime_vars is live
    assert live == mine
    mine['_registry_addrs'].append(('h', 2))
    mine['app']['x'].append(2)
    assert live['_registry_addrs'] == [('h', 1)]
    assert live['app'] == {'x': [1]}
    _state.set_runtime_vars(live)
    assert live['_is_root'] is True


def test_struct_has_the_same_fields_and_defaults_as_the_dict() -> None:
    struct = _state.get_runtime_vars(as_dict=False, clear_values=True)
    assert isinstance(struct, _state.RuntimeVars)
    assert struct == _state.RuntimeVars()
    assert {
        name: getattr(struct, name) for name in struct.__struct_fields__
    } == _state._RUNTIME_VARS_DEFAULTS
    struct.update({'_debug_mode': True})
    _state.set_runtime_vars(struct)
    assert _state.is_debug_mode()
    assert _state.debug_mode is _state.is_debug_mode


def test_struct_update_refuses_unknown_keys_as_a_whole() -> None:
    struct = _state.RuntimeVars()
    with pytest.raises(AttributeError, match="no field 'nope'"):
        struct.update({'_debug_mode': True, 'nope': 1})
    assert struct._debug_mode is False


def test_keys_of_applications_do_not_break_the_struct_form() -> None:
    _state._runtime_vars['app'] = 1
    assert _state.get_runtime_vars()['app'] == 1
    assert not hasattr(_state.get_runtime_vars(as_dict=False), 'app')


def test_restore_undoes_changes_inside_lists() -> None:
    live = _state._runtime_vars
    snap = _state.snapshot()
    live['_root_addrs'].append(('127.0.0.1', 1))
    live['_enable_tpts'][:] = ['uds']
    live['extra'] = 1
    _state.restore(snap)
    assert live is _state._runtime_vars
    assert live['_root_addrs'] == []
    assert _state.current_ipc_protos() == ['tcp']
    assert 'extra' not in live
    live['_root_addrs'].append(('127.0.0.1', 2))
    assert snap['_root_addrs'] == []


# -- actor, context, process --------------------------------------------------------------------


def test_current_actor_comes_and_goes() -> None:
    with pytest.raises(NoRuntime, match='No actor runs in this process'):
        _state.current_actor()
    assert _state.current_actor(err_on_no_runtime=False) is None

    actor: Any = SimpleNamespace(aid=SimpleNamespace(name='gone-by'))
    _state.set_current_actor(actor)
    assert _state.current_actor() is actor
    assert _state.last_actor() is None

    _state.set_current_actor(None)
    assert _state.last_actor() is actor
    with pytest.raises(NoRuntime, match='gone-by'):
        _state.current_actor()
    _state.set_current_actor(None)
    assert _state.last_actor() is actor


def test_log_records_learn_the_actor() -> None:
    log.set_actor_source(_state._actor_for_log)
    fields = log.ActorContextInfo()
    assert fields['actor'] is None
    actor: Any = SimpleNamespace(aid=SimpleNamespace(name='bob'))
    _state.set_current_actor(actor)
    assert fields['actor'] is actor
    assert fields['actor_name'] == 'bob'


def test_current_ipc_ctx() -> None:
    assert _state.current_ipc_ctx() is None
    with pytest.raises(InternalError, match='no IPC context'):
        _state.current_ipc_ctx(error_on_not_set=True)
    ctx: Any = object()
    token = _state._ctxvar_Context.set(ctx)
    try:
        assert _state.current_ipc_ctx(error_on_not_set=True) is ctx
    finally:
        _state._ctxvar_Context.reset(token)


def test_main_process_is_what_multiprocessing_says(monkeypatch: pytest.MonkeyPatch) -> None:
    import multiprocessing

    assert _state.is_main_process()
    monkeypatch.setattr(
        multiprocessing, 'current_process', lambda: SimpleNamespace(name='SpawnProcess-1')
    )
    assert not _state.is_main_process()


def test_log_learns_the_actor_at_import() -> None:
    code = (
        'from tractor import log\n'
        'from tractor.runtime import _state\n'
        '_state.set_current_actor(3)\n'
        "print(log.ActorContextInfo()['actor'])\n"
    )
    assert run_python(code) == '3'


def test_the_main_interpreter_has_id_0() -> None:
    assert _state.current_interp_id() == 0


@pytest.mark.skipif(sys.version_info < (3, 14), reason='no sub-interpreters below 3.14')
def test_interpreter_id_without_and_with_the_public_module() -> None:
    # the function alone: an isolated interpreter cannot load all modules around it
    code = (
        'import inspect\n'
        'from concurrent import interpreters\n'
        'from tractor.runtime import _state\n'
        "source = 'import sys\\n' + inspect.getsource(_state.current_interp_id.__wrapped__)\n"
        "source = source.replace('@cache', '')\n"
        'interp = interpreters.create()\n'
        'assert interp.id > 0\n'
        "check = f'assert current_interp_id() == {interp.id}\\n'\n"
        "loaded = 'concurrent.interpreters'\n"
        "absent = f'assert {loaded!r} not in sys.modules\\n'\n"
        "interp.exec(source + check + absent + f'import {loaded}\\n' + check)\n"
        'interp.close()\n'
    )
    run_python(code)


# -- runtime directory --------------------------------------------------------------------------


def test_rt_dir_is_created_private(base: Path) -> None:
    assert _state.get_rt_dir() == base
    assert mode(base) == 0o700
    assert _state.get_rt_dir('a/b') == base / 'a' / 'b'
    assert mode(base / 'a') == mode(base / 'a' / 'b') == 0o700


def test_rt_dir_closes_an_open_directory_of_ours(base: Path) -> None:
    base.mkdir(parents=True)
    base.chmod(0o755)
    assert mode(_state.get_rt_dir()) == 0o700


def test_rt_dir_asks_for_the_given_application(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def user_runtime_dir(appname: str) -> str:
        asked.append(appname)
        raise LookupError

    monkeypatch.setattr(platformdirs, 'user_runtime_dir', user_runtime_dir)
    with pytest.raises(LookupError):
        _state.get_rt_dir(appname='other')
    assert asked == ['other']


@pytest.mark.parametrize('subdir', ['/abs', '../up', 'a/../../b'])
def test_rt_dir_refuses_to_leave(base: Path, subdir: str) -> None:
    with pytest.raises(ValueError, match='relative path without'):
        _state.get_rt_dir(subdir)
    assert not base.exists()


def test_rt_dir_refuses_an_intermediate_symlink(base: Path, tmp_path: Path) -> None:
    target = tmp_path / 'target'
    target.mkdir()
    target.chmod(0o755)
    _state.get_rt_dir()
    (base / 'link').symlink_to(target)
    with pytest.raises(PermissionError, match=r'^Unsafe POSIX runtime directory!'):
        _state.get_rt_dir('link/below')
    assert mode(target) == 0o755
    assert list(target.iterdir()) == []


def test_rt_dir_refuses_a_file(base: Path) -> None:
    base.parent.mkdir()
    base.touch()
    with pytest.raises(PermissionError, match='not a real directory'):
        _state.get_rt_dir()


def test_rt_dir_refuses_the_directory_of_another(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base.mkdir(parents=True)
    base.chmod(0o755)
    status = os.lstat(base)
    foreign = os.stat_result((*status[:4], status.st_uid + 1, *status[5:]))
    lstat = os.lstat
    monkeypatch.setattr(os, 'lstat', lambda path: foreign if path == base else lstat(path))
    with pytest.raises(PermissionError, match=r'^Unsafe POSIX runtime directory!.*belongs to uid'):
        _state.get_rt_dir('sub')
    monkeypatch.undo()
    assert mode(base) == 0o755
    assert not (base / 'sub').exists()


def test_rt_dir_refuses_a_parent_of_another(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base.parent.mkdir()
    real = os.stat
    status = real(base.parent)
    foreign = os.stat_result((*status[:4], status.st_uid + 1, *status[5:]))
    monkeypatch.setattr(
        os,
        'stat',
        lambda path, **kwargs: foreign if path == base.parent else real(path, **kwargs),
    )
    with pytest.raises(PermissionError, match=r'^Unsafe POSIX runtime directory!'):
        _state.get_rt_dir()
    monkeypatch.undo()
    assert not base.exists()


def test_rt_dir_of_macos_is_short_and_needs_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, 'platform', 'darwin')
    monkeypatch.setattr(_state, '_DARWIN_TMPDIR', tmp_path)
    path = _state.get_rt_dir('x')
    assert path == tmp_path / f'tractor-{os.getuid()}' / 'x'
    assert mode(path) == mode(path.parent) == 0o700

    monkeypatch.setattr(_state, '_DARWIN_TMPDIR', tmp_path / 'absent')
    with pytest.raises(FileNotFoundError):
        _state.get_rt_dir()

    link = tmp_path / f'other-{os.getuid()}'
    link.symlink_to(path)
    monkeypatch.setattr(_state, '_DARWIN_TMPDIR', tmp_path)
    with pytest.raises(PermissionError, match=r'^Unsafe Darwin runtime directory!'):
        _state.get_rt_dir(appname='other')


def test_rt_dir_without_xdg_does_not_warn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.delenv('XDG_RUNTIME_DIR', raising=False)
    assert _state.get_rt_dir().is_dir()
    assert not recwarn.list
