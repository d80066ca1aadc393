"""Work that keeps a CPU busy, in the parent and in a child at the same time."""

import os
import time

import trio

import tractor


async def burn_cpu() -> int:
    """Busy for a tenth of a second; nothing else runs in this actor meanwhile."""
    until = time.perf_counter() + 0.1
    while time.perf_counter() < until:
        pass
    return os.getpid()


async def main() -> None:
    async with tractor.open_nursery() as nursery:
        portal = await nursery.run_in_actor(burn_cpu)
        # this process is as busy as the child
        await burn_cpu()
        pid = await portal.wait_for_result()
    print(f'Collected subproc {pid}')


if __name__ == '__main__':
    trio.run(main)
