"""contract: the parts of the pytest plugin that look for, tell of and remove what is left behind or hangs.

The sessions under test run in this process: what they start belongs to the test around them, too.
"""

# what a session in this process loads is unloaded after it: these must not be loaded twice
import multiprocessing.context  # noqa: F401
import multiprocessing.forkserver  # noqa: F401
import os
import signal
import subprocess
import sys
import typing
from pathlib import Path
from types import SimpleNamespace

import pytest

import tractor
from tractor._testing import _session, _stackscope, trace
from tractor.spawn import _spawn

pytest_plugins = ['pytester']

ROOT = Path(tractor.__file__).parents[1]


@pytest.fixture
def run(pytester, monkeypatch):
    """Run pytest with the plugin on a test file, in this process; return the result."""
    monkeypatch.delenv('PYTEST_ADDOPTS', raising=False)
    monkeypatch.setenv('PYTHONPATH', str(ROOT), prepend=os.pathsep)

    def run_pytest(source, *args, conftest='', own_process=False):
        pytester.makeconftest(conftest)
        pytester.makepyfile(source)
        plugins = (
            '-p',
            'tractor._testing.pytest',
            '-p',
            'no:cacheprovider',
            '-p',
            'no:faulthandler',
        )
        if own_process:
            return pytester.runpytest_subprocess(*plugins, *args, timeout=120)
        # by default the filters of the session around it hold
        return pytester.runpytest_inprocess(*plugins, '--strict-markers', '-W', 'default', *args)

    return run_pytest


@pytest.fixture
def backends(monkeypatch):
    """Replace the backends by `trio` and one which this Python cannot run."""

    def check(key):
        if key == 'future':
            raise RuntimeError("the spawn method 'future' needs CPython 9.1, this is 3.0")
        return key

    monkeypatch.setattr(_spawn, 'check_method', check)
    monkeypatch.setattr(_session, 'BACKENDS', ('trio', 'future'))


# --- backends


def test_backends_are_those_of_the_type():
    assert typing.get_args(_spawn.SpawnMethodKey) == _session.BACKENDS


TAKING = """
import pytest

def test_taking(start_method): assert start_method == 'trio'

@pytest.fixture
def indirect(start_method): return start_method

def test_taking_it_through_a_fixture(indirect): assert indirect == 'trio'

@pytest.mark.parametrize('start_method', ['trio'])
def test_own_values(start_method): pass

def test_not_taking(): pass
"""


def test_backend_that_cannot_run_skips_all_that_take_one(run, backends):
    result = run(TAKING, '-rs', '--spawn-backend=future')
    result.assert_outcomes(passed=2, skipped=2)
    reason = "the spawn method 'future' needs CPython 9.1, this is 3.0"
    result.stdout.fnmatch_lines(
        [
            f'tractor: spawn backend future (skipped: {reason}); transport tcp',
            f'SKIPPED*{reason}',
        ]
    )


def test_backend_that_cannot_run_stands_beside_others(run, backends):
    run(TAKING, '--spawn-backend=trio,future').assert_outcomes(passed=4, skipped=2)
    run(TAKING, '--spawn-backend=future', '--spawn-backend=trio').assert_outcomes(
        passed=4, skipped=2
    )


def test_all_leaves_out_what_cannot_run(run, backends):
    run(TAKING, '--spawn-backend=all').assert_outcomes(passed=4)
    # unless it is named
    run(TAKING, '--spawn-backend=all,future').assert_outcomes(passed=4, skipped=2)


CHOOSY = """
import pytest

skip_on = pytest.mark.skipon_spawn_backend
"""

LEVELS = f"""{CHOOSY}
pytestmark = skip_on('mp_spawn', reason='the module')

def test_module(start_method): assert start_method == 'trio'
"""

CLASS = f"""{CHOOSY}
@skip_on('mp_spawn', 'mp_forkserver', reason='the class')
class TestAll:
    def test_first(self, start_method): assert start_method == 'trio'

    @skip_on('trio', reason='the function')
    def test_second(self, start_method): raise AssertionError
"""


@pytest.mark.parametrize(
    ('source', 'passed', 'skipped', 'reasons'),
    [(LEVELS, 1, 1, ['the module']), (CLASS, 1, 3, ['the class', 'the function'])],
)
def test_tests_can_be_skipped_on_a_backend_at_each_level(run, source, passed, skipped, reasons):
    result = run(source, '-rs', '--spawn-backend=trio,mp_spawn')
    result.assert_outcomes(passed=passed, skipped=skipped)
    result.stdout.fnmatch_lines_random([f'SKIPPED*{reason}' for reason in reasons])


FORKING = """
import pytest

def test_forking(is_forking_spawner, start_method):
    assert is_forking_spawner == (start_method == 'mp_forkserver')

@pytest.fixture
def wanted(start_method, request):
    is_fd = request.config.getoption('capture') == 'fd'
    return start_method == 'mp_forkserver' and is_fd

def test_capture(wanted, set_fork_aware_capture, request):
    assert ('capsys' in request._fixture_defs) == wanted
    if wanted:
        print('words')
        assert set_fork_aware_capture.readouterr().out == 'words\\n'
    else:
        assert set_fork_aware_capture is None
"""


@pytest.mark.skipif(sys.platform == 'win32', reason='has no fork server')
@pytest.mark.parametrize('capture', ['fd', 'sys'])
def test_forking_backend_is_told_and_captured(run, capture):
    args = (f'--capture={capture}', '--spawn-backend=trio,mp_forkserver')
    result = run(FORKING, *args, own_process=True)
    result.assert_outcomes(passed=4)
    note = 'tractor: --capture=fd: actors forked off a server print to *'
    if capture == 'fd':
        result.stdout.fnmatch_lines([note])
    else:
        result.stdout.no_fnmatch_line(note)


# --- debugging


def test_debug_mode_is_told_to_be_missing(run):
    source = """
    import pytest, tractor, trio

    def test_fixture(debug_mode): assert debug_mode is True

    def test_runtime(debug_mode, reg_addr):
        async def main():
            async with tractor.open_root_actor(debug_mode=debug_mode, registry_addrs=[reg_addr]):
                raise AssertionError

        with pytest.raises(RuntimeError, match='not part of this version'):
            trio.run(main)
    """
    result = run(source, '--debug-mode')
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(['*debug mode: *not part of this version*'])


FAKE_STACKSCOPE = """
import sys, types

def extract(task, recurse_child_tasks):
    assert recurse_child_tasks
    return f'the tree below {task.name}'

sys.modules['stackscope'] = types.SimpleNamespace(extract=extract)
"""

DUMPING = """
import os, signal
import trio

def test_environment():
    assert os.environ['TRACTOR_ENABLE_STACKSCOPE'] == '1'

def test_without_a_run():
    os.kill(os.getpid(), signal.SIGUSR1)

def test_in_a_run():
    async def main():
        os.kill(os.getpid(), signal.SIGUSR1)
        await trio.lowlevel.checkpoint()
    trio.run(main)
"""


@pytest.mark.skipif(sys.platform == 'win32', reason='has no SIGUSR1')
def test_signal_prints_the_tasks_past_all_capturing(run, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, 'stackscope', None)
    before = signal.getsignal(signal.SIGUSR1)
    run(DUMPING, '--enable-stackscope', conftest=FAKE_STACKSCOPE).assert_outcomes(passed=3)
    assert signal.getsignal(signal.SIGUSR1) is before
    assert 'TRACTOR_ENABLE_STACKSCOPE' not in os.environ
    output = capfd.readouterr().err
    head = f'------ tasks of process {os.getpid()} ------\n'
    assert f'{head}no trio run in this thread\n' in output
    assert f'{head}the tree below <init>\n' in output


def test_missing_package_is_a_warning(run, monkeypatch):
    monkeypatch.setitem(sys.modules, 'stackscope', None)
    monkeypatch.delenv('TRACTOR_ENABLE_STACKSCOPE', raising=False)
    source = """
    import os
    def test_it(): assert os.environ['TRACTOR_ENABLE_STACKSCOPE'] == '1'
    """
    result = run(source, '--enable-stackscope')
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(['*--enable-stackscope has no effect: the package stackscope is*'])


def test_without_the_option_the_variable_is_removed(run, monkeypatch):
    monkeypatch.setenv('TRACTOR_ENABLE_STACKSCOPE', '1')
    source = """
    import os
    def test_it(): assert 'TRACTOR_ENABLE_STACKSCOPE' not in os.environ
    """
    run(source).assert_outcomes(passed=1)
    assert os.environ['TRACTOR_ENABLE_STACKSCOPE'] == '1'


def test_tree_that_cannot_be_told_does_not_raise():
    import trio

    def extract(_task, recurse_child_tasks):
        raise ValueError('no')

    async def main():
        return _stackscope.task_tree(SimpleNamespace(extract=extract))

    assert trio.run(main).endswith("cannot be told: ValueError('no')\n")


# --- snapshots


def test_snapshots_are_labelled_with_the_test_and_listed(run, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr(trace, '_SNAPSHOT_INDEX', [('before', tmp_path / 'before')])
    source = """
    import signal
    import pytest, trio
    from tractor._testing.trace import AFKAlarmTimeout, AfkAlarmWTraceFactory, FailAfterWTraceFactory

    @pytest.mark.parametrize('value', ['a'])
    def test_deadline(value, fail_after_w_trace: FailAfterWTraceFactory):
        async def main():
            async with fail_after_w_trace(0.01):
                await trio.sleep_forever()
        trio.run(main)

    def test_alarm(afk_alarm_w_trace: AfkAlarmWTraceFactory):
        with pytest.raises(AFKAlarmTimeout), afk_alarm_w_trace(1000):
            signal.raise_signal(signal.SIGALRM)

    def test_in_time(fail_after_w_trace):
        async def main():
            async with fail_after_w_trace(1000):
                await trio.lowlevel.checkpoint()
        trio.run(main)
    """
    result = run(source)
    result.assert_outcomes(passed=2, failed=1)
    folder = tmp_path / 'tractor/hung-dumps'
    result.stdout.fnmatch_lines(
        [
            '*= hang snapshots =*',
            f'test_deadline[[]a]: {folder}/test_deadline_a___*',
            f'test_alarm: {folder}/test_alarm__*',
        ]
    )
    result.stdout.no_fnmatch_line('*before*')
    assert len(list(folder.iterdir())) == 2


# --- what is left behind


LEAVING = """
import subprocess
from pathlib import Path

STARTED = []

def start(*args):
    process = subprocess.Popen(['_subactor[left]', *args], executable='/bin/sh',
                               stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    # whoever else reaps it, this object has nothing to say about that
    process.returncode = 0
    STARTED.append(process)
    return process
"""

LINUX = pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')


@LINUX
def test_processes_are_reaped_on_request(run):
    source = f"""{LEAVING}
def test_leaving(reap_subactors_per_test):
    start('-c', 'echo; exec 1>&-; sleep 300; true')

def test_gone():
    assert not Path('/proc', str(STARTED[0].pid)).exists()
"""
    result = run(source, '-s')
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(['*SIGINT to process *: _subactor?left?*'])


@LINUX
def test_socket_files_are_removed_and_warned_of_on_request(run):
    source = """
    import os, socket, subprocess

    def bind(name):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(_reap.get_uds_dir() / name))

    from tractor._testing import _reap

    def test_leaving(track_orphaned_uds_per_test):
        process = subprocess.Popen(['true'])
        process.wait()
        bind(f'one.i4@{process.pid}.sock')

    def test_leaving_none(track_orphaned_uds_per_test): pass
    """
    result = run(source)
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(
        ['*::test_leaving: removed the socket files of dead actors: one.i4@*.sock']
    )


@LINUX
def test_runaway_processes_are_warned_of_on_request_and_left_alone(run):
    conftest = """
    import functools
    from tractor._testing import _reap

    # how much of a processor it gets depends on what else runs
    _reap.find_runaway_subactors = functools.partial(
        _reap.find_runaway_subactors, cpu_threshold=2, sample_interval=0.5)
    """
    source = f"""{LEAVING}
def test_leaving(reap_subactors_per_test, detect_runaway_subactors_per_test):
    start('-c', 'echo; exec 1>&-; while true; do :; done')

def test_idle(reap_subactors_per_test, detect_runaway_subactors_per_test):
    start('-c', 'echo; exec 1>&-; sleep 300')
"""
    result = run(source, conftest=conftest)
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(['*::test_leaving: process * uses * % of a processor: _subactor*'])


@LINUX
def test_rest_of_a_session_is_reaped_at_its_end(run, tmp_path):
    # what a fixture of the session has started is nobody's leak until the session is over
    conftest = f"""
    import os
    import pytest

    @pytest.fixture(scope='session', autouse=True)
    def careless():
        pid = os.posix_spawnp('sleep', ['sleep', '300'], os.environ)
        with open({str(tmp_path / 'pid')!r}, 'w') as file:
            print(pid, file=file)
        yield
    """
    mine = subprocess.Popen(['sleep', '300'])
    try:
        run('def test_it(): pass', conftest=conftest).assert_outcomes(passed=1)
        pid = int((tmp_path / 'pid').read_text())
        assert not os.path.exists(f'/proc/{pid}')
        assert mine.poll() is None
    finally:
        mine.kill()
        mine.wait()


@LINUX
def test_reaper_is_a_plugin_of_its_own(pytester, monkeypatch):
    monkeypatch.delenv('PYTEST_ADDOPTS', raising=False)
    pytester.makepyfile(f"""{LEAVING}
def test_leaving(reap_subactors_per_test):
    start('-c', 'echo; exec 1>&-; sleep 300; true')

def test_gone():
    assert not Path('/proc', str(STARTED[0].pid)).exists()
""")
    plugins = ('-p', 'tractor._testing._reap', '-p', 'no:cacheprovider', '-p', 'no:faulthandler')
    pytester.runpytest_inprocess(*plugins).assert_outcomes(passed=2)
