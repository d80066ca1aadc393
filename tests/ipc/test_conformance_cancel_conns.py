"""contract: connecting, closing and serving, cancelled at any checkpoint, leave nothing behind; on every transport."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tractor import TransportClosed
from tractor._code_load import load_module_from_path
from tractor._testing.checkpoints import Run, at_each_checkpoint, cancelled_at
from tractor.ipc import Channel, _connect_chan, open_ipc_server
from tractor.msg.types import Aid

wires = sys.modules.get('wires') or load_module_from_path(Path(__file__).with_name('wires.py'))
actor = wires.actor
framed, item, run, value = wires.framed, wires.item, wires.run, wires.value

ME, PEER = Aid(name='me', uuid='1', pid=1), Aid(name='peer', uuid='2', pid=2)

# --- connections


def test_connecting(kit: Any) -> None:
    async def check(nth: int) -> Run:
        async with kit.listening() as (addr, listener):
            outcome = await cancelled_at(nth, Channel.from_addr, addr)
            if not outcome.cancelled:
                await outcome.value.aclose()
            other = await accepted(listener)
            # cancelled it may have got so far, but then it has been closed
            assert other is not None or outcome.cancelled
            if other is not None:
                async with other:
                    assert await read_to_the_end(other) == b''
            # and nobody else is disturbed
            async with _connect_chan(addr) as chan, await listener.accept() as other:
                await chan.send(item(1))
                assert await other.receive_some() == framed(item(1))
        return outcome

    run(at_each_checkpoint, check, 1)


async def accepted(listener: Any) -> Any:
    """A connection that is here already, or `None`."""
    stream = None
    async with trio.open_nursery() as tn:

        async def accept() -> None:
            nonlocal stream
            stream = await listener.accept()

        tn.start_soon(accept)
        await trio.testing.wait_all_tasks_blocked()
        tn.cancel_scope.cancel()
    return stream


async def read_to_the_end(stream: Any) -> bytes:
    data = b''
    with suppress(trio.BrokenResourceError):
        while more := await stream.receive_some():
            data += more
    return data


def test_a_block_with_a_connection(kit: Any) -> None:
    async def use(addr: Any) -> None:
        async with _connect_chan(addr) as chan:
            await chan.send(item(1))

    async def check(nth: int) -> Run:
        async with kit.listening() as (addr, listener):
            outcome = await cancelled_at(nth, use, addr)
            if (other := await accepted(listener)) is not None:
                async with other:
                    assert await read_to_the_end(other) in (b'', framed(item(1)))
            else:
                assert outcome.cancelled
        return outcome

    run(at_each_checkpoint, check, 2)


def test_accepting(kit: Any) -> None:
    """What was connected is not lost: the next one gets it."""

    async def check(nth: int) -> Run:
        async with kit.listening() as (addr, listener), _connect_chan(addr) as chan:
            outcome = await cancelled_at(nth, listener.accept)
            stream = await listener.accept() if outcome.cancelled else outcome.value
            async with stream:
                await chan.send(item(1))
                assert await stream.receive_some() == framed(item(1))
        return outcome

    run(at_each_checkpoint, check, 1)


@pytest.mark.parametrize('what', ['transport', 'channel'])
def test_closing(kit: Any, what: str) -> None:
    async def check(nth: int) -> Run:
        async with kit.pair() as (tpt, other):
            closable = tpt if what == 'transport' else Channel(tpt)
            outcome = await cancelled_at(nth, closable.aclose)
            assert not closable.connected()
            assert kit.is_closed(tpt.stream)
            assert await read_to_the_end(other) == b''
        return outcome

    run(at_each_checkpoint, check, 1)


def test_a_handshake(kit: Any) -> None:
    """The other side has got an identity, or sees the end."""

    async def check(nth: int) -> Run:
        async with kit.transports() as ends, trio.open_nursery() as tn:
            ours, theirs = map(Channel, ends)
            outcome_of_peer: list[Any] = []

            async def peer() -> None:
                try:
                    outcome_of_peer.append(await theirs._do_handshake(aid=PEER))
                except TransportClosed as closed:
                    outcome_of_peer.append(closed)

            tn.start_soon(peer)
            outcome = await cancelled_at(nth, ours._do_handshake, ME)
            if outcome.cancelled:
                await ours.aclose()
            else:
                assert ours.aid == PEER
                await wires.wait_for(lambda: outcome_of_peer)
                await ours.send(item(1))
                assert value(await theirs.recv()) == 1
        (got,) = outcome_of_peer
        assert got == ME or (outcome.cancelled and 'already closed by peer' in str(got))
        return outcome

    run(at_each_checkpoint, check, 2)


# --- the server


def test_beginning_to_listen(kit: Any, actor: Any) -> None:
    async def check(nth: int) -> Run:
        async with kit.listening() as (first, _):
            pass
        addrs = [first, kit.addr()]
        async with open_ipc_server() as server:

            async def listen() -> list[Any]:
                return await server.listen_on(accept_addrs=addrs)

            outcome = await cancelled_at(nth, listen, of_all_tasks=True)
            if outcome.cancelled:
                # nothing is bound: the address is free
                assert server._endpoints == []
                async with kit.listening(first):
                    pass
                # and the server has not ended: it never began
                assert server.repr_state == 'never-started'
                await server.listen_on(accept_addrs=addrs)
            else:
                assert server._endpoints == outcome.value
            async with wires.connected(server):
                pass
        assert server._groups == []
        return outcome

    run(at_each_checkpoint, check, 4)


def test_waiting_for_peers(kit: Any, actor: Any) -> None:
    async def check(nth: int) -> Run:
        async with wires.serving(kit.addr()) as server:

            async def wait() -> None:
                await server.wait_for_peer(wires.PEER.uid)
                await server.wait_for_no_more_peers()

            async with trio.open_nursery() as tn:

                async def come_and_go() -> None:
                    await trio.testing.wait_all_tasks_blocked()
                    async with wires.connected(server):
                        await server.wait_for_peer(wires.PEER.uid)

                tn.start_soon(come_and_go)
                outcome = await cancelled_at(nth, wait, of_all_tasks=True)
            # whoever gave up waiting has taken nothing from those who wait now
            await server.wait_for_no_more_peers()
            async with wires.connected(server):
                _, chan = await server.wait_for_peer(wires.PEER.uid)
                assert chan.aid == wires.PEER
            await server.wait_for_no_more_peers()
            assert server._peers == {}
        return outcome

    run(at_each_checkpoint, check, 10)
