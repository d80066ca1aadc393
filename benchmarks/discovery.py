"""Lookups in a large and a lively registry: `discovery.py [--transport T] [--many N] [--seconds S] [--rate R]`.

Everything talks over the wire: the registrar is a program of its own, some of its actors are real ones, the others are
registered by a load program, which keeps a connection for each as an actor of another program does.

| part | measured | target |
|---|---|---|
| size | `find_actor()` of a real actor, with 10 and with `--many` registered, in turn | at most 3 times as long |
| life | `--rate` lookups a second for `--seconds`, while actors come and go | none wrong, no growth |

A lookup is wrong when an actor that is there is not found, or another one is found in its place. Growth is that of the
registrar, between the first quarter and the end: entries, connections, memory. The exit code tells whether every target
was met.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

HERE = Path(__file__).resolve().parent
if __name__ == '__main__':
    sys.path.insert(1, str(HERE.parent))

import tractor  # noqa: E402
from tractor._testing.peer import RawPeer, connect_stream  # noqa: E402
from tractor.discovery._addr import get_address_cls  # noqa: E402

NOW = time.perf_counter
FEW = 10
REAL = 5
TURNS = 10
LOOKUPS = 30
SLOWER = 3.0

# actors that come and go at the same time, the seconds that one stays, and a name which nobody has
VISITORS = 2
STAY = 0.5
ABSENT = 'nobody'

# lookups that may be under way at once: a machine that is too slow is told, not drowned
AT_ONCE = 32

# bytes by which a registrar's memory may differ between two looks at it: what its allocator keeps in store
SLACK = 4 << 20


# -- the registrar --------------------------------------------------------------------------------


async def statistics_of_registrar() -> dict[str, int]:
    """What a registrar has; it is asked for by the measuring program."""
    root: Any = tractor.current_actor()
    return {
        'entries': len(root._registry),
        'connections': root.ipc_server.len_peers(),
        'contexts': len(root._contexts),
        'bytes': resident_bytes(),
    }


async def serve(addr: list[Any], transport: str) -> None:
    """Be the registrar until standard input ends."""
    async with tractor.open_root_actor(
        registry_addrs=[addr],
        enable_transports=[transport],
        enable_modules=['discovery'],
        ensure_registry=True,
        loglevel='critical',
    ):
        print('ready', flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


def resident_bytes() -> int:
    """Memory of this process."""
    pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1])
    return pages * os.sysconf('SC_PAGESIZE')


@asynccontextmanager
async def open_registrar(addr: Any, transport: str) -> AsyncIterator[None]:
    """A registrar in a program of its own, for the block."""
    args = [sys.executable, __file__, '--serve', json.dumps(addr), '--transport', transport]
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(HERE), str(HERE.parent)])}
    proc = await trio.lowlevel.open_process(
        args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    )
    try:
        assert proc.stdout is not None
        # its first word, however it comes
        if not await proc.stdout.receive_some():
            raise RuntimeError('the registrar did not start')
        yield
    finally:
        with trio.CancelScope(shield=True):
            assert proc.stdin is not None
            await proc.stdin.aclose()
            await proc.wait()
            await proc.stdout.aclose()


# -- who is registered ----------------------------------------------------------------------------


class Crowd:
    """Entries of a registry with nothing but their connection behind them.

    Args:
        reg_addr: the registrar.
        transport: of the addresses that are registered.
    """

    def __init__(self, reg_addr: Any, transport: str) -> None:
        self._reg_addr = reg_addr
        self._transport = transport
        self.peers: list[RawPeer] = []

    def _address(self, number: int) -> tuple[str, Any]:
        if self._transport == 'uds':
            return tempfile.gettempdir(), f'crowd-{os.getpid()}-{number}.sock'
        return f'127.{1 + number // 250}.{number % 250}.1', 1

    async def grow(self, size: int) -> None:
        """Register until there are so many."""
        while len(self.peers) < size:
            number = len(self.peers)
            peer = RawPeer(await connect_stream(self._reg_addr), f'extra{number}')
            self.peers.append(peer)
            await peer.handshake()
            addr = self._address(number)
            await peer.call('self', 'register_actor', uid=peer.uid, addr=addr)

    async def shrink(self, size: int) -> None:
        """Unregister until there are so many."""
        while len(self.peers) > size:
            peer = self.peers.pop()
            await peer.call('self', 'unregister_actor', uid=peer.uid)
            await peer.aclose()


# -- size -----------------------------------------------------------------------------------------


async def measure_size(crowd: Crowd, many: int) -> float:
    """How many times longer a lookup takes among many than among few."""
    ratios = []
    for _ in range(TURNS):
        await crowd.shrink(max(0, FEW - REAL))
        few = await time_lookups()
        await crowd.grow(max(0, many - REAL))
        ratios.append(await time_lookups() / few)
    await crowd.shrink(0)
    print(f'size: find_actor() among {many} takes {statistics.median(ratios):.2f} times as long')
    print(f'      as among {FEW}; from {min(ratios):.2f} to {max(ratios):.2f}', flush=True)
    return statistics.median(ratios)


async def time_lookups() -> float:
    """The median time of a lookup (s)."""
    took = []
    for number in range(LOOKUPS):
        name = f'real{number % REAL}'
        start = NOW()
        async with tractor.find_actor(name) as portal:
            took.append(NOW() - start)
            if portal is None or portal.chan.aid.name != name:
                raise RuntimeError(f'{name} was not found')
    return statistics.median(took)


# -- life -----------------------------------------------------------------------------------------


@dataclass
class Life:
    """What lookups have to give at the moment, and how often they did not."""

    # by name: since when it is there
    there: dict[str, float] = field(default_factory=dict)
    gone: dict[str, float] = field(default_factory=dict)
    lookups: int = 0
    limit: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(AT_ONCE))
    visits: int = 0
    wrong: list[str] = field(default_factory=list)

    async def look(self, name: str) -> None:
        """Look somebody up, judge what is found, and make room for the next one."""
        try:
            await self._look(name)
        finally:
            self.limit.release()

    async def _look(self, name: str) -> None:
        begin = trio.current_time()
        async with tractor.find_actor(name) as portal:
            end = trio.current_time()
            self.lookups += 1
            if portal is not None and portal.chan.aid.name != name:
                self.wrong.append(f'{portal.chan.aid.name} was found for {name}')
            elif portal is None and self.there.get(name, end) < begin:
                self.wrong.append(f'{name} was there and not found')
            elif portal is not None and self.gone.get(name, end) < begin:
                self.wrong.append(f'{name} was gone and found')

    async def visit(self, an: tractor.ActorNursery, place: int) -> None:
        """Real actors that come, stay a moment and go, one after the other."""
        number = 0
        while True:
            number += 1
            name = f'visitor{place}-{number}'
            portal = await an.start_actor(name, enable_modules=['endpoints'])
            async with tractor.wait_for_actor(name):
                self.there[name] = trio.current_time()
            self.visits += 1
            await trio.sleep(STAY)
            del self.there[name]
            await portal.cancel_actor()
            self.gone = {name: trio.current_time(), **dict(list(self.gone.items())[:20])}

    async def ask(self, rate: float, until: float, tn: trio.Nursery) -> None:
        """So many lookups a second, of those who are there, of those who just went, of nobody."""
        begin, number = trio.current_time(), 0
        while trio.current_time() < until:
            names = [*self.there, *list(self.gone)[:2], ABSENT]
            await self.limit.acquire()
            tn.start_soon(self.look, names[number % len(names)])
            number += 1
            await trio.sleep_until(begin + number / rate)


async def measure_life(reg_addr: Any, seconds: float, rate: float) -> bool:
    """Whether lookups were right and the registrar did not grow."""
    life = Life()
    for number in range(REAL):
        life.there[f'real{number}'] = trio.current_time()
    async with tractor.open_nursery() as an, trio.open_nursery() as tn:
        begin = trio.current_time()
        async with trio.open_nursery() as asking:
            for place in range(VISITORS):
                tn.start_soon(life.visit, an, place)
            asking.start_soon(life.ask, rate, begin + seconds, asking)
            await trio.sleep_until(begin + seconds / 4)
            before = await registrar_now(reg_addr)
        took = trio.current_time() - begin
        after = await registrar_now(reg_addr)
        tn.cancel_scope.cancel()
        await an.cancel()
    print(f'life: {life.lookups} lookups in {took:.1f} s, {life.lookups / took:.0f} a second,')
    print(f'      while {life.visits} actors came and went; wrong: {len(life.wrong)}', flush=True)
    for text in life.wrong[:10]:
        print(f'      {text}')
    print(f'      registrar: {before} then {after}')
    most = {'entries': VISITORS, 'connections': 3 * VISITORS + 20, 'contexts': 20, 'bytes': SLACK}
    grown = [what for what, room in most.items() if after[what] > before[what] + room]
    if grown:
        print(f'      it grew: {", ".join(grown)}')
    kept_up = life.lookups / took > 0.9 * rate
    if not kept_up:
        print(f'      this machine, as it is now, does not do the {rate:.0f} lookups a second')
    return not life.wrong and not grown and kept_up


async def registrar_now(reg_addr: Any) -> dict[str, int]:
    """The statistics of the registrar."""
    async with tractor.get_registry(reg_addr) as registry:
        return await registry.run_from_ns('discovery', 'statistics_of_registrar')


# -- the program ----------------------------------------------------------------------------------


async def measure(args: argparse.Namespace, reg_addr: Any) -> bool:
    """Both parts, with a registrar of their own."""
    transport = args.transport
    async with (
        open_registrar(reg_addr, transport),
        tractor.open_nursery(
            name='measuring',
            registry_addrs=[reg_addr],
            enable_transports=[transport],
            loglevel='critical',
        ) as an,
    ):
        for number in range(REAL):
            await an.start_actor(f'real{number}', enable_modules=['endpoints'])
            async with tractor.wait_for_actor(f'real{number}'):
                pass
        fast = await measure_size(Crowd(reg_addr, transport), args.many) <= SLOWER
        right = await measure_life(reg_addr, args.seconds, args.rate)
        await an.cancel()
    return fast and right


def free_address(transport: str, folder: str) -> list[Any]:
    """A registry address which nobody uses."""
    if transport == 'uds':
        return [folder, 'registry.sock']
    import socket

    with socket.socket() as sock:
        sock.bind((get_address_cls('tcp').def_bindspace, 0))
        return list(sock.getsockname())


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--transport', default='tcp', choices=('tcp', 'uds'))
    parser.add_argument('--many', type=int, default=1000, help='actors in the large registry')
    parser.add_argument('--seconds', type=float, default=5, help='of lively lookups')
    parser.add_argument('--rate', type=float, default=200, help='lookups a second')
    parser.add_argument('--serve', type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """The command."""
    args = parse()
    if args.serve is not None:
        trio.run(serve, args.serve, args.transport)
        return 0
    with tempfile.TemporaryDirectory(prefix='tb-') as folder:
        # sockets of its own: a registrar of another program is none of ours
        os.environ['XDG_RUNTIME_DIR'] = folder
        met = trio.run(measure, args, free_address(args.transport, folder))
    print('met' if met else 'MISSED')
    return 0 if met else 1


if __name__ == '__main__':
    sys.exit(main())
