"""contract: the resource cache against a model, one step at a time, and cancelled at every checkpoint."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tractor._code_load import load_module_from_path
from tractor.trionics import _cache, maybe_open_context

stepping = sys.modules.get('stepping') or load_module_from_path(
    Path(__file__).with_name('stepping.py')
)

KEYS = ('a', 'b')


class Resource:
    """One opened resource, whose entering and leaving waits to be let go."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.state = 'opening'
        self.go = trio.Event()
        self.fails = False

    async def wait_go(self) -> None:
        await self.go.wait()
        self.go = trio.Event()
        if self.fails:
            self.fails = False
            raise LookupError(self)


class User:
    """One task that uses a resource."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.scope = trio.CancelScope()
        self.leave = trio.Event()
        self.state = 'waiting'
        self.got: tuple[bool, Resource] | None = None
        self.error: BaseException | None = None

    async def run(self, machine: CacheMachine) -> None:
        with self.scope:
            try:
                async with maybe_open_context(
                    machine.open, {'key': self.key}, tn=machine.stepper.tn
                ) as got:
                    self.got, self.state = got, 'using'
                    await self.leave.wait()
            except LookupError as err:
                self.error = err
        self.state = 'left'


class CacheMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stepper: Any = stepping.Stepper()
        self.users: list[User] = []
        # by key, every resource there ever was
        self.resources: dict[str, list[Resource]] = {key: [] for key in KEYS}
        self.fail_next = False

    def teardown(self) -> None:
        for resource in self.live():
            resource.go.set()
        for user in self.users:
            user.leave.set()
        for _ in range(3 * len(self.users) + 3):
            self.stepper.settle()
            for resource in self.live():
                resource.go.set()
        assert all(user.state == 'left' for user in self.users)
        assert not self.live()
        cache = self.stepper_cache()
        assert cache is None or (not cache.entries and not cache.locks)
        self.stepper.close()

    def stepper_cache(self) -> Any:
        found: list[Any] = []

        async def look() -> None:
            found.append(_cache._get_cache())

        self.stepper.start(look)
        return found[0]

    @asynccontextmanager
    async def open(self, key: str) -> AsyncIterator[Resource]:
        resource = Resource(key)
        self.resources[key].append(resource)
        try:
            await resource.wait_go()
            resource.state = 'open'
            try:
                yield resource
            finally:
                resource.state = 'closing'
                with trio.CancelScope(shield=True):
                    await resource.wait_go()
        finally:
            resource.state = 'gone'

    def live(self) -> list[Resource]:
        return [r for every in self.resources.values() for r in every if r.state != 'gone']

    def of(self, key: str, state: str) -> list[User]:
        return [user for user in self.users if user.key == key and user.state == state]

    # -- steps --------------------------------------------------------------------------------

    @rule(key=st.sampled_from(KEYS))
    def comes(self, key: str) -> None:
        user = User(key)
        self.users.append(user)
        self.stepper.start(user.run, self)
        states = {r.state for r in self.resources[key] if r.state != 'gone'}
        if states == {'open'}:
            # it has the value at once
            assert user.got == (True, self.resources[key][-1])
        else:
            assert user.state == 'waiting'

    @precondition(lambda self: any(user.state == 'using' for user in self.users))
    @rule(data=st.data())
    def leaves(self, data: Any) -> None:
        user = data.draw(st.sampled_from([u for u in self.users if u.state == 'using']))
        last = len(self.of(user.key, 'using')) == 1
        user.state = 'leaving'
        user.leave.set()
        self.stepper.settle()
        # the last one stays until the resource is closed
        assert user.state == ('leaving' if last else 'left')

    @precondition(lambda self: any(u.state in {'using', 'waiting'} for u in self.users))
    @rule(data=st.data())
    def is_cancelled(self, data: Any) -> None:
        user = data.draw(
            st.sampled_from([u for u in self.users if u.state in {'using', 'waiting'}])
        )
        was, using = user.state, len(self.of(user.key, 'using'))
        user.scope.cancel()
        user.state = 'leaving' if was == 'using' else 'waiting'
        self.stepper.settle()
        if was == 'using' and using == 1:
            assert user.state == 'leaving'
        else:
            assert user.state == 'left'

    @precondition(lambda self: any(r.state in {'opening', 'closing'} for r in self.live()))
    @rule(data=st.data(), fails=st.booleans())
    def goes_on(self, data: Any, fails: bool) -> None:
        resource = data.draw(
            st.sampled_from([r for r in self.live() if r.state in {'opening', 'closing'}])
        )
        key, was = resource.key, resource.state
        waiting, leaving = self.of(key, 'waiting'), self.of(key, 'leaving')
        resource.fails = fails
        resource.go.set()
        self.stepper.settle()
        if was == 'closing':
            (last,) = leaving
            assert last.state == 'left'
            assert (last.error is not None) is fails
            assert last.error is None or last.error.args == (resource,)
        elif fails:
            # whoever came first opened it
            assert [u for u in waiting if u.state == 'left'] == waiting[:1]
            assert waiting[0].error is not None
        else:
            assert [u.got for u in waiting] == [
                (index > 0, resource) for index in range(len(waiting))
            ]

    # -- what always holds --------------------------------------------------------------------

    @invariant()
    def one_resource_per_key(self) -> None:
        for key in KEYS:
            live = [r for r in self.resources[key] if r.state != 'gone']
            assert len(live) <= 1
            for resource in live:
                using = self.of(key, 'using')
                assert (resource.state == 'open') is bool(using)
                assert all(user.got and user.got[1] is resource for user in using)
            if not live:
                assert not [u for u in self.users if u.key == key and u.state != 'left']


def test_model() -> None:
    run_state_machine_as_test(
        CacheMachine, settings=settings(max_examples=80, stateful_step_count=30, deadline=None)
    )
