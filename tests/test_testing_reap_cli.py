"""contract: the command `tractor-reap`; what it may touch is started by the test, in directories of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tractor._code_load import load_module_from_path
from tractor._testing import _reap, _reap_cli

leftovers = sys.modules.get('leftovers') or load_module_from_path(
    Path(__file__).with_name('leftovers.py')
)

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')

LINE = '[tractor-reap] '


@pytest.fixture
def processes(tmp_path):
    with leftovers.Processes(tmp_path) as started:
        yield started


@pytest.fixture
def uds_dir(tmp_path, monkeypatch):
    """The directory of socket files that the command sees, also in a process of its own."""
    base = tmp_path / 'run'
    base.mkdir(mode=0o700)
    monkeypatch.setenv('XDG_RUNTIME_DIR', str(base))
    folder = _reap.get_uds_dir()
    assert folder.is_relative_to(base)
    return folder


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch):
    """No test of this module finds processes or shared memory that it has not put there."""
    monkeypatch.setattr(_reap, 'find_orphans', list)
    monkeypatch.setattr(_reap, 'find_orphaned_shm', list)


@pytest.fixture
def reap(uds_dir, capsys):
    """Run the command in this process; return its exit status and its lines."""

    def run(*args: str) -> tuple[int, list[str]]:
        status = _reap_cli.main(args)
        lines = capsys.readouterr().out.splitlines()
        assert all(line.startswith(LINE) for line in lines), lines
        return status, [line.removeprefix(LINE) for line in lines]

    return run


# --- in a process of its own


def test_command_reaps_below_a_process_and_says_that_it_had_to_kill(processes, uds_dir):
    polite = 'sh -c "echo; exec sleep 300"; true'
    stubborn = f'trap "" INT; {polite}'
    for code, status in ((polite, 0), (stubborn, 1)):
        shell = processes.shell(code)
        (child,) = _reap.find_descendants(shell.pid)
        command = ['-m', 'tractor._testing._reap_cli', '--parent', str(shell.pid), '-g', '0.5']
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (status, '')
        assert f'{LINE}SIGINT to process {child}: ' in done.stdout
        assert not _reap._is_alive(child)


def test_command_loads_little_before_it_knows_what_to_do():
    code = (
        'import sys\n'
        'from tractor._testing import _reap_cli\n'
        "heavy = {'pytest', 'psutil', 'subprocess', 'tractor._testing._reap'}\n"
        'try:\n'
        "    _reap_cli.main(['--help'])\n"
        'except SystemExit as err:\n'
        '    assert not err.code\n'
        'early = heavy & set(sys.modules)\n'
        "assert not early - {'subprocess'}, early\n"
        "_reap_cli.main(['--dry-run'])\n"
        "assert not {'pytest', 'psutil'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert '--grace' in done.stdout


# --- its phases


def test_by_default_only_orphans_are_reaped(reap, processes, uds_dir, monkeypatch):
    actor = processes.actor()
    path = leftovers.socket_file(uds_dir / f'one@{leftovers.dead_pid()}.sock')
    monkeypatch.setattr(_reap, 'find_orphans', lambda: [actor.pid])
    status, lines = reap()
    assert status == 0
    assert lines[0].startswith(f'SIGINT to process {actor.pid}: _subactor[fake]')
    assert lines[-1] == 'actors without a parent: 1 interrupted, 0 of them killed'
    assert path.exists()


def test_dry_run_changes_nothing(reap, processes, uds_dir, monkeypatch, tmp_path):
    actor = processes.actor()
    path = leftovers.socket_file(uds_dir / f'one.i3@{leftovers.dead_pid()}.sock')
    memory = tmp_path / 'memory'
    memory.touch()
    monkeypatch.setattr(_reap, 'find_orphans', lambda: [actor.pid])
    monkeypatch.setattr(_reap, 'find_orphaned_shm', lambda: [memory])
    status, lines = reap('--dry-run', '--shm', '--uds')
    assert status == 0
    assert [line.split(':')[0] for line in lines] == [
        f'would end process {actor.pid}',
        f'would unlink {memory}',
        f'would unlink {path}',
    ]
    assert actor.poll() is None
    assert path.exists()
    assert memory.exists()


def test_socket_files_only(reap, processes, uds_dir, monkeypatch):
    actor = processes.actor()
    monkeypatch.setattr(_reap, 'find_orphans', lambda: [actor.pid])
    dead = [
        leftovers.socket_file(uds_dir / name)
        for name in (
            f'one@{leftovers.dead_pid()}.sock',
            f'two.i3@{leftovers.dead_pid()}.sock',
            'registry@1616.sock',
        )
    ]
    alive = leftovers.socket_file(uds_dir / f'one@{os.getpid()}.sock')
    status, lines = reap('--uds-only')
    assert (status, sorted(lines)) == (0, sorted(f'unlinked {path}' for path in dead))
    assert alive.exists()
    assert actor.poll() is None


def test_registrar_that_listens_is_left_alone(reap, uds_dir):
    with leftovers.listening(uds_dir / 'registry@1616.sock') as path:
        assert reap('--uds-only') == (0, ['no socket files of dead actors'])
        assert path.exists()


def test_each_only_skips_the_processes_and_the_others_add_to_them(reap, monkeypatch):
    def never() -> list[int]:
        raise AssertionError('the process phase was to be skipped')

    nothing = ['no shared memory', 'no socket files of dead actors']
    assert reap('--shm', '--uds') == (0, ['no actors without a parent', *nothing])
    monkeypatch.setattr(_reap, 'find_orphans', never)
    assert reap('--shm-only', '--uds-only') == (0, nothing)
    assert reap('--shm-only') == (0, nothing[:1])
    assert reap('--uds-only', '--shm') == (0, nothing)


@pytest.mark.parametrize('phase', ['shm', 'uds'])
def test_what_cannot_be_unlinked_is_an_error(reap, monkeypatch, tmp_path, phase):
    monkeypatch.setattr(_reap, f'find_orphaned_{phase}', lambda **_kwargs: [tmp_path])
    status, (line,) = reap(f'--{phase}-only')
    assert status == 1
    assert line.startswith(f'cannot unlink {tmp_path}: ')


def test_system_that_does_not_tell_of_shared_memory_is_an_error(reap, monkeypatch):
    def find() -> list[object]:
        raise NotImplementedError('not here')

    monkeypatch.setattr(_reap, 'find_orphaned_shm', find)
    assert reap('--shm-only') == (1, ['shared memory: not here'])


def test_nobody_below_the_parent(reap, processes):
    idle = processes.python(leftovers.WAIT)
    assert reap('--parent', str(idle.pid)) == (0, [f'no processes below {idle.pid}'])


@pytest.mark.parametrize(
    ('args', 'text'),
    [
        (['--parent', '1'], '1 is not the pid of a process'),
        (['--parent', 'x'], "invalid _pid value: 'x'"),
        (['--grace', '-1'], '-1 is not a number of seconds'),
        (['--grace=nan'], 'nan is not a number of seconds'),
        (['--everything'], 'unrecognized arguments: --everything'),
    ],
)
def test_wrong_calls(args, text, capsys):
    with pytest.raises(SystemExit) as info:
        _reap_cli.main(args)
    assert info.value.code == 2
    assert text in capsys.readouterr().err
