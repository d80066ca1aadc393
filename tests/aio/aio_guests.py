"""Running a trio function as a guest of asyncio in a test: bounded, and no task may be left at its end."""

import asyncio

import trio

from tractor import to_asyncio


def run_guest(main, *args, timeout=10):
    """Return what `main(*args)` returns, run as a guest without any actor.

    At its end, whatever it raised, no asyncio task may exist but the one which hosts trio.
    """
    left, late = [], []

    async def bounded():
        host = asyncio.all_tasks()
        assert len(host) == 1
        try:
            with trio.fail_after(timeout) as scope:
                return await main(*args)
        finally:
            left.extend(asyncio.all_tasks() - host)
            late.append(scope.cancel_called)

    try:
        return to_asyncio.run_as_asyncio_guest(bounded)
    finally:
        assert not left, f'orphans: {left}'
        # also where something else came out of the cancellation
        assert late == [False], f'it took longer than {timeout} s'


async def until(condition):
    """Let both sides take turns until a condition holds."""
    while not condition():
        await trio.lowlevel.checkpoint()
