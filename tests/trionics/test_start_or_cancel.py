"""contract: a child that a cancellation keeps from starting is a cancellation."""

import pytest
import trio

from tractor.trionics import collapse_eg, start_or_cancel

NEVER_STARTED = 'child exited without calling task_status.started()'


def run(async_fn, *args) -> object:
    async def main() -> object:
        with trio.fail_after(5):
            return await async_fn(*args)

    return trio.run(main)


def test_start_or_cancel_is_nursery_start():
    async def child(*args, task_status) -> None:
        task_status.started((args, trio.lowlevel.current_task().name))

    async def main() -> object:
        async with trio.open_nursery() as tn:
            return await start_or_cancel(tn, child, 1, 'two', name='kid')

    assert run(main) == ((1, 'two'), 'kid')


async def never_starts(task_status) -> None:
    """Return without having started."""


async def never_starts_once_cancelled(task_status) -> None:
    """Swallow the cancellation, as a child with its own scope might."""
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        return


def test_child_that_never_starts_is_an_error():
    async def main() -> None:
        async with collapse_eg(), trio.open_nursery() as tn:
            await start_or_cancel(tn, never_starts)

    with pytest.raises(RuntimeError) as caught:
        run(main)
    assert caught.value.args == (NEVER_STARTED,)


def test_cancelled_before_start_is_a_cancellation():
    async def main() -> None:
        async with trio.open_nursery() as tn:
            with trio.CancelScope() as scope:
                scope.cancel()
                with pytest.raises(trio.Cancelled) as caught:
                    await start_or_cancel(tn, never_starts_once_cancelled)
                assert caught.value.__context__ is None
                raise caught.value
            assert scope.cancelled_caught

    run(main)


@pytest.mark.parametrize('cancelled', [False, True])
@pytest.mark.parametrize('arg', [NEVER_STARTED + '!', NEVER_STARTED.upper(), 5, None])
def test_other_runtime_errors_pass_unchanged(cancelled, arg):
    error = RuntimeError() if arg is None else RuntimeError(arg)

    async def child(task_status) -> None:
        raise error

    async def main() -> None:
        async with trio.open_nursery() as tn:
            with trio.CancelScope() as scope:
                if cancelled:
                    scope.cancel()
                with pytest.raises(RuntimeError) as caught:
                    await start_or_cancel(tn, child)
                assert caught.value is error

    run(main)
