"""collaboration: calls through portals: to a peer that speaks the protocol by hand, and of a root to itself."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

import tractor
from tractor._exceptions import ActorTooSlowError
from tractor._testing.peer import Calling, RawPeer, play_in_memory, portal_to
from tractor.msg.types import CancelAck, Return, Start, StartAck
from tractor.runtime import _portal
from tractor.runtime._portal import Portal

Play = Callable[[Callable[[tractor.Actor, RawPeer], Awaitable[None]]], None]

HERE = __name__


@pytest.fixture
def play() -> Play:
    """
    Run `main(root, peer)` with a root that exposes this module and a peer connected to it.

    In memory, and in virtual time: limits take no time and are kept to the second.
    """
    clock = trio.testing.MockClock(autojump_threshold=0)
    return functools.partial(play_in_memory, module=HERE, clock=clock)


# -- endpoints ------------------------------------------------------------------------------------


async def ping(n: int = 0) -> int:
    return n


def sync_ping(n: int = 0) -> int:
    return n


async def count(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


@tractor.stream
async def wait_stream(stream: tractor.Context) -> None:
    await trio.sleep_forever()


# -- what is sent, what comes back ----------------------------------------------------------------


def test_call_sends_one_request_and_returns_the_value(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        async with trio.open_nursery() as tn:
            call = Calling(tn, functools.partial(portal.run, ping, n=[1, None]))
            start = await peer.recv()
            assert start == Start(
                cid=start.cid,
                ns=HERE,
                func='ping',
                kwargs={'n': [1, None]},
                uid=root.aid.uid,
            )
            await peer.send(
                StartAck(cid=start.cid, functype='asyncfunc'), Return(cid=start.cid, pld={'a': 1})
            )
            assert await call.outcome() == {'a': 1}
        assert root._contexts == {}

    play(main)


@pytest.mark.parametrize(
    ('call', 'sent'),
    [
        (lambda portal: portal.run_from_ns('some.module', 'func', a=1), ('some.module', 'func')),
        (lambda portal: portal.run_from_ns('self', 'whatever', a=1), ('self', 'whatever')),
    ],
)
def test_call_by_name(play: Play, call: Any, sent: tuple[str, str]) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        async with trio.open_nursery() as tn:
            calling = Calling(tn, functools.partial(call, portal))
            start = await peer.recv()
            assert (start.ns, start.func, start.kwargs) == (*sent, {'a': 1})
            await peer.send(
                StartAck(cid=start.cid, functype='asyncfunc'), Return(cid=start.cid, pld=None)
            )
            assert await calling.outcome() is None

    play(main)


def test_older_form_of_a_call_still_works(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        async with tractor.find_actor('root') as portal:
            with pytest.warns(DeprecationWarning, match=r'Portal\.run'):
                assert await portal.run(HERE, 'ping', n=5) == 5

    play(main)


@pytest.mark.parametrize('func', [sync_ping, count, wait_stream, 3, None, functools.partial(ping)])
def test_call_of_what_cannot_be_called_sends_nothing(play: Play, func: Any) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        with pytest.raises(TypeError, match='must be a non-streaming async function'):
            await portal.run(func)
        assert root._contexts == {}
        await answers_a_call(portal, peer)

    play(main)


async def answers_a_call(portal: Portal, peer: RawPeer) -> None:
    """The next thing that arrives is this call, and its answer gets through."""
    async with trio.open_nursery() as tn:
        call = Calling(tn, functools.partial(portal.run, ping))
        start = await peer.recv()
        assert start.func == 'ping'
        await peer.send(StartAck(cid=start.cid, functype='asyncfunc'), Return(cid=start.cid, pld=7))
        assert await call.outcome() == 7


def test_argument_that_cannot_be_encoded_sends_nothing(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        with pytest.raises(tractor.MsgTypeError):
            await portal.run(ping, n=object())
        assert root._contexts == {}
        await answers_a_call(portal, peer)

    play(main)


@pytest.mark.parametrize('accepted', [False, True])
@pytest.mark.parametrize(
    ('boxed', 'fields', 'raised'),
    [
        ('ValueError', {}, tractor.RemoteActorError),
        ('ContextCancelled', {'canceller': ('x', 'y')}, tractor.ContextCancelled),
        ('MsgTypeError', {}, tractor.MsgTypeError),
        ('NobodyKnowsIt', {}, tractor.RemoteActorError),
    ],
)
def test_error_is_raised_as_what_it_is(
    play: Play, accepted: bool, boxed: str, fields: dict[str, Any], raised: type
) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        async with trio.open_nursery() as tn:
            call = Calling(tn, functools.partial(portal.run, ping))
            start = await peer.recv()
            if accepted:
                await peer.send(StartAck(cid=start.cid, functype='asyncfunc'))
            await peer.send(peer.error(start.cid, boxed, **fields))
            err = await call.outcome()
        assert type(err) is raised
        assert err.boxed_type_str == boxed
        assert err.src_uid == peer.uid
        if fields:
            assert err.canceller == fields['canceller']
        assert root._contexts == {}

    play(main)


def test_acceptance_of_an_unknown_kind_is_a_type_error(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        async with trio.open_nursery() as tn:
            call = Calling(tn, functools.partial(portal.run, ping))
            start = await peer.recv()
            await peer.send(StartAck(cid=start.cid, functype='threadfunc'))  # type: ignore[arg-type]
            assert isinstance(await call.outcome(), tractor.MsgTypeError)
        await answers_a_call(portal, peer)

    play(main)


def test_answers_find_their_calls_in_any_order(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        async with trio.open_nursery() as tn:
            calls = [Calling(tn, functools.partial(portal.run, ping, n=i)) for i in range(50)]
            starts = [await peer.recv() for _ in calls]
            for start in starts:
                await peer.send(StartAck(cid=start.cid, functype='asyncfunc'))
            for start in reversed(starts):
                await peer.send(Return(cid=start.cid, pld=start.kwargs['n']))
            assert [await call.outcome() for call in calls] == list(range(50))
        assert root._contexts == {}

    play(main)


async def portal_with_main_task(portal: Portal, peer: RawPeer) -> Start:
    async with trio.open_nursery() as tn:
        submit = Calling(tn, functools.partial(portal._submit_for_result, HERE, 'ping', n=1))
        start: Start = await peer.recv()
        assert (start.ns, start.func, start.kwargs) == (HERE, 'ping', {'n': 1})
        await peer.send(StartAck(cid=start.cid, functype='asyncfunc'))
        assert await submit.outcome() is None
    return start


# -- a peer that is gone --------------------------------------------------------------------------


@pytest.mark.parametrize('how', ['aclose', 'reset'])
@pytest.mark.parametrize('accepted', [False, True])
def test_call_fails_at_once_when_the_peer_goes(play: Play, how: str, accepted: bool) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        async with trio.open_nursery() as tn:
            calls = [Calling(tn, functools.partial(portal.run, ping)) for _ in range(3)]
            starts = [await peer.recv() for _ in calls]
            if accepted:
                await peer.send(*[StartAck(cid=s.cid, functype='asyncfunc') for s in starts])
                await trio.testing.wait_all_tasks_blocked()
            if how == 'reset':
                peer.reset()
            else:
                await peer.aclose()
            with trio.fail_after(1):
                for call in calls:
                    assert isinstance(await call.outcome(), tractor.TransportClosed)
        assert root._contexts == {}
        # and now there is nobody to be called
        with trio.fail_after(1), pytest.raises(tractor.TransportClosed):
            await portal.run(ping)
        assert await portal.cancel_actor() is False
        assert root._contexts == {}
        assert 'disconnected' in repr(portal)

    play(main)


def test_call_fails_when_the_peer_breaks_the_protocol(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        async with trio.open_nursery() as tn:
            call = Calling(tn, functools.partial(portal.run, ping))
            await peer.recv()
            await peer.send(peer.aid)
            err = await call.outcome()
        assert isinstance(err, tractor.TransportClosed)
        assert 'does not follow the protocol' in str(err)
        with pytest.raises(tractor.TransportClosed):
            await portal.run(ping)

    play(main)


def test_failure_of_the_whole_peer_fails_every_call(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        await portal_with_main_task(portal, peer)
        async with trio.open_nursery() as tn:
            call = Calling(tn, functools.partial(portal.run, ping))
            result = Calling(tn, portal.wait_for_result)
            start = await peer.recv()
            failure = peer.error(start.cid, 'ImportError')
            failure.cid = None
            await peer.send(failure)
            err = await call.outcome()
            assert await result.outcome() is err
        assert isinstance(err, tractor.RemoteActorError)
        assert err.boxed_type is ImportError
        for again in (portal.wait_for_result, functools.partial(portal.run, ping)):
            with pytest.raises(tractor.RemoteActorError) as raised:
                await again()
            assert raised.value is err
        assert await portal.cancel_actor() is False
        assert root._contexts == {}

    play(main)


# -- cancelling a call ----------------------------------------------------------------------------


@pytest.mark.parametrize('accepted', [False, True])
def test_cancelled_call_cancels_the_function(play: Play, accepted: bool) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        async with trio.open_nursery() as tn:
            call = Calling(tn, functools.partial(portal.run, ping))
            start = await peer.recv()
            if accepted:
                await peer.send(StartAck(cid=start.cid, functype='asyncfunc'))
                await trio.testing.wait_all_tasks_blocked()
            call.scope.cancel()
            cancel = await peer.recv()
            assert (cancel.ns, cancel.func) == ('self', '_cancel_task')
            assert cancel.kwargs == {'cid': start.cid}
            await call.done.wait()
            assert call.scope.cancelled_caught
            assert root._contexts == {}
            # nobody waits for these any more
            await peer.send(
                StartAck(cid=cancel.cid, functype='asyncfunc'),
                peer.error(start.cid, 'ContextCancelled', canceller=root.aid.uid),
                CancelAck(cid=cancel.cid, pld=True),
            )
        await answers_a_call(portal, peer)

    play(main)


def test_call_that_is_cancelled_before_it_begins_sends_nothing(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        with trio.CancelScope() as scope:
            scope.cancel()
            await portal.run(ping)
        assert scope.cancelled_caught
        assert root._contexts == {}
        await answers_a_call(portal, peer)

    play(main)


def test_cancelled_call_to_a_peer_that_does_not_read_ends_in_time(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        async with trio.open_nursery() as tn:
            big = Calling(tn, functools.partial(portal.run, ping, n=bytes(1 << 24)))
            small = Calling(tn, functools.partial(portal.run, ping, n=1))
            await trio.testing.wait_all_tasks_blocked()
            start = trio.current_time()
            for call in (big, small):
                call.scope.cancel()
            await big.done.wait()
            await small.done.wait()
            assert trio.current_time() - start == pytest.approx(_portal._ABANDON_TIMEOUT)
        assert root._contexts == {}

    play(main)


# -- cancelling the actor -------------------------------------------------------------------------


async def answer_cancels(peer: RawPeer, *, ack: bool, done: bool) -> None:
    """Answer requests for cancellation, as far as told; end with the connection."""
    try:
        while True:
            start = await peer.recv()
            assert (start.ns, start.func) == ('self', 'cancel')
            if ack:
                await peer.send(StartAck(cid=start.cid, functype='asyncfunc'))
            if done:
                await peer.send(CancelAck(cid=start.cid, pld=True))
    except EOFError:
        return


def test_confirmed_cancellation_is_true(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        assert not portal.chan.cancel_called
        async with trio.open_nursery() as tn:
            tn.start_soon(functools.partial(answer_cancels, peer, ack=True, done=True))
            with trio.CancelScope() as scope:
                scope.cancel()
                # shielded
                assert await portal.cancel_actor() is True
            assert portal.chan.cancel_called
            tn.cancel_scope.cancel()
        assert root._contexts == {}

    play(main)


@pytest.mark.parametrize('ack', [False, True])
def test_cancellation_that_is_not_confirmed_in_time(play: Play, ack: bool) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        async with trio.open_nursery() as tn:
            tn.start_soon(functools.partial(answer_cancels, peer, ack=ack, done=False))
            start = trio.current_time()
            assert await portal.cancel_actor(timeout=3) is False
            assert trio.current_time() - start == pytest.approx(3)
            with pytest.raises(ActorTooSlowError, match=r'3 s'):
                await portal.cancel_actor(timeout=3, raise_on_timeout=True)
            assert root._contexts == {}
            tn.cancel_scope.cancel()

    play(main)


def test_default_time_for_a_cancellation(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        assert Portal.cancel_timeout == 0.5
        for limit in (0.5, 2):
            portal.cancel_timeout = limit
            start = trio.current_time()
            assert await portal.cancel_actor() is False
            assert trio.current_time() - start == pytest.approx(limit)

    play(main)


@pytest.mark.parametrize('ack', [False, True])
def test_cancellation_of_a_peer_that_goes_away_is_false_at_once(play: Play, ack: bool) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        async with trio.open_nursery() as tn:
            cancel = Calling(tn, functools.partial(portal.cancel_actor, timeout=9))
            start = await peer.recv()
            if ack:
                await peer.send(StartAck(cid=start.cid, functype='asyncfunc'))
            began = trio.current_time()
            await peer.aclose()
            assert await cancel.outcome() is False
            assert trio.current_time() == began

    play(main)


def test_cancellation_that_fails_is_false(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        async with trio.open_nursery() as tn:
            cancel = Calling(tn, functools.partial(portal.cancel_actor, timeout=9))
            start = await peer.recv()
            await peer.send(peer.error(start.cid, 'TypeError'))
            assert await cancel.outcome() is False

    play(main)
