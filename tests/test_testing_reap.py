"""contract: finding and removing what actors have left behind, with processes and files that stand for it."""

import errno
import mmap
import os
import signal
import sys
from pathlib import Path

import pytest
import trio

import tractor
from tractor._code_load import load_module_from_path
from tractor._testing import _procs, _reap
from tractor.ipc._uds import UDSAddress

leftovers = sys.modules.get('leftovers') or load_module_from_path(
    Path(__file__).with_name('leftovers.py')
)

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')


@pytest.fixture
def processes(tmp_path):
    with leftovers.Processes(tmp_path) as started:
        yield started


# --- one process


def test_what_is_told_of_a_process(processes, tmp_path):
    process = processes.python(leftovers.WAIT, 'argument')
    assert _reap._read_cmdline(process.pid).endswith('argument')
    assert _reap._read_comm(process.pid).startswith('python')
    assert _reap._read_cwd(process.pid) == tmp_path
    assert _reap._read_status_ppid(process.pid) == os.getpid()
    assert _reap._read_status_state(process.pid) in 'RSD'
    assert _reap._is_alive(process.pid)


def test_nothing_is_told_of_a_process_that_is_gone():
    pid = leftovers.dead_pid()
    assert _reap._read_cmdline(pid) == _reap._read_comm(pid) == _reap._read_status_state(pid) == ''
    assert _reap._read_cwd(pid) is _reap._read_status_ppid(pid) is None
    assert not _reap._is_alive(pid)
    assert not _reap._is_tractor_subactor(pid)


@pytest.mark.parametrize('pid', [0, -1, 10**30])
def test_what_is_no_pid_is_not_alive(pid):
    assert not _reap._is_alive(pid)


def test_zombie_is_found_and_not_alive(processes):
    process = processes.python('print(flush=True)')
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not _reap._is_alive(process.pid)
    assert process.pid in _reap.find_zombies(os.getpid())
    assert process.pid not in _reap.find_descendants(os.getpid())
    process.wait()
    assert process.pid not in _reap.find_zombies(os.getpid())


@pytest.mark.parametrize(
    ('args', 'is_actor'),
    [
        (('-m', 'tractor._child', '--uid', 'x'), True),
        (('-m', 'pytest', '-k', 'test_subactor[one]'), False),
        (('-m', 'pytest', '-k', 'tractor._child'), False),
        (('-m', 'tractor._children'), False),
    ],
)
def test_actor_is_known_by_its_command(processes, args, is_actor):
    assert _reap._is_tractor_subactor(processes.python(leftovers.WAIT, *args).pid) is is_actor


def test_actor_is_known_by_its_title(processes):
    assert _reap._is_tractor_subactor(processes.actor().pid)


def test_actor_is_known_by_its_short_name(processes):
    rename = "open('/proc/self/comm', 'w').write('_subactor[short')"
    assert _reap._is_tractor_subactor(processes.python(f'{rename}\n{leftovers.WAIT}').pid)


def test_this_process_is_no_actor_whatever_it_is_called(monkeypatch):
    monkeypatch.setattr(_reap, '_read_cmdline', lambda pid: '_subactor[me]')
    assert not _reap._is_tractor_subactor(os.getpid())


async def own_pid() -> int:
    return os.getpid()


@pytest.mark.parametrize('start_method', ['trio', 'mp_spawn'])
def test_real_actor_is_known(reg_addr, tpt_proto, start_method):
    async def main():
        with trio.fail_after(30):
            async with tractor.open_nursery(
                registry_addrs=[reg_addr],
                enable_transports=[tpt_proto],
                start_method=start_method,
            ) as an:
                portal = await an.start_actor('one', enable_modules=[__name__])
                pid = await portal.run(own_pid)
                assert _reap._is_tractor_subactor(pid)
                assert pid in _reap.find_descendants(os.getpid())
                assert pid not in _reap.find_orphans()
                await portal.cancel_actor()

    trio.run(main)


# --- finding processes


def test_descendants_are_found_at_any_depth(processes):
    shell = processes.shell("""sh -c "sh -c 'echo; exec sleep 300'; true" & wait""")
    below = _reap.find_descendants(shell.pid)
    assert len(below) == 2
    assert shell.pid not in below
    assert {shell.pid, *below} <= set(_reap.find_descendants(os.getpid()))
    _reap.reap([shell.pid], grace=0, log=lambda _line: None)
    assert not any(map(_reap._is_alive, below))


def test_orphan_is_found(processes, tmp_path):
    pid = processes.orphan()
    actor = processes.actor()
    if _reap._read_status_ppid(pid) != 1:
        pytest.skip('orphans are adopted by another process than the first one here')
    assert pid in _reap.find_orphans()
    assert pid in _reap.find_orphans(tmp_path)
    assert pid not in _reap.find_orphans(tmp_path / 'elsewhere')
    assert actor.pid not in _reap.find_orphans()


def test_orphan_of_a_session_manager_is_one():
    manager = _procs.Proc(700, 1, 1, 'S', 'systemd')
    orphan = _procs.Proc(701, 1, 700, 'S', '_subactor[a')
    child = _procs.Proc(702, 1, 701, 'S', '_subactor[b')
    procs = {proc.pid: proc for proc in (manager, orphan, child)}
    assert [_reap._is_adopted(proc, procs) for proc in (orphan, child)] == [True, False]


def test_runaway_is_found_and_idle_one_is_not(processes):
    busy, idle = processes.python(leftovers.SPIN, 'busy'), processes.python(leftovers.WAIT)
    # how much of a processor it gets depends on what else runs
    ((pid, share, command),) = _reap.find_runaway_subactors(
        os.getpid(), cpu_threshold=2, sample_interval=0.5, only_pids=[busy.pid, idle.pid]
    )
    assert pid == busy.pid
    assert 2 <= share < 150
    assert command.endswith('busy')
    assert _reap.find_runaway_subactors(os.getpid(), cpu_threshold=1000) == []


def test_nothing_is_measured_when_nobody_is_looked_at():
    assert _reap.find_runaway_subactors(os.getpid(), sample_interval=3600, only_pids=[]) == []


def test_finders_find_nothing_without_proc(monkeypatch):
    monkeypatch.setattr(_procs, 'HAS_PROC', False)
    assert _reap.find_descendants(os.getpid()) == _reap.find_orphans() == []
    assert _reap.find_zombies() == _reap.find_runaway_subactors(os.getpid()) == []


# --- ending processes


def test_stubborn_process_is_killed_and_others_are_interrupted(processes):
    stubborn = processes.shell('trap "" INT; echo; exec sleep 300')
    polite = processes.python(leftovers.WAIT)
    stranger = processes.python(leftovers.WAIT)
    log: list[str] = []
    signalled, killed = _reap.reap([stubborn.pid, polite.pid], grace=0.5, poll=0.05, log=log.append)
    assert signalled == sorted([stubborn.pid, polite.pid])
    assert killed == [stubborn.pid]
    (line,) = (line for line in log if line.startswith('SIGKILL'))
    assert line.startswith(f'SIGKILL to process {stubborn.pid}: ')
    assert not any(_reap._is_alive(pid) for pid in signalled)
    assert not set(signalled) & set(_procs.scan())
    assert stranger.poll() is None


def test_what_is_below_is_reaped_too(processes):
    code = 'trap "sleep 0" INT; sh -c "echo; exec sleep 300"; true'
    shell = processes.shell(code)
    (child,) = _reap.find_descendants(shell.pid)
    signalled, killed = _reap.reap([shell.pid], log=lambda _line: None)
    assert (signalled, killed) == (sorted([shell.pid, child]), [])


def test_what_is_below_is_left_alone_on_request(processes):
    shell = processes.shell('sh -c "trap : INT; echo; exec 1>&-; exec sleep 300" & wait')
    (child,) = _reap.find_descendants(shell.pid)
    signalled, _killed = _reap.reap([shell.pid], log=lambda _line: None, include_descendants=False)
    assert signalled == [shell.pid]
    assert _reap._is_alive(child)
    os.kill(child, signal.SIGKILL)


def test_this_process_and_the_dead_are_not_reaped():
    assert _reap.reap([os.getpid(), leftovers.dead_pid()], include_descendants=False) == ([], [])


# --- shared memory


def test_shared_memory_in_use_is_no_orphan(tmp_path):
    mapped, opened, lost = (tmp_path / name for name in ('mapped', 'opened', 'lost'))
    for path in (mapped, opened, lost):
        path.write_bytes(b'x' * mmap.PAGESIZE)
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'link').symlink_to(lost)
    with mapped.open('r+b') as file:
        mapping = mmap.mmap(file.fileno(), 0)
    with mapping, opened.open('rb'):
        assert _reap.find_orphaned_shm(shm_dir=tmp_path) == [lost]
    assert _reap.find_orphaned_shm(shm_dir=tmp_path) == [lost, mapped, opened]
    assert _reap.find_orphaned_shm(shm_dir=tmp_path, uid=os.getuid() + 1) == []


def test_shared_memory_of_another_process_is_in_use(processes, tmp_path):
    path = tmp_path / 'held'
    path.write_bytes(b'x')
    holder = processes.python(f'file = open({str(path)!r})\n{leftovers.WAIT}')
    assert _reap.find_orphaned_shm(shm_dir=tmp_path) == []
    holder.communicate(timeout=30)
    assert _reap.find_orphaned_shm(shm_dir=tmp_path) == [path]


def test_shared_memory_is_not_told_of_elsewhere(monkeypatch):
    monkeypatch.setattr(_procs, 'HAS_PROC', False)
    monkeypatch.setattr(sys, 'platform', 'darwin')
    with pytest.raises(NotImplementedError, match='darwin'):
        _reap.find_orphaned_shm()


@pytest.mark.parametrize('reap', [_reap.reap_shm, _reap.reap_uds])
def test_files_are_unlinked_and_errors_told(reap, tmp_path):
    good, gone, bad = (tmp_path / name for name in ('good', 'gone', 'bad'))
    good.touch()
    bad.mkdir()
    log: list[str] = []
    unlinked, errors = reap([good, gone, bad], log=log.append)
    assert unlinked == [good]
    assert not good.exists()
    ((path, err),) = errors
    assert path == bad
    assert err.errno in {errno.EISDIR, errno.EPERM}
    assert log == [f'unlinked {good}', f'cannot unlink {bad}: {err.strerror}']


# --- socket files


def test_socket_files_of_the_dead_are_found(tmp_path):
    dead = leftovers.dead_pid()
    names = (f'one@{dead}.sock', f'two.i7@{dead}.sock', f'with@sign@{dead}.sock')
    orphans = [leftovers.socket_file(tmp_path / name) for name in names]
    for name in (
        f'alive@{os.getpid()}.sock',
        f'alive.i7@{os.getpid()}.sock',
        'registry@1616.sock',
        'nobody.sock',
        f'@{dead}.sock',
        f'other@{dead}.socket',
        f'other@{dead}x.sock',
    ):
        leftovers.socket_file(tmp_path / name)
    (tmp_path / f'file@{dead}.sock').touch()
    assert _reap.find_orphaned_uds(uds_dir=tmp_path) == orphans
    assert _reap.find_orphaned_uds(uds_dir=tmp_path / 'absent') == []


def test_socket_file_of_a_zombie_is_an_orphan(processes, tmp_path):
    process = processes.python('print(flush=True)')
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    path = leftovers.socket_file(tmp_path / f'one@{process.pid}.sock')
    assert _reap.find_orphaned_uds(uds_dir=tmp_path) == [path]


def test_registrar_is_an_orphan_on_request_when_nobody_listens(tmp_path):
    path = tmp_path / 'registry@1616.sock'
    with leftovers.listening(path):
        assert _reap.find_orphaned_uds(uds_dir=tmp_path, include_registry_sentinel=True) == []
    assert _reap.find_orphaned_uds(uds_dir=tmp_path) == []
    assert _reap.find_orphaned_uds(uds_dir=tmp_path, include_registry_sentinel=True) == [path]


def test_directory_is_that_of_the_address_type_at_the_time(monkeypatch, tmp_path):
    path = leftovers.socket_file(tmp_path / f'one@{leftovers.dead_pid()}.sock')
    monkeypatch.setattr(UDSAddress, 'def_bindspace', tmp_path)
    assert _reap.get_uds_dir() == tmp_path
    assert _reap.find_orphaned_uds() == [path]


@pytest.mark.parametrize('interp_id', [0, 12])
def test_name_which_actors_give_their_file_tells_the_pid(tmp_path, interp_id):
    name = UDSAddress.get_sockname('an.actor@home', 4711, tmp_path, interp_id=interp_id)
    assert _reap.pid_of_socket(name) == 4711
