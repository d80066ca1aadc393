"""
A program whose end finds actors that spin.

    python exits.py HOW COUNT

HOW is one of `exit`, `error`, `wait` (for an interrupt), `thread` (the runtime lives in a daemon thread, and the main
one just ends). Says `up` when they all spin.
"""

import logging
import sys
import threading
from functools import partial
from typing import Any

import subint_parent_peers as parent
import subint_stuck_peers as stuck
import trio

import tractor

up = threading.Event()


async def start(an: Any, name: str, portals: list[tractor.Portal]) -> None:
    portals.append(await an.start_actor(name, enable_modules=[stuck.__name__]))


async def main(how: str, count: int) -> None:
    portals: list[tractor.Portal] = []
    with parent.telling() as told:
        async with tractor.open_nursery(**parent.options()) as an:
            async with trio.open_nursery() as tn:
                for index in range(count):
                    tn.start_soon(start, an, f'actor{index}', portals)
            async with tractor.trionics.collapse_eg(), trio.open_nursery() as tn:
                for portal in portals:
                    tn.start_soon(partial(portal.run, stuck.spin, told=told.fd))
                await told.wait(count)
                print('up', flush=True)
                up.set()
                if how == 'exit':
                    sys.exit(7)
                if how == 'error':
                    raise ValueError('as asked')
                await trio.sleep_forever()


if __name__ == '__main__':
    # that children had to be killed is reported; here it is the point
    logging.disable()
    how, count = sys.argv[1], int(sys.argv[2])
    if how == 'thread':
        threading.Thread(target=trio.run, args=(main, how, count), daemon=True).start()
        up.wait()
    else:
        trio.run(main, how, count)
