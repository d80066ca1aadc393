"""References to Python objects that can be sent: `'module.path:name'`."""

from __future__ import annotations

import inspect
from typing import Any, Self


class NamespacePath(str):
    """
    A string `'module.path:obj_name'` which can be resolved to the object that it names.

    It travels as a plain string in the fields of the runtime's own messages. As a payload it
    needs encode and decode hooks, like any other subclass of `str`.
    """

    _ref: Any = None

    def load_ref(self) -> Any:
        """
        Import and return the named object; looked up once.

        Raises:
          ValueError: this is no valid path.
          ImportError: there is no such module.
          AttributeError: the module has no such object.
        """
        if self._ref is None:
            from pkgutil import resolve_name

            self._ref = resolve_name(self)
        return self._ref

    @classmethod
    def from_ref(cls, ref: Any) -> Self:
        """Name a function, bound method or class; of any other object its type."""
        return cls(':'.join(_namespace_of(ref)))

    def to_tuple(self) -> tuple[str, str]:
        """Split into the path of the module and the name of the object in it."""
        module, _, name = self.partition(':')
        return module, name


def _namespace_of(ref: Any) -> tuple[str, str]:
    if inspect.ismethod(ref):
        owner = ref.__self__ if isinstance(ref.__self__, type) else type(ref.__self__)
        return owner.__module__, f'{owner.__qualname__}.{ref.__name__}'
    if isinstance(ref, type):
        return ref.__module__, ref.__qualname__
    if inspect.isroutine(ref):
        return ref.__module__, ref.__name__
    return type(ref).__module__, type(ref).__qualname__
