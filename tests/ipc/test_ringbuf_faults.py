"""contract: what can be wrong with a ring buffer, and what is left of it."""

from __future__ import annotations

import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tractor._code_load import load_module_from_path
from tractor._testing import run_bounded
from tractor.ipc import _ringbuf, _shm_owner
from tractor.ipc._mp_bs import SharedMemory
from tractor.ipc._ringbuf import RBToken, RingBuffReceiver, RingBuffSender, open_ringbuf

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='needs eventfd')

rings = sys.modules.get('rings') or load_module_from_path(Path(__file__).with_name('rings.py'))
SIZE = rings.SIZE
token, run_with, receive = rings.token, rings.run_with, rings.receive


# --- what is wrong


@pytest.mark.parametrize('limit', [0, -1])
def test_bad_limits(token: RBToken, limit: int) -> None:
    async def body(tx: RingBuffSender, rx: RingBuffReceiver) -> None:
        with pytest.raises(ValueError, match='must be positive'):
            await rx.receive_some(limit)

    run_with(token, body)


def test_sides_have_to_be_entered(token: RBToken) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match='async with RingBuffSender'):
            await RingBuffSender(token).send_all(b'x')
        with pytest.raises(RuntimeError, match='async with RingBuffReceiver'):
            await RingBuffReceiver(token).receive_some()
        await RingBuffSender(token).aclose()
        await RingBuffReceiver(token).aclose()

    run_bounded(main)


@pytest.mark.parametrize('start', [-1, SIZE + 1])
def test_bad_starts(token: RBToken, start: int) -> None:
    with pytest.raises(ValueError, match='position'):
        RingBuffSender(token, start_ptr=start)
    with pytest.raises(ValueError, match='position'):
        RingBuffReceiver(token, start_ptr=start)


def test_two_writers_are_noticed(token: RBToken) -> None:
    async def body(tx: RingBuffSender, rx: RingBuffReceiver) -> None:
        async with RingBuffSender(token) as other:
            await tx.send_all(b'x' * 10)
            await other.send_all(b'y' * 10)
        with pytest.raises(trio.BrokenResourceError, match='another writer'):
            await rx.receive_some()

    run_with(token, body)


def test_descriptors_of_another_process_are_told(token: RBToken, tmp_path: Any) -> None:
    async def main(wrong: RBToken) -> None:
        before = len(os.listdir('/proc/self/fd'))
        for side in (RingBuffSender(wrong), RingBuffReceiver(wrong)):
            with pytest.raises(OSError, match='pass_fds'):
                await side.__aenter__()
        assert len(os.listdir('/proc/self/fd')) == before

    with (tmp_path / 'file').open('w') as file:
        for fd in (9999, file.fileno()):
            run_bounded(main, msgspec.structs.replace(token, write_eventfd=fd))
            run_bounded(main, msgspec.structs.replace(token, wrap_eventfd=fd))


def test_a_ring_that_is_gone(key: str) -> None:
    async def main() -> None:
        with open_ringbuf(key, SIZE) as token:
            before = len(os.listdir('/proc/self/fd'))
            gone = msgspec.structs.replace(token, shm_name=f'{key}_none')
            with pytest.raises(FileNotFoundError):
                await RingBuffSender(gone).__aenter__()
            large = msgspec.structs.replace(token, buf_size=SIZE + 1)
            with pytest.raises(ValueError, match=f'{SIZE} bytes only'):
                await RingBuffReceiver(large).__aenter__()
            assert len(os.listdir('/proc/self/fd')) == before

    run_bounded(main)


# --- the ring itself


def test_the_end_of_the_block_is_the_end_of_the_ring(key: str) -> None:
    before = len(os.listdir('/proc/self/fd'))
    with pytest.raises(KeyError), open_ringbuf(key) as token:
        assert token.buf_size == 10240
        assert SharedMemory(key).size == 10240
        for fd in (token.write_eventfd, token.wrap_eventfd):
            assert not os.get_blocking(fd)
            assert not os.get_inheritable(fd)
        raise KeyError
    assert len(os.listdir('/proc/self/fd')) == before
    with pytest.raises(FileNotFoundError):
        SharedMemory(key)


def test_sides_still_open_have_their_own_descriptors(key: str) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            with open_ringbuf(key, SIZE) as token:
                tx = await stack.enter_async_context(RingBuffSender(token))
                rx = await stack.enter_async_context(RingBuffReceiver(token))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tx.send_all, b'x' * 40)
                assert await receive(rx, 40) == b'x' * 40

    run_bounded(main)


def test_names_are_unique(token: RBToken, key: str) -> None:
    before = len(os.listdir('/proc/self/fd'))
    with pytest.raises(FileExistsError), open_ringbuf(key):
        pass
    assert len(os.listdir('/proc/self/fd')) == before


def test_a_lack_of_descriptors_leaves_nothing(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = os.eventfd, []

    def few(initval: int, flags: int) -> int:
        if made:
            raise OSError('too many open files')
        made.append(real(initval, flags))
        return made[0]

    monkeypatch.setattr(os, 'eventfd', few)
    with pytest.raises(OSError, match='too many'), open_ringbuf(key):
        pass
    with pytest.raises(FileNotFoundError):
        SharedMemory(key)
    with pytest.raises(OSError, match='Bad file'):
        os.fstat(made[0])


def test_flags(key: str) -> None:
    flags = os.EFD_NONBLOCK | os.EFD_CLOEXEC
    with open_ringbuf(key, write_efd_flags=flags, wrap_efd_flags=flags) as token:
        assert not os.get_blocking(token.write_eventfd)
    for name in ('write_efd_flags', 'wrap_efd_flags'):
        options: dict[str, Any] = {name: os.EFD_SEMAPHORE}
        with pytest.raises(ValueError, match='semaphores'), open_ringbuf(key, **options):
            pass
    with pytest.raises(ValueError, match='positive'), open_ringbuf(key, 0):
        pass


def test_tokens(token: RBToken, key: str) -> None:
    msg = token.as_msg()
    assert msg == {
        'shm_name': key,
        'write_eventfd': token.write_eventfd,
        'wrap_eventfd': token.wrap_eventfd,
        'buf_size': SIZE,
    }
    assert RBToken.from_msg(msg) == token
    assert RBToken.from_msg(token) is token
    assert hash(RBToken.from_msg(msg)) == hash(token)
    with pytest.raises(AttributeError):
        token.buf_size = 3  # type: ignore[misc]
    for wrong in ({}, msg | {'buf_size': 'x'}, None, 3, 'text'):
        with pytest.raises(TypeError, match='not the token'):
            RBToken.from_msg(wrong)  # type: ignore[arg-type]


def test_it_needs_linux(key: str, token: RBToken, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ringbuf.sys, 'platform', 'darwin')
    with pytest.raises(NotImplementedError, match='only Linux'), open_ringbuf(f'{key}2'):
        pass
    with pytest.raises(NotImplementedError, match='only Linux'):
        run_bounded(RingBuffSender(token).__aenter__)


def test_without_a_runtime_the_block_has_to_do(key: str) -> None:
    with open_ringbuf(key):
        assert _shm_owner.owner.held == []
