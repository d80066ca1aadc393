"""One resource for many tasks: `maybe_open_context()` and what it keeps per trio run.

Each resource that is opened has an entry of its own; the next one of the same key has another, so that nobody of the
first is ever counted among the users of the second.

| entry | users | a task that comes | left when | for |
|---|---|---|---|---|
| opening | 0 | waits, in turn | the resource is entered | open |
| opening | 0 | waits, in turn | entering fails or is cancelled | gone: the opener gets the error, the next one opens |
| open | 1 and more | gets the value | the last user leaves | closing |
| open | 1 and more | gets the value | the resource ends by itself, or its nursery is cancelled | ended |
| closing | 0 | waits, in turn | the resource's `__aexit__` is over | gone: the last user gets its error |
| ended | 1 and more | opens the next one | the last user leaves | gone: that one gets the error |
| gone | 0 | opens the next one | never | - |

The tasks that come wait for a lock of their key, which keeps their order and which is held while a resource is being
entered. The count of users changes without a checkpoint, so that leaving needs no lock, and keys do not block each
other.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import trio

from ._taskc import start_or_cancel

T = TypeVar('T')

_NO_KWARGS: Mapping[str, Any] = MappingProxyType({})

_service_nursery: Callable[[], trio.Nursery | None] | None = None


def set_service_nursery_source(source: Callable[[], trio.Nursery | None]) -> None:
    """Say where `maybe_open_context()` runs resources for which no nursery is given; for the layer that knows."""
    global _service_nursery  # noqa: PLW0603 - set once, when that layer is loaded
    _service_nursery = source


class _Entry:
    """One resource, from its opening to its end; see the table above."""

    def __init__(self) -> None:
        self.value: Any = None
        self.users = 0
        self.no_more_users = trio.Event()
        self.ended = trio.Event()
        self.error: Exception | None = None
        self.task: trio.lowlevel.Task | None = None

    async def hold(
        self,
        manager: Callable[[], AbstractAsyncContextManager[Any]],
        forget: Callable[[], None],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Keep the resource open until its last user has left; the body of a task of its own."""
        self.task = trio.lowlevel.current_task()
        entered = False
        try:
            async with manager() as self.value:
                entered = True
                self.users = 1
                task_status.started()
                await self.no_more_users.wait()
        except Exception as err:
            if not entered:
                raise
            self.error = err
        finally:
            # whatever happened: the last user waits for this without any other way out
            forget()
            self.ended.set()


@dataclass
class _Cache:
    entries: dict[Hashable, _Entry] = field(default_factory=dict)
    # by key: the lock, and how many tasks hold it or wait for it
    locks: dict[Hashable, tuple[trio.Lock, int]] = field(default_factory=dict)

    @asynccontextmanager
    async def in_turn(self, key: Hashable) -> AsyncIterator[None]:
        lock, claims = self.locks.get(key) or (trio.Lock(), 0)
        self.locks[key] = lock, claims + 1
        try:
            async with lock:
                yield
        finally:
            lock, claims = self.locks[key]
            if claims > 1:
                self.locks[key] = lock, claims - 1
            else:
                del self.locks[key]

    async def enter(
        self,
        key: Hashable,
        manager: Callable[[], AbstractAsyncContextManager[Any]],
        nursery: trio.Nursery,
    ) -> tuple[bool, _Entry]:
        """An entry with one more user, and whether it was there already."""
        self._check_reentry(key)
        async with self.in_turn(key):
            entry = self.entries.get(key)
            if entry is not None and not entry.users:
                await entry.ended.wait()
                entry = None
            if entry is not None:
                entry.users += 1
                return True, entry
            entry = self.entries[key] = _Entry()
            forget = partial(self._forget, key, entry)
            try:
                await start_or_cancel(nursery, entry.hold, manager, forget, name=manager)
            except BaseException:
                self._forget(key, entry)
                if entry.error is not None:
                    # cancelled just when it was entered, and then it could not be closed
                    raise entry.error from None
                raise
            return False, entry

    async def leave(self, entry: _Entry) -> None:
        """One user less. The last one waits until the resource is closed, and gets its error."""
        entry.users -= 1
        if entry.users:
            return
        entry.no_more_users.set()
        with trio.CancelScope(shield=True):
            await entry.ended.wait()
        error, entry.error = entry.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error

    def _check_reentry(self, key: Hashable) -> None:
        entry = self.entries.get(key)
        if entry is not None and not entry.users and entry.task is trio.lowlevel.current_task():
            raise RuntimeError(
                f'the resource {key!r} asks for itself while it is opened or closed: it would wait for ever'
            )

    def _forget(self, key: Hashable, entry: _Entry) -> None:
        if self.entries.get(key) is entry:
            del self.entries[key]


# per trio run, as the nurseries that run the resources are
_run_cache: trio.lowlevel.RunVar[_Cache] = trio.lowlevel.RunVar('maybe_open_context')


def _get_cache() -> _Cache:
    try:
        return _run_cache.get()
    except LookupError:
        cache = _Cache()
        _run_cache.set(cache)
        return cache


def _key_of(func: Any, kwargs: Mapping[str, Any], key: Any) -> Hashable:
    if inspect.isfunction(key):
        key = key(**kwargs)
    elif key is None:
        key = tuple(sorted(kwargs.items(), key=lambda item: item[0]))
    cache_key = func, key
    try:
        hash(cache_key)
    except TypeError as err:
        raise TypeError(
            f'{err}: `maybe_open_context()` tells resources apart by {func!r} and its arguments; '
            'pass `key=` with something hashable that stands for them'
        ) from None
    return cache_key


def _get_nursery(tn: trio.Nursery | None) -> trio.Nursery:
    if tn is not None:
        if not _encloses(tn):
            raise RuntimeError(
                f'the calling task does not run within {tn!r}: a resource in that nursery could end before its user'
            )
        return tn
    if _service_nursery is None:
        raise RuntimeError('nothing is there to run the resource in: pass `tn=`')
    found = _service_nursery()
    if found is None:
        raise RuntimeError('the actor does not serve anything yet: pass `tn=`')
    return found


def _encloses(nursery: trio.Nursery) -> bool:
    """Whether what the current task does now is over before `nursery` is."""
    task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
    inner: trio.Nursery | None = None
    while task is not None:
        around = task.child_nurseries
        if inner is not None:
            # those which the task opened later are within that one
            around = around[: around.index(inner) + 1]
        if nursery in around:
            return True
        # a task that has not called `started()` yet will move on to its real nursery
        inner = task.eventual_parent_nursery or task.parent_nursery
        task = inner.parent_task if inner is not None else None
    return False


@asynccontextmanager
async def maybe_open_context(
    acm_func: Callable[..., AbstractAsyncContextManager[T]],
    kwargs: Mapping[str, Any] = _NO_KWARGS,
    key: Hashable | Callable[..., Hashable] | None = None,
    tn: trio.Nursery | None = None,
) -> AsyncIterator[tuple[bool, T]]:
    """Share what an async context manager yields between all tasks that ask for it at the same time.

    The first one opens it, in a task of its own; the last one to leave closes it.

    Args:
        acm_func: makes the context manager: `acm_func(**kwargs)`.
        kwargs: its arguments.
        key: tells resources of one `acm_func` apart: a value, or a function that makes one of the `kwargs`; by default
            the `kwargs`. Hashable.
        tn: runs the resource, and has to enclose the calling task; the nursery of this actor's services by default.

    Yields:
        `(hit, value)`: whether it was open already, and what it yielded, the same object for all.

    Raises:
        TypeError: the key is not hashable.
        RuntimeError: `tn` does not enclose the calling task; or the resource asks for itself.
        NoRuntime: no `tn` was given, and no actor runs here.
        Exception: of entering, to whoever opens it; of closing, to the last one to leave.

    When the block of the last one ends, however, the resource is closed: that is waited for under a shield, and a
    cancellation goes on afterwards. Who comes meanwhile waits, and opens a new one. Cancelled while opening it, the
    resource is cancelled, and the next task in the queue opens its own. Cancelling the nursery closes the resource
    under its users; the last of them gets the error that comes of it.
    """
    cache_key = _key_of(acm_func, kwargs, key)
    nursery = _get_nursery(tn)
    cache = _get_cache()
    hit, entry = await cache.enter(cache_key, partial(acm_func, **kwargs), nursery)
    try:
        yield hit, entry.value
    finally:
        await cache.leave(entry)
