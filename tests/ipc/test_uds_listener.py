"""contract: binding socket files, taking over stale ones, and the UNIX socket transport."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tractor.discovery import mk_maddr
from tractor.ipc import _sockfile, _uds
from tractor.ipc._uds import MsgpackUDSStream, UDSAddress, close_listener, start_listener

pytestmark = pytest.mark.skipif(not _uds.HAS_UDS, reason='no UNIX sockets on this system')


def run(fn: Any, *args: Any) -> Any:
    async def main() -> Any:
        with trio.fail_after(10):
            return await fn(*args)

    return trio.run(main)


@pytest.fixture
def addr(tmp_path: Path) -> Iterator[UDSAddress]:
    before = len(os.listdir('/proc/self/fd')) if os.path.exists('/proc') else None
    yield UDSAddress(tmp_path / 'd', 'x@1.sock')
    if before is not None:
        assert len(os.listdir('/proc/self/fd')) <= before


def leave_stale(addr: UDSAddress) -> None:
    """What a killed actor leaves behind."""
    addr.bindspace.mkdir(mode=0o700, parents=True, exist_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(addr.sockpath))
    sock.listen(1)
    sock.close()


async def check_connects(addr: UDSAddress, listener: trio.SocketListener) -> None:
    client = await _uds.open_unix_socket(addr.sockpath)
    server = await listener.accept()
    await client.send_all(b'x')
    assert await server.receive_some() == b'x'
    await client.aclose()
    await server.aclose()


def test_listen_connect_and_addresses(addr: UDSAddress) -> None:
    async def main() -> None:
        listener = await addr.open_listener()
        assert stat.S_IMODE(addr.bindspace.stat().st_mode) == 0o700
        client = await MsgpackUDSStream.connect_to(addr)
        server = MsgpackUDSStream(await listener.accept())
        for end in (client, server):
            assert end.laddr == end.raddr == addr
            assert end.laddr.maybe_pid == end.raddr.maybe_pid == os.getpid()
            assert str(end.maddr) == str(mk_maddr(addr))
            assert end.connected()
        assert _uds.get_peer_pid(client.stream.socket) == os.getpid()
        if _uds.sys.platform == 'linux':
            assert _uds.get_peer_info(server.stream.socket) == (
                os.getpid(),
                os.getuid(),
                os.getgid(),
            )
        addr.close_listener(listener)
        assert not addr.sockpath.exists()
        # what was accepted lives on
        await client.stream.send_all(b'x')
        assert await server.stream.receive_some() == b'x'
        await client.stream.aclose()
        await server.stream.aclose()
        assert not client.connected()
        with pytest.raises(ConnectionError, match='no such socket'):
            await MsgpackUDSStream.connect_to(addr)

    run(main)


def test_key_and_layer() -> None:
    assert MsgpackUDSStream.key() == ('msgpack', 'uds')
    assert MsgpackUDSStream.layer_key == 4
    assert MsgpackUDSStream.address_type is UDSAddress


def test_a_bound_client_and_a_socket_pair(tmp_path: Path, addr: UDSAddress) -> None:
    async def main() -> None:
        listener = await start_listener(addr)
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # on Linux, an address chosen by the system, which is reported as `bytes`
        client.bind('')
        client.connect(str(addr.sockpath))
        server = MsgpackUDSStream(await listener.accept())
        assert server.raddr == server.laddr == addr
        client.close()
        await server.stream.aclose()
        close_listener(addr, listener)

        one, two = trio.socket.socketpair()
        pair = MsgpackUDSStream(trio.SocketStream(one))
        assert not pair.raddr.is_valid
        assert pair.maddr == '<unnamed socket pair>'
        one.close()
        two.close()

    run(main)


def test_credentials_are_for_linux_only(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = socket.socketpair()
    with one, two:
        monkeypatch.setattr(_uds.sys, 'platform', 'freebsd14')
        with pytest.raises(RuntimeError, match='Linux only'):
            _uds.get_peer_info(one)  # type: ignore[arg-type]
        assert _uds.get_peer_pid(one) is None  # type: ignore[arg-type]


def test_a_live_socket_is_not_taken_over(addr: UDSAddress) -> None:
    async def main() -> None:
        listener = await start_listener(addr)
        with pytest.raises(ConnectionError, match='Cannot listen on') as excinfo:
            await start_listener(addr)
        cause = excinfo.value.__context__
        assert type(cause) is OSError
        assert cause is excinfo.value.__cause__
        assert 'Address already in use' in cause.args
        # the probe is the first in the queue
        await (await listener.accept()).aclose()
        await check_connects(addr, listener)
        close_listener(addr, listener)

    run(main)


def test_a_busy_socket_is_not_taken_over(addr: UDSAddress) -> None:
    async def main() -> None:
        listener = await start_listener(addr, backlog=1)
        clients = []
        while (sock := _sockfile.connect(addr.sockpath)) is not None:
            clients.append(sock)
        with pytest.raises(ConnectionError):
            await start_listener(addr)
        for sock in clients:
            sock.close()
        close_listener(addr, listener)

    run(main)


def test_a_stale_socket_is_taken_over(addr: UDSAddress) -> None:
    async def main() -> None:
        leave_stale(addr)
        with pytest.raises(ConnectionRefusedError, match='Cannot connect to'):
            await MsgpackUDSStream.connect_to(addr)
        listener = await start_listener(addr)
        await check_connects(addr, listener)
        close_listener(addr, listener)
        assert os.listdir(addr.bindspace) == []

    run(main)


@pytest.mark.parametrize('kind', ['file', 'directory', 'symlink'])
def test_nothing_but_a_socket_is_removed(addr: UDSAddress, kind: str, tmp_path: Path) -> None:
    addr.bindspace.mkdir()
    stale = UDSAddress(tmp_path, 'stale@1.sock')
    if kind == 'file':
        addr.sockpath.write_text('precious')
    elif kind == 'directory':
        addr.sockpath.mkdir()
    else:
        leave_stale(stale)
        addr.sockpath.symlink_to(stale.sockpath)
    with pytest.raises(ConnectionError) as excinfo:
        run(start_listener, addr)
    assert 'Address already in use' in excinfo.value.__context__.args  # type: ignore[union-attr]
    assert addr.sockpath.exists()
    assert kind != 'symlink' or addr.sockpath.is_symlink()


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    addr = UDSAddress(tmp_path, 'x' * 110)
    with pytest.raises(ConnectionError, match='too long'):
        run(start_listener, addr)
    with pytest.raises(OSError, match='too long'):
        run(_uds.open_unix_socket, addr.sockpath)
    assert os.listdir(tmp_path) == []


def test_the_directory_of_another_is_refused(
    addr: UDSAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    addr.bindspace.mkdir()
    uid = os.getuid()
    monkeypatch.setattr(os, 'getuid', lambda: uid + 1)
    with pytest.raises(PermissionError, match=f'Refusing to listen on .* belongs to uid {uid}'):
        run(start_listener, addr)
    assert os.listdir(addr.bindspace) == []


def test_unknown_options_are_refused(addr: UDSAddress) -> None:
    with pytest.raises(TypeError, match='nonsense'):
        run(lambda: start_listener(addr, nonsense=1))
    with pytest.raises(TypeError, match='nonsense'):
        run(lambda: MsgpackUDSStream.connect_to(addr, nonsense=1))


# -- the lock -----------------------------------------------------------------------------------


def test_a_bind_waits_for_the_lock_and_can_be_cancelled(addr: UDSAddress) -> None:
    async def main() -> None:
        leave_stale(addr)
        holder = os.open(addr.bindspace, os.O_RDONLY)
        fcntl.flock(holder, fcntl.LOCK_EX)
        with trio.move_on_after(0.05) as scope:
            await start_listener(addr)
        assert scope.cancelled_caught
        # nothing was touched meanwhile
        assert _sockfile._is_stale(addr.sockpath)
        async with trio.open_nursery() as tn:
            released = False

            async def bind() -> None:
                listener = await start_listener(addr)
                assert released
                close_listener(addr, listener)

            tn.start_soon(bind)
            await trio.testing.wait_all_tasks_blocked()
            released = True
            os.close(holder)

    run(main)


def test_a_lock_that_is_never_released(addr: UDSAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_uds, '_LOCK_TIMEOUT', 0.02)
    addr.bindspace.mkdir()
    holder = os.open(addr.bindspace, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    try:
        with pytest.raises(ConnectionError, match=r'lock of .* is not released') as excinfo:
            run(start_listener, addr)
        assert isinstance(excinfo.value.__cause__, TimeoutError)
    finally:
        os.close(holder)


def test_a_file_system_without_locks(addr: UDSAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, how: int) -> None:
        raise OSError(failure, os.strerror(failure))

    monkeypatch.setattr(fcntl, 'flock', flock)

    async def main() -> None:
        leave_stale(addr)
        close_listener(addr, await start_listener(addr))

    failure = errno.ENOLCK
    run(main)
    failure = errno.EIO
    with pytest.raises(ConnectionError, match=os.strerror(errno.EIO)):
        run(main)


def test_of_many_takers_of_a_stale_path_one_gets_it(addr: UDSAddress) -> None:
    takers, rounds = 8, 10

    def take(barrier: threading.Barrier, won: list[Any], lost: list[Exception]) -> None:
        barrier.wait(10)
        try:
            won.append(run(start_listener, addr))
        except ConnectionError as err:
            lost.append(err)

    async def finish(winner: trio.SocketListener) -> None:
        # the path leads to it; each probe of a loser has left a connection in the queue
        async with await _uds.open_unix_socket(addr.sockpath) as client:
            await client.send_all(b'x')
            received = b''
            while not received:
                async with await winner.accept() as server:
                    received = await server.receive_some()
        close_listener(addr, winner)

    for _ in range(rounds):
        leave_stale(addr)
        barrier = threading.Barrier(takers)
        won: list[Any] = []
        lost: list[Exception] = []
        threads = [threading.Thread(target=take, args=(barrier, won, lost)) for _ in range(takers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert (len(won), len(lost)) == (1, takers - 1)
        run(finish, won[0])
        assert not addr.sockpath.exists()


# -- closing ------------------------------------------------------------------------------------


def test_closing_twice_or_late_is_fine(addr: UDSAddress) -> None:
    async def main() -> None:
        listener = await start_listener(addr)
        await listener.aclose()
        assert addr.sockpath.exists()
        close_listener(addr, listener)
        assert not addr.sockpath.exists()

        successor = await start_listener(addr)
        close_listener(addr, listener)
        await check_connects(addr, successor)
        os.unlink(addr.sockpath)
        close_listener(addr, successor)
        assert successor.socket.fileno() == -1

        orphan = await start_listener(addr)
        os.unlink(addr.sockpath)
        addr.bindspace.rmdir()
        close_listener(addr, orphan)
        assert orphan.socket.fileno() == -1

    run(main)


def test_closing_leaves_the_file_of_a_successor(addr: UDSAddress) -> None:
    async def main() -> None:
        listener = await start_listener(addr)
        await listener.aclose()
        # the file is stale now, and its removal late
        successor = await start_listener(addr)
        close_listener(addr, listener)
        await check_connects(addr, successor)
        close_listener(addr, successor)
        assert not addr.sockpath.exists()

    run(main)


def test_closing_after_a_change_of_mode(addr: UDSAddress) -> None:
    async def main() -> None:
        listener = await start_listener(addr)
        addr.sockpath.chmod(0o600)
        close_listener(addr, listener)
        assert not addr.sockpath.exists()

    run(main)


def test_closing_does_not_wait_for_a_stuck_lock(
    addr: UDSAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.setattr(_uds, '_LOCK_TIMEOUT_AT_CLOSE', 0.005)
        listener = await start_listener(addr)
        holder = os.open(addr.bindspace, os.O_RDONLY)
        fcntl.flock(holder, fcntl.LOCK_EX)
        close_listener(addr, listener)
        os.close(holder)
        assert not addr.sockpath.exists()

    run(main)


# -- connecting ---------------------------------------------------------------------------------


def test_connecting_waits_while_the_backlog_is_full(addr: UDSAddress) -> None:
    async def main() -> None:
        listener = await start_listener(addr, backlog=1)
        queued = []
        while (sock := _sockfile.connect(addr.sockpath)) is not None:
            queued.append(sock)
        with trio.move_on_after(0.05) as scope:
            await _uds.open_unix_socket(addr.sockpath)
        assert scope.cancelled_caught
        for sock in queued:
            sock.close()

        streams: list[trio.SocketStream] = []

        async def connect() -> None:
            streams.append(await _uds.open_unix_socket(addr.sockpath))

        async with trio.open_nursery() as tn:
            for _ in range(10):
                tn.start_soon(connect)
            for _ in range(len(queued) + 10):
                await (await listener.accept()).aclose()
        for stream in streams:
            assert stream.socket.getpeername() == str(addr.sockpath)
            await stream.aclose()
        close_listener(addr, listener)

    run(main)


def test_connecting_is_a_checkpoint(addr: UDSAddress) -> None:
    async def main() -> None:
        listener = await start_listener(addr)
        with trio.CancelScope() as scope:
            scope.cancel()
            await _uds.open_unix_socket(addr.sockpath)
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            await start_listener(addr)
        assert scope.cancelled_caught
        close_listener(addr, listener)

    run(main)
