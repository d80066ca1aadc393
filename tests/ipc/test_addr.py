"""contract: address types, wrapping, multiaddrs, and the TCP listener and transport."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import msgspec
import pytest
import trio

from tractor._testing.addr import get_rando_addr
from tractor.discovery import _addr, _multiaddr, mk_maddr, parse_endpoints, parse_maddr
from tractor.discovery._addr import wrap_address
from tractor.ipc import _tcp, _uds
from tractor.ipc._tcp import MsgpackTCPStream, TCPAddress
from tractor.ipc._uds import UDSAddress
from tractor.runtime import _state


def run(fn: Any, *args: Any) -> Any:
    async def main() -> Any:
        with trio.fail_after(10):
            return await fn(*args)

    return trio.run(main)


@pytest.fixture
def bindspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(UDSAddress, 'def_bindspace', tmp_path)
    return tmp_path


# -- TCP addresses ------------------------------------------------------------------------------


def test_tcp_address_basics() -> None:
    addr = TCPAddress('127.0.0.1', 1616)
    assert addr == TCPAddress.get_root() == TCPAddress.from_addr(['127.0.0.1', 1616])
    assert hash(addr) == hash(TCPAddress.get_root())
    assert repr(addr) == "TCPAddress[('127.0.0.1', 1616)]"
    assert addr.unwrap() == ('127.0.0.1', 1616)
    assert addr.bindspace == addr.domain == TCPAddress.def_bindspace == '127.0.0.1'
    assert addr.namespace is None
    assert TCPAddress.get_random() == TCPAddress('127.0.0.1', 0)
    assert TCPAddress.get_random('::1') == TCPAddress('::1', 0)


@pytest.mark.parametrize('host', ['localhost', '', '127.0.0.01', '1.2.3', '::g', 'a\0b'])
def test_tcp_address_refuses_what_is_no_ip(host: str) -> None:
    with pytest.raises(ValueError, match='Not an IPv4 or IPv6 address') as excinfo:
        TCPAddress(host, 1)
    assert repr(host) in str(excinfo.value)


@pytest.mark.parametrize(
    'host', ['8.8.8.8', '::1', '10.0.0.1', '127.0.0.1', 'fe80::1%lo', '::1.2.3.4']
)
def test_tcp_address_of_a_unicast_host_is_valid(host: str) -> None:
    assert TCPAddress(host, 1616).is_valid
    assert not TCPAddress(host, 0).is_valid


@pytest.mark.parametrize('host', ['0.0.0.0', '::', '224.0.0.1', 'ff02::1', '::ffff:239.1.1.1'])
def test_tcp_address_of_no_host_is_invalid(host: str) -> None:
    assert not TCPAddress(host, 1616).is_valid


@pytest.mark.parametrize('bad', [('127.0.0.1', '1'), ('127.0.0.1',), '127.0.0.1', None, (1, 2)])
def test_tcp_address_from_wrong_shapes(bad: Any) -> None:
    with pytest.raises(ValueError, match='Not a TCP address'):
        TCPAddress.from_addr(bad)


# -- UNIX socket addresses ----------------------------------------------------------------------


def test_uds_addresses_are_equal_however_they_are_written(bindspace: Path) -> None:
    text = UDSAddress(str(bindspace), 'x@1.sock', maybe_pid=3)
    paths = UDSAddress(bindspace, Path('x@1.sock'))
    assert text == paths
    assert hash(text) == hash(paths)
    assert text == UDSAddress(None, 'x@1.sock') == UDSAddress('', 'x@1.sock')
    assert text == UDSAddress.from_addr(str(bindspace / 'x@1.sock'))
    assert text == UDSAddress.from_addr(bindspace / 'x@1.sock')
    assert text == UDSAddress.from_addr([str(bindspace), 'x@1.sock'])
    assert text != UDSAddress(bindspace, 'y@1.sock')
    assert text != TCPAddress.get_root()
    root = UDSAddress.get_root()
    assert root == UDSAddress.from_addr(root.unwrap())
    assert root.unwrap() == (str(bindspace), 'registry@1616.sock')
    assert len({text, paths, root}) == 2
    assert isinstance(text.filedir, Path)
    assert isinstance(text.filename, Path)
    assert text.sockpath == bindspace / 'x@1.sock'
    assert repr(text) == f"UDSAddress[('{bindspace}', 'x@1.sock')]"


def test_uds_validity() -> None:
    assert UDSAddress('/tmp/d', 'x.sock').is_valid
    assert not UDSAddress('/tmp/d', '/etc/x.sock').is_valid
    assert not UDSAddress('/tmp/d', '../x.sock').is_valid


@pytest.mark.parametrize('bad', [3, None, ('a', 3), ('a', 'b', 'c'), {'a': 'b'}, b'x'])
def test_uds_address_from_wrong_shapes(bad: Any) -> None:
    with pytest.raises(TypeError, match='Not a UNIX socket address'):
        UDSAddress.from_addr(bad)


def test_default_directory_is_found_when_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_state, 'get_rt_dir', lambda: tmp_path / 'one')
    assert UDSAddress.def_bindspace == tmp_path / 'one'
    assert UDSAddress(None, 'x').bindspace == tmp_path / 'one'
    monkeypatch.setattr(_state, 'get_rt_dir', lambda: tmp_path / 'two')
    assert UDSAddress.get_root().bindspace == tmp_path / 'two'
    with monkeypatch.context() as patch:
        patch.setattr(UDSAddress, 'def_bindspace', tmp_path / 'three')
        assert UDSAddress.get_root().bindspace == tmp_path / 'three'
    assert UDSAddress.get_root().bindspace == tmp_path / 'two'


def test_random_address_without_runtime_is_fresh_per_call(
    bindspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_state, '_current_actor', None)
    monkeypatch.setitem(_state._runtime_vars, '_is_root', False)
    one, two = UDSAddress.get_random(), UDSAddress.get_random()
    assert one != two
    assert one.maybe_pid == os.getpid()
    assert str(one.filename).startswith('no_runtime_actor.')
    assert str(one.filename).endswith(f'@{os.getpid()}.sock')
    monkeypatch.setitem(_state._runtime_vars, '_is_root', True)
    other = UDSAddress.get_random(bindspace / 'sub')
    assert str(other.filename).startswith('no_runtime_root.')
    assert other.bindspace == bindspace / 'sub'


def test_random_address_in_an_actor_carries_its_name(
    bindspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = SimpleNamespace(aid=SimpleNamespace(name='bob'))
    monkeypatch.setattr(_state, '_current_actor', actor)
    pid = os.getpid()
    assert UDSAddress.get_random().unwrap() == (str(bindspace), f'bob@{pid}.sock')
    assert UDSAddress.get_random() == UDSAddress.get_random()
    monkeypatch.setattr(_state, 'current_interp_id', lambda: 7)
    assert str(UDSAddress.get_random().filename) == f'bob.i7@{pid}.sock'


def hashed(name: str) -> str:
    return f'actor.{hashlib.blake2s(os.fsencode(name), digest_size=16).hexdigest()}'


@pytest.mark.parametrize('name', ['a/b', '/abs', 'nul\0', '../up'])
def test_unsafe_names_are_hashed(name: str) -> None:
    assert UDSAddress.get_sockname(name, 5, '/tmp') == Path(f'{hashed(name)}@5.sock')
    assert UDSAddress.get_sockname(name, 5, '/tmp', interp_id=2) == Path(
        f'{hashed(name)}.i2@5.sock'
    )


def test_long_names_are_hashed_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    name = 'ü' * 30
    size = len(os.fsencode(f'/tmp/{name}@5.sock'))
    monkeypatch.setattr(_uds, '_SUN_PATH_LIMIT', size + 1)
    assert UDSAddress.get_sockname(name, 5, Path('/tmp')) == Path(f'{name}@5.sock')
    assert UDSAddress.get_sockname(name, 5, '/tmp', interp_id=1) == Path(
        f'{hashed(name)}.i1@5.sock'
    )
    monkeypatch.setattr(_uds, '_SUN_PATH_LIMIT', size)
    assert UDSAddress.get_sockname(name, 5, '/tmp') == Path(f'{hashed(name)}@5.sock')


@pytest.mark.parametrize(('name', 'unsafe'), [('bob', False), ('a/b', True)])
def test_a_directory_without_room(name: str, unsafe: bool) -> None:
    with pytest.raises(ValueError, match='leaves no room') as excinfo:
        UDSAddress.get_sockname(name, 5, '/tmp/' + 'd' * 100)
    text = str(excinfo.value)
    assert f'name was unsafe: {unsafe}' in text
    assert 'name was over budget: True' in text
    assert f'AF_UNIX path limit: {_uds._SUN_PATH_LIMIT}' in text


# -- wrapping -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('addr', 'wrapped'),
    [
        (('127.0.0.1', 5), TCPAddress('127.0.0.1', 5)),
        (['::1', 5], TCPAddress('::1', 5)),
        (('/tmp', 'x.sock'), UDSAddress('/tmp', 'x.sock')),
        (['/tmp', 'x.sock'], UDSAddress('/tmp', 'x.sock')),
        ((Path('/tmp'), Path('x.sock')), UDSAddress('/tmp', 'x.sock')),
        ('/ip4/127.0.0.1/tcp/5', TCPAddress('127.0.0.1', 5)),
        ('/unix/tmp/x.sock', UDSAddress('/tmp', 'x.sock')),
    ],
)
def test_wrap_address(addr: Any, wrapped: Any) -> None:
    result = wrap_address(addr)
    assert type(result) is type(wrapped)
    assert result == wrapped
    assert wrap_address(result) is result
    assert _addr.is_wrapped_addr(result)
    assert not _addr.is_wrapped_addr(addr)


@pytest.mark.parametrize('nothing', [None, (None, None), [None, None]])
def test_wrapping_nothing_gives_the_default_root(
    nothing: Any, bindspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_state, '_def_tpt_proto', 'tcp')
    assert wrap_address(nothing) == TCPAddress.get_root()
    monkeypatch.setattr(_state, '_def_tpt_proto', 'uds')
    assert wrap_address(nothing) == UDSAddress.get_root()


@pytest.mark.parametrize(
    'bad',
    ['localhost', 3, ('h', 1, 2), ('127.0.0.1', None), ('127.0.0.1', True), {}, (1, 'x'), b'/'],
)
def test_wrap_address_refuses_the_rest(bad: Any) -> None:
    with pytest.raises(TypeError, match='Not an address'):
        wrap_address(bad)


def test_tables(bindspace: Path) -> None:
    assert set(_addr._address_types) == {'tcp', 'uds'}
    assert _addr.get_address_cls('tcp') is TCPAddress
    assert _addr.get_address_cls('uds') is UDSAddress
    assert dict(_addr._default_lo_addrs) == {
        'tcp': ('127.0.0.1', 1616),
        'uds': (str(bindspace), 'registry@1616.sock'),
    }
    assert _addr.default_lo_addrs(['uds', 'tcp']) == [
        (str(bindspace), 'registry@1616.sock'),
        ('127.0.0.1', 1616),
    ]
    for lookup in (_addr.get_address_cls, lambda key: _addr.default_lo_addrs([key])):
        with pytest.raises(NotImplementedError, match=r"'quic'.*'tcp', 'uds'"):
            lookup('quic')


def test_a_default_address_can_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(_addr._default_lo_addrs, 'tcp', ('127.0.0.1', 9))
        assert _addr.default_lo_addrs(['tcp']) == [('127.0.0.1', 9)]
        assert len(_addr._default_lo_addrs) == 2
    assert _addr.default_lo_addrs(['tcp']) == [('127.0.0.1', 1616)]


def test_an_empty_table_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_addr, '_address_types', {})
    with pytest.raises(NotImplementedError, match='import tractor'):
        wrap_address(('127.0.0.1', 1))


def test_uuids_are_fresh() -> None:
    assert _addr.mk_uuid() != _addr.mk_uuid()
    assert len(_addr.mk_uuid()) == 36


# -- multiaddrs ---------------------------------------------------------------------------------


def test_protocol_names_are_inverse() -> None:
    assert _multiaddr._tpt_proto_to_maddr == {'tcp': 'tcp', 'uds': 'unix'}
    assert _multiaddr._maddr_to_tpt_proto == {'tcp': 'tcp', 'unix': 'uds'}


@pytest.mark.parametrize(
    ('addr', 'text'),
    [
        (TCPAddress('127.0.0.1', 0), '/ip4/127.0.0.1/tcp/0'),
        (TCPAddress('::1', 5678), '/ip6/::1/tcp/5678'),
        (UDSAddress('/tmp/d', 'x.sock'), '/unix/tmp/d/x.sock'),
    ],
)
def test_mk_maddr(addr: Any, text: str) -> None:
    assert str(mk_maddr(addr)) == text
    assert parse_maddr(text) == addr


@pytest.mark.parametrize(
    'path', ['/tmp/a b/bob@3.sock', '/tmp/50%25/x%41.sock', '/tmp/ü/x', f'/tmp/{"d" * 150}/x', '/x']
)
def test_socket_paths_survive_the_round_trip(path: str) -> None:
    addr = UDSAddress.from_addr(path)
    again = parse_maddr(str(mk_maddr(addr)))
    assert type(again) is UDSAddress
    assert again.unwrap() == addr.unwrap()


def test_mk_maddr_of_an_unknown_transport() -> None:
    with pytest.raises(ValueError, match="Unsupported proto_key: 'quic'"):
        mk_maddr(SimpleNamespace(proto_key='quic'))  # type: ignore[arg-type]


@pytest.mark.parametrize('text', ['/ip4/127.0.0.1/udp/5', '/ip4/127.0.0.1', '/dns/localhost/tcp/5'])
def test_parse_maddr_of_other_combinations(text: str) -> None:
    with pytest.raises(ValueError, match='Unsupported multiaddr protocol combo'):
        parse_maddr(text)


def test_parse_maddr_of_nonsense() -> None:
    with pytest.raises(ValueError, match='nonsense'):
        parse_maddr('/nonsense/1')


def test_parse_endpoints() -> None:
    assert parse_endpoints({}) == {}
    table: Any = {'b': ['/ip4/0.0.0.0/tcp/5', ('/tmp', 'x.sock')], 'a': []}
    parsed = parse_endpoints(table)
    assert list(parsed) == ['b', 'a']
    assert parsed == {'b': [TCPAddress('0.0.0.0', 5), UDSAddress('/tmp', 'x.sock')], 'a': []}
    with pytest.raises(ValueError, match='Unsupported multiaddr'):
        parse_endpoints({'a': ['/ip4/1.2.3.4/udp/5']})


def test_annotations_resolve_without_the_libraries() -> None:
    assert get_type_hints(mk_maddr)['return'] is Any
    for transport, hint in ((MsgpackTCPStream, Any), (_uds.MsgpackUDSStream, Any | str)):
        getter = transport.__dict__['maddr'].fget
        assert get_type_hints(getter)['return'] == hint
    assert get_type_hints(_addr.Address.get_random)['current_actor'] is Any
    if sys.version_info < (3, 14):
        assert _addr.__annotations__['_address_types'].startswith('dict')
    else:
        import annotationlib

        annotations = annotationlib.get_annotations(_addr)
        assert annotations['_address_types'].startswith('dict')


def test_importing_addresses_is_cheap() -> None:
    code = (
        'import sys; import tractor.ipc._tcp, tractor.ipc._uds; '
        "heavy = {'asyncio', 'bidict', 'colorlog', 'multiaddr', 'wrapt', 'platformdirs', "
        "'multiprocessing', 'concurrent.interpreters'}; "
        # the standard library of 3.12 loads it for its own purposes
        "heavy |= {'ipaddress'} if sys.version_info >= (3, 14) else set(); "
        'print(sorted(heavy & set(sys.modules)))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '[]'


# -- addresses for tests ------------------------------------------------------------------------


@pytest.mark.parametrize('proto', ['tcp', 'uds'])
@pytest.mark.parametrize('in_actor', [False, True])
def test_random_addresses_never_repeat(
    proto: str, in_actor: bool, bindspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = SimpleNamespace(aid=SimpleNamespace(name='bob')) if in_actor else None
    monkeypatch.setattr(_state, '_current_actor', actor)
    addrs = [get_rando_addr(proto) for _ in range(50)]
    assert len(set(addrs)) == 50
    assert _addr._default_lo_addrs[proto] not in addrs
    for addr in addrs:
        wrapped = wrap_address(addr)
        assert wrapped.proto_key == proto
        assert wrapped.is_valid
        assert wrapped.bindspace == wrapped.def_bindspace
        if isinstance(addr[1], int):
            assert 1024 <= addr[1] <= 10023


def test_random_address_of_an_unknown_transport() -> None:
    with pytest.raises(NotImplementedError, match='quic'):
        get_rando_addr('quic')


# -- TCP listener and transport -----------------------------------------------------------------


@pytest.mark.parametrize('host', ['127.0.0.1', '::1'])
def test_tcp_listen_connect_and_addresses(host: str) -> None:
    async def main() -> None:
        listener = await TCPAddress(host, 0).open_listener(backlog=5)
        bound = TCPAddress(*listener.socket.getsockname()[:2])
        assert bound.is_valid
        for kwargs in ({}, {'happy_eyeballs_delay': 0.1}):
            client = await MsgpackTCPStream.connect_to(bound, **kwargs)  # type: ignore[arg-type]
            stream = await listener.accept()
            server = MsgpackTCPStream(stream)
            assert client.raddr == server.laddr == bound
            assert client.laddr == server.raddr
            assert str(client.maddr) == str(mk_maddr(bound))
            assert client.connected()
            for end in (client, server):
                assert end.stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                await end.stream.aclose()
                assert not end.connected()
        bound.close_listener(listener)
        _tcp.close_listener(bound, listener)
        with pytest.raises(ConnectionRefusedError):
            await MsgpackTCPStream.connect_to(bound)

    if host == '::1' and not has_ipv6_loopback():
        pytest.skip('no IPv6 loopback on this machine')
    run(main)


def has_ipv6_loopback() -> bool:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        return sock.connect_ex(('::1', 9)) != errno.EADDRNOTAVAIL


def test_tcp_key_and_layer() -> None:
    assert MsgpackTCPStream.key() == ('msgpack', 'tcp')
    assert MsgpackTCPStream.layer_key == 4
    assert MsgpackTCPStream.address_type is TCPAddress


def test_tcp_taken_port_is_named() -> None:
    async def main() -> None:
        listener = await _tcp.start_listener(TCPAddress('127.0.0.1', 0))
        bound = TCPAddress(*listener.socket.getsockname()[:2])
        with pytest.raises(OSError, match='Cannot listen on') as excinfo:
            await _tcp.start_listener(bound)
        assert repr(bound) in str(excinfo.value)
        assert excinfo.value.errno == errno.EADDRINUSE
        await listener.aclose()

    run(main)


def test_tcp_addresses_are_immutable() -> None:
    with pytest.raises(AttributeError):
        TCPAddress.get_root()._port = 3  # type: ignore[misc]
    assert msgspec.structs.replace(TCPAddress.get_root(), _port=3).unwrap()[1] == 3
