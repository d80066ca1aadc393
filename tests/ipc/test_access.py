"""contract: who may connect: users of UNIX sockets, default addresses, and how refusals are logged."""

from __future__ import annotations

import ast
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

import tractor
from tractor import TransportClosed
from tractor._code_load import load_module_from_path
from tractor._exceptions import get_err_type
from tractor.discovery._addr import default_lo_addrs, wrap_address
from tractor.ipc import Channel, _access, _auth, _connect_chan, _tls, _uds
from tractor.ipc._access import AccessDenied, ForeignUser, Refusals
from tractor.ipc._tcp import TCPAddress
from tractor.ipc._uds import HAS_UDS, UDSAddress
from tractor.runtime import _main, _state

wires = sys.modules.get('wires') or load_module_from_path(Path(__file__).with_name('wires.py'))
actor, logged, run, serving = wires.actor, wires.logged, wires.run, wires.serving

needs_uds = pytest.mark.skipif(not HAS_UDS, reason='no UNIX sockets on this system')
needs_root = pytest.mark.skipif(
    not hasattr(os, 'geteuid') or os.geteuid() != 0, reason='only root can become another user'
)

NOBODY = 65534


# --- UNIX sockets: the user at the other end


@pytest.fixture
def folder() -> Iterator[Path]:
    # not `tmp_path`, which others may not enter
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the system say that a peer is another user; `foreign.accepted` says at which end, both by default."""
    what = SimpleNamespace(uid=os.geteuid() + 1)
    real = _uds.get_peer_info

    def get_peer_info(sock: Any) -> tuple[int, int, int]:
        pid, _, gid = real(sock)
        return pid, what.uid, gid

    monkeypatch.setattr(_uds, 'get_peer_info', get_peer_info)
    return what


@needs_uds
def test_the_same_user_gets_in(folder: Path, actor: Any, logged: Any) -> None:
    async def main() -> None:
        async with serving(UDSAddress(folder, 'x.sock')) as server, wires.connected(server) as chan:
            assert _uds.get_peer_uid(chan.stream.socket) == os.geteuid()
            assert chan.transport.describe_peer() == f'pid {os.getpid()}, uid {os.geteuid()}'

    run(main)
    assert logged.records == []


@needs_uds
def test_a_connector_refuses_the_listener_of_another_user(
    folder: Path, actor: Any, foreign: Any
) -> None:
    async def main() -> None:
        async with serving(UDSAddress(folder, 'x.sock')) as server:
            before = len(os.listdir('/proc/self/fd'))
            with pytest.raises(ForeignUser, match='that is another user, we are uid') as excinfo:
                await Channel.from_addr(server.addrs[0])
            assert f'pid {os.getpid()}, uid {foreign.uid}' in str(excinfo.value)
            await wires.wait_for(lambda: len(os.listdir('/proc/self/fd')) == before)

    run(main)


@needs_uds
def test_a_listener_refuses_a_peer_of_another_user(
    folder: Path, actor: Any, foreign: Any, logged: Any
) -> None:
    addr = UDSAddress(folder, 'x.sock')

    async def main() -> None:
        async with serving(addr):
            async with await _uds.open_unix_socket(addr.sockpath) as stream:
                # not even our identity is told
                assert await stream.receive_some() == b''
            foreign.uid = os.geteuid()
            async with _connect_chan(addr) as chan:
                assert await chan._do_handshake(aid=wires.PEER) == actor.aid
        assert len(actor.served) == 1

    run(main)
    (record,) = logged.records
    text = record.getMessage()
    assert record.levelname == 'WARNING'
    assert f'{addr!r}: no connection with pid {os.getpid()}, uid {os.geteuid() + 1}' in text
    assert 'Run both as one user' in text


@needs_uds
def test_where_the_system_does_not_tell_nobody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = socket.socketpair()
    with one, two:
        monkeypatch.setattr(_uds.sys, 'platform', 'freebsd14')
        assert _uds.get_peer_uid(one) is None  # type: ignore[arg-type]
        _uds.check_peer(one)  # type: ignore[arg-type]


def test_the_credentials_of_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Sock:
        def getsockopt(self, level: int, option: int, size: int) -> bytes:
            asked.append((level, option))
            return b'\0\0\0\0' + (501).to_bytes(4, sys.byteorder) + bytes(size - 8)

    monkeypatch.setattr(_uds.sys, 'platform', 'darwin')
    assert _uds.get_peer_uid(Sock()) == 501  # type: ignore[arg-type]
    assert asked == [(0, 1)]


CONNECT = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    try:
        print(os.getpid(), sock.recv(100))
    except ConnectionResetError:
        print(os.getpid(), b'')
"""

LISTEN = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as sock:
    sock.bind(sys.argv[1])
    sock.listen()
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


@contextmanager
def as_nobody(code: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, '-c', code, str(path), str(NOBODY)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as proc:
        try:
            yield proc
        finally:
            if proc.stdin is not None:
                proc.stdin.close()
            proc.wait(10)


@needs_uds
@needs_root
def test_a_real_process_of_another_user_connects(folder: Path, actor: Any, logged: Any) -> None:
    """It can reach the socket, as somebody has opened the directory; still it gets nowhere."""
    addr = UDSAddress(folder, 'x.sock')

    def open_to_all() -> None:
        folder.chmod(0o755)
        addr.sockpath.chmod(0o777)

    async def main() -> str:
        async with serving(addr):
            open_to_all()
            with as_nobody(CONNECT, addr.sockpath) as proc:
                assert proc.stdout is not None
                return await trio.to_thread.run_sync(proc.stdout.read)

    pid, said = run(main).split()
    assert said == "b''"
    assert actor.served == []
    (record,) = logged.records
    assert f'no connection with pid {pid}, uid {NOBODY}' in record.getMessage()


@needs_uds
@needs_root
def test_a_real_listener_of_another_user(folder: Path) -> None:
    """Who has put a socket of its own to a place where ours could be is found out, by a root actor as well."""
    folder.chmod(0o755)
    place = folder / 'theirs'
    place.mkdir()
    os.chown(place, NOBODY, NOBODY)
    addr = UDSAddress(place, 'x.sock')

    async def main(pid: int) -> None:
        with pytest.raises(ForeignUser, match=f'pid {pid}, uid {NOBODY}'):
            await Channel.from_addr(addr)
        with pytest.raises(ForeignUser, match=f'pid {pid}, uid {NOBODY}'):
            async with tractor.open_root_actor(
                registry_addrs=[addr.unwrap()], enable_transports=['uds'], loglevel='critical'
            ):
                pass

    with as_nobody(LISTEN, addr.sockpath) as proc:
        assert proc.stdout is not None
        run(main, int(proc.stdout.readline()))


@pytest.fixture
def no_mask() -> Iterator[None]:
    """Files and directories get every permission that is asked for."""
    mask = os.umask(0)
    yield
    os.umask(mask)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@needs_uds
@pytest.mark.usefixtures('no_mask')
def test_the_directory_is_for_us_only(folder: Path) -> None:
    place = folder / 'a' / 'b'

    async def main() -> None:
        async with serving(UDSAddress(place, 'x.sock')):
            assert mode(place) == mode(place.parent) == 0o700

    run(main)
    # the names above exist by now
    run(main)


@needs_uds
@pytest.mark.usefixtures('no_mask')
def test_the_default_directory_is_closed_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('XDG_RUNTIME_DIR', str(folder))
    place = UDSAddress.get_random().bindspace
    assert place == folder / 'tractor'
    assert mode(place) == 0o700
    place.chmod(0o777)
    assert UDSAddress.get_random().bindspace == place
    assert mode(place) == 0o700


@needs_uds
@needs_root
def test_the_directory_of_another_user_is_refused(folder: Path) -> None:
    os.chown(folder, NOBODY, NOBODY)

    async def main() -> None:
        with pytest.raises(PermissionError, match='belongs to uid 65534, we are uid 0'):
            await UDSAddress(folder, 'x.sock').open_listener()

    run(main)


# --- TCP: where an actor listens


def test_every_default_is_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_state, '_def_tpt_proto', 'tcp')
    defaults = [
        TCPAddress.get_root(),
        TCPAddress.get_random(),
        TCPAddress.get_random(None),
        TCPAddress.get_random(''),
        wrap_address(None),
        wrap_address((None, None)),
        *map(wrap_address, default_lo_addrs(['tcp'])),
    ]
    assert {addr.domain for addr in defaults} == {'127.0.0.1'}


def test_a_child_that_is_not_told_listens_on_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_state._runtime_vars, '_enable_tpts', ['tcp'])
    child = SimpleNamespace(_infected_aio=False)
    spec = SimpleNamespace(
        _runtime_vars={}, reg_addrs=[], enable_modules={}, _parent_main_data={}, bind_addrs=None
    )
    assert _main.apply_spawn_spec(child, spec) == [TCPAddress('127.0.0.1', 0)]  # type: ignore[arg-type]


@pytest.mark.parametrize('host', ['127.0.0.1', '127.0.0.2', '0.0.0.0'])
def test_an_explicit_address_is_honoured(host: str, actor: Any) -> None:
    async def main() -> None:
        async with serving((host, 0)) as server:
            (ep,) = server._endpoints
            assert ep._listener.socket.getsockname()[0] == host
            assert server.accept_addrs[0][0] == host

    run(main)


def test_without_an_address_the_socket_is_on_the_loopback(
    actor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TCPAddress, 'get_root', classmethod(lambda cls: cls.get_random()))
    monkeypatch.setattr(_state, '_def_tpt_proto', 'tcp')

    async def main() -> None:
        async with wires.open_ipc_server() as server:
            for addrs in (None, [TCPAddress.get_random()]):
                (ep,) = await server.listen_on(accept_addrs=addrs)
                assert ep._listener.socket.getsockname()[0] == '127.0.0.1'

    monkeypatch.setattr(
        'tractor.ipc._server.default_lo_addrs', lambda _protos: [TCPAddress.get_root().unwrap()]
    )
    run(main)


@pytest.mark.parametrize('host', ['', 'localhost', 'example.org', '*', '127.1', '0'])
def test_names_of_hosts_are_refused(host: str) -> None:
    with pytest.raises(ValueError, match='Not an IPv4 or IPv6 address'):
        TCPAddress(host, 5)


# --- the log of refusals


def at_seconds(*times: float, close: bool = False) -> None:
    """Refusals noted at these seconds of virtual time, numbered from 1."""

    async def main() -> None:
        refusals = Refusals(lambda: 'here')
        start = trio.current_time()
        for number, at in enumerate(times, 1):
            await trio.sleep_until(start + at)
            refusals.note(AccessDenied(f'no connection with {number}\n'))
        if close:
            refusals.close()
            refusals.close()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def lines(logged: pytest.LogCaptureFixture) -> list[str]:
    assert {record.levelname for record in logged.records} <= {'WARNING'}
    return [record.getMessage() for record in logged.records]


def test_one_refusal_a_second_is_logged(logged: pytest.LogCaptureFixture) -> None:
    at_seconds(0, 0, 0.5, 0.9, 1.0, 1.1, 2.5, 3.4, 3.6)
    assert lines(logged) == [
        'here: no connection with 1',
        'here: no connection with 5\n(3 more were refused before)',
        'here: no connection with 7\n(1 more were refused before)',
        'here: no connection with 9\n(1 more were refused before)',
    ]


def test_those_left_are_counted_at_the_end(logged: pytest.LogCaptureFixture) -> None:
    at_seconds(0, 0, 0.1, close=True)
    assert lines(logged) == ['here: no connection with 1', 'here: 2 more connections were refused']


def test_nothing_is_left_of_what_was_logged(logged: pytest.LogCaptureFixture) -> None:
    at_seconds(0, 5, 10, close=True)
    assert [line[-1] for line in lines(logged)] == ['1', '2', '3']


@needs_uds
def test_each_listener_counts_for_itself(
    folder: Path, actor: Any, foreign: Any, logged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_access, 'LOG_PERIOD', 1000)
    addrs = [UDSAddress(folder, f'{name}.sock') for name in 'ab']

    async def main() -> None:
        async with serving(*addrs) as server:
            for _ in range(3):
                for addr in addrs:
                    async with await _uds.open_unix_socket(addr.sockpath) as stream:
                        assert await stream.receive_some() == b''
            await wires.wait_for(lambda: not server._half_open)

    run(main)
    for addr in addrs:
        first, last = [line for line in lines(logged) if line.startswith(repr(addr))]
        assert first.startswith(f'{addr!r}: no connection with pid ')
        assert last == f'{addr!r}: 2 more connections were refused'


# --- the errors


def test_a_refusal_is_a_closed_transport() -> None:
    for kind in (
        _access.AccessDenied,
        _access.ForeignUser,
        _access.AuthenticationError,
        _access.TLSHandshakeError,
    ):
        err = kind('no\n')
        assert isinstance(err, TransportClosed)
        assert isinstance(err, AccessDenied)
        assert err._loglevel == 'warning'
        # also where it comes from another actor
        assert get_err_type(kind.__name__) is kind


# --- what it costs who does not use it


@pytest.mark.parametrize('module', [_access, _auth, _tls])
def test_nothing_slow_is_imported_before_it_is_used(module: Any) -> None:
    tree = ast.parse(Path(module.__file__).read_text(encoding='utf-8'))
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports for alias in node.names}
    assert 'trio' in names
    assert names.isdisjoint({'ssl', 'hmac', 'hashlib', 'secrets'})


def test_a_connection_without_key_and_tls_asks_nobody(
    actor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Channel, '_secure', None)

    async def main() -> None:
        async with serving() as server, wires.connected(server) as chan:
            assert chan.aid == actor.aid

    run(main)
