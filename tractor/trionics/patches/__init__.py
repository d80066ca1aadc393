"""Corrections to trio itself, one module each with `is_needed()`, `apply()` and `repro()`."""

from __future__ import annotations

from . import _wakeup_socketpair

_PATCHES = {
    'wakeup_socketpair': _wakeup_socketpair,
}


def apply_all() -> dict[str, bool]:
    """Apply the patches that this trio needs.

    Returns:
        By name, whether the patch was applied by this call; applying again changes nothing.
    """
    return {name: patch.apply() for name, patch in _PATCHES.items()}
