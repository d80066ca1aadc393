"""
Addresses as multiaddr text: `/ip4/127.0.0.1/tcp/1616`, `/unix/run/user/1000/tractor/x.sock`.

The `multiaddr` package is loaded on first use.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tractor.discovery import _addr
from tractor.discovery._addr import Address, UnwrappedAddress

if TYPE_CHECKING:
    from multiaddr import Multiaddr
else:
    # annotations must resolve at run time without loading the package
    Multiaddr = Any

# names of our transports in a multiaddr, and back
_tpt_proto_to_maddr: dict[str, str] = {
    'tcp': 'tcp',
    'uds': 'unix',
}
_maddr_to_tpt_proto: dict[str, str] = {maddr: tpt for tpt, maddr in _tpt_proto_to_maddr.items()}

# per name of a service: where it may listen
EndpointsTable = dict[str, list[str | UnwrappedAddress]]
ParsedEndpoints = dict[str, list[Address]]

# code 400 (`unix`) as an unsigned varint
_UNIX_CODE: bytes = b'\x90\x03'


def mk_maddr(addr: Address) -> Multiaddr:
    """
    The multiaddr of an address. It has no relative paths: such a one is taken from the current directory.

    Raises:
        ValueError: the address belongs to a transport that has no multiaddr form, or is a path that has none:
            one with a backslash, which the text form knows as a slash, or one that is not Unicode.
    """
    proto_key = addr.proto_key
    if proto_key not in _tpt_proto_to_maddr:
        raise ValueError(
            f'Unsupported proto_key: {proto_key!r}. '
            f'A multiaddr can name {", ".join(map(repr, _tpt_proto_to_maddr))} addresses.'
        )
    from multiaddr import Multiaddr

    if proto_key == 'tcp':
        host, port = addr.unwrap()
        ip = 'ip6' if ':' in str(host) else 'ip4'
        return Multiaddr(f'/{ip}/{host}/tcp/{port}')

    # In binary, as releases of the package differ in which characters of a path they quote.
    directory, filename = addr.unwrap()
    path = Path(directory, str(filename)).absolute()
    _refuse_backslash(str(path))
    raw = str(path).lstrip('/').encode()
    return Multiaddr(_UNIX_CODE + _uvarint(len(raw)) + raw)


def parse_maddr(maddr: str) -> Address:
    """
    The address that a multiaddr text names.

    Raises:
        ValueError: the text is no multiaddr, or names something else than `ip4` or `ip6` with
            `tcp`, or `unix`.
    """
    from multiaddr import Multiaddr

    _refuse_backslash(maddr)
    parsed = Multiaddr(maddr)
    match [proto.name for proto in parsed.protocols()]:
        case [('ip4' | 'ip6') as ip, 'tcp']:
            host = parsed.value_for_protocol(ip)
            port = int(parsed.value_for_protocol('tcp'))
            return _wrap('tcp', (host, port))
        case ['unix']:
            path = Path('/' + _unix_path(parsed.to_bytes()))
            return _wrap('uds', (str(path.parent), path.name))
        case combo:
            raise ValueError(
                f'Unsupported multiaddr protocol combo: {combo} in {maddr!r}. '
                'Use /ip4/<host>/tcp/<port>, /ip6/<host>/tcp/<port> or /unix/<path>.'
            )


def parse_endpoints(table: EndpointsTable) -> ParsedEndpoints:
    """
    Wrap every address of a table, keeping its keys and order.

    Raises:
        ValueError, TypeError: an entry is no address, see `wrap_address()`.
    """
    return {name: [_addr.wrap_address(addr) for addr in addrs] for name, addrs in table.items()}


def _wrap(proto_key: str, unwrapped: UnwrappedAddress) -> Address:
    addr: Address = _addr.get_address_cls(proto_key).from_addr(unwrapped)
    return addr


def _refuse_backslash(path: str) -> None:
    if '\\' in path:
        raise ValueError(
            f'A multiaddr cannot name a path with a backslash: {path!r}. '
            'Give the pair (directory, file name) in its place.'
        )


def _uvarint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _unix_path(maddr: bytes) -> str:
    """The path in a binary multiaddr that consists of one `unix` part: code, length, path."""
    start = len(_UNIX_CODE)
    while maddr[start] & 0x80:
        start += 1
    return maddr[start + 1 :].decode()
