"""end to end: opening and closing the root of a tree, in this process."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor import _root
from tractor._code_load import load_module_from_path
from tractor._exceptions import RuntimeFailure
from tractor._testing import run_bounded
from tractor._testing.addr import get_rando_addr
from tractor.discovery._addr import wrap_address
from tractor.runtime import _state
from tractor.spawn import _spawn

pytestmark = pytest.mark.spawns

# under the name by which the actors import it
supervised = sys.modules.get('supervised') or load_module_from_path(
    Path(__file__).with_name('supervised.py')
)

Options = dict[str, Any]


def process_state() -> dict[str, Any]:
    """All that a runtime sets for the whole process."""
    return {
        'vars': tractor.get_runtime_vars(),
        'vars_id': id(_state._runtime_vars),
        'defaults': {key: repr(value) for key, value in _state._RUNTIME_VARS_DEFAULTS.items()},
        'method': _spawn._spawn_method,
        'ctx': _spawn._ctx,
        'hook': sys.breakpointhook,
        'env': os.environ.get('PYTHONBREAKPOINT'),
        'actor': tractor.current_actor(err_on_no_runtime=False),
    }


@contextmanager
def unchanged_state() -> Iterator[None]:
    before = process_state()
    try:
        yield
    finally:
        assert process_state() == before


async def open_and_close(**options: Any) -> None:
    async with tractor.open_root_actor(**options):
        pass


# --- inside


def test_what_is_set_while_it_is_up(options: Options, tpt_proto: str, reg_addr: Any) -> None:
    async def main() -> tractor.Actor:
        async with tractor.open_root_actor(**options) as actor:
            assert tractor.current_actor() is actor
            assert actor.is_root
            assert actor.is_registrar
            assert actor.name == 'root'
            assert tractor.is_root_process()
            rtvars = tractor.get_runtime_vars()
            assert rtvars['_is_root'] is True
            assert rtvars['_enable_tpts'] == [tpt_proto]
            assert rtvars['_root_addrs'] == actor.accept_addrs == [tuple(reg_addr)]
            assert rtvars['_root_mailbox'] == tuple(reg_addr)
            assert rtvars['_registry_addrs'] == [tuple(reg_addr)]
            assert set(actor._registry) == {actor.aid.uid}
            with pytest.raises(RuntimeError, match='breakpoint'):
                breakpoint()
            assert os.environ['PYTHONBREAKPOINT'] == '0'
            assert _spawn._spawn_method == options['start_method']
        return actor

    with unchanged_state():
        actor = run_bounded(main)
    assert _state.last_actor() is actor
    with pytest.raises(tractor._exceptions.NoRuntime, match='root'):
        tractor.current_actor()


@pytest.mark.parametrize('env', [None, '0', 'some.hook'])
def test_the_breakpoint_hook_comes_back(
    options: Options, monkeypatch: pytest.MonkeyPatch, env: str | None
) -> None:
    if env is None:
        monkeypatch.delenv('PYTHONBREAKPOINT', raising=False)
    else:
        monkeypatch.setenv('PYTHONBREAKPOINT', env)
    with unchanged_state():
        run_bounded(lambda: open_and_close(**options))
    assert os.environ.get('PYTHONBREAKPOINT') == env


@pytest.mark.parametrize(
    ('given', 'name'), [('boss', 'boss'), (None, 'registrar')], ids=['given', 'none']
)
def test_its_name(options: Options, given: str | None, name: str) -> None:
    async def main() -> None:
        async with tractor.open_root_actor(name=given, **options) as actor:
            assert actor.name == name

    run_bounded(main)


def test_the_lists_of_the_caller_stay_his(options: Options) -> None:
    modules, transports = ['supervised'], list(options['enable_transports'])
    options['enable_transports'] = transports

    async def main() -> None:
        async with tractor.open_root_actor(enable_modules=modules, **options) as actor:
            assert list(actor.enable_modules) == ['supervised']
            actor._reg_addrs.append(('10.0.0.1', 1))

    run_bounded(main)
    assert modules == ['supervised']
    assert transports == options['enable_transports']
    assert len(options['registry_addrs']) == 1


def test_the_deprecated_modules_argument(options: Options) -> None:
    async def main() -> None:
        with pytest.warns(DeprecationWarning, match='enable_modules') as caught:
            async with tractor.open_root_actor(rpc_module_paths=['supervised'], **options) as actor:
                assert list(actor.enable_modules) == ['supervised']
        assert caught[0].filename == __file__

    run_bounded(main)


def test_many_times_in_a_row(options: Options) -> None:
    async def main() -> None:
        async with tractor.open_nursery(**options) as an:
            portal = await an.run_in_actor(supervised.give, value=1)
            assert await portal.wait_for_result() == 1

    with unchanged_state():
        for _ in range(4):
            run_bounded(main)
            run_bounded(lambda: open_and_close(**options))


def test_many_times_in_one_run(options: Options) -> None:
    async def main() -> None:
        uuids = set()
        for _ in range(10):
            async with tractor.open_root_actor(**options) as actor:
                uuids.add(actor.aid.uuid)
        assert len(uuids) == 10

    with unchanged_state():
        run_bounded(main)


# --- the environment


def test_the_environment_overrides_the_log_level(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('TRACTOR_LOGLEVEL', 'cancel')

    async def main() -> None:
        async with tractor.open_nursery(**options) as an:
            assert tractor.current_actor().loglevel == 'CANCEL'
            portal = await an.run_in_actor(supervised.whoami)
            assert (await portal.wait_for_result())['loglevel'] == 'CANCEL'

    run_bounded(main)


def test_the_environment_overrides_the_spawn_method(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = 'trio' if options['start_method'] != 'trio' else 'mp_spawn'
    monkeypatch.setenv('TRACTOR_SPAWN_METHOD', other)

    async def main() -> None:
        async with tractor.open_nursery(**options) as an:
            portal = await an.run_in_actor(supervised.whoami)
            assert (await portal.wait_for_result())['method'] == other

    with unchanged_state():
        run_bounded(main)


def test_a_bad_spawn_method_in_the_environment(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('TRACTOR_SPAWN_METHOD', 'fork')
    with unchanged_state(), pytest.raises(ValueError, match="unknown spawn method 'fork'"):
        run_bounded(lambda: open_and_close(**options))


# --- refused


def test_a_second_root_is_refused(options: Options) -> None:
    async def main() -> None:
        async with tractor.open_root_actor(**options) as actor:
            with pytest.raises(RuntimeFailure, match='has an actor already: root@'):
                await open_and_close(**options)
            assert tractor.current_actor() is actor

    with unchanged_state():
        run_bounded(main)


def test_a_root_in_a_subactor_is_refused(options: Options) -> None:
    async def main() -> None:
        async with tractor.open_nursery(**options) as an:
            portal = await an.start_actor('kid', enable_modules=['supervised'])
            with pytest.raises(tractor.RemoteActorError) as caught:
                await portal.run(supervised.open_second_root)
            assert caught.value.boxed_type is RuntimeFailure
            # nothing happened to it
            assert await portal.run(supervised.give, value=1) == 1
            await an.cancel()

    run_bounded(main)


@pytest.mark.parametrize('transports', [[], ['tcp', 'uds'], 'tcp', ('tcp', 'tcp')])
def test_other_than_one_transport(options: Options, transports: Any) -> None:
    options['enable_transports'] = transports
    with unchanged_state(), pytest.raises(RuntimeError, match='exactly one transport'):
        run_bounded(lambda: open_and_close(**options))


def test_an_unknown_transport(options: Options) -> None:
    options['enable_transports'] = ['pigeon']
    with unchanged_state(), pytest.raises(NotImplementedError, match='pigeon') as caught:
        run_bounded(lambda: open_and_close(**options))
    assert 'tcp' in str(caught.value)


def test_a_registry_of_another_transport(options: Options, tpt_proto: str) -> None:
    other = 'uds' if tpt_proto == 'tcp' else 'tcp'
    options['registry_addrs'] = [get_rando_addr(other)]
    with unchanged_state(), pytest.raises(ValueError) as caught:
        run_bounded(lambda: open_and_close(**options))
    for word in ('enable_transports', 'registry_addrs', other):
        assert word in str(caught.value)


def test_an_unknown_spawn_method(options: Options) -> None:
    options['start_method'] = 'fork'
    with unchanged_state(), pytest.raises(ValueError) as caught:
        run_bounded(lambda: open_and_close(**options))
    for word in ("'fork'", 'trio', 'mp_spawn', 'mp_forkserver'):
        assert word in str(caught.value)


@pytest.mark.parametrize('module', ['no.such.module', 'tests_have_no_such'])
def test_a_module_that_cannot_be_imported(options: Options, module: str) -> None:
    with unchanged_state(), pytest.raises(ModuleNotFoundError):
        run_bounded(lambda: open_and_close(enable_modules=[module], **options))


def test_a_string_of_modules(options: Options) -> None:
    with unchanged_state(), pytest.raises(TypeError):
        run_bounded(lambda: open_and_close(enable_modules='supervised', **options))


def test_a_bind_address_that_is_taken(options: Options) -> None:
    with socket.create_server(('127.0.0.1', 0)) as server:
        options['tpt_bind_addrs'] = [server.getsockname()]
        with unchanged_state(), pytest.raises(OSError, match=r'(?i)address already in use'):
            run_bounded(lambda: open_and_close(**options))


def test_a_registry_that_is_no_registry(options: Options) -> None:
    with socket.create_server(('127.0.0.1', 0)) as server:
        options |= {'registry_addrs': [server.getsockname()], 'enable_transports': ['tcp']}
        with (
            unchanged_state(),
            pytest.raises(RuntimeError, match='occupied but did not answer'),
        ):
            run_bounded(lambda: open_and_close(**options))


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() != 0, reason='needs to be root')
def test_a_socket_directory_of_somebody_else(
    options: Options, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    theirs = tmp_path / 'tractor'
    theirs.mkdir(mode=0o755)
    os.chown(theirs, 12345, 12345)
    monkeypatch.setenv('XDG_RUNTIME_DIR', str(tmp_path))
    options |= {'enable_transports': ['uds'], 'registry_addrs': None}
    with unchanged_state(), pytest.raises(PermissionError, match='Unsafe POSIX runtime directory'):
        run_bounded(lambda: open_and_close(**options))
    assert theirs.stat().st_mode & 0o777 == 0o755
    assert list(theirs.iterdir()) == []


# --- left


@pytest.mark.parametrize('error', [ValueError('boom'), KeyboardInterrupt(), SystemExit(3)])
def test_the_error_of_the_body_itself(options: Options, error: BaseException) -> None:
    async def main() -> None:
        async with tractor.open_root_actor(**options):
            raise error

    with unchanged_state(), pytest.raises(type(error)) as caught:
        run_bounded(main)
    assert caught.value is error


def test_a_crash_is_logged_but_no_cancellation(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(_root.log, 'exception', logged.append)

    async def crash() -> None:
        async with tractor.open_root_actor(**options):
            raise ValueError

    async def get_cancelled() -> None:
        with trio.CancelScope() as scope:
            async with tractor.open_root_actor(**options), trio.open_nursery() as tn:
                tn.start_soon(trio.sleep_forever)
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught

    run_bounded(get_cancelled)
    assert logged == []
    with pytest.raises(ValueError):
        run_bounded(crash)
    assert logged == ['Root actor crashed']


def test_a_cancellation_while_it_opens(options: Options) -> None:
    async def main() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await open_and_close(**options)
        assert scope.cancelled_caught
        assert tractor.current_actor(err_on_no_runtime=False) is None

    with unchanged_state():
        run_bounded(main)


def test_cancel_soon_ends_the_main_task(options: Options) -> None:
    async def main() -> None:
        async with tractor.open_root_actor(**options) as actor:
            actor.cancel_soon()
            await trio.sleep_forever()
        assert actor.cancel_complete

    with unchanged_state():
        run_bounded(main)


# --- joining a registry


def test_ensure_registry_refuses_to_join(options: Options, tmp_path: Path) -> None:
    wrapped = wrap_address(options['registry_addrs'][0])
    program = f"""
import sys, trio, tractor
async def main():
    try:
        async with tractor.open_root_actor(
            ensure_registry=sys.argv[1] == 'ensure', name=None, loglevel='critical',
            registry_addrs=[{tuple(wrapped.unwrap())!r}], enable_transports={options['enable_transports']!r},
        ) as actor:
            print(actor.is_registrar, actor.name, actor.accept_addrs == {[tuple(wrapped.unwrap())]!r})
    except RuntimeError as err:
        print(err)
trio.run(main)
"""

    async def main() -> None:
        async with tractor.open_root_actor(**options):
            for argument, expected in (
                ('ensure', 'already bound by another registrar'),
                ('join', 'False anonymous False'),
            ):
                done = await trio.run_process(
                    [sys.executable, '-c', program, argument], capture_stdout=True
                )
                assert expected in done.stdout.decode()

    run_bounded(main)
