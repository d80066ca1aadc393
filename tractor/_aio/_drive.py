"""
The asyncio task of a linked pair: runs the user's coroutine step by step, and delivers the signal.

The signal is a plain `Task.cancel()`: that interrupts whatever the task waits for, cancels the tasks it awaits, and
reaches a task that is not waiting. What asyncio then throws is replaced by the signal on its way in, and taken back
with `Task.uncancel()`, so that timeouts and task groups around the coroutine see an ordinary exception.
"""

from __future__ import annotations

import asyncio
import inspect
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

from tractor._aio._link import Link

Ended = Callable[[BaseException | None, Any], None]


def _codes_of(*classes: type) -> frozenset[types.CodeType]:
    return frozenset(
        member.__code__
        for cls in classes
        for member in vars(cls).values()
        if inspect.iscoroutinefunction(member)
    )


# These hand on what they hold, or end their tasks, in an `except CancelledError`.
_CAREFUL_WITH = _codes_of(
    asyncio.Lock,
    asyncio.Semaphore,
    asyncio.Condition,
    asyncio.Barrier,
    asyncio.TaskGroup,
)


def waits_in_primitive(coro: Any) -> bool:
    """
    Whether a suspended coroutine waits in a primitive of asyncio which must see a `CancelledError`.

    Args:
        coro: the outermost coroutine.
    """
    while coro is not None:
        if getattr(coro, 'cr_code', None) in _CAREFUL_WITH:
            return True
        coro = getattr(coro, 'cr_await', None) or getattr(coro, 'gi_yieldfrom', None)
    return False


@types.coroutine
def drive(link: Link, coro: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """
    Run a coroutine in the current asyncio task, with the signal of its link in place of the cancellation.

    Args:
        link: the pair.
        coro: the user's coroutine.

    Returns:
        Its result.
    """
    step: Callable[[Any], Any] = coro.send
    value: Any = None
    while True:
        try:
            awaited = step(value)
        except StopIteration as stop:
            return stop.value
        try:
            value = yield awaited
        except asyncio.CancelledError as cancelled:
            step, value = coro.throw, cancelled
            if link.pending is not None:
                value = _signal(link, coro)
        except BaseException as error:  # noqa: BLE001 - handed on to where it belongs
            step, value = coro.throw, error
        else:
            step = coro.send
            if link.pending is not None:
                # a task that was awaited swallowed the cancellation
                step, value = coro.throw, _signal(link, coro)


def _signal(link: Link, coro: Coroutine[Any, Any, Any]) -> BaseException:
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()
    return link.take_signal(careful=waits_in_primitive(coro))


async def supervise(link: Link, coro: Coroutine[Any, Any, Any], ended: Ended) -> None:
    """
    The main coroutine of the asyncio task; its error is told and not raised: that would only be printed.

    Args:
        link: the pair.
        coro: the user's coroutine.
        ended: called with `(error, result)`, within the task's last step.
    """
    try:
        result = await drive(link, coro)
    except (asyncio.CancelledError, GeneratorExit) as err:
        ended(err, None)
        raise
    except BaseException as err:  # noqa: BLE001 - raised by the trio task; an interrupt would stop the loop here
        ended(err, None)
    else:
        ended(None, result)


def as_coroutine(target: Callable[..., Any], made: Any) -> Coroutine[Any, Any, Any]:
    """
    What a target returned when called, as a coroutine.

    Args:
        target: it, for the message.
        made: its result.

    Raises:
        TypeError: that cannot be awaited.
    """
    if inspect.iscoroutine(made):
        return made
    if inspect.isawaitable(made):
        return _await(made)
    raise TypeError(
        f'{target!r} returned {made!r}, which asyncio cannot await: pass an `async def` function'
    )


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
