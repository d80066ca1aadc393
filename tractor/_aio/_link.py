"""
The state of a linked pair: one trio task in a block, one asyncio task that lives no longer than the block.

| state | trio task | asyncio task | values for trio | values for asyncio |
|---|---|---|---|---|
| linked | in its block | runs | flow | flow |
| alone | in its block | returned | what is buffered, then the end | refused |
| failed | in its block, which the link cancels | raised, or was cancelled | what is buffered, then the error | refused |
| leaving | waits, shielded | got the signal, unwinds | refused | what is buffered, then `QueueShutDown` |
| over | left | ended | refused | refused |

Two things happen to a pair, in either order: the asyncio task ends, and trio leaves. If trio is first it injects a
*signal*, `TrioTaskExited` or `TrioCancelled`, into the asyncio task. That the task ends with this very signal, with a
`CancelledError`, or because the channel is closed to it, or with a group of nothing else, is an *echo* and no error.
Everything else it raises is its *failure*; a cancellation that is not trio's is one too, as an `AsyncioCancelled`.

What leaves the block, once both have ended:

| the body | the asyncio task | leaves the block |
|---|---|---|
| ended | returned | nothing |
| ended | echoed | nothing; the signal, if graceful exits are not suppressed |
| ended, was cancelled, or raised the failure | failed | the failure, bare |
| was cancelled | returned, or echoed | the cancellation |
| raised an error of its own | returned, or echoed | that error |
| raised an error of its own | failed | that error, caused by the failure |

Nothing in this module waits or schedules: it is told what happened, and answers what to do.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import Any

import trio

from tractor._aio._queue import QueueShutDown
from tractor._exceptions import AsyncioCancelled, AsyncioTaskExited, TrioCancelled, TrioTaskExited


class State(enum.Enum):
    """Where a pair is, see the table at the top of this module."""

    LINKED = 'linked'
    ALONE = 'alone'
    FAILED = 'failed'
    LEAVING = 'leaving'
    OVER = 'over'


class Event(enum.Enum):
    """What happens to a pair."""

    RETURNED = 'the asyncio task returned'
    RAISED = 'the asyncio task raised, or was cancelled'
    LEFT = 'the trio task left its block'


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.LINKED, Event.RETURNED): State.ALONE,
    (State.LINKED, Event.RAISED): State.FAILED,
    (State.LINKED, Event.LEFT): State.LEAVING,
    (State.ALONE, Event.LEFT): State.OVER,
    (State.FAILED, Event.LEFT): State.OVER,
    (State.LEAVING, Event.RETURNED): State.OVER,
    (State.LEAVING, Event.RAISED): State.OVER,
}


class CarefulTrioTaskExited(TrioTaskExited, asyncio.CancelledError):
    """A signal that asyncio's own primitives take for the cancellation it is; see `Link.take_signal()`."""


class CarefulTrioCancelled(TrioCancelled, asyncio.CancelledError):
    """The same, of a trio task which was cancelled or failed."""


class Link:
    """
    A linked pair.

    Args:
        suppress_graceful_exits: that one side ends before the other is no error.
    """

    def __init__(self, suppress_graceful_exits: bool = True) -> None:
        self.suppress_graceful_exits = suppress_graceful_exits
        self.state = State.LINKED
        self.result: Any = None
        # what the asyncio task raised, and what of it is not an echo
        self.error: BaseException | None = None
        self.failure: BaseException | None = None
        # what trio injects, and the same until the asyncio task has got it
        self.signal: TrioTaskExited | None = None
        self.pending: TrioTaskExited | None = None

    def __repr__(self) -> str:
        return f'<Link {self.state.value}>'

    @property
    def runs(self) -> bool:
        """Whether the asyncio task has not ended."""
        return self.state in (State.LINKED, State.LEAVING)

    @property
    def inside(self) -> bool:
        """Whether the trio task is in its block."""
        return self.state not in (State.LEAVING, State.OVER)

    def _happens(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state, event]

    # -- the asyncio task -----------------------------------------------------------------------------------------

    def ended(self, error: BaseException | None, result: Any = None) -> None:
        """
        The asyncio task has ended.

        Args:
            error: what it raised.
            result: what it returned.
        """
        self.error, self.result = error, result
        self.failure = self._failure_in(error)
        self._happens(Event.RETURNED if error is None else Event.RAISED)

    def _failure_in(self, error: BaseException | None) -> BaseException | None:
        if self.signal is not None:
            error = _without(error, self._is_echo)
        if not isinstance(error, asyncio.CancelledError):
            return error
        cancelled = AsyncioCancelled(
            'the asyncio task was cancelled, and not by the trio task it is linked with'
        )
        cancelled.__cause__ = error
        return cancelled

    def _is_echo(self, error: BaseException) -> bool:
        return error is self.signal or isinstance(
            error,
            asyncio.CancelledError
            | QueueShutDown
            | trio.BrokenResourceError
            | trio.ClosedResourceError,
        )

    def take_signal(self, careful: bool) -> TrioTaskExited:
        """
        The signal, to be raised in the asyncio task now.

        Args:
            careful: it will be raised in a primitive of asyncio which keeps what it guards in order only
                through a `CancelledError`: be one, too.
        """
        signal, self.pending = self.pending, None
        assert signal is not None
        if not careful:
            return signal
        kind = CarefulTrioCancelled if isinstance(signal, TrioCancelled) else CarefulTrioTaskExited
        alike = kind(*signal.args)
        alike.__cause__ = signal.__cause__
        return alike

    # -- the trio task --------------------------------------------------------------------------------------------

    def left(self, body: BaseException | None) -> TrioTaskExited | None:
        """
        The trio task has left its block.

        Args:
            body: what it raised, a cancellation included.

        Returns:
            The signal to be delivered, `None` if the asyncio task has ended.
        """
        if self.runs:
            self.signal = self.pending = _signal_for(body)
        self._happens(Event.LEFT)
        return self.signal

    def ending(self) -> BaseException:
        """What a trio task gets which wants a value, when there will be none."""
        if self.failure is not None:
            return self.failure
        if self.suppress_graceful_exits or self.error is not None:
            return trio.EndOfChannel('the asyncio task has ended')
        return AsyncioTaskExited('the asyncio task returned while values were expected of it')

    def verdict(self, body: BaseException | None) -> BaseException | None:
        """
        What leaves the block, by the table at the top of this module; both have ended.

        Args:
            body: what the body raised.
        """
        failure = self.failure
        if failure is None:
            if body is None and self.error is not None and not self.suppress_graceful_exits:
                return self.signal
            return body
        if _without(body, lambda e: e is failure or isinstance(e, trio.Cancelled)) is None:
            return failure
        assert body is not None
        if body.__cause__ is None and body is not failure:
            self._chain(body, failure)
        return body

    def _chain(self, body: BaseException, failure: BaseException) -> None:
        """Make the failure the body's cause; it was most likely raised while handling the signal, whose cause is the body."""
        if self.signal is not None and self.signal.__cause__ is body:
            self.signal.__cause__ = None
        if not _leads_to(failure, body):
            body.__cause__ = failure


def _signal_for(body: BaseException | None) -> TrioTaskExited:
    if body is None:
        return TrioTaskExited('the trio task has left the block that started this task')
    signal = TrioCancelled('the trio task that started this one was cancelled, or has failed')
    signal.__cause__ = body
    return signal


def _without(
    error: BaseException | None, unwanted: Callable[[BaseException], bool]
) -> BaseException | None:
    """An error less what is not wanted of it: itself, part of a group, or `None`."""
    if isinstance(error, BaseExceptionGroup):
        # Python 3.12 takes no bound method there
        return error.split(lambda one: unwanted(one))[1]  # noqa: PLW0108
    return None if error is None or unwanted(error) else error


def _leads_to(error: BaseException, other: BaseException) -> bool:
    """Whether `other` is among the causes and contexts of `error`."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is other:
            return True
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            todo += [one.__cause__, one.__context__]
    return False
