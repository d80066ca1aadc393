"""
What leaves a block whose body, or whose children, failed.

| errors | raised |
|---|---|
| one | that very exception |
| several | a group of them, the body's first, the others in the order in which they came |
| an interrupt among them | the interrupt, bare; the others are logged |
| one that is inside of another one, too | only the outer one |
| a cancellation beside errors | the errors: what was cancelled absorbs none of them |
"""

from __future__ import annotations

from collections.abc import Iterable

import trio

from tractor import log as _log
from tractor.trionics._beg import is_multi_cancelled

log = _log.get_logger()


def is_cancellation(err: BaseException | None) -> bool:
    """Whether this is trio's cancellation and nothing else, bare or in a group."""
    return isinstance(err, trio.Cancelled) or bool(err is not None and is_multi_cancelled(err))


def merge(
    errors: Iterable[BaseException], interrupt: BaseException | None = None, text: str = 'errors'
) -> BaseException | None:
    """
    The one exception to raise, see the table above.

    Args:
        errors: what was raised, in order.
        interrupt: the interrupt that ended the block, if one did.
        text: the message of a group.
    """
    unique = _without_repeats(list(errors))
    if interrupt is not None:
        for err in unique:
            if err is not interrupt and not is_cancellation(err):
                log.error('besides the interrupt there was %r', err)
        return interrupt
    real = [err for err in unique if not is_cancellation(err)] or unique[:1]
    if len(real) > 1:
        return BaseExceptionGroup(text, real)
    return real[0] if real else None


def _without_repeats(errors: list[BaseException]) -> list[BaseException]:
    inside: set[int] = set()
    for err in errors:
        if isinstance(err, BaseExceptionGroup):
            inside |= _members(err)
    return list({id(err): err for err in errors if id(err) not in inside}.values())


def _members(group: BaseExceptionGroup[BaseException]) -> set[int]:
    found: set[int] = set()
    for member in group.exceptions:
        found.add(id(member))
        if isinstance(member, BaseExceptionGroup):
            found |= _members(member)
    return found
