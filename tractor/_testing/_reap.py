"""Find what actors have left behind on this machine, and remove it.

=============  =====================================================================================
processes      actors whose parent is gone, or whatever descends from a process that is named
shared memory  files of this user below ``/dev/shm`` which no process has open or mapped
socket files   ``<name>@<pid>.sock``, ``<name>.i<interpreter>@<pid>.sock``, whose process is dead
=============  =====================================================================================

The finders change nothing and only see processes of this user; where there is no ``/proc`` they find
nothing. The command ``tractor-reap`` is made of these functions, and so are fixtures of the pytest
plugin. Nothing here needs pytest.

PYTEST_DONT_REWRITE: a plugin without assertions, which others import before pytest does.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tractor._testing import _procs
from tractor.ipc._uds import HAS_UDS, UDSAddress

pytest_plugins = ('tractor._testing._reap_fixtures',)

TITLE_PREFIX = '_subactor['
"""How the title of an actor's process begins."""

REGISTRY_PID = 1616
"""Stands in the name of a registrar's socket file, where others have a pid."""

_CHILD_COMMAND = re.compile(r'(^|\s)-m tractor\._child(\s|$)')
_SOCKET_NAME = re.compile(r'.+@(\d+)\.sock', re.DOTALL)

# processes that adopt orphans: the first of the system, and the session managers it starts
_ADOPTERS = ('systemd', 'init')

# seconds for the end of a process that was killed
_END_AFTER_KILL = 5.0

Log = Callable[[str], object]


# --- one process


def _read_cmdline(pid: int) -> str:
    """Return its arguments, separated by blanks; empty if it is gone, a zombie or not ours to see."""
    return _read(pid, 'cmdline').replace('\0', ' ').strip()


def _read_comm(pid: int) -> str:
    """Return its short name; empty if it is gone."""
    return _read(pid, 'comm').rstrip('\n')


def _read(pid: int, name: str) -> str:
    try:
        return Path('/proc', str(pid), name).read_bytes().decode(errors='replace')
    except OSError:
        return ''


def _read_cwd(pid: int) -> Path | None:
    """Return its working directory; `None` if it is gone or not ours to see."""
    try:
        return Path(os.readlink(f'/proc/{pid}/cwd'))
    except OSError:
        return None


def _read_status(pid: int, key: str) -> str:
    for line in _read(pid, 'status').splitlines():
        name, _, value = line.partition(':')
        if name == key:
            return value.strip()
    return ''


def _read_status_ppid(pid: int) -> int | None:
    """Return the pid of its parent; `None` if it is gone."""
    value = _read_status(pid, 'PPid')
    return int(value) if value else None


def _read_status_state(pid: int) -> str:
    """Return the letter of its state, ``Z`` for a zombie; empty if it is gone."""
    return _read_status(pid, 'State')[:1]


def _is_alive(pid: int) -> bool:
    """Tell whether it exists and is no zombie."""
    return _procs.is_alive(pid)


def _is_tractor_subactor(pid: int) -> bool:
    """Tell whether it is the process of an actor with a parent; never true of this process."""
    if pid == os.getpid():
        return False
    cmdline = _read_cmdline(pid)
    return (
        cmdline.startswith(TITLE_PREFIX)
        or _CHILD_COMMAND.search(cmdline) is not None
        or _read_comm(pid).startswith(TITLE_PREFIX)
    )


# --- finding processes


def find_descendants(parent_pid: int) -> list[int]:
    """Return the live processes below `parent_pid`, at any depth."""
    if not _procs.HAS_PROC:
        return []
    procs = _procs.scan()
    return sorted(
        pid
        for pid, proc in procs.items()
        if not proc.is_zombie and _procs.descends_from(proc, parent_pid, procs)
    )


def find_orphans(repo_root: str | os.PathLike[str] | None = None) -> list[int]:
    """Return the live actors of this user that have lost their parent.

    Args:
        repo_root: only those that work at or below this directory.
    """
    if not _procs.HAS_PROC:
        return []
    procs = _procs.scan()
    return sorted(
        pid
        for pid, proc in procs.items()
        if not proc.is_zombie
        and _is_adopted(proc, procs)
        and _procs.is_ours(proc)
        and _is_tractor_subactor(pid)
        and (repo_root is None or _works_below(pid, Path(repo_root).resolve()))
    )


def _is_adopted(proc: _procs.Proc, procs: dict[int, _procs.Proc]) -> bool:
    parent = procs.get(proc.ppid)
    return proc.ppid == 1 or (parent is not None and parent.name in _ADOPTERS)


def _works_below(pid: int, root: Path) -> bool:
    cwd = _read_cwd(pid)
    return cwd is not None and cwd.is_relative_to(root)


def find_zombies(parent_pid: int | None = None) -> list[int]:
    """Return processes that have ended and were not waited for by their parent.

    Args:
        parent_pid: only those below this process; by default all actors of this user.
    """
    if not _procs.HAS_PROC:
        return []
    procs = _procs.scan()

    def is_meant(proc: _procs.Proc) -> bool:
        if parent_pid is not None:
            return _procs.descends_from(proc, parent_pid, procs)
        return _procs.is_ours(proc) and proc.name.startswith(TITLE_PREFIX)

    return sorted(pid for pid, proc in procs.items() if proc.is_zombie and is_meant(proc))


def find_runaway_subactors(
    parent_pid: int,
    *,
    cpu_threshold: float = 95.0,
    sample_interval: float = 0.05,
    only_pids: Iterable[int] | None = None,
) -> list[tuple[int, float, str]]:
    """Return the processes below `parent_pid` that keep a processor busy.

    Args:
        parent_pid: the process above them.
        cpu_threshold: least share of one processor, in percent.
        sample_interval: seconds over which it is measured; the call takes that long.
        only_pids: look at these only; nothing is measured when there are none.

    Returns:
        For each its pid, the share in percent and the command line.
    """
    chosen = None if only_pids is None else set(only_pids)
    if chosen is not None and not chosen:
        return []
    pids = [pid for pid in find_descendants(parent_pid) if chosen is None or pid in chosen]
    if not pids:
        return []
    before, start = {pid: _processor_time(pid) for pid in pids}, time.monotonic()
    time.sleep(sample_interval)
    after, seconds = {pid: _processor_time(pid) for pid in pids}, time.monotonic() - start
    shares = {pid: 100 * (after[pid] - before[pid]) / seconds for pid in pids}
    return [
        (pid, share, _read_cmdline(pid)) for pid, share in shares.items() if share >= cpu_threshold
    ]


def _processor_time(pid: int) -> float:
    """Seconds that all its threads have run; in steps of a clock tick where the kernel tells no better."""
    fields = _read(pid, 'stat').rpartition(')')[2].split()
    ticks = (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK') if fields else 0.0
    nanoseconds = 0
    for path in Path('/proc', str(pid), 'task').glob('*/schedstat'):
        try:
            nanoseconds += int(path.read_bytes().split()[0])
        except (OSError, IndexError):
            continue
    return max(ticks, nanoseconds / 1e9)


# --- ending processes


def reap(
    pids: Iterable[int],
    *,
    grace: float = 3.0,
    poll: float = 0.25,
    log: Log = print,
    include_descendants: bool = True,
) -> tuple[list[int], list[int]]:
    """Interrupt processes, and kill those that do not end.

    Args:
        pids: the processes; this one is left out, and so are those that have ended.
        grace: seconds they get after SIGINT.
        poll: seconds between looks for processes that they started meanwhile.
        log: is told what is done, a line at a time.
        include_descendants: end whatever is below them, too.

    Returns:
        The pids that were sent SIGINT, and those of them that had to be killed.

    A pid that is used again meanwhile is not mistaken for its former owner.
    """
    wanted = set(pids) - {os.getpid()}
    victims: dict[tuple[int, int], _procs.Proc] = {}
    deadline = time.monotonic() + grace
    while True:
        for proc in _below(wanted, victims, include_descendants):
            if _signal(proc, signal.SIGINT, log):
                victims[proc.key] = proc
        left = deadline - time.monotonic()
        alive = _still_alive(victims.values())
        if not alive or left <= 0:
            break
        _procs.wait_gone(alive, min(poll, left))
    killed = [proc.pid for proc in alive if _signal(proc, signal.SIGKILL, log)]
    _procs.wait_gone(alive, _END_AFTER_KILL)
    _procs.reap_zombies(victims.values())
    return sorted(proc.pid for proc in victims.values()), sorted(killed)


def _below(
    wanted: set[int], known: dict[tuple[int, int], _procs.Proc], include_descendants: bool
) -> list[_procs.Proc]:
    """Return what is to be ended and not in `known` yet, parents first."""
    procs = _procs.scan()
    if known:
        # from the second look on: a pid counts only as long as it is that process
        wanted = {pid for pid, started in known if pid in procs and procs[pid].started == started}
    return sorted(
        (
            proc
            for proc in procs.values()
            if not proc.is_zombie
            and proc.pid != os.getpid()
            and proc.key not in known
            and (
                (proc.pid in wanted and not known)
                or (
                    include_descendants
                    and any(_procs.descends_from(proc, pid, procs) for pid in wanted)
                )
            )
        ),
        key=lambda proc: proc.started,
    )


def _still_alive(procs: Iterable[_procs.Proc]) -> list[_procs.Proc]:
    now = _procs.scan()
    return [
        proc
        for proc in procs
        if (seen := now.get(proc.pid)) and seen.key == proc.key and not seen.is_zombie
    ]


def _signal(proc: _procs.Proc, signum: signal.Signals, log: Log) -> bool:
    what = f'{signum.name} to process {proc.pid}: {_procs.command_line(proc)}'
    try:
        sent = _procs.send(proc, signum)
    except PermissionError:
        log(f'not permitted: {what}')
        return False
    if sent:
        log(what)
    return sent


# --- shared memory


def find_orphaned_shm(
    *, uid: int | None = None, shm_dir: str | os.PathLike[str] = '/dev/shm'
) -> list[Path]:
    """Return the shared memory of a user which no process has open or mapped.

    Args:
        uid: whose; by default this user's.
        shm_dir: where it is.

    Raises:
        NotImplementedError: not known how to tell on this system.

    A process that may not be looked into counts as not using any.
    """
    if not (_procs.HAS_PROC or sys.platform.startswith('freebsd')):
        raise NotImplementedError(f'cannot tell on {sys.platform} which shared memory is in use')
    owner = os.getuid() if uid is None else uid
    found = _regular_files(Path(shm_dir), owner)
    if not found:
        return []
    in_use = _files_in_use()
    return sorted(path for path, identity in found.items() if identity not in in_use)


def _regular_files(folder: Path, owner: int) -> dict[Path, tuple[int, int]]:
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            info = path.lstat()
        except FileNotFoundError:
            continue
        if info.st_uid == owner and stat.S_ISREG(info.st_mode):
            found[path] = _procs.identity(info)
    return found


def _files_in_use() -> set[tuple[int, int]]:
    if _procs.HAS_PROC:
        return set().union(*map(_procs.files_of, _procs.scan()))

    import psutil

    names: set[str] = set()
    for ps in psutil.process_iter():
        try:
            names.update(file.path for file in ps.open_files())
            names.update(region.path for region in ps.memory_maps())
        except psutil.Error:
            continue
    return {_procs.identity(os.stat(name)) for name in names if os.path.exists(name)}


def reap_shm(
    paths: Iterable[Path], *, log: Log = print
) -> tuple[list[Path], list[tuple[Path, OSError]]]:
    """Unlink shared memory; returns what was unlinked, and what could not be with the reason."""
    return _unlink(paths, log)


# --- socket files


def get_uds_dir() -> Path:
    """Return the directory in which actors of this user and environment put their socket files."""
    return Path(UDSAddress.def_bindspace)


def pid_of_socket(path: Path) -> int | None:
    """Return the pid in the name of a socket file, `None` if it is not named like an actor's."""
    match = _SOCKET_NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def find_orphaned_uds(
    *,
    uds_dir: str | os.PathLike[str] | None = None,
    include_registry_sentinel: bool = False,
) -> list[Path]:
    """Return the socket files of dead actors; whatever is named in another way is left alone.

    Args:
        uds_dir: where to look; `get_uds_dir()` by default.
        include_registry_sentinel: also the socket file of a registrar, which names no process, if
            nobody listens there any more.
    """
    if not HAS_UDS:
        return []
    folder = get_uds_dir() if uds_dir is None else Path(uds_dir)
    if not folder.is_dir():
        return []
    found = []
    for path in folder.iterdir():
        pid = pid_of_socket(path)
        if pid is None or not path.is_socket():
            continue
        if pid == REGISTRY_PID:
            is_orphan = include_registry_sentinel and not _is_listening(path)
        else:
            is_orphan = not _is_alive(pid)
        if is_orphan:
            found.append(path)
    return sorted(found)


def _is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # a full backlog is a listener's, too
        probe.setblocking(False)
        return probe.connect_ex(str(path)) not in {errno.ECONNREFUSED, errno.ENOENT}


def reap_uds(
    paths: Iterable[Path], *, log: Log = print
) -> tuple[list[Path], list[tuple[Path, OSError]]]:
    """Unlink socket files; returns what was unlinked, and what could not be with the reason."""
    return _unlink(paths, log)


def _unlink(paths: Iterable[Path], log: Log) -> tuple[list[Path], list[tuple[Path, OSError]]]:
    unlinked: list[Path] = []
    errors: list[tuple[Path, OSError]] = []
    for path in map(Path, paths):
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as err:
            log(f'cannot unlink {path}: {err.strerror}')
            errors.append((path, err))
        else:
            log(f'unlinked {path}')
            unlinked.append(path)
    return unlinked, errors
