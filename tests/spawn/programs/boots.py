"""
Eight actors in sub-interpreters at once, again and again, all of which use their extension at the same time.

    python boots.py ROUNDS

Prints a seed of no meaning, and in the end a line of JSON.
"""

import json
import sys
from typing import Any

import subint_loader_peers as peers
import subint_parent_peers as parent
import trio

import tractor

AT_ONCE = 8


async def one(an: Any, name: str, leaks: list[str]) -> None:
    portal = await an.start_actor(name, enable_modules=[peers.__name__])
    child = parent.child_of(an, portal)
    await portal.run(peers.encode_and_decode, rounds=100)
    await portal.cancel_actor()
    await child.gone.wait()
    leaks.append(child.proc._driver.leak)


async def main(rounds: int) -> None:
    leaks: list[str] = []
    async with tractor.open_nursery(**parent.options()) as an:
        for nth in range(rounds):
            async with trio.open_nursery() as tn:
                for index in range(AT_ONCE):
                    tn.start_soon(one, an, f'actor{nth}-{index}', leaks)
    print(json.dumps({'ended': len(leaks), 'leaks': [leak for leak in leaks if leak]}))


if __name__ == '__main__':
    print('seed', 0)
    trio.run(main, int(sys.argv[1]))
