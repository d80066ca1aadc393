"""Async context managers that open others: a nursery if need be, many managers at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeVar

import trio

from ._cache import maybe_open_context as maybe_open_context

T = TypeVar('T')


class _Unset:
    """The type of the mark for a manager that has not been entered."""


_UNSET: Final = _Unset()


@asynccontextmanager
async def maybe_open_nursery(
    nursery: Any = None,
    shield: bool = False,
    lib: Any = trio,
    **kwargs: Any,
) -> AsyncGenerator[Any, None]:
    """Yield the given nursery, else a new one that is closed at exit.

    Args:
        nursery: anything but `None` is yielded untouched, and not waited for at exit.
        shield: shield the new nursery's cancel scope; for trio's nurseries only.
        lib: the module whose `open_nursery(**kwargs)` makes a new one.
    """
    if nursery is not None:
        yield nursery
        return

    async with lib.open_nursery(**kwargs) as new_nursery:
        if lib is trio:
            new_nursery.cancel_scope.shield = shield
        yield new_nursery


class _Gathering[T]:
    """The managers of one `gather_contexts()`: each task enters one and holds it until `release`.

    `settled` is set as soon as all are entered, or one task has ended early.
    """

    def __init__(self, count: int) -> None:
        self.values: list[T | _Unset] = [_UNSET] * count
        self.not_entered = count
        self.settled = trio.Event()
        self.release = trio.Event()

    async def hold(self, index: int, mngr: AbstractAsyncContextManager[T]) -> None:
        try:
            async with mngr as value:
                self.values[index] = value
                self.not_entered -= 1
                if not self.not_entered:
                    self.settled.set()
                await self.release.wait()
        finally:
            self.settled.set()

    async def wait_entered(self) -> tuple[T, ...]:
        await self.settled.wait()
        if not self.not_entered:
            return tuple(value for value in self.values if not isinstance(value, _Unset))

        # The failed task has cancelled its nursery, normally this task with it. A foreign nursery
        # need not enclose this task, which would then wait for good.
        await trio.lowlevel.checkpoint_if_cancelled()
        raise RuntimeError(
            'A manager could not be entered; its error leaves through the nursery given as `tn`'
        )


@asynccontextmanager
async def gather_contexts(
    mngrs: Iterable[AbstractAsyncContextManager[T]],
    tn: trio.Nursery | None = None,
) -> AsyncGenerator[tuple[T, ...], None]:
    """Enter async context managers concurrently, each in its own task.

    Args:
        mngrs: the managers; a generator will do.
        tn: start the tasks in this nursery, which then also waits for the managers' exits.

    Yields:
        What the managers yielded, in the order given, once all are entered.

    Raises:
        ValueError: if there are no managers.
        BaseExceptionGroup: with the errors of the body and the managers.

    All managers exit concurrently when the body ends; an error in one, or in the body, cancels the
    others.
    """
    managers = list(mngrs)
    if not managers:
        raise ValueError('`mngrs` is empty: pass at least one manager (is it a used-up generator?)')

    gathering = _Gathering[T](len(managers))
    async with maybe_open_nursery(nursery=tn) as nursery:
        try:
            for index, mngr in enumerate(managers):
                nursery.start_soon(gathering.hold, index, mngr)
            yield await gathering.wait_entered()
        finally:
            # A foreign nursery is not cancelled when the body fails; its tasks must still end.
            gathering.release.set()
