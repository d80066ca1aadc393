"""contract: addresses, connections and the messages on them, on every transport."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from tractor import TransportClosed
from tractor._code_load import load_module_from_path
from tractor.discovery import mk_maddr, parse_maddr
from tractor.discovery._addr import (
    Address,
    default_lo_addrs,
    get_address_cls,
    is_wrapped_addr,
    wrap_address,
)
from tractor.ipc import (
    Channel,
    MsgTransport,
    _connect_chan,
    transport_from_addr,
    transport_from_stream,
)
from tractor.ipc._framing import MAX_FRAME_SIZE, FrameTooLarge
from tractor.msg.types import Aid, Started

wires = sys.modules.get('wires') or load_module_from_path(Path(__file__).with_name('wires.py'))
framed, item, run, value = wires.framed, wires.item, wires.run, wires.value

SIZES = [0, 1, 1000, 64 * 1024 - 50, 64 * 1024, 1 << 20, (3 << 20) + 1]


# --- addresses


def test_an_address_and_its_unwrapped_form(kit: Any) -> None:
    addr = kit.addr()
    assert addr.proto_key == type(addr).proto_key == kit.key
    assert get_address_cls(kit.key) is type(addr)
    assert is_wrapped_addr(addr)
    assert wrap_address(addr) is addr
    pair = addr.unwrap()
    assert not is_wrapped_addr(pair)
    assert isinstance(pair, tuple)
    # as they come out of a message
    for form in (pair, msgspec.msgpack.decode(msgspec.msgpack.encode(pair))):
        again = wrap_address(form)
        assert type(again) is type(addr)
        assert again == addr
        assert hash(again) == hash(addr)
        assert again.unwrap() == pair
    assert len({addr, wrap_address(pair)}) == 1
    assert addr not in (pair, None, 'x')
    assert repr(addr) == f'{type(addr).__name__}[{pair}]'
    with pytest.raises(AttributeError):
        addr.anything = 1


def test_what_every_address_tells(kit: Any) -> None:
    addr = kit.addr()
    members = [name for name in vars(Address) if not name.startswith('_')]
    assert not [name for name in members if not hasattr(addr, name)]
    assert addr.namespace is None
    other = type(addr).get_random(bindspace=addr.bindspace)
    assert other.bindspace == addr.bindspace
    assert type(addr).get_random().bindspace == type(addr).def_bindspace
    root = type(addr).get_root()
    assert root.is_valid
    assert [root.unwrap()] == default_lo_addrs([kit.key])
    assert root != addr


def test_the_multiaddr_of_an_address(kit: Any) -> None:
    addr = kit.addr()
    if kit.key == 'mem':
        # a name inside one process is of no use to anybody else
        with pytest.raises(ValueError, match="Unsupported proto_key: 'mem'"):
            mk_maddr(addr)
        return
    text = str(mk_maddr(addr))
    assert parse_maddr(text) == wrap_address(text) == addr


def test_listen_connect_and_close(kit: Any) -> None:
    async def main() -> None:
        async with kit.listening() as (addr, listener):
            assert type(addr) is type(kit.addr())
            assert addr.is_valid
            for given in (addr, addr.unwrap(), list(addr.unwrap())):
                async with _connect_chan(given) as chan:
                    other = Channel.from_stream(await listener.accept())
                    assert chan.connected()
                    assert chan.raddr == addr
                    assert other.laddr == addr
                    await chan.send(item(1))
                    assert value(await other.recv()) == 1
                assert chan.closed
                assert not chan.connected()
                with pytest.raises(TransportClosed):
                    await other.recv()
                await other.aclose()
                await other.aclose()
                assert kit.is_closed(chan.stream)
                assert kit.is_closed(other.stream)

    run(main)


def test_an_address_that_is_taken(kit: Any) -> None:
    async def main() -> None:
        async with kit.listening() as (addr, _), kit.listening() as (other, _):
            assert addr != other
            with pytest.raises(OSError, match='Cannot listen on') as excinfo:
                await kit.backend.start_listener(addr)
            assert repr(addr) in str(excinfo.value)
        # and free again
        async with kit.listening(addr) as (again, _):
            assert again == addr

    run(main)


def test_nobody_listens(kit: Any) -> None:
    async def main() -> None:
        async with kit.listening() as (addr, _):
            pass
        with pytest.raises(OSError, match=r'.'):
            async with _connect_chan(addr):
                pytest.fail('connected to nobody')

    run(main)


def test_a_listener_is_closed_once_and_what_it_accepted_lives_on(kit: Any) -> None:
    async def main() -> None:
        addr = kit.addr()
        listener = await addr.open_listener()
        bound = kit.backend.bound_addr(addr, listener)
        async with _connect_chan(bound) as chan:
            other = Channel.from_stream(await listener.accept())
            for _ in range(2):
                bound.close_listener(listener)
            with pytest.raises(OSError, match=r'.'):
                await Channel.from_addr(bound)
            await chan.send(item(1))
            assert value(await other.recv()) == 1
            await other.aclose()

    run(main)


def test_connections_that_nobody_accepts_are_lost_with_the_listener(kit: Any) -> None:
    async def main() -> None:
        async with kit.listening() as (addr, _):
            chan = await Channel.from_addr(addr)
        with pytest.raises(TransportClosed):
            await chan.recv()
        await chan.aclose()

    run(main)


def test_what_makes_it_a_transport(kit: Any) -> None:
    async def main() -> None:
        async with kit.transports() as (one, two):
            assert isinstance(one, MsgTransport)
            assert type(one) is type(two) is kit.backend.transport
            assert one.key() == (one.codec_key, kit.key) == ('msgpack', kit.key)
            assert (one.layer_key, one.drained, one.prefix_size) == (4, [], 4)
            assert transport_from_addr(one.raddr) is type(one)
            assert transport_from_stream(one.stream) is type(one)
            assert one.address_type is type(one.laddr) is type(one.raddr)
            assert one.get_stream_addrs(one.stream) == (one.laddr, one.raddr)
            assert one.raddr == two.laddr
            assert one.laddr == two.raddr
            assert repr(one) == f'<{kit.name} {one.laddr} <-> {one.raddr}>'
            assert str(one.maddr) == (
                str(one.raddr) if kit.key == 'mem' else str(mk_maddr(one.raddr))
            )
            for codec in ('json', ''):
                with pytest.raises(NotImplementedError, match=f'over {kit.key!r}'):
                    transport_from_stream(one.stream, codec_key=codec)
            assert one.connected()
            await one.aclose()
            await one.aclose()
            assert not one.connected()

    run(main)


# --- messages


def test_the_bytes_of_a_frame(kit: Any) -> None:
    async def main() -> None:
        async with kit.pair() as (tpt, other):
            await tpt.send(Started(cid='c', pld=1))
            body = b'\x83\xa8msg_type\xa7Started\xa3cid\xa1c\xa3pld\x01'
            assert await other.receive_some() == len(body).to_bytes(4, 'little') + body

    run(main)


@pytest.mark.parametrize('size', SIZES)
def test_round_trip(kit: Any, size: int) -> None:
    async def main() -> None:
        async with kit.transports() as (one, two):
            async with trio.open_nursery() as tn:
                tn.start_soon(one.send, item(b'x' * size))
                assert value(await two.recv()) == b'x' * size
            async with trio.open_nursery() as tn:
                tn.start_soon(two.send, {'msg_type': 'Return', 'cid': 'c', 'pld': size})
                assert value(await one.recv()) == size

    run(main)


def test_messages_that_arrive_together_come_in_one_batch(kit: Any) -> None:
    async def main() -> None:
        async with kit.pair() as (tpt, other):
            await other.send_all(framed(item(1)) + framed(item(2)) + framed(item(3))[:5])
            batch = await tpt.recv_batch()
            assert [value(msg) for msg in batch] == [1, 2]
            # not taken yet, so the same once more
            assert await tpt.recv_batch() is batch
            batch.clear()
            await other.send_all(framed(item(3))[5:])
            assert value(await tpt.recv()) == 3

    run(main)


def test_frames_split_at_every_byte(kit: Any) -> None:
    messages = [item(0), item(b'x' * 70), item('y')]
    data = b''.join(map(framed, messages))

    async def main() -> None:
        async with kit.pair() as (tpt, other):

            async def read() -> None:
                got = [value(await tpt.recv()) for _ in messages]
                assert got == [msg.pld for msg in messages]

            async def send_in_two(at: int) -> None:
                for part in filter(None, (data[:at], data[at:])):
                    await other.send_all(part)
                    # the reader has the first part before the second is there
                    await trio.testing.wait_all_tasks_blocked()

            for at in range(len(data) + 1):
                async with trio.open_nursery() as tn:
                    tn.start_soon(read)
                    await send_in_two(at)

    run(main, timeout=30)


def test_frames_that_drip_in(kit: Any) -> None:
    data = framed(item(1)) + framed(item(b'x' * 300))

    async def main() -> None:
        async with kit.pair() as (tpt, other), trio.open_nursery() as tn:

            async def drip() -> None:
                for at in range(len(data)):
                    await other.send_all(data[at : at + 1])

            tn.start_soon(drip)
            assert value(await tpt.recv()) == 1
            assert value(await tpt.recv()) == b'x' * 300

    run(main)


def test_frames_leave_in_the_order_in_which_they_were_sent(kit: Any) -> None:
    sizes = [1, 100, 3000, 70_000, 200_000]

    async def main() -> None:
        async with kit.transports() as (one, two):
            order: list[tuple[int, int]] = []

            async def sender(number: int) -> None:
                for turn in range(8):
                    order.append((number, turn))
                    await one.send(item([number, turn, b'x' * sizes[(number + turn) % 5]]))

            async with trio.open_nursery() as tn:
                for number in range(30):
                    tn.start_soon(sender, number)
                for at in range(30 * 8):
                    number, turn, data = value(await two.recv())
                    assert (number, turn) == order[at]
                    assert len(data) == sizes[(number + turn) % 5]
            assert one._writer.unwritten == 0

    run(main, timeout=30)


def test_both_directions_at_once(kit: Any) -> None:
    """More than fits both ways: whoever only wrote would wait for ever."""
    big, count = b'x' * 300_000, 20

    async def main() -> None:
        async with kit.transports() as ends, trio.open_nursery() as tn:
            for tpt in ends:

                async def send(tpt: Any = tpt) -> None:
                    for number in range(count):
                        await tpt.send(item([number, big]))

                async def read(tpt: Any = tpt) -> None:
                    for number in range(count):
                        assert value(await tpt.recv()) == [number, big]

                tn.start_soon(send)
                tn.start_soon(read)

    run(main, timeout=30)


def test_queued_without_waiting(kit: Any) -> None:
    async def main() -> None:
        async with kit.transports() as (one, two):
            assert one.flush_nowait()
            await one.flush()
            end = one.push(item(1))
            one.push(item(2))
            assert one._writer.unwritten
            await one.flush(end)
            await one.flush()
            assert one._writer.unwritten == 0
            one.push(item(3))
            assert one.flush_nowait()
            await one.post(item(4))
            assert [value(await two.recv()) for _ in range(4)] == [1, 2, 3, 4]

    run(main)


def test_flushing_what_does_not_fit_without_waiting(kit: Any) -> None:
    size = 32 << 20

    async def main() -> None:
        async with kit.transports() as (one, two):
            one.push(item(b'x' * size))
            assert not one.flush_nowait()
            assert 0 < one._writer.unwritten < size
            async with trio.open_nursery() as tn:
                tn.start_soon(one.flush)
                await trio.testing.wait_all_tasks_blocked()
                # somebody writes already
                assert not one.flush_nowait()
                assert len(value(await two.recv())) == size
            assert one.flush_nowait()

    run(main, timeout=30)


# --- limits


@pytest.mark.parametrize('announced', [101, 1 << 30, 0xFFFFFFFF])
def test_a_frame_above_the_limit_is_refused_before_it_takes_memory(
    kit: Any, announced: int
) -> None:
    header = announced.to_bytes(4, 'little')

    async def main() -> None:
        async with kit.pair(accepted=True) as (tpt, other):
            assert tpt.max_frame_size == MAX_FRAME_SIZE == 1 << 30
            tpt.max_frame_size = 100
            await other.send_all(framed(item(1)) + header + b'x' * 50)
            assert value(await tpt.recv()) == 1
            tracemalloc.start()
            try:
                with pytest.raises(TransportClosed, match=f'{announced} bytes, more than the 100'):
                    await tpt.recv()
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert peak < 500_000
            with pytest.raises(TransportClosed) as excinfo:
                await tpt.recv()
            assert isinstance(excinfo.value.src_exc, FrameTooLarge)
            assert (excinfo.value.src_exc.size, excinfo.value.src_exc.limit) == (announced, 100)
            assert not tpt.connected()
            with pytest.raises(TransportClosed, match='refuses what the peer'):
                await tpt.send(item(1))

    run(main)


@pytest.mark.parametrize('size', [200, 100_000])
def test_the_limit_may_be_raised_once_the_peer_is_known(kit: Any, size: int) -> None:
    """Its next message may have come with its first one."""

    async def main() -> None:
        async with kit.pair() as (tpt, other):
            tpt.max_frame_size = 100
            async with trio.open_nursery() as tn:
                aid = Aid(name='a', uuid='b')
                tn.start_soon(other.send_all, framed(aid) + framed(item(b'x' * size)))
                assert await tpt.recv() == aid
                tpt.max_frame_size = 1 << 20
                assert value(await tpt.recv()) == b'x' * size

    run(main)


def test_a_mere_announcement_of_much_takes_no_memory(kit: Any) -> None:
    async def main() -> None:
        async with kit.pair() as (tpt, other), trio.open_nursery() as tn:
            tn.start_soon(tpt.recv)
            tracemalloc.start()
            try:
                await other.send_all(MAX_FRAME_SIZE.to_bytes(4, 'little') + b'x' * 1000)
                await wires.wait_for(lambda: tpt._reader.pending == 1000)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert peak < 4 << 20
            tn.cancel_scope.cancel()

    run(main)
