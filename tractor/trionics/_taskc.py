"""Cancellation and errors: bring back what a cancellation hides.

A checkpoint in a `finally` or `__aexit__` of a cancelled task raises `trio.Cancelled` while an
error is on its way out. The error then lives on only as the cancellation's `__context__`, and the
cancel scope swallows both. `maybe_raise_from_masking_exc()` raises the error instead.

A context is not always a masked error: `trio.Lock.acquire()` parks inside an `except WouldBlock`,
so every cancelled wait for a lock has that as its context. `_mask_cases` lists such cases.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import Any

import trio

from ..log import get_logger
from ._beg import rebuild_group
from ._boxed import BoxedMaybeException

log = get_logger()

type _ExcTypes = Collection[type[BaseException]]

# By type of the context: the frames, any of which in the masking exception's traceback makes it
# harmless. The inner keys are where the frame was first seen, from the end; only labels here.
_mask_cases: dict[type[BaseException], dict[int, dict[str, str]]] = {
    trio.WouldBlock: {
        -5: {'filename': 'trio/_sync.py', 'function': 'acquire'},
        -4: {'filename': 'trio/_sync.py', 'function': 'acquire_on_behalf_of'},
    },
}

_NEVER_WARN_ON: Mapping[type[BaseException], type[BaseException]] = MappingProxyType(
    {
        KeyboardInterrupt: trio.Cancelled,
        trio.Cancelled: trio.Cancelled,
    }
)

_MASKED_NOTE = (
    'This error was masked by a later one, normally a `trio.Cancelled` from a checkpoint in a\n'
    '`finally` or `__aexit__`. Shield that checkpoint with `trio.CancelScope(shield=True)`.\n'
)

# trio's own words when a child returns before `task_status.started()`
_NEVER_STARTED = 'child exited without calling task_status.started()'


def find_masked_excs(masker: BaseException, unmask_from: _ExcTypes) -> BaseException | None:
    """Return the context of `masker` if its exact type is in `unmask_from`, else `None`."""
    return masker.__context__ if type(masker) in unmask_from else None


def _iter_frames(tb: TracebackType | None) -> Iterator[tuple[str, str]]:
    while tb is not None:
        code = tb.tb_frame.f_code
        yield code.co_filename.replace('\\', '/'), code.co_name
        tb = tb.tb_next


def _is_harmless(masker: BaseException, context: BaseException) -> bool:
    """Tell whether `_mask_cases` explains why `masker` has this context."""
    cases = _mask_cases.get(type(context))
    if not cases:
        return False

    return any(
        function == case['function'] and filename.endswith(case['filename'])
        for filename, function in _iter_frames(masker.__traceback__)
        for case in cases.values()
    )


def _find_innermost(exc: BaseException, unmask_from: _ExcTypes) -> BaseException | None:
    """Return the error at the bottom of a chain of masking exceptions, `None` if there is none.

    Two checkpoints on the way out, as in nested `async with` blocks, mask twice.
    """
    masked: BaseException | None = None
    masker, context = exc, find_masked_excs(exc, unmask_from)
    seen = {id(exc)}
    while context is not None and id(context) not in seen:
        seen.add(id(context))
        if _is_harmless(masker, context):
            context = context.__context__
            continue

        masked = masker = context
        context = find_masked_excs(masker, unmask_from)

    return masked


class maybe_raise_from_masking_exc:
    """Async context manager that raises the error which an exception from its body masks.

    If the body ends with an exception X whose exact type is in `unmask_from` and whose context is
    M, then M was masked: X is put in the box and M is raised from X. Of a group the direct members
    are looked at, and those which mask are replaced; a group that holds nothing but one such member
    and cancellation is replaced as a whole. Anything else passes unchanged.

    It neither checkpoints nor swallows.

    Args:
        unmask_from: exact types of masking exceptions; none if empty.
        raise_unmasked: if false, only report: the original passes.
        extra_note: text put on M as a note.
        always_warn_on: types of X for which M is logged as a warning with its traceback, even
            though it is raised too. For other types that is done only if M is not raised.
        never_warn_on: by type of M, the exact type of X for which M is neither noted nor logged.

    Returns:
        On entry a `BoxedMaybeException`, whose `raise_on_exit` is `raise_unmasked`; the body may
        assign it. Its `value` becomes X, or the group if several members mask.

    Raises:
        ValueError: if `unmask_from` is not a tuple.
    """

    __slots__ = ('_always_warn_on', '_box', '_extra_note', '_never_warn_on', '_unmask_from')

    def __init__(
        self,
        unmask_from: tuple[type[BaseException], ...] = (trio.Cancelled,),
        raise_unmasked: bool = True,
        extra_note: str = _MASKED_NOTE,
        always_warn_on: tuple[type[BaseException], ...] = (trio.Cancelled,),
        never_warn_on: Mapping[type[BaseException], type[BaseException]] = _NEVER_WARN_ON,
    ) -> None:
        if not isinstance(unmask_from, tuple):
            raise ValueError(f'`unmask_from` must be a tuple of types, not {unmask_from!r}')

        self._unmask_from = unmask_from
        self._extra_note = extra_note
        self._always_warn_on = always_warn_on
        self._never_warn_on = never_warn_on
        self._box = BoxedMaybeException(raise_on_exit=raise_unmasked)

    async def __aenter__(self) -> BoxedMaybeException:
        return self._box

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if exc is None or not (pairs := self._find_pairs(exc)):
            return

        __tracebackhide__ = True
        box = self._box
        box.value = pairs[0][0] if len(pairs) == 1 else exc
        for masker, masked in pairs:
            self._report(masker, masked)

        if not (raisable := [pair for pair in pairs if box.reraises(pair[1])]):
            return

        outcome = _unmask(exc, raisable)
        context = outcome.__context__
        try:
            raise outcome
        finally:
            # Raising has set `exc` as context; of a group that would show its members twice.
            outcome.__context__ = context
            # The traceback holds this frame, which must not hold the exceptions in turn.
            del exc, tb, pairs, raisable, masker, masked, outcome, context

    def _find_pairs(self, exc: BaseException) -> list[tuple[BaseException, BaseException]]:
        """Return (masking, masked), each masked exception once and only if nothing else has it."""
        members = exc.exceptions if isinstance(exc, BaseExceptionGroup) else (exc,)
        surfaced = {id(member) for member in members}
        pairs = []
        for masker in members:
            masked = _find_innermost(masker, self._unmask_from)
            if masked is not None and id(masked) not in surfaced:
                surfaced.add(id(masked))
                pairs.append((masker, masked))

        return pairs

    def _report(self, masker: BaseException, masked: BaseException) -> None:
        if self._never_warn_on.get(type(masked)) is type(masker):
            return

        if self._extra_note not in getattr(masked, '__notes__', ()):
            masked.add_note(self._extra_note)
        if type(masker) in self._always_warn_on or not self._box.reraises(masked):
            log.warning(
                '%s was masked by %s',
                type(masked).__name__,
                type(masker).__name__,
                exc_info=masked,
            )


def _chain(masker: BaseException, masked: BaseException) -> BaseException:
    """Make `masker` the cause of `masked`, which hands its own cause or context down to it."""
    origin = masked.__cause__
    if origin is None and not masked.__suppress_context__:
        origin = masked.__context__
    masker.__context__ = origin
    masked.__context__ = masked.__cause__ = masker
    return masked


def _unmask(
    exc: BaseException,
    pairs: list[tuple[BaseException, BaseException]],
) -> BaseException:
    """Return what to raise for `exc`, given the (masking, masked) pairs in it.

    A group is kept, with its masking members replaced, if more would be lost than cancellation.
    """
    for masker, masked in pairs:
        _chain(masker, masked)
    masked_by = {id(masker): masked for masker, masked in pairs}
    if not isinstance(exc, BaseExceptionGroup):
        return masked_by[id(exc)]

    others = [member for member in exc.exceptions if id(member) not in masked_by]
    if len(pairs) == 1 and all(isinstance(other, trio.Cancelled) for other in others):
        return pairs[0][1]

    return rebuild_group(exc, [masked_by.get(id(member), member) for member in exc.exceptions])


async def start_or_cancel(
    nursery: trio.Nursery,
    async_fn: Callable[..., Awaitable[object]],
    *args: Any,
    name: object = None,
) -> Any:
    """Call `nursery.start()`, but let a cancellation around the call be seen as one.

    A child that swallows its cancellation returns without `task_status.started()`, for which trio
    raises `RuntimeError`. If the caller is cancelled too, that is noise.

    Returns:
        What the child passed to `task_status.started()`.

    Raises:
        trio.Cancelled: instead of that `RuntimeError`, if the caller is cancelled.
        BaseException: whatever `nursery.start()` raises otherwise.
    """
    try:
        return await nursery.start(async_fn, *args, name=name)
    except RuntimeError as err:
        text = err.args[0] if err.args else None
        if not isinstance(text, str) or text != _NEVER_STARTED:
            raise
        never_started = err

    # Outside the handler, else the `Cancelled` would seem to mask the error.
    await trio.lowlevel.checkpoint_if_cancelled()
    try:
        raise never_started
    finally:
        del never_started
