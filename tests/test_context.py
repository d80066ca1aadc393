"""contract: opening a context, its handshake, its result, and what is left of it afterwards."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any, Optional

import pytest
import trio
import trio.testing

import tractor
from tractor import ContextCancelled, MsgTypeError, RemoteActorError, TransportClosed
from tractor._code_load import load_module_from_path
from tractor._context import Unresolved, context
from tractor._exceptions import MessagingError
from tractor._testing import run_bounded, tractor_test
from tractor._testing.fault_simulation import break_ipc
from tractor.ipc import Channel
from tractor.runtime import _loss

pytestmark = pytest.mark.spawns

# under the name by which the actors import it
peers = sys.modules.get('dialog_peers') or load_module_from_path(
    Path(__file__).with_name('dialog_peers.py')
)

# --- the decorator


async def plain(ctx: tractor.Context) -> None:
    """Nothing."""


async def in_a_union(other: int, here: int | tractor.Context, more: str) -> None:
    """Nothing."""


async def optional(here: Optional[tractor.Context]) -> None:  # noqa: UP045
    """Nothing."""


async def beside_nonsense(other: not_there, here: tractor.Context) -> None:  # noqa: F821
    """Nothing."""


async def by_name(other: int, here: 'Context') -> None:  # noqa: F821, UP037
    """The name means nothing here."""


async def nothing_of_ours(ctx: int) -> tractor.Context:
    raise AssertionError


@pytest.mark.parametrize(
    ('func', 'param'),
    [(plain, 'ctx'), (in_a_union, 'here'), (optional, 'here'), (beside_nonsense, 'here')],
)
def test_the_parameter_is_found(func: Any, param: str) -> None:
    fresh = types.FunctionType(func.__code__, func.__globals__)
    fresh.__annotations__ = func.__annotations__
    assert context(fresh) is fresh
    meta = fresh._tractor_context_meta  # type: ignore[attr-defined]
    assert set(meta) == {'ctx_var_name', 'pld_spec', 'enc_hook', 'dec_hook', 'ext_types', 'sig'}
    assert meta['ctx_var_name'] == param
    assert meta['pld_spec'] is Any
    assert list(meta['sig'].parameters) == list(func.__annotations__)[: len(meta['sig'].parameters)]


@pytest.mark.parametrize('func', [nothing_of_ours, by_name])
def test_no_parameter_is_found(func: Any) -> None:
    with pytest.raises(TypeError, match=rf'{func.__name__}.*tractor\.Context'):
        context(func)


def test_real_annotations_that_cannot_be_evaluated() -> None:
    """Not only strings: since Python 3.14 the annotations themselves are evaluated late."""
    names: dict[str, Any] = {'tractor': tractor}
    late = sys.version_info >= (3, 14)
    source = f'async def f(a: {"not_there" if late else "int"}, b: tractor.Context) -> None: ...'
    exec(compile(source, 'late', 'exec', dont_inherit=True), names)
    assert context(names['f'])._tractor_context_meta['ctx_var_name'] == 'b'


def test_with_arguments() -> None:
    @context(pld_spec=int, dec_hook=print, enc_hook=repr)
    async def func(ctx: tractor.Context) -> None:
        """Nothing."""

    meta = func._tractor_context_meta
    assert (meta['pld_spec'], meta['dec_hook'], meta['enc_hook']) == (int, print, repr)


# --- opening


async def undecorated(ctx: tractor.Context) -> None:
    """Nothing."""


@context
def not_async(ctx: tractor.Context) -> None:
    """Nothing."""


@tractor_test
async def test_refused_here(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    """Nothing is sent: a peer that gets no message serves the next call as if nothing had been."""
    async with peers.open_peer() as portal:
        for func in (not_async, undecorated, peers.echo, None):
            with pytest.raises(TypeError, match='context'):
                async with portal.open_context(func):
                    raise AssertionError
        with pytest.raises(MsgTypeError) as caught:
            async with portal.open_context(peers.give, value=object()):
                raise AssertionError
        assert isinstance(caught.value.__cause__, TypeError)
        assert not portal.actor._contexts
        assert await portal.run(peers.running) == []


@tractor_test
async def test_no_connection_to_ourselves(tpt_proto: str, reg_addr: Any) -> None:
    portal = tractor.Portal(Channel(transport=None))
    with pytest.raises(RuntimeError, match='Invalid Operation'):
        async with portal.open_context(peers.give):
            raise AssertionError


def test_a_connection_to_ourselves(tpt_proto: str, reg_addr: Any) -> None:
    """Both ends of the dialog are in one actor, and have the same peer and the same id."""

    async def main() -> None:
        async with (
            tractor.open_root_actor(
                registry_addrs=[reg_addr],
                enable_transports=[tpt_proto],
                enable_modules=[peers.NAME],
            ),
            tractor.find_actor('root', registry_addrs=[reg_addr]) as portal,
            portal.open_context(peers.idle, streaming=True) as (ctx, first),
            ctx.open_stream() as stream,
        ):
            assert first == 'up'
            assert await stream.receive() == 'first'
            ends = [one for one in portal.actor._contexts.values() if one.cid == ctx.cid]
            assert sorted(one.side for one in ends) == ['child', 'parent']
            await ctx.cancel()
        assert ctx.cancel_acked

    run_bounded(main)


@pytest.mark.parametrize(
    ('func', 'kwargs', 'boxed'),
    [
        ('give', {'wrong': 1}, TypeError),
        ('fail_before_started', {}, ValueError),
    ],
)
@tractor_test
async def test_refused_there(
    func: str, kwargs: Any, boxed: Any, start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with peers.open_peer() as portal:
        with pytest.raises(RemoteActorError) as caught:
            async with portal.open_context(getattr(peers, func), **kwargs):
                raise AssertionError
        assert caught.value.boxed_type is boxed
        assert not portal.actor._contexts
        # not exposed there
        with pytest.raises(RemoteActorError) as caught:
            async with portal.open_context(tractor.context(plain)):
                raise AssertionError
        assert caught.value.boxed_type is tractor.ModuleNotExposed


@tractor_test
async def test_returns_without_started(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with peers.open_peer() as portal:
        with pytest.raises(MessagingError, match='started'):
            async with portal.open_context(peers.no_start):
                raise AssertionError


@tractor_test
async def test_any_name_and_place_of_the_parameter(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with (
        peers.open_peer() as portal,
        portal.open_context(peers.named_otherwise, first=1) as (ctx, _),
    ):
        assert await ctx.wait_for_result() == 4


@tractor_test
async def test_the_current_context(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    assert tractor.current_ipc_ctx() is None
    async with peers.open_peer() as portal:
        async with portal.open_context(peers.who_is_current) as (outer, _):
            assert tractor.current_ipc_ctx() is outer
            async with portal.open_context(peers.who_is_current) as (inner, _):
                assert tractor.current_ipc_ctx() is inner
            assert tractor.current_ipc_ctx() is outer
            assert await outer.wait_for_result() == [True, True]
        assert tractor.current_ipc_ctx() is None


# --- the handshake


@tractor_test
async def test_started_is_checked(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with peers.open_peer() as portal:
        async with portal.open_context(peers.start_badly) as (ctx, first):
            assert first == 1
            with pytest.raises(RuntimeError, match='child'):
                await ctx.started()
            assert await ctx.wait_for_result() == ['TypeError', 'RuntimeError', 'RuntimeError']
        async with portal.open_context(peers.start_off_spec) as (ctx, first):
            assert first == 'fine'
            assert await ctx.wait_for_result() == ['MsgTypeError', '', 'Started']
        async with portal.open_context(peers.start_unequal) as (ctx, first):
            assert first == [1, 2]
            assert 'not equal' in await ctx.wait_for_result()
        with pytest.raises(MsgTypeError) as caught:
            async with portal.open_context(peers.start_off_spec, validate=False):
                raise AssertionError
        assert caught.value.expected_msg_type.__name__ == 'Started'
        await portal.run(peers.no_task_named, name='start_off_spec')


# --- the result


@pytest.mark.parametrize('value', [None, 0, '', [], False, 'text', {'a': [1]}])
@tractor_test
async def test_results(value: Any, start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with peers.open_peer() as portal:
        async with portal.open_context(peers.give, value=value, first=value) as (ctx, first):
            assert first == value
        assert ctx.outcome == value
        assert type(ctx.outcome) is type(value)
        assert ctx.has_outcome
        assert ctx._final_result_is_set()
        assert await ctx.wait_for_result() == value
        assert await ctx.result() == value
        assert ctx.maybe_raise() is None
        assert ctx.repr_state == 'result-returned'
        with pytest.raises(trio.ClosedResourceError):
            async with ctx.open_stream():
                pass


@tractor_test
async def test_the_wait_can_be_cancelled(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with (
        peers.open_peer() as portal,
        portal.open_context(peers.fail_on_mark) as (ctx, _),
    ):
        for _ in range(2):
            with trio.CancelScope() as scope:
                scope.cancel()
                await ctx.wait_for_result()
            assert scope.cancelled_caught
            assert ctx.outcome is Unresolved
            assert not ctx.has_outcome
        assert ctx.repr_state == 'started'
        assert (ctx.side, ctx.peer_side) == ('parent', 'child')
        assert ctx.portal is portal
        assert ctx.parent_task is trio.lowlevel.current_task()
        assert 'fail_on_mark' in str(ctx)
        await ctx.cancel()


@tractor_test
async def test_a_known_outcome_is_no_checkpoint(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with peers.open_peer() as portal, portal.open_context(peers.give, value=1) as (ctx, _):
        await ctx.wait_for_result()
        with trio.testing.assert_no_checkpoints():
            assert await ctx.wait_for_result() == 1


@tractor_test
async def test_cancellation_wins_over_a_late_value(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with peers.open_peer() as portal:
        async with portal.open_context(peers.swallow_cancellation) as (ctx, _):
            await ctx.cancel()
            assert isinstance(await ctx.wait_for_result(), ContextCancelled)
        assert ctx.cancel_acked
        assert not ctx._final_result_is_set()


@pytest.mark.parametrize(
    ('name', 'boxed'),
    [
        ('ValueError', 'ValueError'),
        ('SystemExit', 'SystemExit'),
        ('group', 'ExceptionGroup'),
        ('single', 'ValueError'),
        ('unknown', 'Homemade'),
        ('closed', 'TransportClosed'),
    ],
)
@tractor_test
async def test_whatever_is_raised_arrives(
    name: str, boxed: str, start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with peers.open_peer() as portal:
        with pytest.raises(RemoteActorError) as caught:
            async with portal.open_context(peers.raise_it, name=name) as (ctx, _):
                await trio.sleep_forever()
        assert caught.value.boxed_type_str == boxed
        assert caught.value is ctx.outcome
        with pytest.raises(RemoteActorError) as again:
            await ctx.wait_for_result()
        assert again.value is caught.value
        # the actor has survived it
        assert await portal.run(peers.echo, value=1) == 1


@tractor_test
async def test_an_error_beside_an_unrelated_cancellation(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    """A `ContextCancelled` of another dialog passes through, and leaves no task behind."""
    async with peers.open_peer() as portal, peers.open_peer('other') as other:
        with pytest.raises(ContextCancelled) as caught:
            async with (
                other.open_context(peers.idle) as (outer, _),
                portal.open_context(peers.cancel_own_context) as (inner, _),
            ):
                await trio.sleep_forever()
        assert caught.value is inner.outcome
        assert outer._local_error is caught.value
        assert outer._remote_error is None
        assert not outer.cancel_called
        await other.run(peers.no_task_named, name='idle')


# --- a lost connection


@tractor_test
async def test_a_lost_connection(
    start_method: str, tpt_proto: str, reg_addr: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is disturbed for a while; then the dialog fails here, and its task is cancelled there."""
    monkeypatch.setattr(_loss, 'LOSS_GRACE', 0.2)
    async with peers.open_peer() as portal:
        start = trio.current_time()
        with pytest.raises(TransportClosed) as caught:
            async with (
                tractor.wait_for_actor('peer') as extra,
                extra.open_context(peers.note_cancellation) as (ctx, their_uid),
                ctx.open_stream() as stream,
            ):
                await break_ipc(stream, 'socket_eof')
                await stream.receive()
        assert caught.value is ctx._remote_error
        assert trio.current_time() - start >= 0.2
        assert await portal.run(peers.get_noted) == [['NoneType', their_uid]]
