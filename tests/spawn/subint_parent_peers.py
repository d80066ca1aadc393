"""What the parent of a sub-interpreter does in tests: wait until it is stuck, end it, look at what is left."""

# what is waited for tells nobody; an outcome is stored
# ruff: noqa: ASYNC110, BLE001

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

import tractor
from tractor.runtime._supervise import ActorNursery
from tractor.spawn import _subint_spares
from tractor.spawn._life import Child
from tractor.trionics import collapse_eg

# seconds: for whatever a loaded machine needs; within which a killed one is gone; of a parent's loop not running
PATIENCE = 40.0
GONE_WITHIN = 3.0
PAUSE_OF_LOOP = 1.0

_LOOK_EVERY = 0.005


def options() -> dict[str, Any]:
    """Of the runtime of a program, with a registrar that no other program has."""
    from tractor._testing.addr import get_rando_addr

    return {
        'start_method': 'subint',
        'enable_transports': ['tcp'],
        'registry_addrs': [get_rando_addr('tcp')],
        'loglevel': 'critical',
    }


class Told:
    """A pipe through which actors of this process tell that they are stuck."""

    def __init__(self) -> None:
        self.told_by, self.fd = os.pipe()

    async def wait(self, count: int = 1, call: Call | None = None) -> None:
        """
        For so many of them.

        Args:
            call: the one that makes them so; must not end before.
        """
        async with collapse_eg(), trio.open_nursery() as tn:
            if call is not None:
                tn.start_soon(call.must_go_on)
            for _ in range(count):
                await trio.lowlevel.wait_readable(self.told_by)
                os.read(self.told_by, 1)
            tn.cancel_scope.cancel()

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.told_by)


@contextmanager
def telling() -> Iterator[Told]:
    told = Told()
    try:
        yield told
    finally:
        told.close()


def child_of(an: ActorNursery, portal: tractor.Portal) -> Child:
    return an._children[portal.chan.aid.uid]


async def child_called(an: ActorNursery, name: str) -> Child:
    """As soon as it has a handle."""
    while True:
        for child in an._children.values():
            if child.subactor.aid.name == name:
                return child
        await trio.sleep(_LOOK_EVERY)


async def until(condition: Callable[[], object]) -> None:
    """Wait for what tells nobody when it happens."""
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.sleep(_LOOK_EVERY)


class Pulse:
    """Runs in the parent's loop and notes its longest pause."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def beat(self) -> None:
        last = trio.current_time()
        while True:
            await trio.sleep(_LOOK_EVERY)
            now = trio.current_time()
            self.longest = max(self.longest, now - last)
            last = now


class Call:
    """A call of a function in an actor, and how it ended."""

    def __init__(self, portal: tractor.Portal, fn: Any, **kwargs: Any) -> None:
        self.ended = trio.Event()
        self.error: BaseException | None = None
        self.result: Any = None
        self._run = lambda: portal.run(fn, **kwargs)

    async def make(self) -> None:
        try:
            self.result = await self._run()
        except Exception as err:
            self.error = err
        finally:
            self.ended.set()

    async def must_go_on(self) -> None:
        """Fail as soon as it ends."""
        await self.ended.wait()
        raise AssertionError(f'it ended: {self.result!r}') from self.error


def processes_below() -> list[int]:
    """The pids of this process's children which live."""
    me, found = os.getpid(), []
    for name in os.listdir('/proc'):
        if not name.isdecimal():
            continue
        try:
            fields = Path(f'/proc/{name}/stat').read_text().rpartition(')')[2].split()
        except OSError:
            # gone meanwhile
            continue
        if int(fields[1]) == me and fields[0] != 'Z':
            found.append(int(name))
    return found


def spares_are_ready() -> bool:
    """Whether no spare interpreter of this runtime is still loading."""
    return all(driver.interp_id is not None for driver in _subint_spares.drivers())
