"""
A program that takes part in a small town of programs: `townspeople.py ROLE NAME TRANSPORT REGISTRY_ADDRESS`.

A `registrar` says `ready`, then `complete SECONDS` as soon as all that it expects are registered. A
`neighbour` does what it reads from standard input, one answer per line. Both end at the end of their input.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import trio

import tractor
from tractor.discovery._registry import Registrar

REGISTRAR_AWAY = (OSError, tractor.TransportClosed)


async def who_are_you() -> list[Any]:
    """What neighbours ask each other."""
    actor = tractor.current_actor()
    return [actor.name, os.getpid()]


def say(*words: object) -> None:
    print(*words, flush=True)


async def read_lines() -> AsyncIterator[str]:
    os.set_blocking(0, False)
    async with trio.lowlevel.FdStream(os.dup(0)) as stream:
        text = b''
        async for data in stream:
            text += data
            *lines, text = text.split(b'\n')
            for line in lines:
                yield line.decode()


async def be_registrar(root: Registrar, expected: list[str]) -> None:
    start = trio.current_time()
    say('ready')

    async def watch() -> None:
        for name in expected:
            await root.wait_for_actor(name)
        say('complete', round(trio.current_time() - start, 3))

    async with trio.open_nursery() as tn:
        tn.start_soon(watch)
        async for line in read_lines():
            if line == 'list':
                say(json.dumps(sorted(name for name, _ in root._registry)))
        tn.cancel_scope.cancel()


class Neighbour:
    def __init__(self) -> None:
        # portals that stay open, by name
        self.held: dict[str, tractor.Portal] = {}

    async def hold(self, name: str, tn: trio.Nursery) -> None:
        async def keep(task_status: trio.TaskStatus[None]) -> None:
            async with tractor.wait_for_actor(name) as portal:
                self.held[name] = portal
                task_status.started()
                await trio.sleep_forever()

        await tn.start(keep)

    async def visit(self, names: list[str]) -> None:
        """Find and call each of these."""
        for name in names:
            async with tractor.find_actor(name, raise_on_none=True) as portal:
                found, _ = await portal.run(who_are_you)
                assert found == name, (found, name)

    async def obey(self) -> None:
        async with trio.open_nursery() as tn:
            async for line in read_lines():
                what, *names = line.split()
                match what:
                    case 'hold':
                        for name in names:
                            await self.hold(name, tn)
                        say('held')
                    case 'visit':
                        await self.visit(names)
                        say('visited')
                    case 'call':
                        for name, portal in self.held.items():
                            assert (await portal.run(who_are_you))[0] == name
                        say('called')
                    case 'miss':
                        say(await self.miss(names[0]))
            tn.cancel_scope.cancel()

    async def miss(self, name: str) -> str:
        try:
            await self.visit([name])
        except REGISTRAR_AWAY as err:
            return f'missed {type(err).__name__}'
        return 'found'


async def main(role: str, name: str, transport: str, registry: str) -> None:
    async with tractor.open_root_actor(
        name=name,
        registry_addrs=[registry],
        enable_transports=[transport],
        enable_modules=['__main__'],
        ensure_registry=role == 'registrar',
        loglevel='critical',
    ) as root:
        if role == 'registrar':
            assert isinstance(root, Registrar)
            await be_registrar(root, os.environ['EXPECTED'].split())
        else:
            assert not root.is_registrar
            say('ready')
            await Neighbour().obey()


if __name__ == '__main__':
    trio.run(main, *sys.argv[1:])
