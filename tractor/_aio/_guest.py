"""
Guest mode: `asyncio.run()` with one task, which does nothing but host a trio run.

| what happens to the host | what it does |
|---|---|
| it is cancelled, by whomever | the actor cancels itself; without one, the trio run is cancelled |
| it is cancelled once more | the trio run is cancelled |
| trio has ended | it returns, and what trio's main function returned or raised is passed on |
| the loop is stopped, or closed, before | the trio run is lost: `AsyncioRuntimeTranslationError` |

The first two interrupts (SIGINT) cancel the host. A third one means that waiting is no longer wanted: it raises
`KeyboardInterrupt` wherever the program is, and the host leaves trio behind. No interrupt reaches trio, which could
not tell its own code from asyncio's.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

from tractor.runtime import _state

if TYPE_CHECKING:
    from outcome import Outcome

# interrupts that are taken as a request; who insists gets what it asks for
_POLITE = 2


class AsyncioRuntimeTranslationError(RuntimeError):
    """The asyncio loop has ended before the trio run which was its guest: what trio had not done is lost."""


def run_as_asyncio_guest[T](trio_main: Callable[[], Awaitable[T]]) -> T:
    """
    Run an async trio function like `trio.run()`, as a guest of a new asyncio loop.

    Args:
        trio_main: the function. Within it `run_task()` and `open_channel_from()` can be used, and
            `tractor.open_root_actor()` opens a root that is infected.

    Returns:
        Its result.

    Raises:
        RuntimeError: an asyncio loop or a trio run is active in this thread, or the system is Windows.
        KeyboardInterrupt: the program was interrupted; everything is torn down, the actor has cancelled itself.
        AsyncioRuntimeTranslationError: the loop ended before trio.
        BaseException: what `trio_main` raised.
    """
    _check_thread()
    guest = _Guest(trio_main)
    saved = _state._runtime_vars['_is_infected_aio']
    _state._runtime_vars['_is_infected_aio'] = True
    try:
        with guest.taking_interrupts():
            result: T = guest.run()
            return result
    finally:
        _state._runtime_vars['_is_infected_aio'] = saved


def _check_thread() -> None:
    if sys.platform == 'win32':
        raise RuntimeError('trio as a guest of asyncio is not supported on Windows')
    if trio.lowlevel.in_trio_run():
        raise RuntimeError('a trio run is active in this thread: start the program as a guest')
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError('an asyncio loop is running in this thread: this starts one of its own')


class _Guest:
    def __init__(self, trio_main: Callable[[], Awaitable[Any]]) -> None:
        self._trio_main = trio_main
        self._scope = trio.CancelScope()
        self._host_task: asyncio.Task[Any] | None = None
        self._outcome: Outcome[Any] | None = None
        self._started = False
        self._interrupts = 0
        self._cancels = 0

    def run(self) -> Any:
        failure: BaseException | None = None
        try:
            asyncio.run(self._host())
        except BaseException as err:  # noqa: BLE001 - raised below, unless trio's own outcome comes first
            failure = err
        if self._outcome is None:
            if not self._started:
                assert failure is not None
                raise failure
            raise AsyncioRuntimeTranslationError(
                'the asyncio loop ended before the trio run which was its guest'
            ) from failure
        error = getattr(self._outcome, 'error', None)
        if self._interrupts:
            raise KeyboardInterrupt from error
        if failure is not None:
            raise failure from error
        return self._outcome.unwrap()

    async def _host(self) -> None:
        loop = asyncio.get_running_loop()
        self._host_task = task = asyncio.current_task()
        assert task is not None
        over: asyncio.Future[Outcome[Any]] = loop.create_future()
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            # the same order, without writing to the loop's self-pipe at every turn
            run_sync_soon_not_threadsafe=loop.call_soon,
            done_callback=over.set_result,
        )
        self._started = True
        while not over.done():
            try:
                await asyncio.wait((over,))
            except asyncio.CancelledError:
                if self._interrupts > _POLITE:
                    raise
                task.uncancel()
                self._cancel()
        self._outcome = over.result()

    async def _main(self) -> Any:
        with self._scope:
            return await self._trio_main()

    # -- cancelling -----------------------------------------------------------------------------------------------

    def _cancel(self) -> None:
        self._cancels += 1
        actor = _state.current_actor(err_on_no_runtime=False)
        if self._cancels > 1 or actor is None or actor._root_tn is None:
            self._scope.cancel()
            return
        try:
            actor.cancel_soon()
        except RuntimeError:
            # its nursery is closed: it is just ending, what comes after it has not been told
            self._scope.cancel()

    @contextmanager
    def taking_interrupts(self) -> Iterator[None]:
        """Have interrupts cancel the host, where this thread gets them and nobody else handles them."""
        try:
            if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
                yield
                return
            saved = signal.signal(signal.SIGINT, self._on_sigint)
        except ValueError:
            # not the main thread of the main interpreter
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, saved)

    def _on_sigint(self, *_: object) -> None:
        self._interrupts += 1
        task = self._host_task
        if task is None or task.done() or self._interrupts > _POLITE:
            raise KeyboardInterrupt
        task.get_loop().call_soon_threadsafe(task.cancel)


# -- trio tasks for asyncio code ----------------------------------------------------------------------------------


class _TrioTaskFuture(asyncio.Future[Any]):
    """The outcome of a trio task; cancelling it cancels the task, which decides."""

    def __init__(self) -> None:
        super().__init__()
        self._scope = trio.CancelScope()
        self._cancel_msg: Any = None

    def cancel(self, msg: Any | None = None) -> bool:
        """Ask the trio task to end; the future is cancelled when it has, and has nothing to tell."""
        if self.done():
            return False
        self._cancel_msg = msg
        self._scope.cancel()
        return True

    async def _run(self, async_fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        try:
            with self._scope:
                await self._settle(async_fn, args)
        finally:
            if not self.done():
                super().cancel(self._cancel_msg)

    async def _settle(self, async_fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        try:
            result = await async_fn(*args)
        except trio.Cancelled:
            raise
        except BaseExceptionGroup as group:
            cancelled, rest = group.split(trio.Cancelled)
            if rest is not None:
                self.set_exception(rest)
            if cancelled is not None:
                raise cancelled from None
        except BaseException as err:  # noqa: BLE001 - what escaped here would end the whole run
            self.set_exception(err)
        else:
            self.set_result(result)


def run_trio_task_in_future(
    async_fn: Callable[..., Awaitable[Any]], *args: Any
) -> asyncio.Future[Any]:
    """
    Run a trio function in a task of its own, from asyncio code of an infected actor.

    Args:
        async_fn: it.
        args: its arguments.

    Returns:
        A future for its result, or its error.

    Cancelling the future cancels the trio task; the future is done when that has ended. The task is a system task:
    it is cancelled when the actor's trio run ends.
    """
    future = _TrioTaskFuture()
    trio.lowlevel.spawn_system_task(future._run, async_fn, args, name=async_fn)
    return future
