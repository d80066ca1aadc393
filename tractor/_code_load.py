"""Loading source files as modules."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_module_from_path(path: Path, module_name: str | None = None) -> ModuleType:
    """
    Run a source file as a module and put it into `sys.modules`.

    Args:
        path: of the source file, whatever its suffix.
        module_name: what to call it; by default the file name without its suffix. A loaded module
            of this name is replaced.

    Raises:
        FileNotFoundError: there is no such file.
        Exception: whatever the file raises; `sys.modules` is as before.
    """
    path = Path(path)
    name = module_name or path.stem
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None:
        raise ImportError(f'Cannot load {path} as a module.', name=name, path=str(path))
    module = importlib.util.module_from_spec(spec)
    replaced = sys.modules.get(name)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        if replaced is not None:
            sys.modules[name] = replaced
        raise
    return module
