"""
Addresses as text, as they stand in messages, and on the command line of an actor process.

What is no address is refused with a `ValueError`, `TypeError` or `NotImplementedError` that says so; what is one can
be shown, compared, hashed, and survives the way to its unwrapped form and to a multiaddr and back.
"""

from __future__ import annotations

from typing import Any

from fuzz._choices import Choices, packed
from fuzz._harness import watched
from fuzz._values import value
from tractor._child import parse_addr, parse_uid
from tractor.discovery._addr import UnwrappedAddress, is_wrapped_addr, wrap_address
from tractor.discovery._multiaddr import mk_maddr, parse_endpoints, parse_maddr

_REFUSALS = (ValueError, TypeError, NotImplementedError)

_PARTS = (
    '/ip4/127.0.0.1',
    '/ip6/::1',
    '/tcp/1616',
    '/unix/run/x.sock',
    '/unix',
    '/dns/x',
    '/udp/1',
    '/ip6zone/eth0',
    '/p2p/x',
    '/http-path/a%2Fb',
    '/ip6/fe80::1%eth0',
    '/tcp/99999999999',
    '/',
    '//',
    '%00',
    '\0',
    '..',
)
_HOSTS = ('127.0.0.1', '::1', '::ffff:1.2.3.4', 'fe80::1%eth0', '0.0.0.0', 'localhost', '1', '')
_DIRS = ('/tmp', '/', '', 'a/b', '..', '/x\0', '/\udcff', '/' + 'd' * 300)
_FILES = ('x.sock', '', '.', '..', '/abs', 'a/b', '\0', '\udcff', '-@1.sock', 'f' * 300)


def one_input(data: bytes) -> None:
    """One byte chooses what is parsed."""
    c = Choices(data)
    with watched(everything=True):
        (_maddr, _pair, _any_value, _command_line, _endpoints)[c.below(5)](c)


def seeds() -> list[bytes]:
    """One of each form."""
    return [
        b'\0\0' + packed(b'/ip4/127.0.0.1/tcp/1616'),
        b'\0\0' + packed(b'/ip6/::1/tcp/1'),
        b'\0\0' + packed(b'/unix/run/user/1000/tractor/x@1.sock'),
        b'\0\x02\0\x02\x01',
        b'\x01\0\0\x06\x50',
        b'\x01\x01\0\0\0',
        b'\x02\x09\x02\x03\x04',
        b'\x03\0' + packed(b"('name', 'uuid')"),
        b'\x03\0' + packed(b"('127.0.0.1', 1616)"),
        b'\x03\0' + packed(b'{[]: 1}'),
        b'\x04\0\0\0',
    ]


def _text(c: Choices) -> str:
    if c.byte() < 128:
        return c.blob().decode('utf-8', 'surrogateescape')
    return ''.join(c.pick(_PARTS) for _ in range(c.below(5)))


def _maddr(c: Choices) -> None:
    text = '/' + _text(c).lstrip('/')
    try:
        addr = parse_maddr(text)
    except (ValueError, NotImplementedError) as err:
        assert str(err)
        return
    _check(addr)
    assert wrap_address(text) == addr


def _wrapped(addr: Any) -> Any:
    try:
        return wrap_address(addr)
    except _REFUSALS as err:
        assert str(err)
        return None


def _pair(c: Choices) -> None:
    if c.below(2):
        pair: list[Any] = [c.pick(_DIRS), c.pick(_FILES)]
    else:
        pair = [c.pick(_HOSTS), c.pick((c.number(2), c.number(4), -1, 0, True, 1 << 70))]
    if c.byte() >= 200:
        pair[c.below(2)] = _text(c)
    addr = _wrapped(pair)
    if addr is not None:
        _check(addr)
    assert addr == _wrapped(tuple(pair))


def _any_value(c: Choices) -> None:
    addr = _wrapped(value(c))
    if addr is not None:
        _check(addr)


def _endpoints(c: Choices) -> None:
    some: list[str | UnwrappedAddress] = ['/ip4/1.2.3.4/tcp/1', ('127.0.0.1', 0)]
    entries = {'a': [c.pick(some) for _ in range(c.below(3))], 'b': [value(c, 2)]}
    try:
        parsed = parse_endpoints(entries)
    except _REFUSALS as err:
        assert str(err)
        return
    assert list(parsed) == ['a', 'b']
    for addrs in parsed.values():
        for addr in addrs:
            _check(addr)


def _command_line(c: Choices) -> None:
    text = _text(c).replace('\0', '')
    addr = _wrapped(parse_addr(text))
    if addr is not None:
        _check(addr)
        assert parse_addr(repr(addr.unwrap())) == addr.unwrap()
    try:
        uid = parse_uid(text)
    except ValueError:
        # what the argument parser turns into a message about the argument
        return
    assert parse_uid(repr(uid)) == uid


def _check(addr: Any) -> None:
    assert is_wrapped_addr(addr)
    assert wrap_address(addr) is addr
    assert repr(addr)
    assert isinstance(addr.is_valid, bool)
    assert addr.bindspace
    assert addr.namespace is None
    first, second = unwrapped = addr.unwrap()
    assert isinstance(first, str)
    assert isinstance(second, str | int)
    again = wrap_address(list(unwrapped))
    assert again == addr
    assert hash(again) == hash(addr)
    assert again.unwrap() == unwrapped
    if addr.is_valid:
        _check_maddr(addr)


def _check_maddr(addr: Any) -> None:
    try:
        text = str(mk_maddr(addr))
    except ValueError as err:
        assert str(err)
        return
    again = parse_maddr(text)
    if addr.proto_key == 'uds':
        # a multiaddr knows no relative paths
        assert _path(again) == _path(addr), text
    else:
        assert again == addr, text


def _path(addr: Any) -> str:
    # with two slashes a path means the same, but is no equal `Path`
    return '/' + str(addr.sockpath.absolute()).lstrip('/')
