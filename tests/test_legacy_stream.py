"""contract: one-way streams from async generators and `@tractor.stream` functions."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor import RemoteActorError
from tractor._code_load import load_module_from_path
from tractor._exceptions import MessagingError
from tractor._testing import tractor_test
from tractor._testing.fault_simulation import break_ipc

pytestmark = pytest.mark.spawns

# under the name by which the actors import it
peers = sys.modules.get('legacy_peers') or load_module_from_path(
    Path(__file__).with_name('legacy_peers.py')
)


# --- the decorator


async def takes_stream(stream: tractor.Context) -> None:
    """Nothing."""


async def takes_ctx(ctx: tractor.Context) -> None:
    """Nothing."""


async def takes_both(ctx: tractor.Context, stream: tractor.Context) -> None:
    """Nothing."""


async def takes_to_trio(to_trio: Any) -> None:
    """Nothing."""


async def takes_nothing() -> None:
    """Nothing."""


@pytest.mark.parametrize('func', [takes_stream, takes_both, takes_to_trio])
def test_marks_the_function(func: Any) -> None:
    assert tractor.stream(func) is func
    assert func._tractor_stream_function is True


def test_the_old_name_is_deprecated() -> None:
    with pytest.warns(DeprecationWarning, match='stream'):
        tractor.stream(takes_ctx)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        tractor.stream(takes_both)


def test_a_parameter_is_needed() -> None:
    with pytest.raises(TypeError, match=r'takes_nothing must be `ctx: tractor\.Context`'):
        tractor.stream(takes_nothing)


# --- streaming


@pytest.mark.parametrize('func', ['a_context', 'a_function', 'only_looks_like_one'])
@tractor_test
async def test_wrong_kinds(func: str, start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with peers.open_peer() as portal:
        with pytest.raises(TypeError, match='async generator'):
            async with portal.open_stream_from(getattr(peers, func)):
                raise AssertionError


@tractor_test
async def test_a_generator(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with peers.open_peer() as portal:
        async with portal.open_stream_from(peers.count_up, stop=20) as stream:
            assert stream in portal._streams
            assert stream.ctx._remote_func_type == 'asyncgen'
            assert [item async for item in stream] == list(range(20))
            with pytest.raises(trio.EndOfChannel):
                await stream.receive()
            with pytest.raises(TypeError, match='receive-only'):
                await stream.send(1)
        assert not portal._streams
        assert not portal.actor._contexts
        assert tractor.current_ipc_ctx() is None


@tractor_test
async def test_a_stream_function(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with (
        peers.open_peer() as portal,
        portal.open_stream_from(peers.send_squares, stop=4) as stream,
    ):
        assert [item async for item in stream] == [0, 1, 4, 9]


@tractor_test
async def test_bad_arguments(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with peers.open_peer() as portal:
        with pytest.raises(RemoteActorError) as caught:
            async with portal.open_stream_from(peers.count_up, wrong=1):
                raise AssertionError
        assert caught.value.boxed_type is TypeError


@tractor_test
async def test_an_error_after_the_items(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with peers.open_peer() as portal:
        got = []
        with pytest.raises(RemoteActorError) as caught:
            async with portal.open_stream_from(peers.fail_after, stop=5) as stream:
                async for item in stream:
                    got.append(item)
        assert got == list(range(5))
        assert caught.value.boxed_type is ValueError


@pytest.mark.parametrize('how', ['leave', 'aclose', 'error', 'cancel'])
@tractor_test
async def test_leaving_ends_the_generator(
    how: str, start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async def leave(portal: tractor.Portal) -> None:
        with trio.CancelScope() as scope:
            async with portal.open_stream_from(peers.count_then_hang, stop=5) as stream:
                async for item in stream:
                    if item == 2:
                        break
                if how == 'aclose':
                    await stream.aclose()
                    with pytest.raises(StopAsyncIteration):
                        await anext(stream)
                elif how == 'error':
                    raise KeyError('ours')
                elif how == 'cancel':
                    scope.cancel()
                    await trio.sleep_forever()

    async with peers.open_peer() as portal:
        if how == 'error':
            with pytest.raises(KeyError, match='ours'):
                await leave(portal)
        else:
            await leave(portal)
        # it was over before the block was left
        calls = [ctx for ctx in portal.actor._contexts.values() if 'count' in str(ctx._nsf)]
        assert calls == []
        assert await portal.run(peers.await_mark, name='cleaned') == ['cleaned up']


@tractor_test
async def test_a_reader_can_be_replaced(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    got: list[int] = []

    async def read(stream: Any, scope: trio.CancelScope) -> None:
        with scope:
            async for item in stream:
                got.append(item)

    async with (
        peers.open_peer() as portal,
        portal.open_stream_from(peers.on_demand, stop=10) as stream,
    ):
        for number in range(10):
            scope = trio.CancelScope()
            async with trio.open_nursery() as tn:
                tn.start_soon(read, stream, scope)
                await trio.lowlevel.checkpoint()
                if number % 2:
                    scope.cancel()
                await portal.run(peers.set_mark, name=f'next {number}')
                scope.cancel()
        async for item in stream:
            got.append(item)
        assert got == list(range(10))


@tractor_test
async def test_several_at_once(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    results: dict[int, list[int]] = {}

    async def read(portal: tractor.Portal, stop: int) -> None:
        async with portal.open_stream_from(peers.count_up, stop=stop) as stream:
            results[stop] = [item async for item in stream]

    async with peers.open_peer() as portal, trio.open_nursery() as tn:
        for stop in (3, 30, 60):
            tn.start_soon(read, portal, stop)
    assert results == {stop: list(range(stop)) for stop in (3, 30, 60)}


@tractor_test
async def test_an_overrun_is_an_error_not_an_end(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with peers.open_peer() as portal:
        got = []
        with pytest.raises(RemoteActorError) as caught:
            async with portal.open_stream_from(peers.count_then_hang, stop=65) as stream:
                while not stream.ctx.has_outcome:
                    await trio.lowlevel.checkpoint()
                async for item in stream:
                    got.append(item)
        assert got == list(range(64))
        assert caught.value.src_type_str == 'StreamOverrun'
        assert await portal.run(peers.await_mark, name='cleaned') == ['cleaned up']


@tractor_test
async def test_the_consumer_is_lost(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    """A generator that waits for something else ends with its only reader."""
    async with peers.open_peer() as portal:
        with pytest.raises(tractor.TransportClosed):
            async with (
                tractor.wait_for_actor('peer') as extra,
                extra.open_stream_from(peers.count_then_hang, stop=1) as stream,
            ):
                assert await stream.receive() == 0
                await break_ipc(stream, 'socket_eof')
                await stream.receive()
        assert await portal.run(peers.await_mark, name='cleaned') == ['cleaned up']


@tractor_test
async def test_another_kind_over_there(
    start_method: str, tpt_proto: str, reg_addr: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pretend() -> Any:
        yield 1

    pretend.__module__, pretend.__qualname__ = peers.NAME, 'a_function'
    pretend.__name__ = 'a_function'
    async with peers.open_peer() as portal:
        with pytest.raises(MessagingError, match='asyncfunc'):
            async with portal.open_stream_from(pretend):
                raise AssertionError
        assert not portal.actor._contexts
