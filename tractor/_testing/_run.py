"""Running an async test, always within a time limit."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Awaitable, Callable
from typing import Any, overload

import trio

import tractor

AsyncFn = Callable[..., Awaitable[Any]]
TestFn = Callable[..., Any]


async def _within[T](timeout: float, label: str, main: Callable[[], Awaitable[T]]) -> T:
    """Await `main()`; name the test and the limit in whatever is raised after `timeout` seconds."""
    message = f'{label} timed out: it was still running after {timeout} seconds'
    try:
        with trio.fail_after(timeout) as scope:
            return await main()
    except BaseException as err:
        if isinstance(err, trio.TooSlowError) and scope.cancelled_caught:
            raise trio.TooSlowError(message) from None
        if scope.cancel_called:
            # the cancellation came out as something else, e.g. the group of a nursery
            err.add_note(message)
        raise


def run_bounded[*Ts, T](
    fn: Callable[[*Ts], Awaitable[T]],
    *args: *Ts,
    timeout: float = 30,
    clock: trio.abc.Clock | None = None,
) -> T:
    """Return the result of ``trio.run(fn, *args)``, for tests that need no runtime.

    Args:
        fn: the async function, called with `args`.
        timeout: seconds after which it is cancelled.
        clock: of the run; the system's by default.

    Raises:
        trio.TooSlowError: it took longer; the text names `fn` and the limit.
    """
    label = getattr(fn, '__qualname__', repr(fn))
    return trio.run(_within, timeout, label, lambda: fn(*args), clock=clock)


def raised_by(fn: Callable[..., object], *args: Any) -> BaseException:
    """Return the exception that ``fn(*args)`` raises, of whatever kind.

    Raises:
        AssertionError: there is none.
    """
    try:
        fn(*args)
    except BaseException as err:  # noqa: BLE001 - it is what is looked at
        return err
    raise AssertionError(f'{getattr(fn, "__qualname__", fn)} ended without an error')


def _runtime_options(fixtures: dict[str, Any]) -> dict[str, Any]:
    """Translate the values of a test's fixtures to arguments of `open_root_actor()`."""
    start_method = fixtures.get('start_method')
    if sys.platform == 'win32':
        start_method = start_method or 'trio'
        if start_method != 'trio':
            raise ValueError(f"on Windows tests run with start_method='trio', not {start_method!r}")
    reg_addr = fixtures.get('reg_addr')
    options = {
        'registry_addrs': None if reg_addr is None else [reg_addr],
        'loglevel': fixtures.get('loglevel'),
        'start_method': start_method,
        'debug_mode': bool(fixtures.get('debug_mode')),
    }
    if (tpt_proto := fixtures.get('tpt_proto')) is not None:
        options['enable_transports'] = [tpt_proto]
    return options


@overload
def tractor_test(wrapped: AsyncFn, *, timeout: float = ..., hide_tb: bool = ...) -> TestFn: ...


@overload
def tractor_test(
    wrapped: None = ..., *, timeout: float = ..., hide_tb: bool = ...
) -> Callable[[AsyncFn], TestFn]: ...


def tractor_test(
    wrapped: AsyncFn | None = None, *, timeout: float = 30, hide_tb: bool = True
) -> TestFn | Callable[[AsyncFn], TestFn]:
    """Make an async test function a plain one that runs it in the root actor of a new runtime.

    Usable with and without parentheses, and together with ``pytest.mark.parametrize``. The
    fixtures the test declares are injected as for any test; those named `reg_addr`, `loglevel`,
    `start_method`, `debug_mode` and `tpt_proto` also configure the runtime.

    Args:
        wrapped: the async test function.
        timeout: seconds for the test with the start and end of its runtime.
        hide_tb: leave this decorator's frames, and the runtime's, out of tracebacks.

    Raises:
        TypeError: `wrapped` is not an async function.

    The test raises `trio.TooSlowError` naming it and the limit when it takes longer; the runtime
    is torn down first.
    """
    if wrapped is None:
        return functools.partial(tractor_test, timeout=timeout, hide_tb=hide_tb)
    if not inspect.iscoroutinefunction(wrapped):
        raise TypeError(f'@tractor_test is for `async def` tests only, not {wrapped!r}')
    label = f'{wrapped.__module__}.{wrapped.__qualname__}'
    signature = inspect.signature(wrapped)

    @functools.wraps(wrapped)
    def run_test(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = hide_tb
        options = _runtime_options(signature.bind(*args, **kwargs).arguments)

        async def main() -> Any:
            __tracebackhide__ = hide_tb
            async with tractor.open_root_actor(hide_tb=hide_tb, **options):
                return await wrapped(*args, **kwargs)

        trio.run(_within, timeout, label, main)

    return run_test
