"""collaboration: pairs whose two sides do whatever comes, in any order, end by the rules and leave nothing behind."""

import asyncio
import contextlib
import sys
from pathlib import Path

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tractor._code_load import load_module_from_path
from tractor.to_asyncio import AsyncioCancelled, TrioTaskExited, open_channel_from

guests = sys.modules.get('aio_guests') or load_module_from_path(
    Path(__file__).with_name('aio_guests.py')
)

TRIO = ['turn', 'turn', 'send', 'receive', 'result', 'raise', 'cancel', 'cancel_task', 'close']
ASYNCIO = ['turn', 'turn', 'send', 'get', 'raise', 'cancel', 'return', 'absorb', 'in_group']


class Own(Exception):
    """Of the trio side."""


class Theirs(Exception):
    """Of the asyncio side."""


class Run:
    """What is known of both sides when all is over."""

    def __init__(self, in_trio, in_asyncio, suppress):
        self.in_trio, self.in_asyncio, self.suppress = in_trio, in_asyncio, suppress
        self.body = self.leaves = self.raised = self.task = self.link = None

    # -- asyncio

    async def target(self, chan):
        try:
            chan.started_nowait()
            for step in self.in_asyncio:
                await self.aio_step(chan, step)
        except BaseException as err:
            self.raised = err
            raise

    async def aio_step(self, chan, step):
        match step:
            case 'turn':
                await asyncio.sleep(0)
            case 'send':
                chan.send_nowait(1)
            case 'get':
                await chan.get()
            case 'raise':
                raise Theirs
            case 'cancel':
                asyncio.current_task().cancel()
                await asyncio.sleep(0)
            case 'absorb':
                with contextlib.suppress(TrioTaskExited):
                    await chan.get()
            case 'in_group':
                async with asyncio.TaskGroup() as tg:
                    tg.create_task(asyncio.sleep(0))

    # -- trio

    async def main(self):
        with trio.CancelScope() as self.scope:
            try:
                async with open_channel_from(self.target, self.suppress) as (chan, _):
                    self.task, self.link = chan._aio_task, chan._link
                    await self.run_body(chan)
            except BaseException as err:
                self.leaves = err
                if isinstance(err, trio.Cancelled):
                    raise
        assert self.task is None or self.task.done()

    async def run_body(self, chan):
        try:
            for step in self.in_trio:
                await self.trio_step(chan, step)
        except BaseException as err:
            self.body = err
            raise

    async def trio_step(self, chan, step):
        match step:
            case 'turn':
                await trio.lowlevel.checkpoint()
            case 'send':
                await chan.send(1)
            case 'receive':
                with trio.move_on_after(0.001):
                    await chan.receive()
            case 'result':
                with trio.move_on_after(0.001):
                    await chan.wait_for_result()
            case 'raise':
                raise Own
            case 'cancel':
                self.scope.cancel()
            case 'cancel_task':
                chan.cancel_asyncio_task()
            case 'close':
                await chan.aclose()

    # -- the rules

    def check(self):
        failure = self.failure()
        leaves, body = self.leaves, self.body
        if failure is not None and (body is None or isinstance(body, trio.Cancelled | failure)):
            assert type(leaves) is failure
        elif body is None:
            assert leaves is None or (isinstance(leaves, TrioTaskExited) and not self.suppress)
        else:
            assert leaves is body
            if failure is not None:
                assert type(body.__cause__) is failure

    def failure(self):
        """The type of error that asyncio contributes, if any."""
        if self.task is None:
            return type(self.leaves)
        if self.task.cancelled() and not self.was_told():
            return AsyncioCancelled
        if isinstance(self.raised, Theirs):
            return Theirs
        if isinstance(self.raised, trio.BrokenResourceError) and not self.was_told():
            return trio.BrokenResourceError
        return None

    def was_told(self):
        return self.link.signal is not None


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.sampled_from(TRIO), max_size=6),
    st.lists(st.sampled_from(ASYNCIO), max_size=6),
    st.booleans(),
)
def test_any_two_sides(in_trio, in_asyncio, suppress):
    run = Run(in_trio, in_asyncio, suppress)
    guests.run_guest(run.main)
    run.check()
