"""collaboration: the life of a child, in this process, whose parent and registrar are played by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import tractor
from tractor._exceptions import InternalError
from tractor._testing import run_bounded
from tractor._testing.addr import get_rando_addr
from tractor._testing.peer import Calling, PeerListener, RawPeer, frame, open_listener
from tractor.discovery._addr import mk_uuid, wrap_address
from tractor.ipc import Channel
from tractor.msg.types import CancelAck, Error, Return, SpawnSpec, Start, StartAck, Started
from tractor.runtime import _registration, _state
from tractor.runtime._runtime import Actor, async_main
from tractor.trionics import collapse_eg

HERE = __name__

Addr = tuple[str, Any]


async def ping(n: int = 0) -> int:
    return n


@tractor.context
async def wait_context(ctx: tractor.Context) -> None:
    await ctx.started()
    await trio.sleep_forever()


class Stage:
    """A child and who is around it."""

    def __init__(self, tpt_proto: str) -> None:
        self.tpt_proto = tpt_proto
        self.actor = Actor('child', mk_uuid(), spawn_method='trio', inherit_parent_main=False)
        self.parent: RawPeer
        self.registrar: PeerListener
        self.life: Calling

    def spec(self, **changed: Any) -> SpawnSpec:
        """What the parent says."""
        fields: dict[str, Any] = {
            '_parent_main_data': {},
            '_runtime_vars': {
                **_state.get_runtime_vars(),
                '_is_root': True,
                '_enable_tpts': [self.tpt_proto],
                '_registry_addrs': [self.registrar.addr],
                # the registrar is the root of this tree: no link to it is kept
                '_root_addrs': [self.registrar.addr],
            },
            'enable_modules': {HERE: __file__},
            'reg_addrs': [self.registrar.addr],
            'bind_addrs': None,
        }
        return SpawnSpec(**{**fields, **changed})

    async def register(self) -> Start:
        """Be the registrar for one request; the connection is the child's to close."""
        peer = await self.registrar.accept('registrar', is_registrar=True)
        await peer.handshake()
        start: Start = await peer.recv()
        await peer.send(
            StartAck(cid=start.cid, functype='asyncfunc'), Return(cid=start.cid, pld=None)
        )
        await peer.wait_closed()
        return start

    async def boot(self, **changed: Any) -> None:
        """Everything up to the child being up."""
        await self.parent.handshake()
        await self.parent.send(self.spec(**changed))
        start = await self.register()
        assert start.func == 'register_actor'

    async def cancel(self) -> None:
        """Ask the child to cancel itself, see it unregister and go."""
        ack = await self.parent.call('self', 'cancel')
        assert ack == CancelAck(cid=ack.cid, pld=True)
        assert (await self.register()).func == 'unregister_actor'
        assert await self.life.outcome() is None


@asynccontextmanager
async def open_stage(tpt_proto: str) -> AsyncIterator[Stage]:
    stage = Stage(tpt_proto)
    async with (
        open_listener(get_rando_addr(tpt_proto)) as parents,
        open_listener(get_rando_addr(tpt_proto)) as registrar,
        collapse_eg(),
        trio.open_nursery() as tn,
    ):
        stage.registrar = registrar
        stage.life = Calling(tn, partial(async_main, stage.actor, parent_addr=parents.addr))
        stage.parent = await parents.accept('parent')
        try:
            yield stage
        finally:
            stage.life.scope.cancel()
            await parents.aclose()
            await registrar.aclose()


def staged(tpt_proto: str, main: Any) -> None:
    async def with_stage() -> None:
        async with open_stage(tpt_proto) as stage:
            _state.set_current_actor(stage.actor)
            await main(stage)

    try:
        run_bounded(with_stage, timeout=10)
    finally:
        _state.set_current_actor(None)


# -- up -------------------------------------------------------------------------------------------


def test_child_registers_before_it_serves_its_parent(tpt_proto: str) -> None:
    async def main(stage: Stage) -> None:
        actor, parent = stage.actor, stage.parent
        assert await parent.handshake() == actor.aid
        assert parent.other is not None
        assert parent.other.is_registrar is False
        # the first request waits in the socket until the child is up
        call = parent.start(HERE, 'ping', n=4)
        await parent.send(stage.spec(), call)
        peer = await stage.registrar.accept('registrar', is_registrar=True)
        assert await peer.handshake() == actor.aid
        start = await peer.recv()
        assert (start.ns, start.func) == ('self', 'register_actor')
        assert start.kwargs == {
            'uid': list(actor.aid.uid),
            'addr': list(actor.accept_addr),
        }
        await trio.testing.wait_all_tasks_blocked()
        assert actor._rpc_tasks == {}
        await peer.send(
            StartAck(cid=start.cid, functype='asyncfunc'), Return(cid=start.cid, pld=None)
        )
        assert await parent.recv() == StartAck(cid=call.cid, functype='asyncfunc')
        assert await parent.recv() == Return(cid=call.cid, pld=4)
        # what the parent said has been applied
        assert actor._spawn_spec is not None
        assert _state.get_runtime_vars() == actor._spawn_spec._runtime_vars
        assert not _state.is_root_process()
        assert actor.reg_addrs == [stage.registrar.addr]
        assert actor.enable_modules == {HERE: __file__}
        assert set(actor._mods) == {HERE}
        assert actor.repr_state == 'running'
        assert actor.get_parent().chan is actor._parent_chan
        assert actor.get_parent().chan.aid == parent.aid
        await stage.cancel()

    staged(tpt_proto, main)


def test_child_listens_where_it_is_told(tpt_proto: str) -> None:
    addrs = [get_rando_addr(tpt_proto), get_rando_addr(tpt_proto)]

    async def main(stage: Stage) -> None:
        await stage.parent.handshake()
        await stage.parent.send(stage.spec(bind_addrs=addrs))
        peer = await stage.registrar.accept('registrar', is_registrar=True)
        await peer.handshake()
        for addr in addrs:
            start = await peer.recv()
            assert start.kwargs['addr'] == list(addr)
            await peer.send(
                StartAck(cid=start.cid, functype='asyncfunc'), Return(cid=start.cid, pld=None)
            )
        await peer.wait_closed()
        assert (await stage.parent.call(HERE, 'ping', n=1)).pld == 1
        assert stage.actor.accept_addrs == addrs
        assert stage.actor.accept_addr == addrs[0]
        await stage.cancel()

    staged(tpt_proto, main)


# -- not up ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('first', 'raised'),
    [
        (Started(cid='x', pld=1), InternalError),
        (
            Error(src_uid=('a', 'b'), src_type_str='X', boxed_type_str='X', relay_path=[]),
            InternalError,
        ),
    ],
)
def test_child_needs_its_orders_first(tpt_proto: str, first: Any, raised: type) -> None:
    async def main(stage: Stage) -> None:
        await stage.parent.handshake()
        await stage.parent.send(first)
        assert isinstance(await stage.life.outcome(), raised)
        (told,) = await stage.parent.wait_closed()
        assert isinstance(told, Error)
        assert told.cid is None
        assert told.boxed_type_str == raised.__name__

    staged(tpt_proto, main)


def test_child_refuses_orders_it_cannot_read(tpt_proto: str) -> None:
    async def main(stage: Stage) -> None:
        await stage.parent.handshake()
        await stage.parent.send_bytes(frame(b'\x81\xa8msg_type\xa9SpawnSpec'))
        assert isinstance(await stage.life.outcome(), tractor.MsgTypeError)
        (told,) = await stage.parent.wait_closed()
        assert (told.cid, told.boxed_type_str) == (None, 'MsgTypeError')

    staged(tpt_proto, main)


def test_child_refuses_to_be_another_kind_of_actor(tpt_proto: str) -> None:
    async def main(stage: Stage) -> None:
        await stage.parent.handshake()
        rtvars = {**_state.get_runtime_vars(), '_is_infected_aio': True}
        await stage.parent.send(stage.spec(_runtime_vars=rtvars))
        assert isinstance(await stage.life.outcome(), InternalError)

    staged(tpt_proto, main)


@pytest.mark.parametrize(
    ('changed', 'raised'),
    [
        ({'enable_modules': {'no_such_module': '/nowhere/no_such_module.py'}}, ModuleNotFoundError),
        ({'reg_addrs': [('127.0.0.1', 1)]}, OSError),
    ],
)
def test_child_that_does_not_come_up_tells_its_parent(
    tpt_proto: str, changed: dict[str, Any], raised: type
) -> None:
    async def main(stage: Stage) -> None:
        await stage.parent.handshake()
        await stage.parent.send(stage.spec(**changed))
        err = await stage.life.outcome()
        assert isinstance(err, raised)
        (told,) = await stage.parent.wait_closed()
        assert isinstance(told, Error)
        assert told.cid is None
        assert told.boxed_type_str == type(err).__name__
        assert told.src_uid == stage.actor.aid.uid

    staged(tpt_proto, main)


def test_child_without_parent_fails(tpt_proto: str) -> None:
    async def main() -> None:
        actor = Actor('child', mk_uuid())
        with pytest.raises(OSError):
            await async_main(actor, parent_addr=get_rando_addr(tpt_proto))

    run_bounded(main, timeout=5)


# -- down -----------------------------------------------------------------------------------------


def test_cancelled_child_unregisters_after_the_acknowledgement(tpt_proto: str) -> None:
    async def main(stage: Stage) -> None:
        await stage.boot()
        cid = await stage.parent.request(HERE, 'wait_context')
        assert isinstance(await stage.parent.recv_of(cid), StartAck)
        assert isinstance(await stage.parent.recv_of(cid), Started)
        cancel = await stage.parent.request('self', 'cancel')
        assert isinstance(await stage.parent.recv(), StartAck)
        assert (await stage.parent.recv()).canceller == stage.parent.uid
        assert await stage.parent.recv() == CancelAck(cid=cancel, pld=True)
        start = await stage.register()
        assert (start.ns, start.func) == ('self', 'unregister_actor')
        assert start.kwargs == {'uid': list(stage.actor.aid.uid)}
        assert await stage.life.outcome() is None
        assert await stage.parent.wait_closed() == []
        assert stage.actor.cancel_caller == stage.parent.aid

    staged(tpt_proto, main)


@pytest.mark.parametrize('how', ['aclose', 'breaks the protocol'])
def test_child_without_its_parent_cancels_itself(tpt_proto: str, how: str) -> None:
    async def main(stage: Stage) -> None:
        await stage.boot()
        if how == 'aclose':
            await stage.parent.aclose()
        else:
            await stage.parent.send(stage.parent.aid)
        assert (await stage.register()).func == 'unregister_actor'
        assert await stage.life.outcome() is None
        assert stage.actor.cancel_caller == stage.actor.aid

    staged(tpt_proto, main)


def test_child_of_a_failed_parent_fails_too(tpt_proto: str) -> None:
    async def main(stage: Stage) -> None:
        await stage.boot()
        await stage.parent.send(stage.parent.error(None, 'ZeroDivisionError'))
        assert (await stage.register()).func == 'unregister_actor'
        err = await stage.life.outcome()
        assert isinstance(err, tractor.RemoteActorError)
        assert err.boxed_type is ZeroDivisionError

    staged(tpt_proto, main)


def test_registrar_that_does_not_answer_holds_nobody_up(
    tpt_proto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _registration._UNREGISTER_TIMEOUT == 0.5
    monkeypatch.setattr(_registration, '_UNREGISTER_TIMEOUT', 0.05)

    async def main(stage: Stage) -> None:
        await stage.boot()
        ack = await stage.parent.call('self', 'cancel')
        assert isinstance(ack, CancelAck)
        # it accepts, and that is all
        silent = await stage.registrar.accept('registrar')
        with trio.fail_after(1):
            assert await stage.life.outcome() is None
        assert [type(msg) for msg in await silent.wait_closed()] == [tractor.msg.types.Aid]

    staged(tpt_proto, main)


@pytest.mark.parametrize('answer', ['error', 'close', 'garbage'])
def test_registrar_that_fails_is_no_error_of_the_child(tpt_proto: str, answer: str) -> None:
    async def main(stage: Stage) -> None:
        await stage.boot()
        await stage.parent.call('self', 'cancel')
        peer = await stage.registrar.accept('registrar', is_registrar=True)
        await peer.handshake()
        start = await peer.recv()
        if answer == 'error':
            await peer.send(peer.error(start.cid, 'ValueError'))
        elif answer == 'garbage':
            await peer.send(peer.aid)
        else:
            await peer.aclose()
        with trio.fail_after(1):
            assert await stage.life.outcome() is None

    staged(tpt_proto, main)


def test_parent_that_is_the_registrar_is_told_through_its_connection(
    tpt_proto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it does not listen any more, and only then."""

    async def main(stage: Stage) -> None:
        await stage.boot()
        await stage.registrar.aclose()
        # as if the parent had listened there
        raddr = wrap_address(stage.registrar.addr)
        monkeypatch.setattr(Channel, 'raddr', property(lambda chan: raddr))
        assert isinstance(await stage.parent.call('self', 'cancel'), CancelAck)
        start = await stage.parent.recv()
        assert (start.ns, start.func) == ('self', 'unregister_actor')
        await stage.parent.send(
            StartAck(cid=start.cid, functype='asyncfunc'), Return(cid=start.cid, pld=None)
        )
        # it has heard the answer
        with trio.fail_after(_registration._UNREGISTER_TIMEOUT - 0.1):
            assert await stage.life.outcome() is None

    staged(tpt_proto, main)


class Failure(BaseException):
    """No `Exception`."""


@pytest.mark.parametrize('error', [None, ValueError('boom'), Failure('boom')])
def test_lifetime_stack_is_closed_at_the_end(tpt_proto: str, error: BaseException | None) -> None:
    closed: list[str] = []

    def note() -> None:
        closed.append('note')
        if error is not None:
            raise error

    async def main(stage: Stage) -> None:
        await stage.boot()
        stage.actor.lifetime_stack.callback(closed.append, 'last')
        stage.actor.lifetime_stack.callback(note)
        await stage.parent.call('self', 'cancel')
        # whatever the callbacks do, this follows
        assert (await stage.register()).func == 'unregister_actor'
        await stage.parent.wait_closed()
        assert closed == ['note', 'last']
        await stage.life.outcome()

    if isinstance(error, Failure):
        with pytest.raises(Failure):
            staged(tpt_proto, main)
    else:
        staged(tpt_proto, main)
