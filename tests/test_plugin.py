"""contract: the pytest plugin: its options, fixtures and markers, and the check for leaks."""

import os
import sys
from pathlib import Path

import pytest

import tractor

pytest_plugins = ['pytester']

ROOT = Path(tractor.__file__).parents[1]


@pytest.fixture
def run(pytester, monkeypatch):
    """Run pytest with the plugin on a test file, in a process of its own; return the result."""
    monkeypatch.setenv('PYTHONPATH', str(ROOT), prepend=os.pathsep)
    monkeypatch.delenv('PYTEST_ADDOPTS', raising=False)

    def run_pytest(source, *args, conftest=''):
        pytester.makeconftest(conftest)
        pytester.makepyfile(source)
        plugins = ('-p', 'tractor._testing.pytest', '-p', 'no:cacheprovider')
        return pytester.runpytest_subprocess(*plugins, '--strict-markers', *args, timeout=120)

    return run_pytest


# --- options, fixtures, markers


BACKENDS = """
import pytest
from tractor.spawn import _spawn

def test_taking(start_method, spawn_backend):
    assert start_method == spawn_backend == _spawn._spawn_method

def test_not_taking():
    assert _spawn._spawn_method == 'trio'

def test_changing():
    _spawn.try_set_start_method('mp_spawn')

@pytest.mark.parametrize('start_method', ['mine'])
def test_own_values(start_method):
    assert start_method == 'mine'

@pytest.mark.skipon_spawn_backend('mp_spawn', reason='because of this')
def test_choosy(start_method):
    assert start_method == 'trio'
"""

NO_FORKSERVER = """
from tractor.spawn import _spawn

real = _spawn.check_method

def check_method(key):
    if key == 'mp_forkserver':
        raise RuntimeError('needs another Python')
    return real(key)

_spawn.check_method = check_method
"""


def test_tests_run_on_each_chosen_backend(run):
    result = run(BACKENDS, '-v', '-rs', '--spawn-backend=trio,mp_spawn')
    result.assert_outcomes(passed=6, skipped=1)
    result.stdout.fnmatch_lines_random(
        [
            '*::test_taking?start_method=trio? PASSED*',
            '*::test_taking?start_method=mp_spawn? PASSED*',
            'SKIPPED*because of this',
            'tractor: spawn backend trio, mp_spawn; transport tcp',
        ]
    )


def test_backend_this_python_cannot_run_is_skipped_with_the_reason(run):
    args = ('-rs', '--spawn-backend=trio', '--spawn-backend=mp_forkserver')
    result = run(BACKENDS, *args, conftest=NO_FORKSERVER)
    result.assert_outcomes(passed=5, skipped=2)
    result.stdout.fnmatch_lines(['SKIPPED*needs another Python'])


def test_all_means_what_this_python_can_run(run):
    result = run(BACKENDS, '-v', '--spawn-backend=all', '-k', 'taking', conftest=NO_FORKSERVER)
    assert result.ret == 0
    result.stdout.fnmatch_lines(['*::test_taking?start_method=mp_spawn? PASSED*'])
    result.stdout.no_fnmatch_line('*forkserver*')


def test_environment_does_not_overrule_the_chosen_backend(run, monkeypatch):
    monkeypatch.setenv('TRACTOR_SPAWN_METHOD', 'mp_spawn')
    source = """
    import os
    def test_it(start_method):
        assert 'TRACTOR_SPAWN_METHOD' not in os.environ
    """
    run(source).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ('args', 'text'),
    [
        (['--spawn-backend=fork'], "*--spawn-backend: unknown 'fork'; choose from trio, *"),
        (['--tpt-proto=tcp', '--tpt-proto=uds'], '*--tpt-proto: exactly one transport*'),
        (['--tpt-proto=ipx'], "*--tpt-proto: unknown 'ipx'; choose from *tcp*"),
    ],
)
def test_wrong_options_are_usage_errors(run, args, text):
    result = run('def test_it(): pass', *args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([text])


@pytest.mark.parametrize(
    ('marker', 'text'),
    [
        (
            "skipon_spawn_backend('fork')",
            "*test_it?start_method=trio?: skipon_spawn_backend: unknown ?'fork'?*",
        ),
        ('leaks_ok', '*test_it?start_method=trio?: leaks_ok needs a reason*'),
        ("leaks_ok('positional')", '*test_it?start_method=trio?: leaks_ok needs a reason*'),
    ],
)
def test_wrong_markers_are_usage_errors(run, marker, text):
    source = f'import pytest\n@pytest.mark.{marker}\ndef test_it(start_method): pass'
    result = run(source)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([text])


def test_fixtures_tell_the_options(run):
    source = """
    import os, logging
    import pytest
    from pathlib import Path
    import tractor.log
    from tractor.ipc._uds import UDSAddress
    from tractor.runtime import _state

    def test_values(tpt_proto, tpt_protos, debug_mode, loglevel, testing_pkg_name, reg_addr):
        assert (tpt_proto, tpt_protos) == ('uds', ['uds'])
        assert _state._def_tpt_proto == 'uds'
        assert _state._runtime_vars['_enable_tpts'] == ['uds']
        assert debug_mode is True
        assert loglevel.lower() == tractor.log._default_loglevel.lower() == 'info'
        assert testing_pkg_name == 'tractor'
        directory, name = reg_addr
        assert name.endswith('.sock')

    def test_runtime_directory_is_private():
        own = Path(os.environ['XDG_RUNTIME_DIR'])
        assert own.stat().st_mode & 0o777 == 0o700
        assert own in Path(UDSAddress.def_bindspace).parents

    def test_log(test_log):
        assert isinstance(test_log.logger, logging.Logger)
        assert test_log.logger.name.startswith('tractor.')

    def test_sets_a_variable():
        _state._runtime_vars['_is_root'] = True

    def test_sees_it_reset():
        assert _state._runtime_vars['_is_root'] is False

    @pytest.mark.no_tpt('uds')
    def test_not_here(): pass

    @pytest.mark.no_tpt('tcp')
    @pytest.mark.has_nested_actors
    @pytest.mark.trio
    @pytest.mark.spawns
    def test_here(): pass
    """
    result = run(source, '--tpt-proto', "'uds'", '--tpdb', '--ll', 'info')
    result.assert_outcomes(passed=6, skipped=1)


def test_log_option_falls_back_and_is_undone(run):
    source = """
    import tractor.log
    def test_it(loglevel):
        assert loglevel is None and tractor.log._default_loglevel == 'ERROR'
    """
    run(source).assert_outcomes(passed=1)
    source = """
    def test_it(loglevel):
        assert loglevel.lower() == 'debug'
    """
    run(source, '--ll=info', '--tl=debug').assert_outcomes(passed=1)


def test_log_level_of_the_project_under_test(run):
    conftest = """
    import pytest
    @pytest.fixture(scope='session')
    def testing_pkg_name():
        return 'snakelib'
    """
    source = """
    import logging
    def test_it(test_log):
        assert logging.getLogger('snakelib').level == logging.INFO
        assert test_log.logger.name.startswith('snakelib.')
    """
    run(source, '--ll=info', conftest=conftest).assert_outcomes(passed=1)


# --- leaks


LEAK_CONFTEST = """
import subprocess
import pytest
from tractor._testing import _leaks

_leaks.GRACE = 0.3

@pytest.fixture(scope='session', autouse=True)
def early():
    process = subprocess.Popen(['sleep', '300'])
    yield process
    process.kill()
    process.wait()
"""

LEAKY = """
import os, secrets, select, socket, subprocess, sys, threading
from multiprocessing import shared_memory
from pathlib import Path

KEEP = []
PIDS = []

def start_orphan(command, **options):
    \"\"\"Start `command` from a shell that ends at once; it prints a line when it is ready.\"\"\"
    shell = subprocess.Popen(
        ['sh', '-c', f'{command} & echo $!'], stdout=subprocess.PIPE, text=True, **options
    )
    pid = int(shell.stdout.readline())
    shell.wait()
    PIDS.append(pid)
    KEEP.append(shell.stdout)
    return shell.stdout

def test_child():
    process = subprocess.Popen(['sleep', '301'])
    KEEP.append(process)
    PIDS.append(process.pid)

def test_orphan():
    start_orphan('sleep 302', start_new_session=True).close()

def test_orphan_with_a_title():
    code = ('import setproctitle, time; setproctitle.setproctitle("_subactor[one]"); '
            'print(flush=True); time.sleep(303)')
    out = start_orphan(f"{sys.executable} -c '{code}'")
    out.readline()
    out.close()

def test_zombie():
    process = subprocess.Popen(['true'])
    KEEP.append(process)
    PIDS.append(process.pid)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

def test_thread():
    threading.Thread(target=threading.Event().wait, name='forgotten', daemon=True).start()

def test_descriptors():
    KEEP.append(socket.socketpair())
    KEEP.append(os.pipe())
    KEEP.append(os.eventfd(0))
    KEEP.append(os.pidfd_open(os.getpid()))
    KEEP.append(open(os.devnull))

def test_socket_file():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.environ['XDG_RUNTIME_DIR'] + '/name@1.sock')

def test_shared_memory():
    Path('/dev/shm', f'leak_{secrets.token_hex(4)}').write_bytes(b'x')

def test_next_one_starts_clean(early):
    assert len(PIDS) == 4
    for pid in PIDS:
        assert not Path('/proc', str(pid)).exists() or 'Z' in Path(f'/proc/{pid}/stat').read_text()
    assert not os.listdir(os.environ['XDG_RUNTIME_DIR'])
    assert early.poll() is None
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_leaks_fail_the_test_and_are_removed(run):
    result = run(LEAKY, '-v', conftest=LEAK_CONFTEST)
    result.assert_outcomes(passed=9, errors=8)
    for name in ('child', 'orphan', 'orphan_with_a_title', 'zombie', 'thread'):
        result.stdout.fnmatch_lines_random([f'*::test_{name} left behind:'])
    result.stdout.fnmatch_lines_random(
        [
            '*process * (state S, parent *): sleep 301',
            '*process * (state S, parent *): sleep 302',
            '*process * (state S, parent *): _subactor?one?',
            '*process * (state Z, parent *): ?true?',
            "*thread 'forgotten' (ident *, daemon True)",
            '*file descriptor * -> socket:*',
            '*file descriptor * -> pipe:*',
            '*file descriptor * -> anon_inode:*eventfd*',
            '*file descriptor * -> *pidfd*',
            '*file descriptor * -> /dev/null',
            '*socket file /tmp/tr-*/name@1.sock',
            '*shared memory /dev/shm/leak_*',
            '*mark it leaks_ok(reason=...)*',
        ]
    )
    result.stdout.no_fnmatch_line('*sleep 300*')


@pytest.mark.skipif(sys.version_info < (3, 14), reason='interpreters are public from 3.14 on')
def test_leaked_interpreter_fails_the_test(run):
    source = """
    from concurrent import interpreters

    KEEP = []

    def test_leaving_one():
        KEEP.append(interpreters.create())

    def test_closing_it():
        interpreters.create().close()
    """
    result = run(source, conftest='from tractor._testing import _leaks\n_leaks.GRACE = 0.3')
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(['*::test_leaving_one left behind:', '*interpreter 1'])


@pytest.mark.skipif(sys.version_info < (3, 14), reason='interpreters are public from 3.14 on')
def test_interpreter_that_is_about_to_be_closed_is_no_leak(run):
    source = """
    from concurrent import interpreters
    from tractor._testing import _leaks

    def test_leaving_one():
        inner = interpreters.create()
        find, looks = _leaks.find, []

        def find_and_close(before):
            leaks = find(before)
            looks.append(leaks.interpreters)
            if len(looks) == 1:
                inner.close()
            return leaks

        _leaks.find = find_and_close
    """
    run(source).assert_outcomes(passed=1)


CLEAN = """
import multiprocessing, os, signal, subprocess, threading
from pathlib import Path
import pytest
import trio
from tractor._testing import _leaks

def test_process_and_thread_that_are_waited_for():
    subprocess.run(['true'], check=True)
    thread = threading.Thread(target=print)
    thread.start()
    thread.join()

def test_idle_thread_of_trio():
    trio.run(trio.to_thread.run_sync, print)

@pytest.mark.parametrize('method', ['spawn', 'forkserver'])
def test_helpers_of_multiprocessing(method):
    process = multiprocessing.get_context(method).Process(target=print)
    process.start()
    process.join()
    process.close()

def test_trio_process():
    async def main():
        async with trio.open_nursery() as nursery:
            process = await nursery.start(trio.run_process, ['sleep', '300'])
            nursery.cancel_scope.cancel()
    trio.run(main)

LEFT = []

@pytest.mark.leaks_ok(reason='shows that the marker works')
def test_marked():
    LEFT.append(subprocess.Popen(['sleep', '300']))

def test_marked_ones_are_removed_too():
    assert not Path('/proc', str(LEFT[0].pid)).exists()

def test_what_does_not_carry_our_tag_is_left_alone():
    command = ['env', '-i', '/bin/sh', '-c', 'sleep 300 >/dev/null 2>&1 & echo $!']
    LEFT.append(int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))

def test_it_still_runs():
    os.kill(LEFT[1], signal.SIGKILL)

def test_process_that_is_about_to_end():
    _leaks.GRACE = 10
    subprocess.run(['sh', '-c', 'sleep 0.1 >/dev/null 2>&1 &'], check=True)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_what_is_no_leak(run):
    result = run(CLEAN, conftest='from tractor._testing import _leaks\n_leaks.GRACE = 0.5')
    result.assert_outcomes(passed=10)


def test_runtime_directory_is_removed_and_environment_restored(pytester, run):
    source = """
    import os
    from pathlib import Path
    def test_it():
        Path('seen').write_text(os.environ['XDG_RUNTIME_DIR'])
    """
    conftest = """
    import os
    from pathlib import Path
    before = dict(os.environ)
    def pytest_sessionfinish(session):
        session.config.add_cleanup(check)
    def check():
        names = ('XDG_RUNTIME_DIR', 'TRACTOR_TEST_ID', 'SPT_NOENV')
        same = all(os.environ.get(name) == before.get(name) for name in names)
        Path('same').write_text(str(same))
    """
    run(source, conftest=conftest).assert_outcomes(passed=1)
    seen = Path(pytester.path, 'seen').read_text()
    assert seen != os.environ.get('XDG_RUNTIME_DIR')
    assert not Path(seen).exists()
    assert Path(pytester.path, 'same').read_text() == 'True'
