"""
What another actor is to load and to run, checked before anything is started.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tractor.runtime._portal import _is_plain_coroutine_function
from tractor.spawn._mp_fixup_main import _mp_figure_out_main, is_replayed


def module_paths(*lists: list[str] | None) -> list[str]:
    """
    Several lists of module paths as one.

    Raises:
        TypeError: one is a string, whose characters would be taken for modules.
    """
    for paths in lists:
        if isinstance(paths, str):
            raise TypeError(f'modules must be given as a list of paths: [{paths!r}], not {paths!r}')
    return [path for paths in lists for path in paths or ()]


def module_level_name(fn: Callable[..., Any], inherit_parent_main: bool = True) -> tuple[str, str]:
    """
    The module and the name by which another actor finds an async function.

    Args:
        fn: the function.
        inherit_parent_main: whether that actor replays the main module of this program.

    Raises:
        TypeError: it is none, or cannot be found so.
    """
    if not _is_plain_coroutine_function(fn):
        raise TypeError(f'{fn!r} must be a non-streaming async function')
    module, name = getattr(fn, '__module__', None), getattr(fn, '__name__', None)
    if module is None or name is None or not hasattr(sys.modules.get(module), name):
        raise TypeError(
            f'{fn!r} cannot be run in another actor: it is not found as {name!r} in the module {module!r}\n'
            'define it at the top level of a module, and pass its arguments as keywords'
        )
    if module == '__main__' and not is_replayed(_mp_figure_out_main(inherit_parent_main)):
        raise TypeError(
            f'{fn!r} cannot be run in another actor, which does not load the main module of this program: it has '
            'no file that can be loaded again (the prompt, -c, standard input, a `__main__.py`), or '
            'inherit_parent_main=False was given\ndefine the function in a module of its own'
        )
    return module, name
