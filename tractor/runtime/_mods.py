"""
The modules whose functions peers may call.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from tractor import log as _log
from tractor.spawn import _mp_fixup_main

log = _log.get_logger()


def get_mod_nsps2fps(mod_ns_paths: Iterable[str]) -> dict[str, str]:
    """
    Import modules and say where each lives.

    Args:
        mod_ns_paths: dotted module paths.

    Returns:
        module path -> absolute path of its file; `''` for a module without one.

    Raises:
        ModuleNotFoundError: there is no such module; other errors of importing one pass too.
    """
    if isinstance(mod_ns_paths, str):
        raise TypeError(f'enable_modules must be a list of module paths, not {mod_ns_paths!r}')
    files: dict[str, str] = {}
    for path in mod_ns_paths:
        module = importlib.import_module(path)
        file = getattr(module, '__file__', None)
        files[path] = str(Path(file).absolute()) if file else ''
    return files


def load_modules(files: dict[str, str], parent_main: dict[str, str]) -> dict[str, ModuleType]:
    """
    Import the exposed modules, after replaying the parent's `__main__`.

    Args:
        files: what `get_mod_nsps2fps()` said in the parent.
        parent_main: `init_main_from_name` or `init_main_from_path`; empty to leave `__main__` alone.

    Returns:
        module path -> module; `'__main__'` also as `'__mp_main__'`.

    Raises:
        ModuleNotFoundError: a module is not there in this process.
    """
    _replay_main(parent_main)
    modules: dict[str, ModuleType] = {}
    for path, file in files.items():
        folder = str(Path(file).parent) if file else ''
        if folder and folder not in sys.path:
            sys.path.append(folder)
        try:
            modules[path] = importlib.import_module(path)
        except ModuleNotFoundError:
            log.exception('the module %s (%s) cannot be found here', path, file)
            raise
        if path == '__main__':
            modules['__mp_main__'] = modules[path]
    return modules


def _replay_main(parent_main: dict[str, Any]) -> None:
    try:
        if name := parent_main.get('init_main_from_name'):
            _mp_fixup_main._fixup_main_from_name(name)
        elif path := parent_main.get('init_main_from_path'):
            _mp_fixup_main._fixup_main_from_path(path)
    except Exception as err:
        err.add_note(
            "This happened while a child loaded its parent's main module. If that runs the program, "
            "put it below `if __name__ == '__main__':`"
        )
        raise
