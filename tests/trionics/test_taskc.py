"""contract: errors that a cancellation masks."""

import logging
import traceback
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio
import trio.testing

from tractor.trionics import (
    BoxedMaybeException,
    collapse_eg,
    maybe_raise_from_masking_exc,
)
from tractor.trionics import _taskc as taskc
from tractor.trionics._taskc import find_masked_excs


def run(async_fn, *args) -> object:
    async def main() -> object:
        with trio.fail_after(5):
            return await async_fn(*args)

    return trio.run(main)


@asynccontextmanager
async def checkpoint_on_exit():
    """Mask the body's error if its task is cancelled."""
    try:
        yield
    finally:
        await trio.lowlevel.checkpoint()


async def catch(cm: AbstractAsyncContextManager, body) -> tuple[object, BaseException | None]:
    """Return what `cm` yields, and what comes out of it when `body()` runs inside, cancelled."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            async with cm as value:
                await body()
        except BaseException as exc:  # noqa: BLE001
            return value, exc
    return value, None


async def mask(error: BaseException, times: int = 1) -> None:
    """Raise `Cancelled` over `error`, in a cancelled task."""
    if times:
        async with checkpoint_on_exit():
            await mask(error, times - 1)
    raise error


# ------ maybe_raise_from_masking_exc() ------


def test_masked_error_is_raised_from_its_mask(caplog):
    error = ValueError('masked')
    with caplog.at_level(logging.WARNING):
        box, out = run(catch, maybe_raise_from_masking_exc(), lambda: mask(error))

    assert isinstance(box, BoxedMaybeException)
    assert out is error
    assert type(box.value) is trio.Cancelled
    assert error.__cause__ is box.value
    assert error.__notes__ == [taskc._MASKED_NOTE]
    [record] = caplog.records
    assert record.levelname == 'WARNING'
    assert record.name == 'tractor.trionics'
    assert record.getMessage() == 'ValueError was masked by Cancelled'
    assert record.exc_info[1] is error


def test_error_masked_twice_is_found():
    error = ValueError('masked')
    box, out = run(catch, maybe_raise_from_masking_exc(), lambda: mask(error, times=3))
    assert out is error
    assert error.__cause__ is box.value


def test_cause_and_context_of_the_masked_error_stay_visible():
    origin = OSError('origin')

    async def body(explicit: bool) -> None:
        async with checkpoint_on_exit():
            try:
                raise origin
            except OSError as exc:
                if explicit:
                    raise ValueError('masked') from exc
                raise ValueError('masked')  # noqa: B904

    for explicit in (True, False):
        box, out = run(catch, maybe_raise_from_masking_exc(), lambda e=explicit: body(e))
        assert type(out) is ValueError
        assert out.__cause__ is box.value
        assert box.value.__context__ is origin
        assert 'OSError: origin' in ''.join(traceback.format_exception(out))


def test_unmasking_twice_notes_once():
    error = ValueError('masked')

    async def body() -> None:
        async with checkpoint_on_exit(), maybe_raise_from_masking_exc():
            await mask(error)

    _, out = run(catch, maybe_raise_from_masking_exc(), body)
    assert out is error
    assert error.__notes__ == [taskc._MASKED_NOTE]
    text = ''.join(traceback.format_exception(error))
    assert text.count('ValueError: masked') == 1


@pytest.mark.parametrize('raise_unmasked', [False, (KeyError,), ()])
def test_report_only_passes_the_original(caplog, raise_unmasked):
    error = ValueError('masked')
    cm = maybe_raise_from_masking_exc(raise_unmasked=raise_unmasked)
    with caplog.at_level(logging.WARNING):
        box, out = run(catch, cm, lambda: mask(error))

    assert type(out) is trio.Cancelled
    assert out is box.value
    assert out.__context__ is error
    assert box.raise_on_exit == raise_unmasked
    assert error.__notes__ == [taskc._MASKED_NOTE]
    assert len(caplog.records) == 1


def test_body_may_change_raise_on_exit():
    error = ValueError('masked')

    async def main() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            async with maybe_raise_from_masking_exc() as box:
                box.raise_on_exit = False
                await mask(error)
        assert scope.cancelled_caught
        assert box.value.__context__ is error

    run(main)


def test_error_that_is_not_masked_passes_unchanged(caplog):
    error = ValueError('plain')

    async def body() -> None:
        raise error

    with caplog.at_level(logging.WARNING):
        box, out = run(catch, maybe_raise_from_masking_exc(), body)
    assert out is error
    assert (box.value, error.__cause__) == (None, None)
    assert not hasattr(error, '__notes__')
    assert caplog.records == []


def test_plain_cancellation_is_absorbed():
    async def main() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            async with maybe_raise_from_masking_exc() as box:
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert box.value is None

    run(main)


@pytest.mark.parametrize(
    ('masked_type', 'noted', 'logged'),
    [(KeyboardInterrupt, False, 0), (SystemExit, True, 1)],
)
def test_never_warn_on(caplog, masked_type, noted, logged):
    error = masked_type()
    with caplog.at_level(logging.WARNING):
        _, out = run(catch, maybe_raise_from_masking_exc(), lambda: mask(error))
    assert out is error
    assert hasattr(error, '__notes__') is noted
    assert len(caplog.records) == logged


def test_cancelled_over_cancelled_is_silent(caplog):
    async def body() -> None:
        async with checkpoint_on_exit():
            await trio.lowlevel.checkpoint()

    with caplog.at_level(logging.WARNING):
        box, out = run(catch, maybe_raise_from_masking_exc(), body)
    assert type(out) is type(box.value) is trio.Cancelled
    assert not hasattr(out, '__notes__')
    assert caplog.records == []


async def raise_over(error: BaseException, masker: BaseException) -> None:
    try:
        raise error
    finally:
        raise masker


@pytest.mark.parametrize(('always', 'logged'), [((), 0), ((LookupError,), 0), ((KeyError,), 1)])
def test_other_types_are_unmasked_and_logged_as_asked(caplog, always, logged):
    error, masker = ValueError('masked'), KeyError('masker')
    cm = maybe_raise_from_masking_exc(
        unmask_from=(KeyError,), always_warn_on=always, extra_note='mine'
    )
    with caplog.at_level(logging.WARNING):
        box, out = run(catch, cm, lambda: raise_over(error, masker))
    assert (out, box.value) == (error, masker)
    assert error.__notes__ == ['mine']
    assert len(caplog.records) == logged


@pytest.mark.parametrize('unmask_from', [(), (LookupError,)])
def test_only_exact_types_unmask(unmask_from):
    masker = KeyError('masker')
    cm = maybe_raise_from_masking_exc(unmask_from=unmask_from)
    box, out = run(catch, cm, lambda: raise_over(ValueError('masked'), masker))
    assert out is masker
    assert box.value is None


@pytest.mark.parametrize('unmask_from', [{trio.Cancelled}, [trio.Cancelled], trio.Cancelled])
def test_unmask_from_must_be_a_tuple(unmask_from):
    with pytest.raises(ValueError, match='must be a tuple'):
        maybe_raise_from_masking_exc(unmask_from=unmask_from)


def test_find_masked_excs():
    error, masker = ValueError(), KeyError()
    masker.__context__ = error
    assert find_masked_excs(masker, {KeyError}) is error
    assert find_masked_excs(masker, {LookupError}) is None
    assert find_masked_excs(error, {ValueError}) is None


def test_circular_contexts_end():
    one, two = KeyError(1), KeyError(2)

    async def body() -> None:
        try:
            raise one
        finally:
            one.__context__, two.__context__ = two, one

    _, out = run(catch, maybe_raise_from_masking_exc(unmask_from=(KeyError,)), body)
    assert out is two


# ------ groups ------


async def raise_group(*members: BaseException) -> None:
    raise BaseExceptionGroup('g', members)


async def get_mask(error: BaseException) -> BaseException:
    """Return a real `Cancelled` that masks `error`."""
    _, cancelled = await catch(
        maybe_raise_from_masking_exc(raise_unmasked=False), lambda: mask(error)
    )
    error.__notes__.clear()
    return cancelled


def test_group_of_one_mask_and_cancellation_gives_the_error():
    async def main() -> None:
        error = ValueError('masked')
        masker, plain = await get_mask(error), await get_mask(KeyError())
        plain.__context__ = None
        box, out = await catch(maybe_raise_from_masking_exc(), lambda: raise_group(plain, masker))
        assert out is error
        assert box.value is masker
        assert error.__cause__ is error.__context__ is masker

    run(main)


def test_group_with_other_errors_is_kept():
    async def main() -> None:
        error, other = ValueError('masked'), KeyError('other')
        masker = await get_mask(error)
        box, out = await catch(maybe_raise_from_masking_exc(), lambda: raise_group(masker, other))
        assert type(out) is ExceptionGroup
        assert out.exceptions == (error, other)
        assert box.value is masker
        assert error.__cause__ is masker
        assert out.__context__ is None

    run(main)


def test_group_with_several_masks_gives_each_error():
    async def main() -> None:
        errors = ValueError('1'), KeyError('2')
        maskers = [await get_mask(error) for error in errors]
        box, out = await catch(maybe_raise_from_masking_exc(), lambda: raise_group(*maskers))
        assert type(out) is ExceptionGroup
        assert out.exceptions == errors
        assert box.value.exceptions == tuple(maskers)

    run(main)


def test_silent_cancellation_never_drops_another_error():
    async def main() -> None:
        cancelled, other = await get_mask(ValueError()), KeyError('other')
        inner = await get_mask(ValueError())
        inner.__context__, cancelled.__context__ = None, inner
        _, out = await catch(maybe_raise_from_masking_exc(), lambda: raise_group(cancelled, other))
        assert out.exceptions == (inner, other)

    run(main)


def test_error_that_surfaced_already_is_not_repeated():
    async def main() -> None:
        error = ValueError('both')
        masker = await get_mask(error)
        box, out = await catch(maybe_raise_from_masking_exc(), lambda: raise_group(masker, error))
        assert out.exceptions == (masker, error)
        assert box.value is None

    run(main)


# ------ what applications meet ------


@pytest.mark.parametrize('grouped', [False, True])
def test_error_over_a_channel_close(grouped):
    """A sender fails mid-stream after its nursery was cancelled; `aclose()` is a checkpoint."""
    error = ValueError('mid-stream')

    async def main() -> None:
        async with collapse_eg(), trio.open_nursery() as tn:
            send_chan, _recv_chan = trio.open_memory_channel(1)
            async with maybe_raise_from_masking_exc(), send_chan:
                tn.cancel_scope.cancel()
                raise ExceptionGroup('one', [error]) if grouped else error

    with pytest.raises(ValueError, match='mid-stream') as caught:
        run(main)
    assert caught.value is error


def test_error_over_a_finally_surfaces_once_in_its_nursery():
    @asynccontextmanager
    async def open_cancelled_at_exit():
        async with trio.open_nursery() as tn, maybe_raise_from_masking_exc():
            try:
                yield tn
            finally:
                tn.cancel_scope.cancel()
                await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with open_cancelled_at_exit():
            raise AssertionError('once')

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    matching, rest = caught.value.split(AssertionError)
    assert len(matching.exceptions) == 1
    assert rest is None


WAITED_ON = [trio.Lock, trio.Semaphore, trio.CapacityLimiter]


def mk_taken(cls: type) -> object:
    """Return a lock that somebody else holds."""
    if cls is trio.Semaphore:
        return cls(0)
    if cls is trio.CapacityLimiter:
        limiter = cls(1)
        limiter.acquire_on_behalf_of_nowait('other')
        return limiter
    return cls()


async def cancel_acquire(cls: type, cm: AbstractAsyncContextManager, body=None) -> tuple:
    """Return what `cm` yields and raises when a task inside is cancelled while it waits."""
    taken, outcome = mk_taken(cls), []

    async def waiter() -> None:
        try:
            async with cm as value:
                outcome.append(value)
                await (taken.acquire() if body is None else body(taken))
        except BaseException as exc:
            outcome.append(exc)
            raise

    async with trio.open_nursery() as tn:
        if cls is trio.Lock:
            await taken.acquire()
        tn.start_soon(waiter)
        await trio.testing.wait_all_tasks_blocked()
        tn.cancel_scope.cancel()
    return tuple(outcome)


@pytest.mark.parametrize('cls', WAITED_ON)
def test_cancelled_wait_for_a_lock_is_no_mask(cls):
    box, out = run(cancel_acquire, cls, maybe_raise_from_masking_exc())
    assert type(out) is trio.Cancelled
    assert type(out.__context__) is trio.WouldBlock
    assert box.value is None


def test_cancelled_wait_for_a_lock_without_its_case(monkeypatch):
    monkeypatch.setattr(taskc, '_mask_cases', {})
    with pytest.raises(ExceptionGroup) as caught:
        run(cancel_acquire, trio.Lock, maybe_raise_from_masking_exc())
    assert [type(exc) for exc in caught.value.exceptions] == [trio.WouldBlock]


def test_error_under_a_cancelled_wait_for_a_lock_is_found():
    error = ValueError('masked')

    async def body(lock: trio.Lock) -> None:
        try:
            raise error
        finally:
            await lock.acquire()

    with pytest.raises(ExceptionGroup) as caught:
        run(cancel_acquire, trio.Lock, maybe_raise_from_masking_exc(), body)
    assert caught.value.exceptions == (error,)


def test_would_block_from_elsewhere_is_a_masked_error():
    error = trio.WouldBlock()
    _, out = run(catch, maybe_raise_from_masking_exc(), lambda: mask(error))
    assert out is error
