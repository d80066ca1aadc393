"""
Directories that only their owner may enter.

A socket file in a directory which another user controls can be replaced by that user, who then
speaks to our actors. Therefore a directory is used only when it is a real one (no symbolic link)
and ours, and it is closed to everybody else.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_PRIVATE: int = 0o700


def split_subdir(subdir: str | os.PathLike[str] | None) -> tuple[str, ...]:
    """
    The components of a relative sub-directory path.

    Raises:
        ValueError: the path is absolute or climbs with `..`.
    """
    if subdir is None:
        return ()
    path = Path(subdir)
    if path.is_absolute() or '..' in path.parts:
        raise ValueError(
            f'The runtime sub-directory must be a relative path without "..", not {str(subdir)!r}.'
        )
    return path.parts


def ensure_private_dir(
    base: Path,
    subdirs: Iterable[str] = (),
    *,
    make_parents: bool,
    system: str,
) -> Path:
    """
    Create `base` and, below it, one directory per name in `subdirs`, where absent; check each.

    Args:
        base: the outermost directory that is managed.
        subdirs: names of the directories below it, outermost first.
        make_parents: create missing parents of `base` too.
        system: name of the kind of system, for the error text.

    Returns:
        The innermost directory. Each managed one is ours and has mode 0700.

    Raises:
        PermissionError: a level is not a real directory or belongs to another user, or the parent
            of `base` does. It was left unchanged, and nothing was created below it.
        OSError: a directory cannot be created.
    """
    _check_parent(base.parent, system=system)
    _ensure_level(base, make_parents=make_parents, system=system)
    for name in subdirs:
        base /= name
        _ensure_level(base, make_parents=False, system=system)
    return base


def _check_parent(parent: Path, *, system: str) -> None:
    """Refuse a parent whose owner, or whose link's owner, could exchange what is in it."""
    try:
        owners = {os.lstat(parent).st_uid, os.stat(parent).st_uid}
    except FileNotFoundError:
        return
    foreign = owners - {os.getuid(), 0}
    if foreign:
        raise _unsafe(system, parent, f'it belongs to uid {min(foreign)}, we are uid {os.getuid()}')


def _ensure_level(path: Path, *, make_parents: bool, system: str) -> None:
    # it may come from an earlier run or a concurrent creator; what it is gets checked below
    with suppress(FileExistsError):
        path.mkdir(mode=_PRIVATE, parents=make_parents)

    status = os.lstat(path)
    uid = os.getuid()
    if not stat.S_ISDIR(status.st_mode):
        problem = 'it is not a real directory'
    elif status.st_uid != uid:
        problem = f'it belongs to uid {status.st_uid}, we are uid {uid}'
    else:
        if stat.S_IMODE(status.st_mode) != _PRIVATE:
            os.chmod(path, _PRIVATE)
        return
    raise _unsafe(system, path, problem)


def _unsafe(system: str, path: Path, problem: str) -> PermissionError:
    return PermissionError(
        f'Unsafe {system} runtime directory! {path}: {problem}. '
        'Remove it, or point XDG_RUNTIME_DIR to a directory of your own.'
    )
