"""
The targets: modules with `one_input(data)`, which returns if the package does with this input what it promises,
and `seeds()`, inputs to start from.
"""

from __future__ import annotations

import importlib
from types import ModuleType

NAMES = ('framing', 'envelope', 'dialog', 'handshake', 'auth', 'errors', 'addresses')


def load(name: str) -> ModuleType:
    """The module of a target."""
    return importlib.import_module(f'{__name__}.{name}')
