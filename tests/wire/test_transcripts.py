"""collaboration: what an actor says on the wire, byte by byte, against peers that are written down."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor import MsgTypeError, RemoteActorError
from tractor._code_load import load_module_from_path
from tractor._exceptions import ModuleNotExposed
from tractor._testing import run_bounded
from tractor._testing.addr import get_rando_addr
from tractor._testing.peer import connect_stream, open_listener, open_peer
from tractor.discovery import _api
from tractor.discovery._addr import wrap_address
from tractor.ipc import _connect_chan
from tractor.runtime._portal import open_portal

HERE = Path(__file__).parent
wire = sys.modules.get('transcript') or load_module_from_path(HERE / 'transcript.py')
# under the name by which peers ask for it
far = sys.modules.get('wire_endpoints') or load_module_from_path(HERE / 'wire_endpoints.py')

FILES = sorted((HERE / 'transcripts').glob('*.wire'))
ALL = {path.stem: wire.load(path) for path in FILES}
TIME_LIMIT = 15


def of_role(role: str) -> list[str]:
    return [name for name, transcript in ALL.items() if transcript.role == role]


@pytest.fixture(params=['tcp', 'uds'])
def tpt(request: pytest.FixtureRequest) -> str:
    return request.param


def open_root(tpt: str, reg_addr: Any) -> Any:
    return tractor.open_root_actor(
        name='wire',
        enable_transports=[tpt],
        registry_addrs=[reg_addr],
        enable_modules=[far.NAME],
        loglevel='critical',
    )


# --- the peer dials


async def serve(
    tpt: str, task_status: trio.TaskStatus[tuple[tractor.Actor, trio.CancelScope]]
) -> None:
    """A root actor that only serves, until its scope is cancelled, or itself."""
    with trio.CancelScope() as scope:
        async with open_root(tpt, get_rando_addr(tpt)) as root:
            task_status.started((root, scope))
            await trio.sleep_forever()


async def still_serves(root: tractor.Actor) -> None:
    async with open_peer(root.accept_addr, name='next') as peer:
        answer = await peer.call(far.NAME, 'add', a=2, b=3)
        assert answer.pld == 5


@pytest.mark.parametrize('mode', ['each', 'joined', 'bytewise'])
@pytest.mark.parametrize('name', of_role('client'))
def test_client(name: str, mode: str, tpt: str) -> None:
    transcript = ALL[name]

    async def main() -> None:
        async with trio.open_nursery() as tn:
            root, scope = await tn.start(serve, tpt)
            connect = partial(connect_stream, root.accept_addr)
            await wire.Player(transcript, connect, {}, mode).play()
            if transcript.header.get('ends') == 'actor':
                assert root.cancel_complete
            else:
                await still_serves(root)
            assert not root._rpc_tasks
            scope.cancel()

    run_bounded(main, timeout=TIME_LIMIT)


# --- the peer is dialled


@asynccontextmanager
async def portal_to(addr: Any) -> Any:
    async with _connect_chan(addr) as chan, open_portal(chan) as portal:
        yield portal


async def call_add(addr: Any) -> None:
    async with portal_to(addr) as portal:
        assert await portal.run(far.add, a=1, b=2) == 3


async def call_fail(addr: Any) -> None:
    async with portal_to(addr) as portal:
        with pytest.raises(RemoteActorError) as caught:
            await portal.run(far.fail, text='boom')
        assert caught.value.boxed_type is ValueError
        assert caught.value.src_uid == ('server', 'server-uuid')
        assert caught.value.tb_str == 'Traceback: boom'


async def call_refused(addr: Any) -> None:
    async with portal_to(addr) as portal:
        with pytest.raises(RemoteActorError) as caught:
            await portal.run(far.add, a=1, b=2)
        assert caught.value.boxed_type is ModuleNotExposed


async def open_doubler(addr: Any) -> None:
    async with (
        portal_to(addr) as portal,
        portal.open_context(far.doubler, first=7) as (ctx, first),
    ):
        assert first == 7
        async with ctx.open_stream() as stream:
            await stream.send(1)
            assert await stream.receive() == 2
        assert await ctx.wait_for_result() == 'done'


async def cancel_idle(addr: Any) -> None:
    async with portal_to(addr) as portal:
        async with portal.open_context(far.idle) as (ctx, _):
            await ctx.cancel()
        assert ctx.cancel_acked
        assert isinstance(ctx.outcome, tractor.ContextCancelled)


async def open_adder(addr: Any) -> None:
    async with portal_to(addr) as portal:
        with pytest.raises(MsgTypeError, match=r'invalid `Return` msg payload') as caught:
            async with portal.open_context(far.adder) as (ctx, first):
                assert first == 0
        assert caught.value is ctx.outcome


async def read_count(addr: Any) -> None:
    async with portal_to(addr) as portal, portal.open_stream_from(far.count, n=2) as stream:
        assert [each async for each in stream] == [0, 1]


async def cancel_actor(addr: Any) -> None:
    async with portal_to(addr) as portal:
        assert await portal.cancel_actor() is True


async def probe(addr: Any) -> None:
    assert await _api._probe_registry(wrap_address(addr)) == 'registrar'


async def look_up(addr: Any) -> None:
    async with tractor.find_actor('someone', registry_addrs=[addr]) as portal:
        assert portal is None


ACTIONS: dict[str, Callable[[Any], Awaitable[None]]] = {
    each.__name__: each
    for each in (
        call_add,
        call_fail,
        call_refused,
        open_doubler,
        cancel_idle,
        open_adder,
        read_count,
        cancel_actor,
        probe,
        look_up,
    )
}


def listening_stream(listener: Any) -> Callable[[], Awaitable[trio.SocketStream]]:
    async def accept() -> trio.SocketStream:
        return (await listener.accept()).stream

    return accept


@pytest.mark.parametrize('mode', ['each', 'joined', 'bytewise'])
@pytest.mark.parametrize('name', of_role('server'))
def test_server(name: str, mode: str, tpt: str) -> None:
    transcript = ALL[name]
    action = ACTIONS[transcript.header['action']]
    addr = get_rando_addr(tpt)
    # whoever asks a registrar has entered itself there before
    reg_addr = addr if action is look_up else get_rando_addr(tpt)

    async def act() -> None:
        async with open_root(tpt, reg_addr):
            await action(addr)

    async def main() -> None:
        async with open_listener(addr) as listener, trio.open_nursery() as tn:
            player = wire.Player(transcript, listening_stream(listener), {}, mode)
            tn.start_soon(player.play)
            await act()

    run_bounded(main, timeout=TIME_LIMIT)


# --- the peer is the parent of a process


def packed_text(text: str) -> bytes:
    data = text.encode()
    return b'\xda' + len(data).to_bytes(2) + data


def packed_addr(addr: Any) -> bytes:
    second = addr[1]
    number = b'\xcd' + second.to_bytes(2) if isinstance(second, int) else packed_text(second)
    return b'\x92' + packed_text(addr[0]) + number


@asynccontextmanager
async def child_process(addr: Any) -> Any:
    command = [
        *(sys.executable, '-m', 'tractor._child'),
        *('--uid', "('child', 'child-uuid')"),
        *('--parent_addr', repr(tuple(addr))),
        *('--loglevel', 'critical'),
    ]
    path = os.pathsep.join([str(Path(tractor.__file__).parents[1]), *filter(None, sys.path)])
    async with AsyncExitStack() as stack:
        proc = await trio.lowlevel.open_process(
            command, env={**os.environ, 'PYTHONPATH': path}, stderr=subprocess.DEVNULL
        )
        stack.callback(lambda: proc.returncode is None and proc.kill())
        yield proc


@pytest.mark.parametrize('name', of_role('parent'))
def test_parent(name: str, tpt: str) -> None:
    transcript = ALL[name]
    addr = get_rando_addr(tpt)
    bindings = {'addr': packed_addr(addr), 'module_path': packed_text(far.__file__)}

    async def main() -> None:
        async with open_listener(addr) as listener, child_process(addr) as proc:
            await wire.Player(transcript, listening_stream(listener), bindings).play()
            assert await proc.wait() == int(transcript.header.get('exit', 0))

    run_bounded(main, timeout=TIME_LIMIT)
