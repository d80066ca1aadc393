"""Exception groups: peel the layers that nested nurseries add.

Every strict nursery wraps what its tasks raise in one more group. A group of a single member says
nothing that the member does not say, so it is replaced by that member, at any depth.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from types import TracebackType

import trio

_COLLAPSED_NOTE = '( ^^^ this exc was collapsed from a group ^^^ )\n'


def collapse_exception_group(
    excgrp: BaseExceptionGroup[BaseException],
) -> BaseException:
    """Replace every single-member group in `excgrp` by its member, recursively.

    Returns:
        A bare exception, a rebuilt group that keeps traceback, notes, cause and context of the
        original, or `excgrp` itself if there was nothing to replace.
    """
    members = excgrp.exceptions
    collapsed = [
        collapse_exception_group(member) if isinstance(member, BaseExceptionGroup) else member
        for member in members
    ]
    if len(collapsed) == 1:
        return collapsed[0]

    if all(new is old for new, old in zip(collapsed, members, strict=True)):
        return excgrp

    return rebuild_group(excgrp, collapsed)


def rebuild_group(
    excgrp: BaseExceptionGroup[BaseException], members: list[BaseException]
) -> BaseExceptionGroup[BaseException]:
    """Return a group like `excgrp` with other `members`, as `BaseExceptionGroup.split()` would."""
    rebuilt = excgrp.derive(members)
    rebuilt.__cause__ = excgrp.__cause__
    rebuilt.__context__ = excgrp.__context__
    rebuilt.__suppress_context__ = excgrp.__suppress_context__
    for note in getattr(excgrp, '__notes__', ()):
        rebuilt.add_note(note)

    return rebuilt.with_traceback(excgrp.__traceback__)


def get_collapsed_eg(
    beg: BaseExceptionGroup[BaseException],
) -> BaseException | None:
    """Return `beg` collapsed, which may be a smaller group, or `None` if that changes nothing."""
    collapsed = collapse_exception_group(beg)
    return None if collapsed is beg else collapsed


class collapse_eg:
    """Async context manager that collapses an exception group raised by its body.

    Goes outside a nursery: `async with collapse_eg(), trio.open_nursery() as tn: ...`. Anything but
    a group passes unchanged. It neither checkpoints nor swallows.

    Args:
        hide_tb: keep its frame out of tracebacks that honour `__tracebackhide__`.
        ignore: result types for which the group is left as it is.
        add_notes: tell on the result that it came out of a group.
        bp: enter the debugger when a group has several members.

    Raises:
        BaseException: the collapsed result, from its own cause; the group is not its context.
    """

    __slots__ = ('_add_notes', '_bp', '_hide_tb', '_ignore')

    def __init__(
        self,
        hide_tb: bool = True,
        ignore: Collection[type[BaseException]] = frozenset(),
        add_notes: bool = True,
        bp: bool = False,
    ) -> None:
        self._hide_tb = hide_tb
        self._ignore = ignore
        self._add_notes = add_notes
        self._bp = bp

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if not isinstance(exc, BaseExceptionGroup):
            return

        __tracebackhide__ = self._hide_tb
        if self._bp and len(exc.exceptions) > 1:
            sys.breakpointhook()

        collapsed = get_collapsed_eg(exc)
        if collapsed is None or type(collapsed) in self._ignore:
            return

        if self._add_notes and _COLLAPSED_NOTE not in getattr(collapsed, '__notes__', ()):
            collapsed.add_note(_COLLAPSED_NOTE)

        # Raising sets the group as context, whatever the exception was raised under before, and
        # who looks for masked errors through the context would then find the group.
        context = collapsed.__context__
        suppressed = collapsed.__suppress_context__
        try:
            raise collapsed from collapsed.__cause__
        finally:
            collapsed.__context__ = context
            if context is not None:
                collapsed.__suppress_context__ = suppressed
            # The traceback holds this frame, which must not hold the exception in turn.
            del exc, collapsed, context, tb


def is_multi_cancelled(
    exc: BaseException,
    ignore_nested: Collection[type[BaseException]] = frozenset(),
) -> BaseExceptionGroup[BaseException] | bool:
    """Tell whether `exc` is a group of nothing but graceful cancellation.

    Args:
        exc: any exception; one that is not a group never counts.
        ignore_nested: types which count as cancellation besides `trio.Cancelled`.

    Returns:
        The group of matching leaves if every leaf matches, else `False`.
    """
    if not isinstance(exc, BaseExceptionGroup):
        return False

    graceful: tuple[type[BaseException], ...] = (trio.Cancelled, *ignore_nested)
    matching, rest = exc.split(graceful)
    if matching is None or rest is not None:
        return False

    return matching
