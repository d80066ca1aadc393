"""contract: collapsing exception groups, and telling pure cancellation from errors."""

import subprocess
import sys
import traceback
from contextlib import asynccontextmanager

import pytest
import trio

from tractor.trionics import (
    BoxedMaybeException,
    collapse_eg,
    collapse_exception_group,
    gather_contexts,
    get_collapsed_eg,
    is_multi_cancelled,
    maybe_open_nursery,
)

NOTE = '( ^^^ this exc was collapsed from a group ^^^ )\n'
A, B, C = ValueError('a'), KeyError('b'), KeyboardInterrupt('c')


def group(*members: BaseException, message: str = 'g') -> BaseExceptionGroup:
    return BaseExceptionGroup(message, members)


def shape(exc: BaseException) -> object:
    """A nested tuple of the leaves themselves."""
    if isinstance(exc, BaseExceptionGroup):
        return tuple(shape(member) for member in exc.exceptions)
    return exc


def run(async_fn, *args) -> object:
    async def main() -> object:
        with trio.fail_after(5):
            return await async_fn(*args)

    return trio.run(main)


# ------ collapsing ------


@pytest.mark.parametrize(
    ('excgrp', 'expected'),
    [
        (group(A), A),
        (group(group(group(A))), A),
        (group(group(A, B)), (A, B)),
        (group(group(A), B), (A, B)),
        (group(group(A), group(group(C))), (A, C)),
        (group(group(A, group(B)), C), ((A, B), C)),
    ],
)
def test_collapse(excgrp, expected):
    collapsed = collapse_exception_group(excgrp)
    assert shape(collapsed) == expected
    assert get_collapsed_eg(excgrp) is not None
    assert shape(get_collapsed_eg(excgrp)) == expected


@pytest.mark.parametrize('excgrp', [group(A, B), group(A, group(B, C))])
def test_nothing_to_collapse(excgrp):
    assert collapse_exception_group(excgrp) is excgrp
    assert get_collapsed_eg(excgrp) is None


def test_rebuilt_group_is_derived_and_keeps_what_it_carried():
    class Mine(ExceptionGroup):
        def derive(self, excs):
            return Mine(self.message, excs)

    try:
        try:
            raise KeyError('context')
        except KeyError:
            raise Mine('mine', [group(A), B]) from OSError('cause')
    except Mine as exc:
        original = exc
    original.add_note('noted')

    rebuilt = collapse_exception_group(original)
    assert type(rebuilt) is Mine
    assert rebuilt is not original
    assert shape(rebuilt) == (A, B)
    assert rebuilt.message == 'mine'
    assert rebuilt.__traceback__ is original.__traceback__
    assert rebuilt.__cause__ is original.__cause__
    assert rebuilt.__context__ is original.__context__
    assert rebuilt.__notes__ == ['noted']


# ------ collapse_eg() ------


async def collapse(exc: BaseException, **kwargs) -> BaseException:
    """Return what comes out when the body of `collapse_eg()` raises `exc`."""
    try:
        async with collapse_eg(**kwargs) as value:
            assert value is None
            raise exc
    except BaseException as out:  # noqa: BLE001
        return out


def test_collapse_eg_of_nested_nurseries_is_bare():
    error = ValueError('bare')

    async def main() -> None:
        async with collapse_eg(), trio.open_nursery(), trio.open_nursery():
            raise error

    with pytest.raises(ValueError, match='bare') as caught:
        run(main)

    assert caught.value is error
    assert error.__notes__ == [NOTE]
    assert error.__cause__ is None
    assert error.__context__ is None
    text = ''.join(traceback.format_exception(error))
    assert 'ExceptionGroup' not in text


def test_collapse_eg_keeps_cause_and_context():
    cause, context = OSError('cause'), KeyError('context')

    def raise_with_cause() -> None:
        raise ValueError('x') from cause

    def raise_with_context() -> None:
        try:
            raise context
        except KeyError:
            raise ValueError('y')  # noqa: B904

    async def main(fn) -> None:
        async with collapse_eg(), trio.open_nursery():
            fn()

    with pytest.raises(ValueError, match='x') as caught:
        run(main, raise_with_cause)
    assert caught.value.__cause__ is cause
    assert caught.value.__suppress_context__

    with pytest.raises(ValueError, match='y') as caught:
        run(main, raise_with_context)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is context
    assert not caught.value.__suppress_context__


def test_collapse_eg_passes_on_what_cannot_be_collapsed():
    bare, flat = ValueError('bare'), group(ValueError(), KeyError())
    assert run(collapse, bare) is bare
    assert run(collapse, flat) is flat
    assert not hasattr(bare, '__notes__')
    assert not hasattr(flat, '__notes__')


def test_collapse_eg_to_a_smaller_group():
    inner = group(ValueError('1'), KeyError('2'))
    assert run(collapse, group(inner)) is inner
    assert inner.__notes__ == [NOTE]


def test_collapse_eg_ignores_result_types():
    excgrp = group(ValueError('1'))
    assert run(lambda: collapse(excgrp, ignore={ValueError})) is excgrp
    assert run(lambda: collapse(excgrp, ignore={Exception})) is excgrp.exceptions[0]


def test_collapse_eg_notes_once_or_never():
    error = ValueError('1')
    assert run(lambda: collapse(group(error), add_notes=False)) is error
    assert not hasattr(error, '__notes__')
    assert run(collapse, group(error)) is error
    assert run(collapse, group(error)) is error
    assert error.__notes__ == [NOTE]


@pytest.mark.parametrize(('members', 'pauses'), [(1, 0), (2, 1)])
def test_collapse_eg_pauses_for_several_members(monkeypatch, members, pauses):
    paused = []
    monkeypatch.setattr(sys, 'breakpointhook', lambda: paused.append(1))
    excgrp = group(*[ValueError(i) for i in range(members)])
    run(lambda: collapse(excgrp, bp=True))
    assert len(paused) == pauses


# ------ is_multi_cancelled() ------


def mk_cancelled() -> trio.Cancelled:
    """Return a real `Cancelled`; trio lets nobody else make one."""

    async def main() -> trio.Cancelled:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as exc:
                cancelled = exc
                raise
        return cancelled

    return trio.run(main)


def test_is_multi_cancelled_needs_every_leaf():
    one, two = mk_cancelled(), mk_cancelled()

    assert shape(is_multi_cancelled(group(one, two))) == (one, two)
    assert shape(is_multi_cancelled(group(one, group(two)))) == (one, (two,))
    assert is_multi_cancelled(one) is False
    assert is_multi_cancelled(ValueError()) is False
    assert is_multi_cancelled(group(one, A)) is False
    assert is_multi_cancelled(group(one, group(two, A))) is False
    assert is_multi_cancelled(group(A)) is False


def test_is_multi_cancelled_with_more_types_does_not_mutate_them():
    cancelled, ignored = mk_cancelled(), {KeyError}
    assert shape(is_multi_cancelled(group(cancelled, B), ignored)) == (cancelled, B)
    assert shape(is_multi_cancelled(group(B), ignored)) == (B,)
    assert is_multi_cancelled(group(cancelled, A), ignored) is False
    assert ignored == {KeyError}
    assert is_multi_cancelled(group(cancelled, B)) is False


# ------ the box ------


def test_box_tells_its_state():
    empty, full = BoxedMaybeException(), BoxedMaybeException.from_exc(A, raise_on_exit=False)
    assert repr(empty) == empty.pformat() == '<BoxedMaybeException( .value=None )>'
    assert repr(full) == '<ValueError(\n |_.value = a\n)>\n'
    assert (empty.value, empty.raise_on_exit) == (None, True)
    assert (full.value, full.raise_on_exit) == (A, False)


@pytest.mark.parametrize(
    ('raise_on_exit', 'expected'),
    [(True, True), (False, False), ((ValueError,), True), ((Exception,), False), ((), False)],
)
def test_box_reraises_exact_types(raise_on_exit, expected):
    assert BoxedMaybeException(raise_on_exit=raise_on_exit).reraises(A) is expected


# ------ managers ------


def test_maybe_open_nursery_yields_what_it_is_given():
    async def main() -> None:
        for given in (True, 0, object()):
            async with maybe_open_nursery(given) as yielded:
                assert yielded is given

    run(main)


def test_maybe_open_nursery_opens_one():
    class Lib:
        opened: list = []  # noqa: RUF012

        @classmethod
        @asynccontextmanager
        async def open_nursery(cls, **kwargs):
            cls.opened.append(kwargs)
            yield cls

    async def main() -> None:
        for shield in (True, False):
            async with maybe_open_nursery(shield=shield) as tn:
                assert isinstance(tn, trio.Nursery)
                assert tn.cancel_scope.shield is shield
                tn.start_soon(trio.lowlevel.checkpoint)
            assert not tn.child_tasks
        async with maybe_open_nursery(lib=Lib, shield=True, name='x') as yielded:
            assert yielded is Lib

    run(main)
    assert Lib.opened == [{'name': 'x'}]


class Managers:
    """Makes managers that record when they enter and exit."""

    def __init__(self) -> None:
        self.log: list[str] = []

    @asynccontextmanager
    async def open(self, value, enter_after: trio.Event | None = None, entered=None, exc=None):
        if enter_after is not None:
            await enter_after.wait()
        if exc is not None:
            raise exc
        self.log.append(f'enter {value}')
        if entered is not None:
            entered.set()
        try:
            yield value
            await trio.lowlevel.checkpoint()
        finally:
            self.log.append(f'exit {value}')


def test_gather_contexts_yields_in_input_order():
    async def main() -> None:
        mngrs, last_entered = Managers(), trio.Event()
        async with gather_contexts(
            mngr
            for mngr in (
                mngrs.open(1, enter_after=last_entered),
                mngrs.open(2, entered=last_entered),
            )
        ) as values:
            assert values == (1, 2)
            assert mngrs.log == ['enter 2', 'enter 1']
        assert sorted(mngrs.log[2:]) == ['exit 1', 'exit 2']

    run(main)


def test_gather_contexts_with_values_that_compare_oddly():
    class Odd:
        def __eq__(self, other):
            raise TypeError('no')

        __hash__ = object.__hash__

    async def main() -> None:
        mngrs, one, two = Managers(), Odd(), Odd()
        async with gather_contexts([mngrs.open(one), mngrs.open(two)]) as values:
            assert values[0] is one
            assert values[1] is two

    run(main)


@pytest.mark.parametrize('empty', [[], (), iter([])])
def test_gather_contexts_needs_managers(empty):
    async def main() -> None:
        async with gather_contexts(empty):
            pass

    with pytest.raises(ValueError, match='`mngrs` is empty'):
        run(main)


def test_gather_contexts_body_error_leaves_in_a_group():
    error, mngrs = ValueError('body'), Managers()

    async def main() -> None:
        async with gather_contexts([mngrs.open(1), mngrs.open(2)]):
            raise error

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    assert shape(caught.value) == (error,)
    assert sorted(mngrs.log[2:]) == ['exit 1', 'exit 2']


def test_gather_contexts_manager_error_leaves_in_a_group():
    error, mngrs = ValueError('enter'), Managers()

    async def main() -> None:
        async with gather_contexts([mngrs.open(1), mngrs.open(2, exc=error)]):
            raise AssertionError('body ran')

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    assert shape(caught.value) == (error,)


def test_gather_contexts_keyboard_interrupt_comes_out_bare():
    interrupt = KeyboardInterrupt()

    async def main() -> None:
        mngrs = Managers()
        async with (
            collapse_eg(),
            trio.open_nursery(),
            gather_contexts([mngrs.open(1), mngrs.open(2)]),
        ):
            raise interrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        run(main)
    assert caught.value is interrupt


def test_gather_contexts_in_a_given_nursery_always_lets_its_tasks_end():
    mngrs = Managers()

    async def main() -> None:
        async with trio.open_nursery() as tn:
            with pytest.raises(ValueError, match='body'):
                async with gather_contexts([mngrs.open(1)], tn=tn) as values:
                    assert values == (1,)
                    raise ValueError('body')
            assert mngrs.log == ['enter 1']
        assert mngrs.log == ['enter 1', 'exit 1']

    run(main)


def test_gather_contexts_never_waits_for_a_failed_foreign_nursery():
    error, mngrs = ValueError('enter'), Managers()

    async def own_nursery(task_status) -> None:
        async with trio.open_nursery() as tn:
            task_status.started(tn)
            await trio.sleep_forever()

    async def main() -> None:
        async with trio.open_nursery() as outer:

            async def owner(task_status=trio.TASK_STATUS_IGNORED) -> None:
                with pytest.raises(ExceptionGroup) as caught:
                    await own_nursery(task_status)
                assert shape(caught.value) == (error,)

            tn = await outer.start(owner)
            with pytest.raises(RuntimeError, match='the nursery given as `tn`'):
                async with gather_contexts([mngrs.open(1, exc=error)], tn=tn):
                    raise AssertionError('body ran')

    run(main)


# ------ patches ------


def test_patches_are_applied_once_and_repair_drain():
    code = (
        'from tractor.trionics import patches;'
        'from tractor.trionics.patches import _wakeup_socketpair as patch;'
        'needed = patch.is_needed();'
        'applied = [patches.apply_all(), patches.apply_all()];'
        'patch.repro();'
        'print(applied == [dict(wakeup_socketpair=needed), dict(wakeup_socketpair=False)]);'
        'print(patch.is_needed());'
        'import trio; print(trio.run(trio.to_thread.run_sync, int))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.split() == ['True', 'False', '0']
