"""end to end: two ends of a dialog do random legal and illegal things, against a model of what comes of it.

Each step is compared with the model at once; when the dialog has ended its outcome is. A hang is a failure (every
wait is bounded), so is anything left behind (the leak check of the harness). Hypothesis shrinks a failure to the
shortest story and prints how to tell it again.
"""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

import tractor
from tractor._code_load import load_module_from_path
from tractor._exceptions import MessagingError
from tractor.runtime import _loss

# actors import it by this name, too
model_puppets = sys.modules.get('model_puppets') or load_module_from_path(
    Path(__file__).with_name('model_puppets.py')
)
WITHIN = model_puppets.WITHIN

pytestmark = pytest.mark.spawns

EXAMPLES, STEPS = 250, 40
ENOUGH = 2000

# below the 64 that may wait unread: overruns are another test's
BUFFER = 40

ENDINGS = [
    'child_returns',
    'child_raises',
    'child_cancels',
    'parent_raises',
    'parent_cancels',
    'third_actor_cancels',
    'own_actor_cancels_the_other',
    'child_is_killed',
    'transport_is_lost',
]

keys = (f'dialog-{n}' for n in itertools.count())


class World:
    """The actors which the dialogs run between: a victim, replaced when it was killed, and a third one."""

    def __init__(self, an: tractor.ActorNursery, tn: trio.Nursery) -> None:
        self.an, self.tn = an, tn
        self.third: tractor.Portal | None = None
        self.victim: tractor.Portal | None = None
        self.steps = 0

    async def renew(self) -> tractor.Portal:
        if self.third is None:
            self.third = await self.an.start_actor('third', enable_modules=['model_puppets'])
        if self.victim is None:
            name = f'victim-{next(keys)}'
            self.victim = await self.an.start_actor(name, enable_modules=['model_puppets'])
            # the first answer proves that it is registered, so that others can find it
            assert await self.victim.run(model_puppets.present) is True
        return self.victim


class Dialog:
    """The parent side of one dialog, and how its block was left."""

    def __init__(self, world: World, victim: tractor.Portal) -> None:
        self.world, self.victim = world, victim
        self.key = next(keys)
        self.puppet: Any = None
        self.ctx: tractor.Context | None = None
        self.entered = trio.Event()
        self.left = trio.Event()
        self.error: BaseException | None = None

    async def run(self) -> None:
        try:
            async with self.victim.open_context(model_puppets.child_end, key=self.key) as (ctx, _):
                self.ctx = ctx
                self.puppet = model_puppets.Puppet(ctx)
                self.entered.set()
                how = await self.puppet.obey(
                    {'leave': lambda _: None, 'raise': _raise_key_error, 'cancel': lambda _: ctx}
                )
                if how is ctx:
                    await ctx.cancel()
        except Exception as err:  # noqa: BLE001 - what left the block is what the test looks at
            self.error = err
        finally:
            self.left.set()

    async def at_child(self, what: str, arg: Any = None) -> Any:
        return await self.victim.run(model_puppets.order, key=self.key, what=what, arg=arg)

    async def at_parent(self, what: str, arg: Any = None) -> Any:
        assert self.puppet is not None
        return await self.puppet.tell(what, arg)


def _raise_key_error(text: str) -> None:
    raise KeyError(text)


@asynccontextmanager
async def open_world(**options: Any) -> Any:
    async with (
        tractor.open_nursery(**options) as an,
        trio.open_nursery() as tn,
    ):
        yield World(an, tn)
        await an.cancel()
        tn.cancel_scope.cancel()


class Side:
    """What the model knows about one end."""

    def __init__(self) -> None:
        self.stream = 'none'
        self.ended_by_peer = False
        # sent to this end, not received yet
        self.waiting: deque[int] = deque()


class DialogMachine(RuleBasedStateMachine):
    world: World
    run_async: Callable[..., Any]

    def __init__(self) -> None:
        super().__init__()
        self.begin()

    def begin(self) -> None:
        self.sides = {'child': Side(), 'parent': Side()}
        self.started = False
        self.over = False
        self.dialog: Dialog = self.do(self._open)

    async def _open(self) -> Dialog:
        dialog = Dialog(self.world, await self.world.renew())
        self.world.tn.start_soon(dialog.run)
        return dialog

    def do(self, fn: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        type(self).world.steps += 1
        return type(self).run_async(fn, *args)

    def tell(self, side: str, what: str, arg: Any = None) -> Any:
        dialog = self.dialog
        return self.do(dialog.at_child if side == 'child' else dialog.at_parent, what, arg)

    def can_act(self, side: str) -> bool:
        return not self.over and (side == 'child' or self.started)

    @precondition(lambda self: self.over)
    @rule()
    def another_dialog(self) -> None:
        self.begin()

    # -- steps that go on ---------------------------------------------------------------------------------------

    @precondition(lambda self: not self.over)
    @rule()
    def child_starts(self) -> None:
        said = self.tell('child', 'start', 1)
        if self.started:
            assert said == ['err', 'RuntimeError']
            return
        assert said == ['ok', None]
        self.started = True
        self.do(self.dialog.entered.wait)

    @precondition(lambda self: not self.over)
    @rule(side=st.sampled_from(['child', 'parent']))
    def opens_stream(self, side: str) -> None:
        if not self.can_act(side):
            return
        state = self.sides[side]
        said = self.tell(side, 'open')
        if side == 'child' and not self.started:
            assert said == ['err', 'RuntimeError']
        elif state.stream != 'none':
            assert said == ['err', 'ClosedResourceError']
        else:
            assert said == ['ok', None]
            state.stream = 'open'

    @precondition(lambda self: not self.over and self.started)
    @rule(side=st.sampled_from(['child', 'parent']), value=st.integers(0, 99))
    def sends(self, side: str, value: int) -> None:
        state, peer = self._both(side)
        if state.stream == 'none' or len(peer.waiting) >= BUFFER:
            return
        said = self.tell(side, 'send', value)
        if state.stream == 'closed' or state.ended_by_peer:
            assert said == ['err', 'EndOfChannel']
            return
        assert said == ['ok', None]
        if peer.stream != 'closed':
            peer.waiting.append(value)

    @precondition(lambda self: not self.over and self.started)
    @rule(side=st.sampled_from(['child', 'parent']))
    def receives(self, side: str) -> None:
        state, peer = self._both(side)
        if state.stream == 'closed' or state.ended_by_peer:
            assert self.tell(side, 'receive') == ['err', 'EndOfChannel']
        elif state.stream == 'open' and state.waiting:
            assert self.tell(side, 'receive') == ['ok', state.waiting.popleft()]
        elif state.stream == 'open' and peer.stream == 'closed' and not peer.ended_by_peer:
            assert self.tell(side, 'receive') == ['err', 'EndOfChannel']
            state.ended_by_peer = True

    @precondition(lambda self: not self.over and self.started)
    @rule(side=st.sampled_from(['child', 'parent']))
    def closes_stream(self, side: str) -> None:
        state = self.sides[side]
        if state.stream == 'none':
            return
        assert self.tell(side, 'close') == ['ok', None]
        if state.stream == 'open':
            state.stream = 'closed'
            state.waiting.clear()

    def _both(self, side: str) -> tuple[Side, Side]:
        return self.sides[side], self.sides['parent' if side == 'child' else 'child']

    # -- steps that end it --------------------------------------------------------------------------------------

    @precondition(lambda self: not self.over)
    @rule(how=st.sampled_from(ENDINGS), value=st.integers(0, 9))
    def comes_to_an_end(self, how: str, value: int) -> None:
        # one rule for all: a dialog should get somewhere before it ends
        if how == 'child_returns':
            self.child_returns(value)
        elif self.started or not how.startswith('parent'):
            getattr(self, how)()

    def ends(self) -> BaseException | None:
        """Wait for the end; the exception that left the block."""
        self.over = True
        self.do(self.dialog.left.wait)
        return self.dialog.error

    def child_returns(self, value: int) -> None:
        self.tell('child', 'return', value)
        if not self.started:
            assert isinstance(self.ends(), MessagingError)
            return
        self.tell('parent', 'leave')
        assert self.ends() is None
        assert self.dialog.ctx is not None
        assert self.dialog.ctx.outcome == value

    def child_raises(self) -> None:
        self.tell('child', 'raise', 'told to')
        error = self.ends()
        assert isinstance(error, tractor.RemoteActorError)
        assert error.boxed_type is ValueError
        self._same_object(error)

    def child_cancels(self) -> None:
        self.tell('child', 'cancel')
        self._is_cancelled_by(self._victim_uid())

    def parent_raises(self) -> None:
        self.tell('parent', 'raise', 'told to')
        assert isinstance(self.ends(), KeyError)
        ctx = self.dialog.ctx
        assert ctx is not None
        assert ctx.cancel_called
        assert isinstance(ctx.outcome, tractor.ContextCancelled)

    def parent_cancels(self) -> None:
        self.tell('parent', 'cancel')
        assert self.ends() is None
        ctx = self.dialog.ctx
        assert ctx is not None
        assert ctx.cancel_called
        assert ctx.cancel_acked
        assert isinstance(ctx.outcome, tractor.ContextCancelled)

    def third_actor_cancels(self) -> None:
        assert self.world.third is not None
        name = self._victim_uid()[0]
        third = self.do(self._let_third_cancel, name)
        self.world.victim = None
        self._is_cancelled_by(tuple(third))

    async def _let_third_cancel(self, name: str) -> list[str]:
        assert self.world.third is not None
        return await self.world.third.run(model_puppets.cancel_other, name=name)

    def own_actor_cancels_the_other(self) -> None:
        assert self.do(self.dialog.victim.cancel_actor, WITHIN)
        self.world.victim = None
        self._is_cancelled_by(tractor.current_actor().aid.uid)

    def child_is_killed(self) -> None:
        self.world.an._children[self._victim_uid()].proc.kill()
        self.world.victim = None
        error = self.ends()
        assert isinstance(error, tractor.TransportClosed)
        self._same_object(error)

    def transport_is_lost(self) -> None:
        # the answer to this order gets lost as well
        with pytest.raises(tractor.TransportClosed):
            self.tell('child', 'lose_transport')
        self.world.victim = None
        error = self.ends()
        assert isinstance(error, tractor.TransportClosed)
        self._same_object(error)

    def _victim_uid(self) -> tuple[str, str]:
        aid = self.dialog.victim.chan.aid
        assert aid is not None
        return aid.uid

    def _is_cancelled_by(self, canceller: tuple[str, ...]) -> None:
        error = self.ends()
        assert isinstance(error, tractor.ContextCancelled)
        assert tuple(error.canceller or ()) == canceller
        self._same_object(error)

    def _same_object(self, error: BaseException) -> None:
        ctx = self.dialog.ctx
        if ctx is not None:
            assert error is ctx._remote_error
            assert error is ctx.maybe_error
            assert error is ctx.outcome

    def teardown(self) -> None:
        if self.over:
            return
        if self.started:
            self.parent_cancels()
        else:
            self.child_raises()


# a dialog does not know how its actors were started, and many of them are killed here: the cheapest way to start
@pytest.mark.parametrize('start_method', ['mp_forkserver'])
def test_random_dialogs_follow_the_model(
    start_method: str, tpt_proto: str, reg_addr: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the program has no rules of its own for a lost connection: it need not be given time for them
    monkeypatch.setattr(_loss, 'LOSS_GRACE', 0.05)
    machine = DialogMachine
    run = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )

    async def bounded(fn: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        with trio.fail_after(2 * WITHIN):
            return await fn(*args)

    def tell_stories() -> None:
        machine.run_async = staticmethod(lambda fn, *args: trio.from_thread.run(bounded, fn, *args))
        run_state_machine_as_test(machine, settings=run)

    async def main() -> int:
        options = {
            'start_method': start_method,
            'enable_transports': [tpt_proto],
            'registry_addrs': [reg_addr],
        }
        async with open_world(**options) as world:
            machine.world = world
            await trio.to_thread.run_sync(tell_stories)
            return world.steps

    steps = trio.run(main)
    assert steps >= ENOUGH, 'too few steps: raise EXAMPLES or STEPS'
