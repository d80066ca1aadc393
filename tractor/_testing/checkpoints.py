"""Cancelling an operation at each of its checkpoints in turn.

.. code-block:: python

   async def check(nth: int) -> Run:
       thing = await make()
       run = await cancelled_at(nth, thing.use)
       await look_at(thing, run)
       return run


   await at_each_checkpoint(check, least=3)

Counted are the steps of the task that runs the operation, or of all tasks, so nothing depends on time. A checkpoint
that is shielded cannot be cancelled, but what comes after it can.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import trio
from trio.abc import Instrument


@dataclass(frozen=True)
class Run:
    """
    How an operation went.

    `reached`: it came as far as the checkpoint at which it was to be cancelled. `cancelled`: it was, by an exception.
    `value`: what it returned, `None` if it was cancelled.
    """

    reached: bool
    cancelled: bool
    value: Any = None


class _CancelAt(Instrument):
    def __init__(self, nth: int, scope: trio.CancelScope, task: trio.lowlevel.Task | None) -> None:
        self._task = task
        self._left = nth
        self._scope = scope

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._task is None or task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


async def cancelled_at(
    nth: int, fn: Callable[..., Awaitable[Any]], *args: Any, of_all_tasks: bool = False
) -> Run:
    """
    Await `fn(*args)`, cancelled at its n-th checkpoint.

    Args:
        nth: counts from 1; 0 is before it begins.
        fn: the operation; it runs in the calling task.
        args: for it.
        of_all_tasks: count the steps of all tasks, for an operation that waits for tasks of its own.

    Whatever else the operation raises is raised.
    """
    with trio.CancelScope() as scope:
        task = None if of_all_tasks else trio.lowlevel.current_task()
        instrument = _CancelAt(nth, scope, task)
        if nth == 0:
            scope.cancel()
        trio.lowlevel.add_instrument(instrument)
        try:
            value = await fn(*args)
        finally:
            trio.lowlevel.remove_instrument(instrument)
        return Run(scope.cancel_called, False, value)
    return Run(True, True)


async def at_each_checkpoint(check: Callable[[int], Awaitable[Run]], least: int) -> None:
    """
    Make a check for every checkpoint of an operation, beginning with the moment before it.

    Args:
        check: has the operation cancelled at the given checkpoint, looks at what is left, and returns how it went.
        least: checkpoints there are at least; with fewer this would prove nothing.

    Raises:
        AssertionError: there are fewer checkpoints, or it could not be cancelled at any.
    """
    cancelled = 0
    for nth in itertools.count():
        run = await check(nth)
        cancelled += run.cancelled
        if not run.reached:
            break
    assert nth > least, f'there are {nth - 1} checkpoints only'
    assert cancelled, 'none of its checkpoints can be cancelled'
