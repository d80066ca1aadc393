"""contract: the helpers for tests in `tractor._testing`."""

import functools
import inspect
import os
import shlex
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

import tractor
from tractor._exceptions import ContextCancelled
from tractor._testing import (
    break_ipc,
    examples_dir,
    expect_ctxc,
    mk_cmd,
    repodir,
    run_bounded,
    tractor_test,
)
from tractor._testing.samples import generate_sample_messages

# --- tractor_test


@pytest.fixture
def opened(monkeypatch):
    """Replace the runtime by one that only records with which options it was opened."""
    calls = []

    @asynccontextmanager
    async def open_root_actor(**options):
        calls.append(options)
        yield

    monkeypatch.setattr(tractor, 'open_root_actor', open_root_actor)
    return calls


def test_tractor_test_stays_a_plain_function_with_the_same_signature():
    async def body(self, value, *, reg_addr): ...

    test = tractor_test(body)
    assert not inspect.iscoroutinefunction(test)
    assert inspect.signature(test) == inspect.signature(body)
    assert test.__name__ == 'body'


def test_tractor_test_configures_the_runtime_from_declared_fixtures(opened):
    seen = []

    @tractor_test
    async def body(reg_addr, loglevel, start_method, debug_mode, tpt_proto, other):
        seen.append((reg_addr, other))

    body(
        reg_addr=('host', 1),
        loglevel='info',
        start_method='trio',
        debug_mode=True,
        tpt_proto='tcp',
        other='value',
    )
    assert seen == [(('host', 1), 'value')]
    assert opened == [
        {
            'registry_addrs': [('host', 1)],
            'loglevel': 'info',
            'start_method': 'trio',
            'debug_mode': True,
            'enable_transports': ['tcp'],
            'hide_tb': True,
        }
    ]


def test_tractor_test_without_fixtures_leaves_the_defaults(opened):
    @tractor_test(timeout=5, hide_tb=False)
    async def body(): ...

    body()
    (options,) = opened
    assert options['registry_addrs'] is None
    assert options['debug_mode'] is False
    assert options['hide_tb'] is False
    assert 'enable_transports' not in options


@pytest.mark.parametrize('decorate', [tractor_test, tractor_test(timeout=1)])
def test_tractor_test_refuses_what_is_not_async(decorate):
    def body(): ...

    with pytest.raises(TypeError, match='`async def` tests only'):
        decorate(body)


def test_tractor_test_names_the_test_that_timed_out(opened):
    @tractor_test(timeout=0.01)
    async def hanging():
        await trio.sleep_forever()

    with pytest.raises(trio.TooSlowError, match=r'hanging timed out: .* after 0\.01 seconds'):
        hanging()


def test_tractor_test_notes_a_timeout_that_came_out_as_another_error(opened):
    @tractor_test(timeout=0.01)
    async def hanging():
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError('from the teardown')

    with pytest.raises(ValueError, match='from the teardown') as info:
        hanging()
    (note,) = info.value.__notes__
    assert 'hanging timed out' in note


def test_tractor_test_on_windows_runs_with_processes_of_trio_only(opened, monkeypatch):
    @tractor_test
    async def body(start_method): ...

    monkeypatch.setattr(sys, 'platform', 'win32')
    options = tractor._testing._run._runtime_options
    assert options({})['start_method'] == 'trio'
    with pytest.raises(ValueError, match='on Windows'):
        options({'start_method': 'mp_spawn'})


@pytest.mark.parametrize('value', [1, 2])
@tractor_test
async def test_tractor_test_runs_a_real_root_actor(
    value, reg_addr, tpt_proto, start_method, loglevel, debug_mode
):
    actor = tractor.current_actor()
    assert tuple(reg_addr) in [tuple(addr) for addr in actor.reg_addrs]
    assert tractor.is_root_process()
    assert value in (1, 2)


# --- other helpers


def test_run_bounded_returns_the_result():
    async def double(number):
        await trio.lowlevel.checkpoint()
        return 2 * number

    assert run_bounded(double, 21) == 42


def test_run_bounded_names_what_timed_out():
    with pytest.raises(trio.TooSlowError, match=r'sleep_forever timed out: .* 0\.01 seconds'):
        run_bounded(trio.sleep_forever, timeout=0.01)


async def _expect(error, *args):
    async with expect_ctxc(*args) as boxed:
        if error is not None:
            raise error
    return boxed.value


def test_expect_ctxc_stores_and_swallows_the_error():
    ctxc = ContextCancelled('cancelled')
    assert run_bounded(_expect, ctxc, True) is ctxc


def test_expect_ctxc_reraises_on_request():
    ctxc = ContextCancelled('cancelled')
    with pytest.raises(ContextCancelled) as info:
        run_bounded(_expect, ctxc, True, True)
    assert info.value is ctxc


def test_expect_ctxc_fails_when_nothing_came():
    with pytest.raises(RuntimeError, match='expected to raise'):
        run_bounded(_expect, None, True)


def test_expect_ctxc_passes_other_errors():
    with pytest.raises(KeyError):
        run_bounded(_expect, KeyError('other'), True)


def test_expect_ctxc_is_transparent_if_none_is_expected():
    assert run_bounded(_expect, None, False) is None
    with pytest.raises(ContextCancelled):
        run_bounded(_expect, ContextCancelled('cancelled'), False)


class _Recorder:
    """Records the names of the async methods called on it."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        async def method():
            self.calls.append(name)

        return method


@pytest.mark.parametrize(
    ('options', 'on_stream', 'on_socket'),
    [
        ({}, [], ['aclose']),
        ({'pre_close': True}, ['aclose'], ['aclose']),
        ({'method': 'socket_eof'}, [], ['send_eof']),
        ({'def_method': 'socket_eof'}, [], ['send_eof']),
    ],
)
def test_break_ipc_breaks_the_socket(options, on_stream, on_socket, capsys):
    socket = _Recorder()
    stream = _Recorder()
    stream._ctx = SimpleNamespace(chan=SimpleNamespace(transport=SimpleNamespace(stream=socket)))
    run_bounded(functools.partial(break_ipc, stream, **options))
    assert (stream.calls, socket.calls) == (on_stream, on_socket)
    assert 'breaking the IPC connection' in capsys.readouterr().out


def test_break_ipc_refuses_an_unknown_method():
    stream = _Recorder()
    stream._ctx = SimpleNamespace(chan=SimpleNamespace(transport=_Recorder()))
    with pytest.raises(RuntimeError, match="'unplug'"):
        run_bounded(break_ipc, stream, 'unplug')


def test_break_ipc_needs_a_connection():
    stream = SimpleNamespace(_ctx=SimpleNamespace(chan=SimpleNamespace(transport=None)))
    with pytest.raises(RuntimeError, match='not connected'):
        run_bounded(break_ipc, stream)


def test_paths_are_absolute_and_exist():
    assert repodir().is_absolute()
    assert examples_dir() == repodir() / 'examples'
    assert examples_dir().is_dir()


def test_mk_cmd_runs_an_example_without_colours(monkeypatch):
    monkeypatch.delenv('PYTHON_COLORS', raising=False)
    program, script = shlex.split(mk_cmd('some_example', 'sub'))
    assert program == sys.executable
    assert Path(script) == examples_dir() / 'sub' / 'some_example.py'
    assert os.environ['PYTHON_COLORS'] == '0'


def test_sample_messages_are_numbered(capsys):
    messages, size = generate_sample_messages(3)
    assert messages == [b'[00000000]', b'[00000001]', b'[00000002]']
    assert size == 30
    assert '3 messages' in capsys.readouterr().out


def test_sample_messages_have_a_random_tail(capsys):
    messages, size = generate_sample_messages(50, rand_min=1, rand_max=4, silent=True)
    assert all(11 <= len(msg) <= 14 for msg in messages)
    assert size == sum(map(len, messages))
    assert not capsys.readouterr().out
