"""Ways for an actor to be stuck."""

from __future__ import annotations

import socket
import time

import trio


async def spin() -> None:
    """Never yields."""
    while True:
        pass


async def swallow() -> None:
    """Nor lets go of anything."""
    while True:
        try:
            while True:
                pass
        except BaseException:  # noqa: BLE001, S112 - the point
            continue


async def park() -> None:
    """Yields, and waits again whatever comes."""
    with trio.CancelScope(shield=True):
        while True:
            try:
                await trio.sleep_forever()
            except BaseException:  # noqa: BLE001, S112 - the point
                continue


async def sleep() -> None:
    """Blocks the thread of the event loop."""
    time.sleep(1000)  # noqa: ASYNC251 - the point


async def receive() -> None:
    """Blocks it in a system call."""
    ours, theirs = socket.socketpair()
    ours.recv(1)
    theirs.close()


async def thread() -> None:
    """Keeps a worker thread busy."""
    await trio.to_thread.run_sync(forever)


def forever() -> None:
    """Never returns."""
    while True:
        pass
