"""contract: listeners and how they end, on every transport; with a stand-in for the actor above."""

from __future__ import annotations

import errno
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tractor import TransportClosed
from tractor._code_load import load_module_from_path
from tractor.ipc import Channel, IPCServer, _connect_chan, _server, open_ipc_server
from tractor.ipc._server import Endpoint
from tractor.ipc._tcp import TCPAddress
from tractor.ipc._uds import HAS_UDS, UDSAddress
from tractor.runtime import _state

wires = sys.modules.get('wires') or load_module_from_path(Path(__file__).with_name('wires.py'))
Actor, actor, connected, serving = wires.Actor, wires.actor, wires.connected, wires.serving
item, run, wait_for = wires.item, wires.run, wires.wait_for
LOCAL, PEER = wires.LOCAL, wires.PEER

logged = wires.logged

needs_uds = pytest.mark.skipif(not HAS_UDS, reason='no UNIX sockets on this system')


# --- listening


def test_a_server_that_never_listens(logged: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with open_ipc_server() as server:
            assert isinstance(server, IPCServer)
            assert server._no_more_peers.is_set()
            assert server._shutdown is None
            assert not server.is_shutdown()
            assert server.repr_state == 'never-started'
            assert server._stream_handler_tn is server._parent_tn
            await server.wait_for_shutdown()
            await server.wait_for_no_more_peers()

    run(main)
    assert 'never listened' in logged.text


def test_servers_share_nothing() -> None:
    async def main() -> None:
        async with open_ipc_server() as one, open_ipc_server() as two:
            assert one._peers is not two._peers
            assert one._peer_connected is not two._peer_connected

    run(main)


def test_several_addresses(kit: Any, actor: Any) -> None:
    addrs = [kit.addr(), kit.addr().unwrap(), kit.addr()]

    async def main() -> None:
        async with open_ipc_server() as server:
            eps = await server.listen_on(accept_addrs=addrs)
            assert server._endpoints == eps
            assert len({id(ep.listen_tn) for ep in eps}) == 1
            assert eps[0].listen_tn is not server._stream_handler_tn
            assert [ep.addr for ep in eps] == server.addrs
            assert server.epsdict() == dict(zip(server.addrs, eps, strict=True))
            assert len(server.epsdict()) == 3
            assert server.accept_addrs == [addr.unwrap() for addr in server.addrs]
            assert server.proto_keys == [kit.key] * 3
            assert all(addr.is_valid for addr in server.addrs)
            assert 'listening' in repr(eps[0])
            for part in ('state: listening', repr(server.addrs[0]), 'channels: 0'):
                assert part in repr(server)
            assert '_peers: []' in server.pformat(privates=True)
            for addr in server.accept_addrs:
                async with _connect_chan(addr) as chan:
                    assert await chan._do_handshake(aid=PEER) == actor.aid
        assert server.is_shutdown()
        assert server._endpoints == []
        assert 'closed' in repr(eps[0])
        assert server.repr_state == 'shutdown'

    run(main)
    assert len(actor.gone) == len(addrs)
    assert os.listdir(kit.folder) == []


def test_the_default_address(actor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with open_ipc_server() as server:
            (ep,) = await server.listen_on()
            assert ep.addr == TCPAddress(*LOCAL[:1], ep.addr.unwrap()[1])

    monkeypatch.setattr(_state, '_def_tpt_proto', 'tcp')
    monkeypatch.setattr(_server, 'default_lo_addrs', lambda protos: [LOCAL])
    run(main)


def open_fds() -> set[str]:
    return set(os.listdir('/proc/self/fd')) if os.path.exists('/proc') else set()


@pytest.mark.parametrize('kth', [0, 1, 2])
def test_when_one_address_is_taken_none_is_bound(kit: Any, kth: int, actor: Any) -> None:
    async def main() -> None:
        async with kit.listening() as (taken, _):
            addrs = [kit.addr(), kit.addr()]
            addrs.insert(kth, taken)
            fds, files = open_fds(), os.listdir(kit.folder)
            async with open_ipc_server() as server:
                with pytest.raises(OSError, match='Cannot listen on') as excinfo:
                    await server.listen_on(accept_addrs=addrs)
                reason = excinfo.value if excinfo.value.errno else excinfo.value.__cause__
                assert isinstance(reason, OSError)
                assert reason.errno == errno.EADDRINUSE
                assert server._endpoints == []
                assert os.listdir(kit.folder) == files
                assert open_fds() == fds
                # it has not listened, hence it has not ended either
                assert server.repr_state == 'never-started'
                await server.listen_on(accept_addrs=[kit.addr()])
                async with connected(server):
                    pass

    run(main)


def test_a_failed_group_leaves_the_others_alone(kit: Any, actor: Any) -> None:
    async def main() -> None:
        async with serving(kit.addr()) as server:
            taken = server.accept_addrs[0]
            with pytest.raises(OSError, match='Cannot listen on'):
                await server.listen_on(accept_addrs=[kit.addr(), taken])
            assert server.accept_addrs == [taken]
            assert not server.is_shutdown()
            async with connected(server):
                pass

    run(main)


@needs_uds
def test_the_socket_file_of_a_dead_server_is_taken_over(actor: Any, tmp_path: Path) -> None:
    addr = UDSAddress(tmp_path, 'x@1.sock')
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(addr.sockpath))
        dead.listen()

    async def main() -> None:
        async with serving(addr) as server, connected(server):
            with pytest.raises(ConnectionError, match='Cannot listen on') as excinfo:
                await server.listen_on(accept_addrs=[addr])
            assert 'Address already in use' in excinfo.value.__context__.args  # type: ignore[union-attr]

    run(main)
    assert not addr.sockpath.exists()


def test_groups_end_one_by_one(kit: Any, actor: Any) -> None:
    async def main() -> None:
        async with open_ipc_server() as server:
            (one,) = await server.listen_on(accept_addrs=[kit.addr()])
            (two,) = await server.listen_on(accept_addrs=[kit.addr()])
            assert one.listen_tn is not two.listen_tn
            one.listen_tn.cancel_scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert server._endpoints == [two]
            assert not server.is_shutdown()
            with pytest.raises(OSError, match=r'.'):
                async with _connect_chan(one.addr):
                    pass
            async with connected(server):
                pass
            two.listen_tn.cancel_scope.cancel()
            await server.wait_for_shutdown()
            assert server.is_shutdown()
            with pytest.raises(RuntimeError, match='has been shut down'):
                await server.listen_on(accept_addrs=[kit.addr()])

    run(main)


def test_one_that_cannot_be_closed_does_not_stop_the_others(
    kit: Any, actor: Any, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    close = Endpoint.close_listener

    def fail(self: Endpoint) -> None:
        close(self)
        raise OSError(errno.EIO, 'no such luck')

    monkeypatch.setattr(Endpoint, 'close_listener', fail)

    async def main() -> None:
        async with serving(kit.addr(), kit.addr()) as server:
            server.stop_listening()
            await server.wait_for_shutdown()

    run(main)
    assert logged.text.count('no such luck') == 2


def test_stopping_a_server_that_is_still_binding(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(self: Endpoint) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(Endpoint, 'start_listener', never)

    async def main() -> None:
        async with trio.open_nursery() as tn, open_ipc_server(parent_tn=tn) as server:

            async def listen() -> None:
                with pytest.raises(RuntimeError):
                    await server.listen_on(accept_addrs=[kit.addr()])

            tn.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            # the nursery ends: nothing is left in it

    run(main)


def test_giving_up_at_the_very_moment_in_which_all_is_bound(
    kit: Any, actor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, scope = Endpoint.start_listener, trio.CancelScope()

    async def start_and_give_up(self: Endpoint) -> Any:
        listener = await start(self)
        scope.cancel()
        return listener

    async def main() -> None:
        async with open_ipc_server() as server:
            with scope, monkeypatch.context() as patch:
                patch.setattr(Endpoint, 'start_listener', start_and_give_up)
                await server.listen_on(accept_addrs=[kit.addr()])
            assert scope.cancelled_caught
            assert server._endpoints == []
            # it has not ended: it never began
            await server.listen_on(accept_addrs=[kit.addr()])
            async with connected(server):
                pass

    run(main)


# --- the end of the whole server


def test_cancel(kit: Any, actor: Any) -> None:
    async def main() -> None:
        async with serving(kit.addr()) as server:
            (ep,) = server._endpoints
            async with _connect_chan(ep.addr) as chan:
                await chan._do_handshake(aid=PEER)
                await wait_for(server.has_peers)
                assert server.cancel() is True
                # what was accepted runs in the same nursery
                with trio.CancelScope(shield=True), pytest.raises(TransportClosed):
                    await chan.recv()
        assert server.cancel() is False
        assert server.is_shutdown()
        assert not server.has_peers()
        with pytest.raises(OSError, match=r'.'):
            await Channel.from_addr(ep.addr)

    run(main)
    assert [(uid, disconnected) for uid, _, disconnected in actor.gone] == [(PEER.uid, False)]


def test_connections_outlive_the_listeners(kit: Any, actor: Any) -> None:
    async def main() -> None:
        async with trio.open_nursery() as tn:
            async with open_ipc_server(parent_tn=tn) as server:
                await server.listen_on(accept_addrs=[kit.addr()])
                async with connected(server) as chan:
                    server.stop_listening()
                    await server.wait_for_shutdown()
                    await chan.send(item(1))
                    await trio.testing.wait_all_tasks_blocked()
                    assert server.len_peers() == 1
                    assert not actor.gone
            await server.wait_for_no_more_peers()

    run(main)
    assert actor.gone[0][2] is True


def test_other_nurseries_for_the_connections(kit: Any, actor: Any) -> None:
    async def main() -> None:
        async with (
            trio.open_nursery() as mine,
            trio.open_nursery() as theirs,
            open_ipc_server(stream_handler_tn=mine) as server,
        ):
            assert server._stream_handler_tn is mine
            await server.listen_on(accept_addrs=[kit.addr()])
            (ep,) = await server.listen_on(accept_addrs=[kit.addr()], stream_handler_nursery=theirs)
            assert ep.stream_handler_tn is theirs
            counts = []
            for addr in server.accept_addrs:
                async with _connect_chan(addr) as chan:
                    await chan._do_handshake(aid=PEER)
                    await wait_for(server.has_peers)
                    counts.append((len(mine.child_tasks), len(theirs.child_tasks)))
                await server.wait_for_no_more_peers()
            assert counts == [(1, 0), (0, 1)]

    run(main)


def test_without_an_actor_a_connection_is_dropped(
    kit: Any, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_state, 'current_actor', lambda err_on_no_runtime=True: None)

    async def main() -> None:
        async with serving(kit.addr()) as server:
            for _ in range(2):
                async with _connect_chan(server.accept_addrs[0]) as chan:
                    with pytest.raises(TransportClosed):
                        await chan._do_handshake(aid=PEER)
            assert not server._peers

    run(main)
    assert 'no actor runtime' in logged.text


def test_accepting_pauses_when_no_descriptors_are_left(
    kit: Any, actor: Any, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    accept = kit.listener_type.accept
    failures = [OSError(errno.EMFILE, 'Too many open files')] * 3

    async def failing(self: Any) -> Any:
        await trio.lowlevel.checkpoint()
        if failures:
            raise failures.pop()
        return await accept(self)

    monkeypatch.setattr(kit.listener_type, 'accept', failing)
    monkeypatch.setattr(_server, '_ACCEPT_RETRY', 0)

    async def main() -> None:
        async with serving(kit.addr()) as server, connected(server):
            pass

    run(main)
    assert logged.text.count('Too many open files') == 3


def test_another_failure_of_accepting_is_one_of_the_actor(
    kit: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def failing(self: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EINVAL, 'Invalid argument')

    monkeypatch.setattr(kit.listener_type, 'accept', failing)

    async def main() -> None:
        async with serving(kit.addr()):
            await trio.sleep_forever()

    with pytest.raises(OSError, match='Invalid argument'):
        run(main)


def test_a_connection_that_nobody_can_serve_is_closed(kit: Any) -> None:
    async def main() -> None:
        async with trio.open_nursery() as ended:
            pass
        async with open_ipc_server(stream_handler_tn=ended) as server:
            await server.listen_on(accept_addrs=[kit.addr()])
            with trio.CancelScope(shield=True):
                async with _connect_chan(server.accept_addrs[0]) as chan:
                    with pytest.raises(TransportClosed):
                        await chan.recv()

    with pytest.raises(RuntimeError, match='closed'):
        run(main)
