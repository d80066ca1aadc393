"""contract: TCP on IPv4, on IPv6 and on both at once."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest

import tractor
from tractor import find_actor
from tractor._code_load import load_module_from_path
from tractor._testing import run_bounded
from tractor._testing.addr import get_rando_addr
from tractor.discovery import mk_maddr
from tractor.ipc import Channel, _connect_chan
from tractor.ipc._tcp import TCPAddress

HERE = Path(__file__)
wires = sys.modules.get('wires') or load_module_from_path(HERE.with_name('wires.py'))
kits = sys.modules.get('kits') or load_module_from_path(HERE.with_name('kits.py'))
actor, run, serving, PEER = wires.actor, wires.run, wires.serving, wires.PEER

needs_ipv6 = pytest.mark.skipif(not kits.has_ipv6(), reason='no IPv6 on this machine')


async def greet(addr: TCPAddress) -> Any:
    async with _connect_chan(addr) as chan:
        return await chan._do_handshake(aid=PEER)


@pytest.mark.parametrize(
    ('bind', 'connect'),
    [
        ('127.0.0.1', '127.0.0.1'),
        ('0.0.0.0', '127.0.0.1'),
        pytest.param('::1', '::1', marks=needs_ipv6),
        pytest.param('::', '::1', marks=needs_ipv6),
    ],
)
def test_one_family(bind: str, connect: str, actor: Any) -> None:
    """The wildcard of a family listens on that one only."""

    async def main() -> None:
        async with serving((bind, 0)) as server:
            (addr,) = server.addrs
            host, port = addr.unwrap()
            assert host == bind
            assert port
            assert await greet(TCPAddress(connect, port)) == actor.aid
            other = '127.0.0.1' if ':' in connect else '::1'
            with pytest.raises(OSError, match=r'.'):
                await Channel.from_addr((other, port))

    run(main)


@needs_ipv6
@pytest.mark.parametrize('hosts', [('127.0.0.1', '::1'), ('0.0.0.0', '::'), ('::', '0.0.0.0')])
@pytest.mark.parametrize('groups', [1, 2])
def test_both_families_on_one_port(hosts: tuple[str, str], groups: int, actor: Any) -> None:
    """Dual stack is two addresses: none of them takes the port from the other."""

    async def main() -> None:
        _, port = get_rando_addr('tcp')
        first, second = ((host, port) for host in hosts)
        async with serving(*[first, second][: 3 - groups]) as server:
            if groups == 2:
                await server.listen_on(accept_addrs=[second])
            assert server.accept_addrs == [first, second]
            for host in ('127.0.0.1', '::1'):
                assert await greet(TCPAddress(host, port)) == actor.aid
            await server.wait_for_no_more_peers()

    run(main)
    assert len(actor.gone) == 2
    families = {chan.laddr.unwrap()[0] for chan in actor.served}
    assert families == {'127.0.0.1', '::1'}


@needs_ipv6
def test_the_ends_of_a_connection_know_their_family(actor: Any) -> None:
    async def main() -> None:
        async with serving(('::1', 0)) as server, _connect_chan(server.accept_addrs[0]) as chan:
            assert chan.stream.socket.family == socket.AF_INET6
            assert chan.laddr.unwrap()[0] == chan.raddr.unwrap()[0] == '::1'
            assert str(chan.maddr) == str(mk_maddr(server.addrs[0])) == f'/ip6/::1/tcp/{port(chan)}'
            again = TCPAddress.from_addr(list(chan.raddr.unwrap()))
            assert again == server.addrs[0]
            # a multiaddr is an address like any other
            assert await greet(str(chan.maddr)) == actor.aid

    def port(chan: Channel) -> int:
        return int(chan.raddr.unwrap()[1])

    run(main)


@needs_ipv6
@pytest.mark.parametrize('how', ['registry', 'bind'])
def test_an_actor_on_both_families(how: str, start_method: str) -> None:
    async def main() -> None:
        _, port = get_rando_addr('tcp')
        both: list[Any] = [('127.0.0.1', port), f'/ip6/::1/tcp/{port}']
        binds = {} if how == 'registry' else {'tpt_bind_addrs': both[1:]}
        async with tractor.open_root_actor(
            registry_addrs=both if how == 'registry' else both[:1],
            enable_transports=['tcp'],
            start_method=start_method,
            loglevel='critical',
            **binds,
        ) as root:
            assert sorted(root.accept_addrs) == [('127.0.0.1', port), ('::1', port)]
            for addr in both:
                async with find_actor('root', registry_addrs=[addr]) as portal:
                    assert portal is not None

    run_bounded(main, timeout=10)
