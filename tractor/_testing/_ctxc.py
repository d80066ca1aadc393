"""Expecting a task to be cancelled by its peer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tractor._exceptions import ContextCancelled
from tractor.trionics._boxed import BoxedMaybeException


@asynccontextmanager
async def expect_ctxc(yay: bool, reraise: bool = False) -> AsyncIterator[BoxedMaybeException]:
    """Require, if `yay`, that the block raises a `ContextCancelled`.

    Args:
        yay: whether the error is expected; if not, the block runs as if without this manager.
        reraise: let the expected error out instead of swallowing it.

    Yields:
        A box whose `.value` is the error once the block was left by it, else `None`.

    Raises:
        RuntimeError: the error was expected and did not come.
    """
    boxed = BoxedMaybeException()
    if not yay:
        yield boxed
        return
    try:
        yield boxed
    except ContextCancelled as ctxc:
        boxed.value = ctxc
        if reraise:
            raise
    else:
        raise RuntimeError(
            'the block was expected to raise a `ContextCancelled`, it ended normally'
        )
