"""contract: the broadcast channel against a model, one step at a time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tractor._code_load import load_module_from_path
from tractor.trionics import BroadcastReceiver, Lagged, broadcast_receiver

stepping = sys.modules.get('stepping') or load_module_from_path(
    Path(__file__).with_name('stepping.py')
)


class Subscriber:
    """One receiver, in a task of its own, and what the model says that it gets next."""

    def __init__(self, raise_on_lag: bool) -> None:
        self.raise_on_lag = raise_on_lag
        self.receiver: BroadcastReceiver[int]
        self.leave = trio.Event()
        # values of the model which it has not got
        self.owed: list[int] = []
        self.lagged = False
        self.receiving: Receiving | None = None

    async def run(self, first: BroadcastReceiver[int]) -> None:
        async with first.subscribe(raise_on_lag=self.raise_on_lag) as self.receiver:
            await self.leave.wait()


class Receiving:
    """One call of `receive()`."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.result: Any = None

    async def run(self, receiver: BroadcastReceiver[int]) -> None:
        with self.scope:
            try:
                self.result = await receiver.receive()
            except (Lagged, trio.EndOfChannel, trio.ClosedResourceError, OSError) as err:
                self.result = type(err)
        if self.scope.cancelled_caught:
            self.result = 'cancelled'


class Source:
    """What is received from: values one at a time, an error, or the end."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.changed = trio.Event()
        self.at_once = 0

    def put(self, item: Any) -> None:
        self.items.append(item)
        self.changed.set()
        self.changed = trio.Event()

    async def receive(self) -> int:
        self.at_once += 1
        assert self.at_once == 1
        try:
            while not self.items:
                await self.changed.wait()
            if self.items[0] is trio.EndOfChannel:
                raise trio.EndOfChannel
            item = self.items.pop(0)
            if item is OSError:
                raise OSError
            assert isinstance(item, int)
            return item
        finally:
            self.at_once -= 1


class BroadcastMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stepper: Any = stepping.Stepper()
        self.source = Source()
        self.sent = 0
        self.over = False

    @initialize(window=st.integers(1, 4))
    def begin(self, window: int) -> None:
        self.window = window
        first = Subscriber(raise_on_lag=True)
        first.receiver = broadcast_receiver(self.source, window)  # type: ignore[arg-type]
        self.first = first
        self.subs: list[Subscriber] = [first]

    def teardown(self) -> None:
        self.stepper.close()

    # -- the model ----------------------------------------------------------------------------

    def published(self, value: int) -> None:
        for sub in self.subs:
            sub.owed.append(value)
            if len(sub.owed) > self.window:
                sub.lagged = True

    def take(self, sub: Subscriber) -> Any:
        """What a receive gives of what is queued; `None` if there is nothing."""
        if sub.lagged:
            sub.lagged = False
            sub.owed = sub.owed[-self.window :]
            if sub.raise_on_lag:
                return Lagged
        if sub.owed:
            return sub.owed.pop(0)
        return trio.EndOfChannel if self.over else None

    def waiting(self) -> list[Subscriber]:
        return [sub for sub in self.subs if sub.receiving is not None]

    # -- steps --------------------------------------------------------------------------------

    @precondition(lambda self: len(self.subs) < 5)
    @rule(raise_on_lag=st.booleans())
    def subscribes(self, raise_on_lag: bool) -> None:
        sub = Subscriber(raise_on_lag)
        self.stepper.start(sub.run, self.first.receiver)
        self.subs.append(sub)

    @precondition(lambda self: len(self.subs) > 1)
    @rule(data=st.data())
    def unsubscribes(self, data: Any) -> None:
        sub = data.draw(st.sampled_from(self.subs[1:]))
        self.subs.remove(sub)
        sub.leave.set()
        self.stepper.settle()
        if sub.receiving is not None:
            assert sub.receiving.result is trio.ClosedResourceError

    @rule(data=st.data())
    def receives(self, data: Any) -> None:
        idle = [sub for sub in self.subs if sub.receiving is None]
        if not idle:
            return
        sub = data.draw(st.sampled_from(idle))
        call = Receiving()
        self.stepper.start(call.run, sub.receiver)
        expected = self.take(sub)
        if expected is not None:
            assert call.result == expected
        else:
            assert call.result is None
            sub.receiving = call

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def gives_up(self, data: Any) -> None:
        sub = data.draw(st.sampled_from(self.waiting()))
        call, sub.receiving = sub.receiving, None
        call.scope.cancel()
        self.stepper.settle()
        assert call.result == 'cancelled'

    @precondition(lambda self: self.waiting() and not self.over)
    @rule()
    def sends(self) -> None:
        self.sent += 1
        self.source.put(self.sent)
        self.stepper.settle()
        self.published(self.sent)
        for sub in self.waiting():
            assert sub.receiving is not None
            assert sub.receiving.result == self.take(sub) == self.sent
            sub.receiving = None

    @precondition(lambda self: self.waiting() and not self.over)
    @rule()
    def source_fails(self) -> None:
        waiting = self.waiting()
        self.source.put(OSError)
        self.stepper.settle()
        # the one that received has the error, another one receives in its place
        failed = [sub for sub in waiting if sub.receiving and sub.receiving.result is OSError]
        assert len(failed) == 1
        failed[0].receiving = None
        assert all(sub.receiving and sub.receiving.result is None for sub in self.waiting())

    @precondition(lambda self: self.waiting() and not self.over)
    @rule()
    def source_ends(self) -> None:
        self.over = True
        self.source.put(trio.EndOfChannel)
        self.stepper.settle()
        for sub in self.waiting():
            assert sub.receiving is not None
            assert sub.receiving.result is trio.EndOfChannel
            sub.receiving = None

    # -- what always holds --------------------------------------------------------------------

    @invariant()
    def state_is_as_it_should_be(self) -> None:
        if not hasattr(self, 'subs'):
            return
        state = self.first.receiver._state
        assert set(state.subs) == {sub.receiver.key for sub in self.subs}
        assert (state.recv_ready is not None) is bool(self.waiting())
        for sub in self.subs:
            assert state.subs[sub.receiver.key] == len(sub.owed) - 1


def test_model() -> None:
    run_state_machine_as_test(
        BroadcastMachine, settings=settings(max_examples=80, stateful_step_count=40, deadline=None)
    )
