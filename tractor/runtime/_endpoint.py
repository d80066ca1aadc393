"""
What the decorators find out about a function, once, so that no call has to look again.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

from tractor import log as _log

log = _log.get_logger()


def find_context_param(func: Callable[..., Any], context_type: type) -> str:
    """
    The first parameter which is annotated with `context_type`, or a union with it.

    Raises:
        TypeError: there is none.
    """
    for name, hint in _annotations_of(func).items():
        if name != 'return' and _names_type(_evaluated(hint, func), context_type):
            return name
    raise TypeError(
        f'{func.__module__}.{func.__qualname__}() cannot be a context: '
        'one of its parameters must be typed `tractor.Context`'
    )


def signature_of(func: Callable[..., Any]) -> inspect.Signature:
    """The signature of a function; its annotations need not be evaluable."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return inspect.signature(func, annotation_format=annotationlib.Format.FORWARDREF)
    else:  # noqa: RET505 - for type checkers, which then know that only one of them exists
        return inspect.signature(func)


def _annotations_of(func: Callable[..., Any]) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        import annotationlib

        return dict(annotationlib.get_annotations(func, format=annotationlib.Format.FORWARDREF))
    else:  # noqa: RET505 - see above
        return dict(getattr(func, '__annotations__', {}))


def _evaluated(hint: Any, func: Callable[..., Any]) -> Any:
    """The value of an annotation; a string that cannot be evaluated is nothing of ours."""
    if not isinstance(hint, str):
        return hint
    closure = inspect.getclosurevars(func).nonlocals if getattr(func, '__closure__', None) else {}
    try:
        return eval(hint, getattr(func, '__globals__', {}), dict(closure))
    except Exception as err:  # noqa: BLE001 - an annotation is anybody's expression
        log.debug('annotation %r of %s is not evaluated: %s', hint, func, err)
        return None


def _names_type(hint: Any, wanted: type) -> bool:
    if hint is wanted:
        return True
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return wanted in typing.get_args(hint)
    return False
