"""contract: one resource for many tasks: who opens and closes it, and who gets which error."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

import tractor
from tractor._exceptions import NoRuntime
from tractor.trionics import _cache, _mngrs, collapse_eg, maybe_open_context


def run(main: Callable[[], Awaitable[None]], **options: Any) -> None:
    async def bounded() -> None:
        with trio.fail_after(60):
            await main()

    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(bounded, clock=clock, **options)


class Log:
    """A resource that notes what becomes of it."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.open_now = 0

    @asynccontextmanager
    async def resource(self, name: str = 'r', enter: float = 0, leave: float = 0) -> Any:
        self.said.append(f'enter {name}')
        await trio.sleep(enter)
        self.open_now += 1
        value = object()
        try:
            yield value
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(leave)
            self.open_now -= 1
            self.said.append(f'left {name}')


def nothing_left() -> bool:
    cache = _cache._get_cache()
    return not cache.entries and not cache.locks


def test_it_is_where_it_was() -> None:
    assert _mngrs.maybe_open_context is maybe_open_context is tractor.trionics.maybe_open_context


def test_value_is_shared_and_closed_by_the_last() -> None:
    async def main() -> None:
        log = Log()
        async with trio.open_nursery() as tn:
            async with maybe_open_context(log.resource, tn=tn) as (hit, value):
                assert hit is False
                async with maybe_open_context(log.resource, tn=tn) as (second, again):
                    assert second is True
                    assert again is value
                assert log.open_now == 1
            assert log.said == ['enter r', 'left r']
            assert nothing_left()
            async with maybe_open_context(log.resource, tn=tn) as (hit, other):
                assert hit is False
                assert other is not value

    run(main)


@pytest.mark.parametrize(
    ('one', 'other', 'same'),
    [
        ({}, {}, True),
        ({'kwargs': {'name': 'a'}}, {'kwargs': {'name': 'a'}}, True),
        ({'kwargs': {'name': 'a', 'enter': 0}}, {'kwargs': {'enter': 0, 'name': 'a'}}, True),
        ({'kwargs': {'name': 'a'}}, {'kwargs': {'name': 'b'}}, False),
        ({'kwargs': {'name': 'a'}, 'key': 1}, {'kwargs': {'name': 'b'}, 'key': 1}, True),
        # falsy keys are keys
        ({'kwargs': {'name': 'a'}, 'key': 0}, {'kwargs': {'name': 'b'}, 'key': 0}, True),
        ({'kwargs': {'name': 'a'}, 'key': ''}, {'kwargs': {'name': 'b'}, 'key': 0}, False),
        (
            {'kwargs': {'name': 'ab'}, 'key': lambda name: name[0]},
            {'kwargs': {'name': 'ac'}, 'key': lambda name: name[0]},
            True,
        ),
    ],
)
def test_key(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    async def main() -> None:
        log = Log()
        resource = log.resource
        async with (
            trio.open_nursery() as tn,
            maybe_open_context(resource, tn=tn, **one) as (_, first),
            maybe_open_context(resource, tn=tn, **other) as (hit, second),
        ):
            assert hit is same
            assert (first is second) is same

    run(main)


def test_function_itself_is_in_the_key() -> None:
    """A function made anew may have the `id()` of one that is gone."""

    async def main() -> None:
        async with trio.open_nursery() as tn:
            seen = []
            for number in range(20):

                @asynccontextmanager
                async def resource(number: int = number) -> AsyncIterator[int]:
                    yield number

                async with maybe_open_context(resource, tn=tn) as (hit, value):
                    assert not hit
                    seen.append(value)
                del resource
                gc.collect()
            assert seen == list(range(20))

    run(main)


@pytest.mark.parametrize('options', [{'kwargs': {'name': []}}, {'key': {}}])
def test_key_that_is_not_hashable(options: dict[str, Any]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as tn:
            with pytest.raises(TypeError, match='pass `key='):
                async with maybe_open_context(Log().resource, tn=tn, **options):
                    pass
            assert nothing_left()

    run(main)


# -- where it runs --------------------------------------------------------------------------------


def test_without_a_nursery_it_takes_an_actor() -> None:
    async def main() -> None:
        with pytest.raises(NoRuntime):
            async with maybe_open_context(Log().resource):
                pass
        assert nothing_left()

    run(main)


def test_in_the_service_nursery_of_an_actor(reg_addr: Any, tpt_proto: str) -> None:
    async def main() -> None:
        log = Log()
        async with tractor.open_root_actor(
            registry_addrs=[reg_addr], enable_transports=[tpt_proto], loglevel='critical'
        ):
            async with (
                maybe_open_context(log.resource) as (first, _),
                maybe_open_context(log.resource) as (second, _),
            ):
                assert (first, second) == (False, True)
            assert log.said == ['enter r', 'left r']

    trio.run(main)


def test_nursery_must_enclose_the_caller() -> None:
    async def main() -> None:
        log = Log()

        async def use(tn: trio.Nursery) -> None:
            async with maybe_open_context(log.resource, tn=tn):
                pass

        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as inner:
                # around the calling task, in it or further up
                await use(inner)
                await use(outer)
                async with trio.open_nursery() as innermost:
                    innermost.start_soon(use, outer)
                    innermost.start_soon(use, inner)
                    innermost.start_soon(use, innermost)
            for sibling in (inner, innermost):
                with pytest.raises(RuntimeError, match='does not run within'):
                    await use(sibling)
            async with trio.open_nursery() as later:
                # its block is within that of `outer`: a task of `outer` may outlive it
                failed = trio.Event()

                async def wrong() -> None:
                    with pytest.raises(RuntimeError, match='does not run within'):
                        await use(later)
                    failed.set()

                outer.start_soon(wrong)
                await failed.wait()
            assert nothing_left()

    run(main)


# -- errors ---------------------------------------------------------------------------------------


# virtual time
def test_error_of_entering_is_the_openers() -> None:
    async def main() -> None:
        error = RuntimeError('cannot be opened')
        tries: list[int] = []

        @asynccontextmanager
        async def resource() -> AsyncIterator[str]:
            tries.append(1)
            await trio.sleep(1)
            if len(tries) == 1:
                raise error
            yield 'value'

        got: list[Any] = []

        async def use(tn: trio.Nursery) -> None:
            try:
                async with maybe_open_context(resource, tn=tn) as (hit, value):
                    got.append((hit, value))
            except RuntimeError as err:
                got.append(err)

        async with trio.open_nursery() as tn:
            for _ in range(2):
                tn.start_soon(use, tn)
                await trio.testing.wait_all_tasks_blocked()
            tn.start_soon(use, tn)
        assert got[0] is error
        assert (got[1][0], got[2][0]) in {(False, True), (False, False)}
        assert not isinstance(error.__context__, KeyError)

    run(main)


@pytest.mark.parametrize('cancelled', [True, False])
def test_error_of_closing_is_the_last_users(cancelled: bool) -> None:
    async def main() -> None:
        error = ValueError('cannot be closed')

        @asynccontextmanager
        async def resource() -> AsyncIterator[None]:
            yield
            raise error

        async def use(tn: trio.Nursery, scope: trio.CancelScope) -> None:
            async with maybe_open_context(resource, tn=tn):
                if cancelled:
                    scope.cancel()
                    await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as tn:
            with (
                pytest.raises(ValueError, match='cannot be closed') as raised,
                trio.CancelScope() as scope,
            ):
                await use(tn, scope)
            assert raised.value is error
            # nobody else is concerned
            assert not tn.cancel_scope.cancel_called
            assert nothing_left()

    run(main)


def test_error_of_the_body_passes() -> None:
    async def main() -> None:
        log = Log()
        async with trio.open_nursery() as tn:
            with pytest.raises(KeyError):
                async with maybe_open_context(log.resource, tn=tn):
                    raise KeyError
            assert log.said == ['enter r', 'left r']

    run(main)


def test_cancelled_last_user_still_waits_for_the_end() -> None:
    async def main() -> None:
        log = Log()
        async with trio.open_nursery() as tn:
            with trio.CancelScope() as scope:
                async with maybe_open_context(log.resource, {'leave': 5}, tn=tn):
                    scope.cancel()
                    await trio.sleep_forever()
            assert scope.cancelled_caught
            assert log.said == ['enter r', 'left r']
            assert trio.current_time() % 5 == pytest.approx(0, abs=0.1)

    run(main)


# virtual time
def test_who_comes_while_it_closes_gets_another() -> None:
    async def main() -> None:
        log = Log()
        order: list[str] = []

        async def use(tn: trio.Nursery, name: str, leave: trio.Event) -> None:
            async with maybe_open_context(log.resource, {'leave': 3}, tn=tn) as (hit, _):
                order.append(f'{name} {hit}')
                await leave.wait()
            order.append(f'{name} out')

        async with trio.open_nursery() as tn:
            first, second = trio.Event(), trio.Event()
            tn.start_soon(use, tn, 'first', first)
            await trio.sleep(1)
            first.set()
            await trio.sleep(1)
            tn.start_soon(use, tn, 'second', second)
            await trio.sleep(1)
            assert order == ['first False']
            await trio.sleep(1.5)
            assert order == ['first False', 'first out', 'second False']
            second.set()

    run(main)


def test_resource_that_ends_by_itself() -> None:
    """Its users stay, the next ones get another; the old count has nothing to do with the new one."""

    async def main() -> None:
        error = OSError('lost')
        end = trio.Event()
        made: list[int] = []

        @asynccontextmanager
        async def resource() -> AsyncIterator[int]:
            made.append(1)
            number = len(made)

            async def fail() -> None:
                await end.wait()
                raise error

            async with collapse_eg(), trio.open_nursery() as own:
                if number == 1:
                    own.start_soon(fail)
                yield number

        async def next_generations(tn: trio.Nursery) -> None:
            for number in (2, 3):
                async with maybe_open_context(resource, tn=tn) as got:
                    assert got == (False, number)

        async def use(tn: trio.Nursery) -> None:
            async with maybe_open_context(resource, tn=tn) as got:
                assert got == (False, 1)
                async with maybe_open_context(resource, tn=tn) as got_too:
                    assert got_too == (True, 1)
                    end.set()
                    await trio.testing.wait_all_tasks_blocked()
                    await next_generations(tn)
                # not the last user: nothing to report yet

        async with trio.open_nursery() as tn:
            with pytest.raises(OSError, match='lost') as raised:
                await use(tn)
            assert raised.value is error
            assert nothing_left()

    run(main)


# virtual time
def test_cancelled_nursery_closes_it_under_its_users() -> None:
    async def main() -> None:
        log = Log()
        async with (
            trio.open_nursery() as tn,
            maybe_open_context(log.resource, {'leave': 2}, tn=tn),
        ):
            tn.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
            assert log.said == ['enter r', 'left r']
        assert nothing_left()

    run(main)


def test_resource_that_needs_another_one() -> None:
    async def main() -> None:
        log = Log()
        async with trio.open_nursery() as tn:

            @asynccontextmanager
            async def outer() -> AsyncIterator[Any]:
                async with maybe_open_context(log.resource, {'name': 'inner'}, tn=tn) as (_, value):
                    yield value

            async with (
                maybe_open_context(outer, tn=tn) as (_, value),
                maybe_open_context(log.resource, {'name': 'inner'}, tn=tn) as got,
            ):
                assert got == (True, value)
            assert log.said == ['enter inner', 'left inner']

    run(main)


@pytest.mark.parametrize('when', ['entering', 'leaving'])
def test_resource_that_asks_for_itself(when: str) -> None:
    async def main() -> None:
        async with trio.open_nursery() as tn:

            async def ask() -> None:
                async with maybe_open_context(resource, tn=tn):
                    pass

            @asynccontextmanager
            async def resource() -> AsyncIterator[None]:
                if when == 'entering':
                    await ask()
                yield
                await ask()

            with pytest.raises(RuntimeError, match='asks for itself'):
                await ask()
            assert nothing_left()

    run(main)


def test_keys_do_not_block_each_other() -> None:
    async def main() -> None:
        log = Log()

        async def use(tn: trio.Nursery, name: str) -> None:
            async with maybe_open_context(log.resource, {'name': name, 'enter': 10}, tn=tn):
                pass

        async with trio.open_nursery() as tn:
            for name in 'abc':
                tn.start_soon(use, tn, name)
            start = trio.current_time()
        assert trio.current_time() - start == pytest.approx(10, abs=0.1)

    run(main)
