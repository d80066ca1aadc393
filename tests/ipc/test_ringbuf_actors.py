"""end to end: ring buffers between actors."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor._code_load import load_module_from_path
from tractor._exceptions import ActorFailure
from tractor.ipc import _shm_owner
from tractor.ipc._ringbuf import RBToken, RingBuffReceiver, open_ringbuf

pytestmark = [
    pytest.mark.spawns,
    pytest.mark.skipif(sys.platform != 'linux', reason='needs eventfd'),
    pytest.mark.skipon_spawn_backend(
        'mp_spawn', 'mp_forkserver', reason='multiprocessing passes no descriptors'
    ),
]

# under the name by which the actors import it
shm_actors = sys.modules.get('shm_actors') or load_module_from_path(
    Path(__file__).with_name('shm_actors.py')
)

SHM = Path('/dev/shm')
SIZES = [1, 100, 9, 0, 5000, 3, 4096, 1234]


async def start(an: tractor.ActorNursery, name: str, token: RBToken) -> tractor.Portal:
    fds = token.write_eventfd, token.wrap_eventfd
    return await an.start_actor(name, enable_modules=['shm_actors'], proc_kwargs={'pass_fds': fds})


def expected(sizes: list[int]) -> bytes:
    return b''.join(bytes([i % 256]) * size for i, size in enumerate(sizes))


@pytest.mark.parametrize('buf_size', [7, 1000, 1 << 20])
def test_from_a_child(run: Any, key: str, buf_size: int) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        with open_ringbuf(key, buf_size) as token:
            assert _shm_owner.owner.held == [key]
            portal = await start(an, 'writer', token)
            async with (
                portal.open_context(shm_actors.send_ring, token=token.as_msg(), sizes=SIZES) as (
                    _ctx,
                    _,
                ),
                RingBuffReceiver(token) as rx,
            ):
                taken = b''
                while len(taken) < sum(SIZES):
                    taken += await rx.receive_some()
            assert taken == expected(SIZES)
            await portal.cancel_actor()

    run(body)
    assert not (SHM / key).exists()


def test_from_child_to_child(run: Any, key: str) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        with open_ringbuf(key, 64) as token:
            writer = await start(an, 'writer', token)
            reader = await start(an, 'reader', token)
            options: dict[str, Any] = {'total': sum(SIZES), 'max_bytes': 50}
            async with (
                reader.open_context(shm_actors.receive_ring, token=token.as_msg(), **options) as (
                    ctx,
                    _,
                ),
                writer.open_context(shm_actors.send_ring, token=token.as_msg(), sizes=SIZES) as (
                    _ctx,
                    _,
                ),
            ):
                assert await ctx.wait_for_result() == expected(SIZES)
            await an.cancel()

    run(body)


@pytest.mark.parametrize('side', ['reader', 'writer'])
def test_a_blocked_child_is_cancelled(run: Any, key: str, side: str) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        with open_ringbuf(key, 64) as token:
            portal = await start(an, side, token)
            fn = {'reader': shm_actors.receive_ring, 'writer': shm_actors.send_ring}[side]
            options = {'reader': {'total': 1}, 'writer': {'sizes': [1000]}}[side]
            async with portal.open_context(fn, token=token.as_msg(), **options) as (ctx, _):
                if side == 'writer':
                    # so it has sent as much as it could
                    await trio.lowlevel.wait_readable(token.write_eventfd)
                await ctx.cancel()
            await portal.cancel_actor()

    run(body)
    assert not (SHM / key).exists()


@pytest.mark.leaks_ok(
    reason='the error keeps its frames, and they the mapping, as long as the last actor is remembered'
)
def test_a_killed_writer_is_noticed_by_its_context(run: Any, key: str) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        with open_ringbuf(key, 64) as token:
            portal = await start(an, 'writer', token)
            (child,) = an._children.values()
            async with (
                # more than it gets rid of before it is dead: an interpreter does not die at once
                portal.open_context(
                    shm_actors.send_ring, token=token.as_msg(), sizes=[10_000_000]
                ) as (_ctx, _),
                RingBuffReceiver(token) as rx,
                trio.open_nursery() as nursery,
            ):
                # as the one who waits for the result is told, whoever waits for bytes is cancelled
                nursery.start_soon(_ctx.wait_for_result)
                assert len(await rx.receive_some()) == 64
                child.proc.kill()
                while True:
                    await rx.receive_some()

    with pytest.raises((ActorFailure, tractor.TransportClosed, ExceptionGroup)) as caught:
        run(body)
    members = (
        caught.value.exceptions if isinstance(caught.value, ExceptionGroup) else [caught.value]
    )
    assert {*map(type, members)} <= {ActorFailure, tractor.TransportClosed}
    assert not (SHM / key).exists()


@pytest.mark.parametrize('start_method', ['trio'])
def test_without_the_descriptors_it_is_told_what_to_do(run: Any, key: str) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        with open_ringbuf(key, 64) as token:
            portal = await an.start_actor('child', enable_modules=['shm_actors'])
            # numbers which no new process has
            fds = [os.dup2(fd, 500 + fd) for fd in (token.write_eventfd, token.wrap_eventfd)]
            elsewhere = RBToken(token.shm_name, *fds, buf_size=64)
            try:
                async with portal.open_context(
                    shm_actors.send_ring, token=elsewhere.as_msg(), sizes=[1]
                ):
                    raise AssertionError('it had them')
            finally:
                for fd in fds:
                    os.close(fd)

    with pytest.raises(tractor.RemoteActorError, match='pass_fds') as caught:
        run(body)
    assert caught.value.boxed_type is OSError
