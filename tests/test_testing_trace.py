"""contract: snapshots of what hangs: the time limits that take them, and what is told in them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

import tractor
from tractor._code_load import load_module_from_path
from tractor._testing import _hangs, run_bounded, trace

leftovers = sys.modules.get('leftovers') or load_module_from_path(
    Path(__file__).with_name('leftovers.py')
)

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')


@pytest.fixture
def processes(tmp_path):
    with leftovers.Processes(tmp_path) as started:
        yield started


@pytest.fixture(autouse=True)
def index(monkeypatch, tmp_path):
    """Snapshots of these tests: an index of their own, and a directory."""
    monkeypatch.setattr(trace, '_SNAPSHOT_INDEX', [])
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    # nobody's rights and tools are used by accident
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'), prepend=os.pathsep)
    return trace._SNAPSHOT_INDEX


# --- a deadline


def test_snapshot_is_taken_at_the_deadline_with_what_still_hangs(index, tmp_path):
    async def hanging_child():
        await trio.sleep_forever()

    async def main():
        async with (
            trace.fail_after_w_trace(0.01, label='the test [one]'),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(hanging_child)

    with pytest.raises(trio.TooSlowError):
        run_bounded(main)
    ((label, folder),) = index
    assert label == 'the test [one]'
    assert folder.parent == tmp_path / 'cache/tractor/hung-dumps'
    assert folder.name.startswith('the_test_one___2')
    assert 'hanging_child' in (folder / 'trace.txt').read_text()
    assert json.loads((folder / 'meta.json').read_text())['pid'] == os.getpid()


def test_other_error_after_the_deadline_is_raised_and_told_of(index, tmp_path):
    async def main():
        async with (
            trace.fail_after_w_trace(0.01, label='x', out_dir=tmp_path),
            trio.open_nursery(),
        ):
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError('from the teardown')

    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match='from the teardown')):
        run_bounded(main)
    ((_label, folder),) = index
    assert folder.parent == tmp_path


def test_loop_that_was_held_up_until_the_deadline_is_told_of(index):
    async def main():
        async with trace.fail_after_w_trace(0.01, label='x') as scope:
            while trio.current_time() < scope.deadline:
                pass
            await trio.lowlevel.checkpoint()

    with pytest.raises(trio.TooSlowError):
        run_bounded(main)
    assert len(index) == 1


def test_no_snapshot_without_a_deadline(index):
    async def main():
        async with trace.fail_after_w_trace(1000, label='x'):
            await trio.lowlevel.checkpoint()
        with pytest.raises(KeyError):
            async with trace.fail_after_w_trace(1000, label='x'):
                raise KeyError
        with pytest.raises(trio.TooSlowError):
            async with trace.fail_after_w_trace(1000, label='x') as scope:
                scope.cancel()
                await trio.lowlevel.checkpoint()

    run_bounded(main)
    assert index == []


def test_deadline_can_be_moved(index):
    async def main():
        async with trace.fail_after_w_trace(0.01, label='x') as scope:
            scope.deadline += 1000
            await trio.lowlevel.checkpoint()
            start = trio.current_time()
            while trio.current_time() < start + 0.02:
                await trio.lowlevel.checkpoint()
            assert not scope.cancel_called
        async with trace.fail_after_w_trace(1000, label='x') as scope:
            scope.deadline = trio.current_time()
            await trio.sleep_forever()

    with pytest.raises(trio.TooSlowError):
        run_bounded(main)
    assert len(index) == 1


def test_snapshot_that_fails_is_only_told(index, monkeypatch, tmp_path):
    (tmp_path / 'cache').touch()
    told = []
    monkeypatch.setattr(trace, '_tell', told.append)

    async def main():
        async with trace.fail_after_w_trace(0.01, label='x'):
            await trio.sleep_forever()

    with pytest.raises(trio.TooSlowError):
        run_bounded(main)
    assert index == []
    (line,) = told
    assert line.startswith('x: no snapshot of what hangs: NotADirectoryError')


# --- an alarm


def test_alarm_interrupts_what_holds_up_the_loop(index):
    def main():
        with trace.afk_alarm_w_trace(1, label='stuck'):
            while True:
                pass

    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TimeoutError, match='stuck: not done after 1 seconds') as info:
        main()
    assert info.type is trace.AFKAlarmTimeout
    assert [label for label, _folder in index] == ['stuck']
    assert signal.getsignal(signal.SIGALRM) is before


def test_alarm_that_is_not_needed_leaves_everything_as_it_was(index):
    outer = signal.signal(signal.SIGALRM, lambda *_args: None)
    signal.alarm(1000)
    try:
        with trace.afk_alarm_w_trace(500, label='x'):
            assert signal.alarm(500) <= 500
        assert 500 < signal.alarm(0) <= 1000
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, outer)
    assert index == []


def test_alarm_restores_the_handler_when_the_block_raises():
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(KeyError), trace.afk_alarm_w_trace(500, label='x'):
        raise KeyError
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.alarm(0) == 0


@pytest.mark.parametrize('seconds', [0, -1, 1.5, '1'])
def test_alarm_takes_whole_seconds(seconds):
    with (
        pytest.raises(ValueError, match='whole number'),
        trace.afk_alarm_w_trace(seconds, label='x'),
    ):
        raise AssertionError('not reached')


def test_alarm_is_for_the_main_thread():
    errors = []

    def main():
        try:
            with trace.afk_alarm_w_trace(1, label='x'):
                raise AssertionError('not reached')
        except RuntimeError as err:
            errors.append(str(err))

    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
    assert errors == ['only the main thread can be interrupted by an alarm']


# --- a snapshot


def test_snapshot_of_another_process(processes, index, tmp_path, monkeypatch):
    stderr = (tmp_path / 'stderr').open('w+')
    monkeypatch.setattr(sys, '__stderr__', stderr)
    process = processes.python(leftovers.WAIT, 'marked')
    first = trace.dump_all(process.pid, tmp_path / 'out', label='a/b')
    second = trace.dump_all(process.pid, tmp_path / 'out', label='a/b')
    assert index == [('a/b', first), ('a/b', second)]
    assert first != second
    assert first.name.startswith('a_b__')
    assert sorted(path.name for path in first.iterdir()) == [
        'bindspace.txt',
        'meta.json',
        'trace.txt',
    ]
    text = (first / 'trace.txt').read_text()
    assert f'{process.pid} (parent {os.getpid()}, state ' in text
    assert 'marked' in text
    assert f'-- thread {process.pid} ' in text
    meta = json.loads((first / 'meta.json').read_text())
    assert meta.keys() == {'pid', 'label', 'captured_at', 'sudo_cached'}
    assert (meta['pid'], meta['label']) == (process.pid, 'a/b')
    stderr.seek(0)
    assert f'[tractor] a/b: a snapshot of what hangs is in {first}' in stderr.read()
    stderr.close()


def test_tree_is_indented_and_flagged(processes):
    shell = processes.shell('sh -c "echo; exec sleep 300"; true')
    actor = processes.actor('elsewhere')
    lines = trace.dump_proc_tree(shell.pid, flag_tree=True).splitlines()
    assert lines[0].startswith(f'{shell.pid} (parent {os.getpid()}, state ')
    assert lines[1].startswith('  ')
    assert 'sleep 300' in lines[1]
    assert lines[2] == 'actors elsewhere:'
    (stray,) = (line for line in lines[3:] if line.strip().startswith(f'{actor.pid} '))
    assert '_subactor[elsewhere]' in stray
    assert stray.endswith('[actor]')
    assert 'elsewhere' not in trace.dump_proc_tree([shell.pid], include_strays=False)
    assert trace.dump_proc_tree(os.getpid(), flag_tree=True).splitlines()[0].endswith('[self]')
    gone = leftovers.dead_pid()
    assert trace.dump_proc_tree(gone, include_strays=False) == f'{gone} (gone)\n'


def test_own_state_has_the_stacks_of_threads_and_tasks():
    async def a_task(task_status):
        task_status.started()
        await trio.sleep_forever()

    async def main():
        async with trio.open_nursery() as nursery:
            await nursery.start(a_task)
            text = trace.dump_hung_state(os.getpid())
            nursery.cancel_scope.cancel()
        return text

    entered, leave = threading.Event(), threading.Event()

    def in_thread():
        entered.set()
        leave.wait()

    thread = threading.Thread(target=in_thread, name='the other one')
    thread.start()
    entered.wait()
    text = run_bounded(main)
    leave.set()
    thread.join()
    assert "Python thread 'the other one'" in text
    assert 'leave.wait()' in text
    tasks = text.partition('-- trio tasks of this thread')[2]
    assert 'a_task' in tasks
    assert 'sleep_forever' in tasks
    lines = trace.dump_hung_state(os.getpid()).splitlines()
    assert '-- trio tasks of this thread' not in lines


@pytest.mark.spawns
@pytest.mark.skipif(sys.version_info < (3, 14), reason='needs CPython 3.14')
@pytest.mark.parametrize('start_method', ['subint'])
def test_own_state_has_the_stacks_of_actors_in_sub_interpreters(options):
    async def main():
        async with tractor.open_nursery(**options) as an:
            await an.start_actor('parked')
            text = trace.dump_hung_state(os.getpid())
            await an.cancel()
        return text

    told = run_bounded(main).partition("\n-- <SubintHandle 'parked' interpreter ")[2]
    assert 'in _actor_child_main' in told
    lines = trace.dump_hung_state(os.getpid()).splitlines()
    assert not [line for line in lines if line.startswith('-- <SubintHandle')]


def test_sub_interpreter_that_does_not_answer_is_told_of(monkeypatch):
    asked = []
    driver = SimpleNamespace(stacks='of before', command=asked.append, read_reports=lambda: None)
    handle = SimpleNamespace(_driver=driver)
    monkeypatch.setattr(_hangs, 'STACKS_WITHIN', 0.02)
    monkeypatch.setitem(sys.modules, 'tractor.spawn._subint', SimpleNamespace(_live=[handle]))
    head, told = _hangs.interpreter_stacks()
    assert head.startswith('-- namespace')
    assert told == 'it does not tell its stacks'
    assert asked == [b'D']


def test_state_of_what_is_gone():
    assert trace.dump_hung_state(leftovers.dead_pid()) == 'none of these processes exists\n'


def test_socket_files_and_their_owners(tmp_path, monkeypatch):
    dead = leftovers.dead_pid()
    leftovers.socket_file(tmp_path / f'one.i2@{dead}.sock')
    leftovers.socket_file(tmp_path / f'two@{os.getpid()}.sock')
    leftovers.socket_file(tmp_path / 'registry@1616.sock')
    leftovers.socket_file(tmp_path / 'nobody.sock')
    (tmp_path / 'file').touch()
    assert trace.scan_bindspace(tmp_path).splitlines() == [
        f'{tmp_path}:',
        '  file  no socket',
        '  nobody.sock  of nobody known',
        f'  one.i2@{dead}.sock  of process {dead}, which is dead',
        '  registry@1616.sock  of a registrar',
        f'  two@{os.getpid()}.sock  of process {os.getpid()}, which is alive',
    ]
    monkeypatch.setattr(_hangs._reap, 'get_uds_dir', lambda: tmp_path / 'absent')
    assert 'cannot be listed' in trace.scan_bindspace()


def test_processes_are_named_by_pid_or_command(processes):
    process = processes.python(leftovers.WAIT, 'a very special argument')
    assert trace.resolve_pids(12) == trace.resolve_pids('12') == [12]
    assert trace.resolve_pids('12, 13') == [12, 13]
    assert trace.resolve_pids('a very special arg') == [process.pid]
    assert trace.resolve_pids('nobody is called so') == []


# --- tools


@pytest.fixture
def tool(tmp_path):
    """Put a program on the path."""
    folder = tmp_path / 'bin'
    folder.mkdir()

    def make(name: str, code: str) -> Path:
        path = folder / name
        path.write_text(f'#!/bin/sh\n{code}\n')
        path.chmod(0o755)
        return path

    return make


def test_rights_of_root(tool, monkeypatch, tmp_path):
    monkeypatch.setattr(os, 'geteuid', lambda: 0)
    assert trace.is_sudo_cached()
    monkeypatch.setattr(os, 'geteuid', lambda: 1000)
    tool('sudo', f'printf "%s\\n" "$*" >> {tmp_path}/asked; test "$1" != -n')
    assert not trace.is_sudo_cached()
    # it is a test that runs: nobody is asked
    monkeypatch.setattr(sys, 'stdin', SimpleNamespace(isatty=lambda: True))
    assert not trace.ensure_sudo_cached()
    monkeypatch.delenv('PYTEST_CURRENT_TEST')
    assert trace.ensure_sudo_cached()
    assert (tmp_path / 'asked').read_text().splitlines() == ['-n true'] * 3 + ['-v']
    tool('sudo', 'exit 0')
    assert trace.is_sudo_cached()


def test_py_spy_is_asked_where_it_is_there(tool, processes, monkeypatch):
    process = processes.python(leftovers.WAIT)
    tool('py-spy', 'echo "stack of $3"')
    monkeypatch.setattr(os, 'geteuid', lambda: 0)
    assert f'stack of {process.pid}' in trace.dump_hung_state(process.pid)
    monkeypatch.setattr(os, 'geteuid', lambda: 1000)
    tool('sudo', 'shift; exec "$@"')
    assert f'stack of {process.pid}' in trace.dump_hung_state(process.pid)


def test_tool_that_hangs_or_fails_is_told_of(tool, processes, monkeypatch):
    process = processes.python(leftovers.WAIT)
    monkeypatch.setattr(_hangs, 'COMMAND_LIMIT', 0.1)
    tool('py-spy', 'exec sleep 300')
    start = time.monotonic()
    assert 'timed out after 0.1 seconds' in trace.dump_hung_state(process.pid)
    assert time.monotonic() - start < 30
    tool('py-spy', 'echo "cannot look" >&2; exit 1')
    monkeypatch.setattr(_hangs, 'COMMAND_LIMIT', 30)
    assert 'cannot look' in trace.dump_hung_state(process.pid)


def test_pytest_is_not_needed():
    code = (
        'import sys\n'
        "sys.modules['pytest'] = None\n"
        'from tractor._testing import trace, _reap, _reap_cli\n'
        'trace.dump_proc_tree(1)\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b'')
