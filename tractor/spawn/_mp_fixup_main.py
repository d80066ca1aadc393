"""
The main module of the parent in its children.

A function defined in the script that the user runs belongs to `__main__`, and a child has another
`__main__`. So the parent sends along where its main module comes from, and the child runs that
again under the name `__mp_main__` (which is why a script needs its
`if __name__ == '__main__':` guard) and makes `__main__` an alias of it.

The rules are those of `multiprocessing.spawn`, which every backend follows. They are implemented
here because importing that package takes 15 ms, in each child.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any, TypedDict


class ParentMainData(TypedDict, total=False):
    """Where the main module of the parent comes from: at most one of the two keys is present."""

    init_main_from_name: str
    init_main_from_path: str


def _cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


# a relative path of the main module refers to where the program was started
_start_dir: str | None = _cwd()

# functions of a replaced main module may still be in use, and need its globals
_old_mains: list[ModuleType] = []


def _mp_figure_out_main(inherit_parent_main: bool = True) -> ParentMainData:
    """
    Where the main module of this process comes from.

    Args:
        inherit_parent_main: whether children shall have it; `{}` if not.

    Returns:
        `{'init_main_from_name': ...}` if it was run as a module (`python -m`),
        `{'init_main_from_path': ...}` if as a file, and `{}` if it comes from neither (the
        interactive prompt, `python -c`, standard input).

    Raises:
        RuntimeError: this is a child which is still running the main module of its parent, a
            sign that the guard is missing in there.
    """
    if not inherit_parent_main:
        return {}
    _check_not_replaying()
    main = sys.modules['__main__']
    name: str | None = getattr(getattr(main, '__spec__', None), 'name', None)
    if name is not None:
        return {'init_main_from_name': name}
    path: str | None = getattr(main, '__file__', None)
    if path is None or path == '<stdin>' or _is_frozen():
        return {}
    if not os.path.isabs(path) and (start_dir := _original_dir()) is not None:
        path = os.path.join(start_dir, path)
    return {'init_main_from_path': os.path.normpath(path)}


def is_replayed(data: ParentMainData) -> bool:
    """Whether a child that is told this has the functions of its parent's main module."""
    name = data.get('init_main_from_name')
    if name is not None:
        return not _runs_without_guard(name)
    return 'init_main_from_path' in data


def _runs_without_guard(mod_name: str) -> bool:
    return mod_name == '__main__' or mod_name.endswith('.__main__')


def _check_not_replaying() -> None:
    mp_process = sys.modules.get('multiprocessing.process')
    if mp_process is None:
        return
    if getattr(mp_process.current_process(), '_inheriting', False):
        raise RuntimeError(
            'A child cannot start actors while it is still loading the main module of its parent. '
            "Put the code that runs the program under `if __name__ == '__main__':`, so that "
            'children can load the module without running it.'
        )


def _is_frozen() -> bool:
    """Whether the main module is inside an executable, or a service, and has no file of its own."""
    return sys.platform == 'win32' and (
        getattr(sys, 'frozen', False) or sys.executable.lower().endswith('pythonservice.exe')
    )


def _original_dir() -> str | None:
    mp_process: Any = sys.modules.get('multiprocessing.process')
    return _start_dir if mp_process is None else mp_process.ORIGINAL_DIR


def _fixup_main_from_name(mod_name: str) -> None:
    """
    Make the module `mod_name` the main one, unless it is already.

    A `__main__.py` is left alone: such a file runs its program without a guard.
    """
    if _runs_without_guard(mod_name):
        return
    main = sys.modules['__main__']
    if getattr(getattr(main, '__spec__', None), 'name', None) == mod_name:
        return
    import runpy

    _replace_main(runpy.run_module(mod_name, run_name='__mp_main__', alter_sys=True))


def _fixup_main_from_path(main_path: str) -> None:
    """
    Make the source file `main_path` the main module, unless it is already.

    The launch script of IPython is left alone, as it has no guard.
    """
    if os.path.splitext(os.path.basename(main_path))[0] == 'ipython':
        return
    if getattr(sys.modules['__main__'], '__file__', None) == main_path:
        return
    # a script finds its neighbours, wherever it was started
    folder = os.path.dirname(main_path)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import runpy

    _replace_main(runpy.run_path(main_path, run_name='__mp_main__'))


def _replace_main(content: dict[str, Any]) -> None:
    _old_mains.append(sys.modules['__main__'])
    main = ModuleType('__mp_main__')
    main.__dict__.update(content)
    sys.modules['__main__'] = sys.modules['__mp_main__'] = main
