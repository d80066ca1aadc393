"""
Actors in sub-interpreters that come and go, four at a time, with random ends.

    python soak.py CYCLES [SEED]

Prints the seed first. Last comes a line of JSON: how many ended in which way, what was not given back, and what the
process held before, after each sixth of the cycles, with no actor left, and in the end.
"""

# each level is a resource
# ruff: noqa: PLR1702

from __future__ import annotations

import collections
import gc
import json
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

import subint_parent_peers as parent
import subint_stuck_peers as stuck
import trio

import tractor
from tractor._exceptions import ActorFailure

SPAWNERS = 4
PARTS = 6
ENDS = ('graceful', 'error', 'booting', 'unspawned', 'stuck', 'stuck', 'stuck')
# of one cycle on a loaded machine; a hang otherwise
CYCLE_WITHIN = 20.0


def held() -> dict[str, Any]:
    """What the process has of what actors take."""
    gc.collect()
    status = Path('/proc/self/status').read_text()
    files = Path(os.environ['XDG_RUNTIME_DIR'])
    return {
        'rss_mib': int(status.partition('VmRSS:')[2].split()[0]) / 1024,
        'threads': int(status.partition('Threads:')[2].split()[0]),
        'fds': len(os.listdir('/proc/self/fd')),
        'socket_files': sum(path.is_socket() for path in files.rglob('*')),
    }


class Soak:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.begun = 0
        # what goes on, to be seen when it does not go on
        self.doing: dict[str, str] = {}
        self.ended: collections.Counter[str] = collections.Counter()
        self.leaks: collections.Counter[str] = collections.Counter()
        self.slowest_kill = 0.0

    async def spawner(self, an: Any, until: int) -> None:
        while self.begun < until:
            self.begun += 1
            name = f'actor{self.begun}'
            end = self.random.choice(ENDS)
            self.doing[name] = end
            with trio.fail_after(CYCLE_WITHIN):
                how, child = await getattr(self, end)(an, name)
                if child is not None:
                    await child.gone.wait()
                    if leak := child.proc._driver.leak:
                        self.leaks[f'{how}: {leak}'] += 1
            del self.doing[name]
            self.ended[how] += 1

    async def start(self, an: Any, name: str, **options: Any) -> tractor.Portal:
        """With the main module or without: what is in an interpreter until its end differs by that."""
        replays = self.random.random() < 0.5
        return await an.start_actor(name, inherit_parent_main=replays, **options)

    async def graceful(self, an: Any, name: str) -> tuple[str, Any]:
        portal = await self.start(an, name, enable_modules=[stuck.__name__])
        child = parent.child_of(an, portal)
        assert await portal.run(stuck.fine) == 1
        await portal.cancel_actor()
        return 'graceful', child

    async def error(self, an: Any, name: str) -> tuple[str, Any]:
        portal = await self.start(an, name, enable_modules=[stuck.__name__])
        child = parent.child_of(an, portal)
        try:
            await portal.run(stuck.fail)
        except tractor.RemoteActorError:
            await portal.cancel_actor()
        return 'error', child

    async def booting(self, an: Any, name: str) -> tuple[str, Any]:
        """Killed somewhere on its way up."""

        async def start() -> None:
            try:
                portal = await self.start(an, name)
            except ActorFailure:
                return
            await portal.cancel_actor()

        async with trio.open_nursery() as tn:
            tn.start_soon(start)
            child = await parent.child_called(an, name)
            await trio.sleep(self.random.random() / 4)
            child.proc.kill()
        return 'booting', child

    async def unspawned(self, an: Any, name: str) -> tuple[str, Any]:
        """The spawn is cancelled somewhere on its way."""
        with trio.move_on_after(self.random.random() / 3):
            portal = await self.start(an, name)
            await portal.cancel_actor()
        return 'unspawned', next(
            (child for child in an._children.values() if child.subactor.aid.name == name), None
        )

    async def stuck(self, an: Any, name: str) -> tuple[str, Any]:
        kind, (guest, fn) = self.random.choice(list(stuck.KINDS.items()))
        self.doing[name] = kind
        portal = await self.start(an, name, enable_modules=[stuck.__name__], infect_asyncio=guest)
        child = parent.child_of(an, portal)
        with parent.telling() as told:
            async with trio.open_nursery() as tn:
                call = parent.Call(portal, fn, told=told.fd)
                tn.start_soon(call.make)
                await told.wait(call=call)
                began = time.monotonic()
                child.proc.kill()
                await child.gone.wait()
                self.slowest_kill = max(self.slowest_kill, time.monotonic() - began)
            assert child.proc.returncode == -9, (kind, child)
            assert isinstance(call.error, tractor.TransportClosed), (kind, call.error)
        return kind, child


async def main(cycles: int, seed: int) -> None:
    soak = Soak(seed)
    before, parts = held(), []
    async with tractor.open_nursery(**parent.options()) as an:
        for part in range(1, PARTS + 1):
            try:
                async with trio.open_nursery() as tn:
                    for _ in range(SPAWNERS):
                        tn.start_soon(soak.spawner, an, cycles * part // PARTS)
            except BaseException:
                print('while it did', soak.doing, an._children, file=sys.stderr)
                raise
            await parent.until(lambda: not an._children and parent.spares_are_ready())
            parts.append(held())
    print(
        json.dumps(
            {
                'ended': soak.ended,
                'leaks': soak.leaks,
                'slowest_kill': soak.slowest_kill,
                'before': before,
                'parts': parts,
                'after': held(),
                'python_threads': [thread.name for thread in threading.enumerate()],
            }
        )
    )


if __name__ == '__main__':
    # refused in the actors, which replay the rest of this
    import faulthandler

    cycles = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(10**6)
    print('seed', seed, flush=True)
    faulthandler.dump_traceback_later(CYCLE_WITHIN + cycles, exit=True)
    trio.run(main, cycles, seed)
    faulthandler.cancel_dump_traceback_later()
