"""contract: the table of peers, who waits for whom, and the end of a connection, on every transport."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tractor import TransportClosed
from tractor._code_load import load_module_from_path
from tractor.ipc import Channel, Server, _connect_chan, open_ipc_server
from tractor.ipc._server import handle_stream_from_peer
from tractor.msg.types import Aid

wires = sys.modules.get('wires') or load_module_from_path(Path(__file__).with_name('wires.py'))
actor, connected, serving = wires.actor, wires.connected, wires.serving
run, wait_for, PEER = wires.run, wires.wait_for, wires.PEER

# --- peers


def test_peers_come_and_go(kit: Any, actor: Any) -> None:
    async def main() -> None:
        async with serving(kit.addr()) as server:
            assert not server.has_peers()
            async with connected(server) as one:
                await wait_for(lambda: server.len_peers() == 1)
                async with connected(server) as two:
                    await wait_for(lambda: server.len_peers() == 2)
                    # oldest first
                    chans = server._peers[PEER.uid]
                    assert [chan.raddr for chan in chans] == [one.laddr, two.laddr]
                    assert all(chan.aid == PEER for chan in chans)
                    assert server.has_peers()
                    assert server.has_peers(check_chans=True)
                await wait_for(lambda: server.len_peers() == 1)
                assert list(server._peers) == [PEER.uid]
                assert server.has_peers()
            await server.wait_for_no_more_peers()
            assert server._peers == {}
            assert not server.has_peers(check_chans=True)

    run(main)


def test_peers_that_are_not_connected_any_more(kit: Any, actor: Any) -> None:
    async def linger(chan: Channel) -> tuple[bool, Any]:
        with suppress(TransportClosed):
            await chan.recv()
        await trio.sleep_forever()
        raise AssertionError

    actor.loop = linger

    async def main() -> None:
        async with serving(kit.addr()) as server:
            async with connected(server):
                await wait_for(server.has_peers)
                assert server.has_peers(check_chans=True)
            await wait_for(lambda: not server.has_peers(check_chans=True))
            assert server.has_peers()

    run(main)


def test_a_probe_is_answered_and_touches_nothing(kit: Any, actor: Any) -> None:
    async def main() -> None:
        async with serving(kit.addr()) as server:
            event, waiting = server._no_more_peers, server.expect_peer(PEER.uid)
            async with _connect_chan(server.accept_addrs[0]) as chan:
                probe = Aid(name=PEER.name, uuid=PEER.uuid, is_probe=True)
                assert await chan._do_handshake(aid=probe) == actor.aid
                with pytest.raises(TransportClosed):
                    await chan.recv()
            assert server._no_more_peers is event
            assert event.is_set()
            assert not waiting.is_set()
            assert not server._peers
            assert not actor.served

    run(main)


def test_a_waiter_for_no_more_peers_outlasts_new_ones(kit: Any, actor: Any) -> None:
    """Connections that come later must not replace the event which is waited for."""

    async def main() -> None:
        async with serving(kit.addr()) as server, trio.open_nursery() as tn, connected(server):
            await wait_for(server.has_peers)
            tn.start_soon(server.wait_for_no_more_peers)
            await trio.testing.wait_all_tasks_blocked()
            event = server._no_more_peers
            async with connected(server, Aid(name='other', uuid='3')):
                await wait_for(lambda: server.len_peers() == 2)
                assert server._no_more_peers is event

    run(main)


def test_wait_for_a_peer_that_is_here(kit: Any, actor: Any) -> None:
    async def main() -> None:
        async with serving(kit.addr()) as server:
            async with connected(server), connected(server) as newest:
                await wait_for(lambda: server.len_peers() == 2)
                for _ in range(2):
                    event, chan = await server.wait_for_peer(PEER.uid)
                    assert event.is_set()
                    assert chan.raddr == newest.laddr
                assert server._peer_connected == {}
            await server.wait_for_no_more_peers()
            # it has gone since: the next wait is a real one
            with trio.move_on_after(0) as scope:
                await server.wait_for_peer(PEER.uid)
            assert scope.cancelled_caught

    run(main)


def test_wait_for_a_peer_that_is_expected(kit: Any, actor: Any) -> None:
    async def main() -> None:
        async with serving(kit.addr()) as server, trio.open_nursery() as tn:
            expected = server.expect_peer(PEER.uid)
            assert server._peer_connected == {PEER.uid: expected}
            assert server.expect_peer(PEER.uid) is expected
            got: list[Channel] = []

            async def wait() -> None:
                event, chan = await server.wait_for_peer(PEER.uid)
                assert event is expected
                got.append(chan)

            for _ in range(3):
                tn.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            async with connected(server, Aid(name='peer', uuid='another')):
                await wait_for(server.has_peers)
                assert not expected.is_set()
            async with connected(server) as chan:
                await wait_for(lambda: len(got) == 3)
                assert {each.raddr for each in got} == {chan.laddr}
            assert server._peer_connected == {}
            server.expect_peer(PEER.uid)
            server.forget_peer(PEER.uid)
            server.forget_peer(PEER.uid)
            assert server._peer_connected == {}

    run(main)


def test_wait_for_a_peer_that_comes_and_goes_at_once(actor: Any) -> None:
    async def main() -> None:
        async with open_ipc_server() as server, trio.open_nursery() as tn:
            got: list[Channel] = []

            async def wait() -> None:
                got.append((await server.wait_for_peer(PEER.uid))[1])

            tn.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            first, second = Channel(), Channel()
            server._track(PEER.uid, first)
            server._untrack(PEER.uid, first)
            await trio.testing.wait_all_tasks_blocked()
            assert not got
            server._track(PEER.uid, second)
            await trio.testing.wait_all_tasks_blocked()
            assert got == [second]

    run(main)


# --- the end of one connection


def test_the_stream_is_closed_when_the_loop_ends(kit: Any, actor: Any) -> None:
    async def end(chan: Channel) -> tuple[bool, Any]:
        return False, None

    actor.loop = end

    async def main() -> None:
        async with serving(kit.addr()) as server, connected(server) as chan:
            with pytest.raises(TransportClosed):
                await chan.recv()
            assert not server._peers

    run(main)
    assert actor.gone[0][2] is False


def test_an_error_of_the_loop_is_one_of_the_actor(kit: Any, actor: Any) -> None:
    async def fail(chan: Channel) -> tuple[bool, Any]:
        raise LookupError('a bug')

    actor.loop = fail
    servers: list[Server] = []

    async def main() -> None:
        async with serving(kit.addr()) as server:
            servers.append(server)
            async with connected(server) as chan:
                with trio.CancelScope(shield=True), suppress(TransportClosed):
                    await chan.recv()

    with pytest.raises(LookupError, match='a bug'):
        run(main)
    assert servers[0]._peers == {}
    assert servers[0]._no_more_peers.is_set()


def test_a_stream_that_no_transport_knows(actor: Any) -> None:
    """The address of a connection which was reset at once cannot be read."""

    async def main() -> None:
        async with open_ipc_server() as server:
            with socket.socket() as sock:
                sock.setblocking(False)
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
                await handle_stream_from_peer(stream, server=server)
                assert sock.fileno() == -1 or stream.socket.fileno() == -1
            assert not server._half_open

    run(main)
