"""What can be told about processes that hang, as text.

Reads ``/proc`` and, where they are installed, asks ``py-spy`` and ``sudo``; every command has a
time limit. Of this process also the Python stacks of its threads and the tasks of its trio run are
told, which no tool from outside needs to be there for; and the stacks of the actors that are
sub-interpreters of it, which no tool from outside can tell.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import trio

from tractor._testing import _procs, _reap

COMMAND_LIMIT = 10.0
"""Seconds for each command that is asked."""

STACKS_WITHIN = 0.5
"""Seconds for a sub-interpreter to tell its stacks."""

_FRAMES_OF_A_TASK = 30

Roots = int | Iterable[int]


def _pids(roots: Roots) -> list[int]:
    return [roots] if isinstance(roots, int) else list(roots)


def resolve_pids(arg: int | str) -> list[int]:
    """Return the processes that `arg` names.

    Args:
        arg: a pid, several as text separated by commas, or text that is looked for in the command
            lines of this user's processes, this one excepted.
    """
    if isinstance(arg, int):
        return [arg]
    words = [word.strip() for word in arg.split(',')]
    if all(word.isdigit() for word in words):
        return [int(word) for word in words]
    return sorted(
        pid
        for pid, proc in _procs.scan().items()
        if pid != os.getpid() and _procs.is_ours(proc) and arg in _procs.command_line(proc)
    )


# --- the tree of processes


def dump_proc_tree(roots: Roots, *, flag_tree: bool = False, include_strays: bool = True) -> str:
    """Return the processes at and below `roots`, one a line, indented by depth.

    Args:
        roots: pids.
        flag_tree: mark each process that is an actor, a zombie, an orphan or this very one.
        include_strays: append the actors of this user that are not below any of `roots`.
    """
    procs = _procs.scan()
    shown: set[int] = set()
    lines: list[str] = []
    for root in _pids(roots):
        if root not in procs:
            lines.append(f'{root} (gone)')
            continue
        lines += _tree_lines(procs[root], procs, 0, flag_tree, shown)
    if include_strays:
        strays = [p for pid, p in sorted(procs.items()) if pid not in shown and _is_stray(p)]
        lines.append('actors elsewhere:' if strays else 'actors elsewhere: none')
        lines += [f'  {_proc_line(proc, flag_tree)}' for proc in strays]
    return '\n'.join(lines) + '\n'


def _is_stray(proc: _procs.Proc) -> bool:
    return _procs.is_ours(proc) and _reap._is_tractor_subactor(proc.pid)


def _tree_lines(
    proc: _procs.Proc,
    procs: dict[int, _procs.Proc],
    depth: int,
    flag_tree: bool,
    shown: set[int],
) -> list[str]:
    if proc.pid in shown:
        return []
    shown.add(proc.pid)
    lines = [f'{"  " * depth}{_proc_line(proc, flag_tree)}']
    for pid, child in sorted(procs.items()):
        if child.ppid == proc.pid and pid != proc.pid:
            lines += _tree_lines(child, procs, depth + 1, flag_tree, shown)
    return lines


def _proc_line(proc: _procs.Proc, flag_tree: bool) -> str:
    line = f'{proc.pid} (parent {proc.ppid}, state {proc.state}) {_procs.command_line(proc)}'
    if not flag_tree:
        return line
    flags = {
        'self': proc.pid == os.getpid(),
        'actor': _reap._is_tractor_subactor(proc.pid),
        'zombie': proc.is_zombie,
        'orphan': proc.ppid == 1,
    }
    marks = [name for name, is_set in flags.items() if is_set]
    return f'{line} [{", ".join(marks)}]' if marks else line


# --- what they hang in


def dump_hung_state(roots: Roots, *, allow_sudo_prompt: bool = False) -> str:
    """Return what each thread of the processes at and below `roots` waits for.

    Args:
        roots: pids.
        allow_sudo_prompt: ask for a password at the terminal where it takes one to look; never done
            in a test. Without it, and without one given before, what needs it is left out.
    """
    root_access = (ensure_sudo_cached if allow_sudo_prompt else is_sudo_cached)()
    procs = _procs.scan()
    chosen = {
        pid
        for root in _pids(roots)
        for pid, proc in procs.items()
        if pid == root or _procs.descends_from(proc, root, procs)
    }
    parts = [_state_of(procs[pid], root_access) for pid in sorted(chosen)]
    return '\n'.join(parts) or 'none of these processes exists\n'


def _state_of(proc: _procs.Proc, root_access: bool) -> str:
    lines = [f'== {_proc_line(proc, flag_tree=True)}']
    for tid in sorted(_threads_of(proc.pid)):
        base = Path('/proc', str(proc.pid), 'task', str(tid))
        name, wchan = _read(base / 'comm'), _read(base / 'wchan')
        lines.append(f'-- thread {tid} {name!r} waits in {wchan if wchan != "0" else "-"}')
        stack = _read(base / 'stack')
        if not stack and root_access and os.geteuid() != 0:
            stack = _command('sudo', '-n', 'cat', str(base / 'stack'))
        lines += [f'   {line}' for line in stack.splitlines()]
    if proc.pid == os.getpid():
        lines += [*own_stacks(), *interpreter_stacks()]
    elif not proc.is_zombie:
        lines += _py_spy(proc.pid, root_access)
    return '\n'.join(lines) + '\n'


def _threads_of(pid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f'/proc/{pid}/task')]
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text(errors='replace').strip()
    except OSError:
        return ''


def _command(*args: str) -> str:
    """Return what a command prints, or why it does not."""
    try:
        done = subprocess.run(
            args,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_LIMIT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        return f'{args[0]}: {err}'
    return (done.stdout or done.stderr).decode(errors='replace').strip()


def _py_spy(pid: int, root_access: bool) -> list[str]:
    program = shutil.which('py-spy')
    if program is None:
        return ['-- Python stacks: install py-spy to see them']
    sudo = ['sudo', '-n'] if root_access and os.geteuid() != 0 else []
    return ['-- Python stacks:', *_command(*sudo, program, 'dump', '--pid', str(pid)).splitlines()]


# --- this process


def own_stacks() -> list[str]:
    """Return the Python stack of each thread of this interpreter, and the tasks of its trio run."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines = []
    for ident, frame in sys._current_frames().items():
        lines.append(f'-- Python thread {names.get(ident, "?")!r} (ident {ident})')
        lines += ''.join(traceback.format_stack(frame)).splitlines()
    try:
        root = trio.lowlevel.current_root_task()
    except RuntimeError:
        root = None
    if root is not None:
        lines.append('-- trio tasks of this thread')
        lines += _task_lines(root, 0)
    return lines


def interpreter_stacks() -> list[str]:
    """Return the Python stacks of the actors that are sub-interpreters of this process and its children.

    Each is asked, and has `STACKS_WITHIN` seconds for its answer.
    """
    module: Any = sys.modules.get('tractor.spawn._subint')
    lines: list[str] = []
    for handle in list(module._live) if module is not None else ():
        lines.append(f'-- {handle!r}')
        lines += (_ask_for_stacks(handle._driver) or 'it does not tell its stacks').splitlines()
    return lines


def _ask_for_stacks(driver: Any) -> str:
    driver.stacks = ''
    driver.command(b'D')
    deadline = time.monotonic() + STACKS_WITHIN
    while not driver.stacks and time.monotonic() < deadline:
        time.sleep(0.01)
        driver.read_reports()
    # who asks next wants an answer of that time
    stacks, driver.stacks = driver.stacks, ''
    return str(stacks)


def _task_lines(task: trio.lowlevel.Task, depth: int) -> Iterator[str]:
    indent = '  ' * depth
    yield f'{indent}task {task.name}'
    for frame, line in _await_chain(task.coro):
        code = frame.f_code
        yield f'{indent}  {code.co_filename}:{line} {code.co_qualname}'
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _task_lines(child, depth + 1)


def _await_chain(awaitable: Any) -> Iterator[tuple[FrameType, int]]:
    """Yield the frames of a suspended coroutine, outermost first, with their line."""
    for _ in range(_FRAMES_OF_A_TASK):
        for kind in ('cr', 'gi', 'ag'):
            frame = getattr(awaitable, f'{kind}_frame', None)
            if frame is not None:
                yield frame, frame.f_lineno
                awaitable = getattr(awaitable, 'gi_yieldfrom' if kind == 'gi' else f'{kind}_await')
                break
        else:
            return


# --- socket files


def scan_bindspace(arg: str | os.PathLike[str] | None = None) -> str:
    """Return what is in a directory of socket files: one line each, with what is known of its owner.

    Args:
        arg: the directory; `None` for the one in use.
    """
    folder = Path(arg) if arg is not None else _reap.get_uds_dir()
    lines = [f'{folder}:']
    try:
        lines += [f'  {path.name}  {_owner_of(path)}' for path in sorted(folder.iterdir())]
    except OSError as err:
        lines.append(f'  cannot be listed: {err.strerror}')
    return '\n'.join(lines) + '\n'


def _owner_of(path: Path) -> str:
    if not path.is_socket():
        return 'no socket'
    pid = _reap.pid_of_socket(path)
    if pid is None:
        return 'of nobody known'
    if pid == _reap.REGISTRY_PID:
        return 'of a registrar'
    return f'of process {pid}, which is {"alive" if _reap._is_alive(pid) else "dead"}'


# --- root access


def is_sudo_cached() -> bool:
    """Tell whether what only root may read can be read without asking for a password."""
    if not hasattr(os, 'geteuid'):
        return False
    if os.geteuid() == 0:
        return True
    if shutil.which('sudo') is None:
        return False
    try:
        done = subprocess.run(
            ['sudo', '-n', 'true'],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_LIMIT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def ensure_sudo_cached() -> bool:
    """The same as `is_sudo_cached()`, after asking for the password at the terminal where it is needed.

    Nobody is asked in a test, without a terminal or where there is no ``sudo``.
    """
    if is_sudo_cached():
        return True
    in_test = 'PYTEST_CURRENT_TEST' in os.environ
    if in_test or not sys.stdin.isatty() or shutil.which('sudo') is None:
        return False
    return subprocess.run(['sudo', '-v'], check=False).returncode == 0
