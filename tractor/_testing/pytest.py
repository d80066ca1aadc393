"""The pytest plugin: load it with ``-p tractor._testing.pytest``.

It chooses spawn backends and the transport of a test session, keeps the sessions on one machine
apart, and fails every test that leaves something behind.

PYTEST_DONT_REWRITE: no assertions, and a session within a test of another one imports it again.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from tractor import log as tractor_log
from tractor._testing import _leaks, _procs, _stackscope, trace
from tractor._testing._run import tractor_test
from tractor._testing._session import (
    BACKENDS,
    SESSION,
    Session,
    chosen_backends,
    chosen_transport,
    is_forking,
    use_backend,
)
from tractor._testing.addr import get_rando_addr
from tractor.runtime import _state

__all__ = ['tractor_test']

pytest_plugins = ('tractor._testing._reap', 'tractor._testing._programs')

MARKERS = (
    'no_tpt(proto_key): skip the test on this transport',
    'skipon_spawn_backend(*methods, reason=None): skip the test on these spawn backends',
    'has_nested_actors: the test starts actors that start actors',
    'trio: an async test that is run with trio',
    'spawns: starts real actors through start_method; CI runs these on every backend',
    'leaks_ok(reason): do not fail the test for what it leaves behind',
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup('tractor', 'actor runtime under test')
    group.addoption(
        '--spawn-backend',
        action='append',
        metavar='KEY',
        help='how actors are started; repeatable, or several separated by commas: tests that take '
        f'`start_method` run on each. One of {", ".join(BACKENDS)}, or `all` that this Python has '
        '(default: trio)',
    )
    group.addoption(
        '--tpt-proto',
        action='append',
        dest='tpt_protos',
        metavar='KEY',
        help='transport between actors (default: tcp)',
    )
    group.addoption(
        '--ll',
        '--loglevel',
        dest='loglevel',
        metavar='LEVEL',
        help='console log level of the project under test',
    )
    group.addoption(
        '--tl',
        '--tractor-loglevel',
        dest='tractor_loglevel',
        metavar='SPEC',
        help='console log level of tractor.*, or a logging spec such as `devx:runtime,ipc:cancel` '
        '(default: as --ll)',
    )
    group.addoption(
        '--tpdb',
        '--debug-mode',
        action='store_true',
        dest='tractor_debug_mode',
        help='open runtimes in debug mode, which is not part of this version: they say so',
    )
    group.addoption(
        '--enable-stackscope',
        action='store_true',
        dest='enable_stackscope',
        help='let SIGUSR1 print the tree of trio tasks of the process that runs pytest; needs the '
        'package `stackscope`',
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line('markers', marker)
    session = Session(
        tpt_proto=chosen_transport(config.getoption('tpt_protos')),
        backends=chosen_backends(config.getoption('spawn_backend')),
        snapshots=len(trace._SNAPSHOT_INDEX),
    )
    use_backend(session.default_backend)
    session.isolate()
    config.stash[SESSION] = session
    _stackscope.configure(config, session.environ)


def pytest_unconfigure(config: pytest.Config) -> None:
    if (session := config.stash.get(SESSION, None)) is not None:
        session.undo()


def pytest_report_header(config: pytest.Config) -> list[str]:
    session = config.stash[SESSION]
    backends = ', '.join(
        key if unable is None else f'{key} (skipped: {unable})'
        for key, unable in session.backends.items()
    )
    lines = [f'tractor: spawn backend {backends}; transport {session.tpt_proto}']
    if config.getoption('tractor_debug_mode'):
        lines.append(
            'tractor: debug mode: the multi-process debugger is not part of this version, '
            'tests that open a runtime with `debug_mode` fail'
        )
    usable = (key for key, unable in session.backends.items() if unable is None)
    if config.getoption('capture') == 'fd' and any(map(is_forking, usable)):
        lines.append(
            'tractor: --capture=fd: actors forked off a server print to where that server printed '
            'when it was started, which a test with `capfd` may not see; so --capture=sys'
        )
    return lines


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    snapshots = trace._SNAPSHOT_INDEX[config.stash[SESSION].snapshots :]
    if snapshots:
        terminalreporter.section('hang snapshots')
        for label, folder in snapshots:
            terminalreporter.write_line(f'{label}: {folder}')


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if 'start_method' not in metafunc.fixturenames:
        return
    own = (str(mark.args[0]) for mark in metafunc.definition.iter_markers('parametrize'))
    if any('start_method' in names for names in own):
        return
    metafunc.parametrize(
        'start_method',
        [
            pytest.param(
                key,
                id=f'start_method={key}',
                marks=() if unable is None else pytest.mark.skip(reason=unable),
            )
            for key, unable in metafunc.config.stash[SESSION].backends.items()
        ],
        indirect=True,
        scope='session',
    )


def _backend_of(item: pytest.Item) -> str:
    callspec: Any = getattr(item, 'callspec', None)
    chosen = callspec.params.get('start_method') if callspec else None
    # a test's own values of that parameter need not be backends
    return chosen if chosen in BACKENDS else item.config.stash[SESSION].default_backend


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    session = config.stash[SESSION]
    for item in items:
        for mark in item.iter_markers('skipon_spawn_backend'):
            _skip_on_backend(item, mark)
        for mark in item.iter_markers('no_tpt'):
            if session.tpt_proto in mark.args:
                reason = f'not meant for the transport {session.tpt_proto}'
                item.add_marker(pytest.mark.skip(reason=reason))
        for mark in item.iter_markers('leaks_ok'):
            if not mark.kwargs.get('reason'):
                raise pytest.UsageError(f'{item.nodeid}: leaks_ok needs a reason=...')


def _skip_on_backend(item: pytest.Item, mark: pytest.Mark) -> None:
    if unknown := set(mark.args) - set(BACKENDS):
        raise pytest.UsageError(
            f'{item.nodeid}: skipon_spawn_backend: unknown {sorted(unknown)}; '
            f'choose from {", ".join(BACKENDS)}'
        )
    key = _backend_of(item)
    if key in mark.args:
        reason = mark.kwargs.get('reason') or f'not meant for the spawn backend {key}'
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test if it leaves processes, threads, descriptors or files behind.

    Everything else that is set up for each test depends on this one, so that it looks before
    and after all of it. What was found and can be removed is removed either way.
    """
    session = request.config.stash[SESSION]
    session.tests += 1
    os.environ[_procs.TAG] = f'{session.tag}:{session.tests}'
    before = _leaks.Snapshot.take(session.tag, session.runtime_dir)
    yield
    leaks = _leaks.settle(before)
    if not leaks:
        return
    report = list(leaks.describe())
    leaks.clear()
    if request.node.get_closest_marker('leaks_ok') is None:
        pytest.fail(_leak_report(request.node.nodeid, report), pytrace=False)


def _leak_report(nodeid: str, lines: Iterable[str]) -> str:
    return '\n    '.join((f'{nodeid} left behind:', *lines)) + (
        '\nClose these in the test or in what it calls. '
        'If leaving them is its very point, mark it leaks_ok(reason=...).'
    )


@pytest.fixture(autouse=True)
def _reset_runtime_vars(no_leaks: None) -> Iterator[None]:  # noqa: ARG001 - orders them
    """Undo what the test does to the runtime variables of this process."""
    saved = _state.get_runtime_vars()
    yield
    _state.set_runtime_vars(saved)


@pytest.fixture(autouse=True)
def _reset_start_method(
    request: pytest.FixtureRequest,
    no_leaks: None,  # noqa: ARG001 - orders them
) -> Iterator[None]:
    """Make the test's backend the one of the process, whatever a test before chose."""
    use_backend(_backend_of(request.node))
    yield
    use_backend(request.config.stash[SESSION].default_backend)


@pytest.fixture(scope='session')
def start_method(request: pytest.FixtureRequest) -> str:
    """The spawn backend: one of those chosen by ``--spawn-backend``, each in its turn."""
    return str(getattr(request, 'param', request.config.stash[SESSION].default_backend))


@pytest.fixture(scope='session')
def spawn_backend(start_method: str) -> str:
    """The same as `start_method`."""
    return start_method


@pytest.fixture(scope='session')
def is_forking_spawner(start_method: str) -> bool:
    """Whether an actor of this backend is forked off another process, a server for forks included."""
    return start_method in BACKENDS and is_forking(start_method)


@pytest.fixture
def set_fork_aware_capture(
    request: pytest.FixtureRequest, is_forking_spawner: bool
) -> pytest.CaptureFixture[str] | None:
    """Capture output of this process by `capsys` where actors are forked; `None` elsewhere.

    Nothing is changed either with ``--capture=sys`` and ``--capture=tee-sys``, which do that.
    """
    if not is_forking_spawner or request.config.getoption('capture') in {'sys', 'tee-sys'}:
        return None
    capsys: pytest.CaptureFixture[str] = request.getfixturevalue('capsys')
    return capsys


@pytest.fixture(scope='session')
def tpt_protos(request: pytest.FixtureRequest) -> list[str]:
    """The chosen transports: a list of one."""
    return [request.config.stash[SESSION].tpt_proto]


@pytest.fixture(scope='session', autouse=True)
def tpt_proto(tpt_protos: list[str]) -> Iterator[str]:
    """The transport between actors, made the default one of this process."""
    key = tpt_protos[0]
    default, enabled = _state._def_tpt_proto, _state._runtime_vars['_enable_tpts']
    _state._def_tpt_proto = key
    _state._runtime_vars['_enable_tpts'] = [key]
    yield key
    _state._def_tpt_proto = default
    _state._runtime_vars['_enable_tpts'] = enabled


@pytest.fixture(scope='session')
def reg_addr(tpt_proto: str) -> tuple[Any, ...]:
    """An unwrapped registry address that no other session uses."""
    return get_rando_addr(tpt_proto)


@pytest.fixture(scope='session')
def testing_pkg_name() -> str:
    """Name of the package under test, to be overridden by its conftest."""
    return 'tractor'


@pytest.fixture(scope='session', autouse=True)
def loglevel(request: pytest.FixtureRequest, testing_pkg_name: str) -> Iterator[str | None]:
    """The console log level of ``tractor.*``; `None` unless chosen on the command line."""
    project_level = request.config.getoption('loglevel')
    if project_level is not None and testing_pkg_name != 'tractor':
        tractor_log.apply_logspec(project_level, pkg_name=testing_pkg_name)
    spec = request.config.getoption('tractor_loglevel') or project_level
    if spec is None:
        yield None
        return
    level, _loggers = tractor_log.apply_logspec(spec, default_level=project_level)
    saved = tractor_log._default_loglevel
    if level is not None:
        tractor_log._default_loglevel = level
    yield level
    tractor_log._default_loglevel = saved


@pytest.fixture
def test_log(request: pytest.FixtureRequest, testing_pkg_name: str) -> Any:
    """A logger named after the test module, below that of `testing_pkg_name`."""
    return tractor_log.get_logger(name=request.module.__name__, pkg_name=testing_pkg_name)


@pytest.fixture(scope='session')
def debug_mode(request: pytest.FixtureRequest) -> bool:
    """Whether ``--tpdb`` was given; a runtime opened with it says that there is no debugger yet."""
    return bool(request.config.getoption('tractor_debug_mode'))


@pytest.fixture
def fail_after_w_trace(request: pytest.FixtureRequest) -> trace.FailAfterWTraceFactory:
    """`trace.fail_after_w_trace`, its snapshots labelled with the name of the test."""
    return functools.partial(trace.fail_after_w_trace, label=request.node.name)


@pytest.fixture
def afk_alarm_w_trace(request: pytest.FixtureRequest) -> trace.AfkAlarmWTraceFactory:
    """`trace.afk_alarm_w_trace`, its snapshots labelled with the name of the test."""
    return functools.partial(trace.afk_alarm_w_trace, label=request.node.name)


@pytest.fixture(scope='session', autouse=True)
def alert_on_finish() -> Iterator[None]:
    """Ring the bell of the terminal when the session is over."""
    yield
    if sys.__stderr__ is not None and sys.__stderr__.isatty():
        sys.__stderr__.write('\a')
        sys.__stderr__.flush()
