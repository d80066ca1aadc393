"""collaboration: how many frames, system calls, scheduler steps and tasks a message, a call and a context take.

Both ends are in one `trio.run()`: an actor which has connected to itself. So each count is of both sides together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
import trio.testing

import tractor
from tractor._testing.peer import open_peer
from tractor.msg.types import Yield

MESSAGES = 1000
CALLS = 200

# in memory, and over the transport of this run
pytestmark = pytest.mark.parametrize('tpt', ['mem', None])


async def ping(n: int) -> int:
    return n


async def block_once(n: int) -> int:
    await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()
    return n


@tractor.context
async def echo(ctx: tractor.Context) -> None:
    await ctx.started()
    async with ctx.open_stream() as stream:
        async for item in stream:
            await stream.send(item)


@tractor.context
async def absorb(ctx: tractor.Context, count: int) -> int:
    await ctx.started()
    received = 0
    async with ctx.open_stream() as stream:
        async for _ in stream:
            received += 1
            if received == count:
                break
    return received


def near(count: int, expected: float, share: float = 0.05) -> bool:
    """Whether a count is what was expected, but for the few operations at the ends of what was counted."""
    return abs(count - expected) <= share * expected + 5


async def pingpong(stream: tractor.MsgStream, count: int) -> None:
    for n in range(count):
        await stream.send(n)
        assert await stream.receive() == n


# --- a call


def test_a_call_is_three_frames_and_two_writes(
    within_one_run: Any, counts: Any, tpt: str | None
) -> None:
    async def main(root: tractor.Actor, portal: tractor.Portal) -> None:
        await portal.run(ping, n=0)
        with counts.during() as seen:
            for n in range(CALLS):
                await portal.run(ping, n=n)
        assert seen['Start'] == seen['StartAck'] == seen['Return'] == CALLS
        assert seen['frames'] == 3 * CALLS
        # the request; the acknowledgement together with the answer
        assert seen['writes'] == 2 * CALLS
        # on each side one that finds nothing, and one that finds it
        assert seen['reads'] <= 4 * CALLS + 2
        # the function's
        assert seen['tasks'] == CALLS
        # the function, its message loop (twice or three times), the caller's loop and the caller, and in memory two
        # waits of the streams
        assert seen['steps'] <= (8 if tpt == 'mem' else 7) * CALLS + 10

    within_one_run(main, tpt=tpt)


def test_the_acknowledgement_of_a_call_that_blocks_is_written_before(
    within_one_run: Any, counts: Any, tpt: str | None
) -> None:
    async def main(root: tractor.Actor, portal: tractor.Portal) -> None:
        with counts.during() as seen:
            await portal.run(block_once, n=1)
        assert seen['frames'] == 3
        assert seen['writes'] == 3

    within_one_run(main, tpt=tpt)


def test_the_answers_of_calls_at_once_share_writes(
    within_one_run: Any, counts: Any, tpt: str | None
) -> None:
    async def main(root: tractor.Actor, portal: tractor.Portal) -> None:
        with counts.during() as seen:
            async with trio.open_nursery() as tn:
                for n in range(CALLS):
                    tn.start_soon(lambda n=n: portal.run(ping, n=n))
        assert seen['frames'] == 3 * CALLS
        # without sharing it would be three for each
        assert seen['writes'] <= 2 * CALLS + 10
        # the caller's, and the function's
        assert seen['tasks'] == 2 * CALLS

    within_one_run(main, tpt=tpt)


# --- a stream


def test_a_stream_message_is_one_frame_and_one_write(
    within_one_run: Any, counts: Any, tpt: str | None
) -> None:
    async def main(root: tractor.Actor, portal: tractor.Portal) -> None:
        async with portal.open_context(echo) as (ctx, _), ctx.open_stream() as stream:
            await pingpong(stream, 1)
            with counts.during() as seen:
                await pingpong(stream, MESSAGES)
        # there and back
        assert seen['Yield'] == seen['frames'] == 2 * MESSAGES
        assert seen['writes'] == 2 * MESSAGES
        assert seen['reads'] <= 4 * MESSAGES + 2
        assert seen['tasks'] == 0
        # of each message: its sender, the message loop, its receiver, and in memory a wait of the stream
        assert seen['steps'] <= (4 if tpt == 'mem' else 3) * 2 * MESSAGES + 10

    within_one_run(main, tpt=tpt)


def test_a_lone_sender_leaves_at_once(within_one_run: Any, counts: Any, tpt: str | None) -> None:
    async def main(root: tractor.Actor, portal: tractor.Portal) -> None:
        async with (
            portal.open_context(absorb, count=MESSAGES) as (ctx, _),
            ctx.open_stream() as stream,
        ):
            with counts.during() as seen:
                for n in range(MESSAGES):
                    await stream.send(n)
            await ctx.wait_for_result()
        assert seen['Yield'] == MESSAGES
        assert near(seen['writes'], MESSAGES)
        assert seen['reads'] <= 2 * MESSAGES + 10
        assert seen['tasks'] == 0

    within_one_run(main, tpt=tpt)


def test_senders_at_once_share_writes(within_one_run: Any, counts: Any, tpt: str | None) -> None:
    tasks = 50

    async def main(root: tractor.Actor, portal: tractor.Portal) -> None:
        async with (
            portal.open_context(absorb, count=MESSAGES) as (ctx, _),
            ctx.open_stream(),
            trio.open_nursery() as tn,
        ):

            async def send_some() -> None:
                for n in range(MESSAGES // tasks):
                    await ctx.chan.send(Yield(cid=ctx.cid, pld=n))

            with counts.during() as seen:
                for _ in range(tasks):
                    tn.start_soon(send_some)
                await ctx.wait_for_result()
        assert seen['frames'] >= MESSAGES
        assert seen['writes'] <= MESSAGES / 5

    within_one_run(main, tpt=tpt)


# --- a context


def test_a_context_takes_one_task_and_the_frames_of_its_dialog(
    within_one_run: Any, counts: Any, tpt: str | None
) -> None:
    async def main(root: tractor.Actor, portal: tractor.Portal) -> None:
        with counts.during() as seen:
            for _ in range(CALLS):
                async with portal.open_context(echo) as (ctx, _), ctx.open_stream():
                    pass
        for kind in ('Start', 'StartAck', 'Started', 'Return'):
            assert seen[kind] == CALLS
        # each side says that it sends no more
        assert seen['Stop'] <= 2 * CALLS
        assert seen['frames'] <= 6 * CALLS
        # the function's; and one that writes an acknowledgement which another task is just about to write
        assert CALLS <= seen['tasks'] <= 2 * CALLS
        assert seen['writes'] <= 5 * CALLS

    within_one_run(main, tpt=tpt)


# --- what it does not depend on


async def count_both(stream: Any, portal: Any, counts: Any) -> tuple[Counter[str], Counter[str]]:
    """The counts of stream messages, and of calls."""
    await pingpong(stream, 1)
    with counts.during() as streaming:
        await pingpong(stream, CALLS)
    with counts.during() as calling:
        for n in range(CALLS):
            await portal.run(ping, n=n)
    return streaming, calling


def check_same(few: tuple[Counter[str], ...], many: tuple[Counter[str], ...]) -> None:
    for one, other in zip(few, many, strict=True):
        for key in ('frames', 'writes', 'tasks'):
            assert one[key] == other[key], key
        # the order within a turn is by chance, so is whether the message loop needs one more
        for key in ('reads', 'steps'):
            assert near(other[key], one[key], 0.15), (key, one, other)


def test_costs_do_not_depend_on_open_contexts(
    within_one_run: Any, counts: Any, tpt: str | None
) -> None:
    async def main(root: tractor.Actor, portal: tractor.Portal) -> None:
        async with AsyncExitStack() as stack:
            results = []
            for number in (1, 1000 if tpt == 'mem' else 100):
                while len(root._contexts) < 2 * number:
                    ctx, _ = await stack.enter_async_context(portal.open_context(echo))
                    stream = await stack.enter_async_context(ctx.open_stream())
                results.append(await count_both(stream, portal, counts))
            check_same(*results)

    within_one_run(main, tpt=tpt)


def test_costs_do_not_depend_on_connected_actors(
    within_one_run: Callable[..., None], counts: Any, tpt: str | None
) -> None:
    async def main(root: tractor.Actor, portal: tractor.Portal) -> None:
        async with (
            portal.open_context(echo) as (ctx, _),
            ctx.open_stream() as stream,
            AsyncExitStack() as stack,
        ):
            few = await count_both(stream, portal, counts)
            for n in range(63):
                await stack.enter_async_context(open_peer(root.accept_addr, name=f'peer{n}'))
            await trio.testing.wait_all_tasks_blocked()
            assert len(root.ipc_server._peers) >= 64
            check_same(few, await count_both(stream, portal, counts))

    within_one_run(main, tpt=tpt)


def test_costs_do_not_depend_on_past_messages(
    within_one_run: Any, counts: Any, tpt: str | None
) -> None:
    past = 18_000 if tpt == 'mem' else 2000

    async def main(root: tractor.Actor, portal: tractor.Portal) -> None:
        async with portal.open_context(echo) as (ctx, _), ctx.open_stream() as stream:
            results = []
            for _ in range(2):
                with counts.during() as seen:
                    await pingpong(stream, MESSAGES)
                results.append((seen,))
                if len(results) == 1:
                    await pingpong(stream, past)
            check_same(*results)

    within_one_run(main, tpt=tpt)
