"""end to end: `python -m tractor.demo` as a user runs it, and the parts of it that decide what it says."""

import io
import os
import signal
import subprocess
import sys

import pytest

from tractor.demo import _leftovers
from tractor.demo.__main__ import INTERRUPTED, main, parse
from tractor.demo._report import HEADINGS, Outcome, Printer
from tractor.demo._tree import KNOWN_PRIMES, LIMIT, TREE, source_traceback

WORKERS = [worker for workers in TREE.values() for worker in workers]

LIMIT_S = 60


class Terminal(io.StringIO):
    def isatty(self):
        return True


def start(*args):
    return subprocess.Popen(
        [sys.executable, '-m', 'tractor.demo', *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def end(demo):
    """Both streams to their end; the whole group is killed if that takes too long."""
    try:
        return demo.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(demo.pid, signal.SIGKILL)
        out, err = demo.communicate()
        pytest.fail(f'no end within {LIMIT_S} s\n{out}\n{err}')


# --- whole runs


@pytest.mark.spawns
def test_a_tree_on_a_backend(start_method, tpt_proto):
    demo = start('--backend', start_method, '--transport', tpt_proto)
    out, err = end(demo)
    assert demo.returncode == 0, out + err
    assert f'{KNOWN_PRIMES} primes below {LIMIT}' in out
    assert 'ZeroDivisionError: division by zero' in out
    assert 'worker_4 -> supervisor_2 -> root' in out
    assert 'PROBLEM' not in out
    assert f'{", ".join(WORKERS)}: all down after' in out
    last = out.splitlines()[-1].split()
    assert (last[0], last[1], last[4], last[5]) == (start_method, '6', 'ok', '0')
    assert '\x1b' not in out + err


@pytest.mark.spawns
def test_an_interrupt_ends_it_cleanly(start_method):
    demo = start('--backend', start_method)
    # the tree is up once this line is there
    seen = next(line for line in demo.stdout if line.lstrip().startswith('boot'))
    os.killpg(demo.pid, signal.SIGINT)
    out, err = end(demo)
    assert demo.returncode == INTERRUPTED, seen + out + err
    assert 'left-over processes: 0' in out
    assert 'KeyboardInterrupt' not in out + err


@pytest.mark.spawns
@pytest.mark.skipon_spawn_backend(
    'subint', reason='a worker has no process to be killed: it is that of the whole demo'
)
def test_a_killed_worker_is_told_and_nothing_is_left(start_method):
    demo = start('--backend', start_method)
    for line in demo.stdout:
        if line.lstrip().startswith('supervisor_2 ('):
            victim = int(line.split('worker_3 (')[1].split(')')[0])
            os.kill(victim, signal.SIGKILL)
            break
    out, err = end(demo)
    assert demo.returncode == 1, out + err
    assert 'PROBLEM' in out
    last = out.splitlines()[-1].split()
    assert last[-2:] == ['FAILED', '0']


def test_a_wrong_backend_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        main(['--backend', 'tiro'])
    assert ended.value.code == 2
    assert "'tiro' (choose from" in capsys.readouterr().err.replace('invalid choice: ', '')


def test_a_backend_that_does_not_work_here_is_skipped(monkeypatch, capsys):
    def refuse(key):
        raise RuntimeError(f'no {key} on this Python')

    monkeypatch.setattr('tractor.demo.__main__.check_method', refuse)
    assert main(['--backend', 'trio']) == 0
    out = capsys.readouterr().out
    assert 'no trio on this Python' in out
    assert out.splitlines()[-1].split() == ['trio', '-', '-', '-', 'skipped', '0']


@pytest.mark.parametrize('error', [ValueError('boo'), BaseExceptionGroup('g', [ValueError('boo')])])
def test_an_unexpected_error_fails_it(monkeypatch, capsys, error):
    async def fail(*args):
        raise error

    monkeypatch.setattr('tractor.demo.__main__.run_tree', fail)
    assert main(['--backend', 'trio', '--no-color']) == 1
    out = capsys.readouterr().out
    assert 'ValueError: boo' in out
    assert out.splitlines()[-1].split() == ['trio', '-', '-', '-', 'FAILED', '0']


@pytest.mark.parametrize(
    'error', [KeyboardInterrupt(), BaseExceptionGroup('g', [KeyboardInterrupt(), OSError()])]
)
def test_an_interrupt_stops_the_loop(monkeypatch, capsys, error):
    ran = []

    async def interrupt(outcome, *args):
        ran.append(outcome.backend)
        raise error

    monkeypatch.setattr('tractor.demo.__main__.run_tree', interrupt)
    assert main(['--backend', 'trio', '--backend', 'mp_spawn']) == INTERRUPTED
    assert ran == ['trio']
    assert 'interrupted: all actors are down, left-over processes: 0' in capsys.readouterr().out


def test_each_backend_runs_once():
    assert parse(['--backend', 'trio', '--backend', 'mp_spawn']).backend == ['trio', 'mp_spawn']
    assert parse([]).backend is None


# --- what is left over


def test_left_over_children_are_found():
    before = _leftovers.scan()
    assert _leftovers.settle(before, set()) == []
    child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
    try:
        # one that is known to be an actor gets no time to end
        (line,) = _leftovers.settle(before, {child.pid})
        assert line.startswith(f'process {child.pid} ')
    finally:
        child.communicate(b'\n')
    assert _leftovers.settle(before, {child.pid}) == []


def test_a_helper_gets_some_time_to_end(monkeypatch):
    before = _leftovers.scan()
    child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
    looked = []

    def look(*args):
        looked.append(find(*args))
        if len(looked) == 2:
            child.communicate(b'\n')
        return looked[-1]

    find = _leftovers.find
    monkeypatch.setattr(_leftovers, 'find', look)
    assert _leftovers.settle(before, set()) == []
    assert [list(left) for left in looked] == [[child.pid], [child.pid], []]


ORPHAN = """
import subprocess, sys
code = 'import sys; print("up", flush=True); input()'
child = subprocess.Popen([sys.executable, '-c', code, 'tractor._child'], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='looks into /proc')
def test_an_orphan_is_found_by_its_process_group():
    before = _leftovers.scan()
    reading, writing = os.pipe()
    parent = subprocess.Popen(
        [sys.executable, '-c', ORPHAN], stdin=reading, stdout=subprocess.PIPE, text=True
    )
    os.close(reading)
    pid = int(parent.communicate()[0])
    found = _leftovers.find(before, set())
    os.write(writing, b'\n')
    os.close(writing)
    assert [*found] == [pid]


def test_without_proc_only_the_known_ones_are_looked_at(monkeypatch):
    monkeypatch.setattr(_leftovers.sys, 'platform', 'elsewhere')
    child = subprocess.Popen([sys.executable, '-c', ''])
    child.wait()
    assert _leftovers.scan() == {}
    assert [*_leftovers.find({}, {os.getpid(), child.pid})] == [os.getpid()]


# --- how it looks


def test_colours_are_for_terminals(monkeypatch):
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.delenv('NO_COLOR', raising=False)
    assert Printer(Terminal()).colours
    assert not Printer(io.StringIO()).colours
    assert not Printer(Terminal(), colours=False).colours
    monkeypatch.setenv('NO_COLOR', '1')
    assert not Printer(Terminal()).colours
    monkeypatch.setenv('NO_COLOR', '')
    assert Printer(Terminal()).colours
    monkeypatch.setenv('TERM', 'dumb')
    assert not Printer(Terminal()).colours


def test_the_table_lines_up_with_and_without_colours():
    outcomes = [
        Outcome('trio', actors=6, boot_ms=123.44, rpc_us=99.7),
        Outcome('mp_forkserver', actors=6, problems=['x']),
        Outcome('other', skipped='not here'),
    ]
    plain, coloured = io.StringIO(), Terminal()
    Printer(plain, colours=False).table(outcomes)
    Printer(coloured, colours=True).table(outcomes)
    assert '\x1b[' in coloured.getvalue()
    for code in ('0', '1;36', '32', '1;31', '2'):
        coloured = io.StringIO(coloured.getvalue().replace(f'\x1b[{code}m', ''))
    assert coloured.getvalue() == plain.getvalue()
    head, *rows = plain.getvalue().splitlines()[1:]
    assert all(name in head for name in HEADINGS)
    assert len({len(line) for line in (head, *rows)}) == 1
    assert rows[0].split() == ['trio', '6', '123.4', '100', 'ok', '0']
    assert rows[1].split() == ['mp_forkserver', '6', '-', '-', 'FAILED', '0']


def test_the_innermost_traceback_is_cut_out():
    boxed = (
        ' ------ (a) ------\n'
        '  Traceback (most recent call last):\n'
        '    outer\n'
        '  Error: boxed\n'
        '    ------ (b) ------\n'
        '    Traceback (most recent call last):\n'
        '      inner\n'
        '    ZeroDivisionError: division by zero\n'
        '    ------ (b)- ------\n'
        '   _|\n'
    )
    assert source_traceback(boxed) == (
        'Traceback (most recent call last):\n  inner\nZeroDivisionError: division by zero'
    )
    assert source_traceback('no traceback') == 'no traceback'
