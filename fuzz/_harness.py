"""What every target stands on: virtual time, and a watch over what the package reports only to a log or to stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio
import trio.testing
from trio._core import _run

import tractor  # noqa: F401 - registers what a target looks up

# virtual seconds after which a run counts as stuck: more than all timeouts of the package together
_LIMIT = 3600


class Stuck(AssertionError):
    """Nothing would ever happen any more, but the run has not ended."""


def run(fn: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """
    Run an async function to its end, in virtual time: where all tasks wait, the clock jumps.

    Tasks that are ready together run in an order that is the same each time.

    Raises:
        Stuck: it would wait forever.
    """

    async def main() -> Any:
        with trio.move_on_after(_LIMIT) as scope:
            return await fn(*args)
        assert scope.cancelled_caught
        raise Stuck(f'{fn.__qualname__} waits for something that does not come')

    with _same_order():
        try:
            return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        except BaseExceptionGroup as group:
            # what the fuzzer reports is the outermost error
            raise the_error(group) from None


@contextmanager
def _same_order() -> Iterator[None]:
    """Let the scheduler shuffle in the same way each time, as the plugin does that trio has for Hypothesis."""
    before = _run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r.getstate()
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run._r.seed(0)
    try:
        yield
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = before[0]  # type: ignore[misc]
        _run._r.setstate(before[1])


class _Reader(logging.Handler):
    """Reads every record as a handler of a user would; a record that cannot be read is a finding."""

    def __init__(self) -> None:
        super().__init__(level=1)
        self.formatter = logging.Formatter()
        self.failed: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.format(record)
        except Exception as err:  # noqa: BLE001 - kept, and raised once the input has been worked off
            self.failed = err


@contextmanager
def watched(everything: bool) -> Iterator[None]:
    """
    Fail if the block logs what cannot be rendered, or drops an exception where nobody can catch it.

    Args:
        everything: log at the lowest level; otherwise warnings and errors only.
    """
    reader = _Reader()
    logger = logging.getLogger('tractor')
    before = logger.level, logger.propagate, logger.handlers
    hook = sys.unraisablehook
    dropped: list[Any] = []
    logger.setLevel(1 if everything else logging.WARNING)
    logger.propagate, logger.handlers = False, [reader]
    sys.unraisablehook = dropped.append
    try:
        yield
    finally:
        logger.setLevel(before[0])
        logger.propagate, logger.handlers = before[1], before[2]
        sys.unraisablehook = hook
    if reader.failed is not None:
        raise AssertionError('a log record cannot be rendered') from reader.failed
    if dropped:
        raise AssertionError(f'dropped: {dropped[0].err_msg} {dropped[0].object!r}') from dropped[
            0
        ].exc_value


def the_error(err: BaseException) -> BaseException:
    """The one error in nested groups of one; an error by itself."""
    while isinstance(err, BaseExceptionGroup) and len(err.exceptions) == 1:
        err = err.exceptions[0]
    return err
