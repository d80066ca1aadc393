"""collaboration: what becomes of a request: errors, answers that nobody reads, and the function behind the loop."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

import tractor
from tractor._testing import dialogs, run_bounded
from tractor._testing.dialogs import shown, was_refused
from tractor._testing.peer import RawPeer, open_peer
from tractor.discovery._addr import mk_uuid
from tractor.msg.types import CancelAck, Error, Return, StartAck
from tractor.runtime import _rpc

Play = Callable[[Callable[[tractor.Actor, RawPeer], Awaitable[None]]], None]

HERE = __name__

still_serves = functools.partial(dialogs.still_serves, ns=HERE)
whole_dialog = functools.partial(dialogs.whole_dialog, ns=HERE)


# -- endpoints ------------------------------------------------------------------------------------


async def ping(n: int = 0) -> int:
    return n


@tractor.context
async def double_all(renamed: tractor.Context) -> str:
    await renamed.started()
    async with renamed.open_stream() as stream:
        async for item in stream:
            await stream.send(2 * item)
    return 'done'


async def give_object() -> object:
    return object()


class Plain(BaseException):
    """No `Exception`."""


ERRORS: dict[str, Callable[[], BaseException]] = {
    'ValueError': lambda: ValueError('boom'),
    'ExceptionGroup': lambda: ExceptionGroup('several', [ValueError('one'), TypeError('two')]),
    'BaseExceptionGroup': lambda: BaseExceptionGroup('several', [Plain(), ValueError('two')]),
    'SystemExit': lambda: SystemExit(3),
    'Plain': lambda: Plain('boom'),
    'KeyboardInterrupt': KeyboardInterrupt,
    'TransportClosed': lambda: tractor.TransportClosed('of another connection'),
}


async def fail(name: str) -> None:
    raise ERRORS[name]()


async def fail_as_generator(name: str) -> AsyncIterator[int]:
    yield 1
    raise ERRORS[name]()


@tractor.stream
async def fail_as_stream(stream: tractor.Context, name: str) -> None:
    raise ERRORS[name]()


@tractor.context
async def fail_as_context(ctx: tractor.Context, name: str) -> None:
    raise ERRORS[name]()


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', [name for name in ERRORS if name != 'KeyboardInterrupt'])
@pytest.mark.parametrize('func', ['fail', 'fail_as_generator', 'fail_as_stream', 'fail_as_context'])
def test_error_of_a_function_is_shipped_and_the_actor_lives(
    play: Play, func: str, name: str
) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        *before, last = await whole_dialog(peer, func, name=name)
        assert isinstance(last, Error)
        assert last.boxed_type_str == last.src_type_str == name
        assert last.src_uid == root.aid.uid
        assert 'in fail' in last.tb_str
        assert len(before) == (2 if func == 'fail_as_generator' else 1)
        await still_serves(root, peer)

    play(main)


@pytest.mark.parametrize('func', ['fail', 'fail_as_generator', 'fail_as_context'])
def test_interrupt_in_a_function_is_shipped_and_ends_the_actor(play: Play, func: str) -> None:
    answers: list[Any] = []

    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        with trio.CancelScope(shield=True):
            answers.extend(await whole_dialog(peer, func, name='KeyboardInterrupt'))
        await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        play(main)
    assert answers[-1].boxed_type_str == 'KeyboardInterrupt'


def test_value_that_cannot_be_encoded_is_reported(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        answers = await whole_dialog(peer, 'give_object')
        assert shown(answers) == [('StartAck', 'asyncfunc'), ('Error', 'MsgTypeError')]
        assert 'object' in answers[-1].message
        assert answers[-1]._bad_msg is None
        await still_serves(root, peer)

    play(main)


# -- a peer that does not read --------------------------------------------------------------------


async def give_bytes(size: int) -> bytes:
    return bytes(size)


NOTED: list[trio.Event] = []


async def note() -> None:
    NOTED[-1].set()


def test_loop_reads_on_while_the_peer_does_not(play: Play) -> None:
    """Both ends may have more to write than the sockets hold, and must go on reading."""

    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        NOTED.append(trio.Event())
        big = [peer.start(HERE, 'give_bytes', size=1 << 20) for _ in range(12)]
        await peer.send(*big)
        while len(root._rpc_tasks) < len(big):
            await trio.testing.wait_all_tasks_blocked()
        # not one answer was read; these are taken all the same
        for func in ('ping', 'ping', 'note'):
            await peer.request(HERE, func)
        await NOTED[-1].wait()
        for msg in big:
            assert isinstance(await peer.recv_of(msg.cid), StartAck)
            assert (await peer.recv_of(msg.cid)).pld == bytes(1 << 20)

    play(main)


def test_peer_that_goes_away_unread_harms_nobody(play: Play) -> None:
    async def main(root: tractor.Actor, peer: RawPeer) -> None:
        async with open_peer(root.accept_addr, 'rude') as rude:
            await rude.send(*[rude.start(HERE, 'give_bytes', size=1 << 20) for _ in range(12)])
            while len(root._rpc_tasks) < 12:
                await trio.testing.wait_all_tasks_blocked()
            rude.reset()
        while rude.uid in root.ipc_server._peers:
            await trio.testing.wait_all_tasks_blocked()
        await still_serves(root, peer)

    play(main)


# -- the function behind the loop -----------------------------------------------------------------


class FakeChannel:
    """Keeps what is sent."""

    def __init__(self, closed: bool = False) -> None:
        self.aid = tractor.msg.types.Aid(name='caller', uuid='1')
        self.sent: list[Any] = []
        self.closed = closed

    def connected(self) -> bool:
        return not self.closed

    async def send(self, msg: Any) -> None:
        await trio.lowlevel.checkpoint()
        if self.closed:
            raise tractor.TransportClosed('gone')
        self.sent.append(msg)


def invoke(chan: FakeChannel, func: Any, **options: Any) -> tuple[tractor.Actor, Any]:
    started: list[Any] = []

    class Status:
        def started(self, value: Any = None) -> None:
            started.append(value)

    async def main() -> tractor.Actor:
        actor = tractor.Actor('callee', mk_uuid())
        await _rpc._invoke(
            actor,
            'some-id',
            chan,  # type: ignore[arg-type]
            func,
            task_status=Status(),  # type: ignore[arg-type]
            **options,
        )
        assert actor._contexts == actor._rpc_tasks == {}
        assert actor._ongoing_rpc_tasks.is_set()
        return actor

    actor = run_bounded(main, timeout=5)
    (value,) = started
    return actor, value


def test_invoke_needs_no_running_actor() -> None:
    chan = FakeChannel()
    _actor, ctx = invoke(chan, ping, kwargs={'n': 2})
    assert isinstance(ctx, tractor.Context)
    assert ctx._nsf == f'{HERE}:ping'
    assert chan.sent == [
        StartAck(cid='some-id', functype='asyncfunc'),
        Return(cid='some-id', pld=2),
    ]


def test_invoke_answers_with_the_given_type() -> None:
    chan = FakeChannel()
    invoke(chan, ping, kwargs={'n': True}, return_msg_type=CancelAck)
    assert chan.sent[-1] == CancelAck(cid='some-id', pld=True)


def test_invoke_hands_over_why_it_was_refused() -> None:
    chan = FakeChannel()
    actor, err = invoke(chan, ping, kwargs={'m': 2})
    assert isinstance(err, TypeError)
    (error,) = chan.sent
    assert was_refused(error, 'some-id', 'TypeError')
    assert error.src_uid == actor.aid.uid


@pytest.mark.parametrize('is_rpc', [True, False])
def test_invoke_ships_errors_of_requests_only(is_rpc: bool) -> None:
    chan = FakeChannel()
    invoke(chan, fail, kwargs={'name': 'ValueError'}, is_rpc=is_rpc)
    assert [type(msg) for msg in chan.sent] == [StartAck, Error][: 1 + is_rpc]


def test_invoke_runs_a_function_whose_caller_is_gone() -> None:
    ran: list[int] = []

    async def note() -> None:
        await trio.lowlevel.checkpoint()
        ran.append(1)

    invoke(FakeChannel(closed=True), note, kwargs={})
    assert ran == [1]


def test_shipping_an_error_never_replaces_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rpc, 'pack_error', lambda err, cid, src_uid: (cid, err.args[0]))
    chan = FakeChannel()

    async def main() -> None:
        await _rpc.try_ship_error_to_remote(None, ValueError('to nobody'))
        await _rpc.try_ship_error_to_remote(chan, ValueError('one'), cid='a')  # type: ignore[arg-type]
        chan.closed = True
        await _rpc.try_ship_error_to_remote(chan, ValueError('two'))  # type: ignore[arg-type]

    run_bounded(main, timeout=5)
    assert chan.sent == [('a', 'one')]


@pytest.mark.parametrize('cancelled', [False, True])
def test_shipping_an_error_is_shielded_and_bounded(cancelled: bool) -> None:
    class Stuck(FakeChannel):
        async def send(self, msg: Any) -> None:
            await trio.sleep_forever()

    async def main() -> float:
        start = trio.current_time()
        with trio.CancelScope() as scope:
            if cancelled:
                scope.cancel()
            await _rpc.try_ship_error_to_remote(Stuck(), ValueError('boom'))  # type: ignore[arg-type]
        assert not scope.cancelled_caught
        return trio.current_time() - start

    # virtual time
    assert trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)) == pytest.approx(
        _rpc.SHIP_TIMEOUT
    )
