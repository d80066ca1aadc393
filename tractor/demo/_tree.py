"""
One tree of the demo, as its root sees it.

    root
    |-- supervisor_1
    |   |-- worker_1
    |   `-- worker_2
    `-- supervisor_2
        |-- worker_3
        `-- worker_4
"""

from __future__ import annotations

import collections
import itertools
import statistics
import tempfile
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

import tractor
from tractor.demo import _actors
from tractor.demo._report import Outcome, Printer
from tractor.trionics import collapse_eg, gather_contexts

TREE = {'supervisor_1': ['worker_1', 'worker_2'], 'supervisor_2': ['worker_3', 'worker_4']}
FAILING = 'worker_4'

# the primes below this number, a known figure, are counted in equal parts
LIMIT = 200_000
KNOWN_PRIMES = 17_984
PARTS = 16

# two supervisors count the primes below this, each all of them
BURN = 100_000

# calls that are timed
CALLS = 200

# seconds for one tree, from the first actor to the last
TIME_LIMIT = 30.0


async def run_tree(
    outcome: Outcome, transport: str, registry: Any, printer: Printer, pids: set[int]
) -> None:
    """
    Boot a tree on one backend, measure it, work with it, let it fail.

    Args:
        outcome: names the backend; takes the figures and whatever is not as it should be.
        transport: `'tcp'` or `'uds'`.
        registry: where the registrar listens: an address that nobody else uses.
        printer: tells what happens.
        pids: takes the process ids of all actors.

    Raises:
        trio.TooSlowError: it took more than `TIME_LIMIT` seconds.
        other errors: nothing that the demo provokes leaves here, so any is a defect.
    """
    with trio.fail_after(TIME_LIMIT):
        async with tractor.open_root_actor(
            start_method=outcome.backend,
            enable_transports=[transport],
            registry_addrs=[registry],
            # the crash of the failing worker is shown once, by the root
            loglevel='critical',
        ):
            await Tree(outcome, printer, pids).run()


class Tree:
    """Arguments as for `run_tree()`."""

    def __init__(self, outcome: Outcome, printer: Printer, pids: set[int]) -> None:
        self.outcome = outcome
        self.printer = printer
        self.pids = pids
        self.portals: dict[str, tractor.Portal] = {}
        self.contexts: dict[str, tractor.Context] = {}
        self.streams: dict[str, tractor.MsgStream] = {}
        self.failed_at = 0.0

    async def run(self) -> None:
        """The steps, in order; the last one ends the tree with an error, which is expected here."""
        with tempfile.NamedTemporaryFile('r', prefix='tractor-demo-') as witness:
            try:
                async with self._boot():
                    await self._measure()
                    await self._work()
                    await self._burn()
                    await self._hold(witness.name)
                    await self._fail()
            except tractor.RemoteActorError as err:
                if not self.failed_at:
                    raise
                took = time.perf_counter() - self.failed_at
                self._show_failure(err, witness.read().split(), took)
            else:
                self._problem(f'the error of {FAILING} did not reach the root')

    def _problem(self, text: str) -> None:
        self.outcome.problems.append(text)
        self.printer.step('PROBLEM', text, 'bad')

    # -- boot ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _boot(self) -> AsyncIterator[None]:
        began = time.perf_counter()
        async with (
            tractor.open_nursery() as nursery,
            collapse_eg(),
            gather_contexts(self._supervisor(nursery, name) for name in TREE) as crews,
        ):
            took = (time.perf_counter() - began) * 1000
            actors = self.outcome.actors = len(TREE) + sum(map(len, crews))
            self.outcome.boot_ms = took / actors
            self.printer.step('boot', f'{actors} actors in {took:.0f} ms')
            for name, crew in zip(TREE, crews, strict=True):
                workers = ', '.join(f'{worker} ({pid})' for worker, (pid, _) in crew.items())
                self.printer.block(f'{name} ({_actors.pid_of(self.portals[name])}): {workers}')
            yield

    @asynccontextmanager
    async def _supervisor(
        self, nursery: tractor.ActorNursery, name: str
    ) -> AsyncIterator[dict[str, list[Any]]]:
        """One supervisor with its workers; yields the process id and the backend of each."""
        portal = self.portals[name] = await nursery.start_actor(
            name, enable_modules=[_actors.__name__]
        )
        self.pids.add(_actors.pid_of(portal))
        async with (
            portal.open_context(_actors.supervise, workers=TREE[name]) as (ctx, crew),
            ctx.open_stream() as stream,
        ):
            self.pids.update(pid for pid, _ in crew.values())
            wrong = {name: key for name, (_, key) in crew.items() if key != self.outcome.backend}
            if wrong:
                self._problem(f'not started with {self.outcome.backend}: {wrong}')
            self.contexts[name], self.streams[name] = ctx, stream
            yield crew

    # -- what it does -------------------------------------------------------------------------------------------

    async def _measure(self) -> None:
        portal = self.portals['supervisor_1']
        times = []
        for number in range(CALLS):
            began = time.perf_counter()
            answer = await portal.run(_actors.echo, value=number)
            times.append(time.perf_counter() - began)
            if answer != number:
                self._problem(f'a call with {number} was answered with {answer}')
        self.outcome.rpc_us = statistics.median(times) * 1e6
        self.printer.step('call', f'{CALLS} calls, {self.outcome.rpc_us:.0f} us each (median)')

    async def _answer(self, name: str) -> Any:
        try:
            return await self.streams[name].receive()
        except trio.EndOfChannel:
            # a supervisor ends its stream when it ends itself: the outcome says why
            await self.contexts[name].wait_for_result()
            raise

    async def _work(self) -> None:
        began = time.perf_counter()
        size = LIMIT // PARTS
        names = itertools.cycle(TREE)
        pending = collections.Counter[str]()
        for first in range(0, LIMIT, size):
            name = next(names)
            await self.streams[name].send(['count', first, first + size])
            pending[name] += 1
        answers = [
            await self._answer(name) for name, count in pending.items() for _ in range(count)
        ]
        found = sum(primes for _, _, _, primes in answers)
        took = time.perf_counter() - began
        by_worker = collections.Counter(worker for worker, *_ in answers)
        self.printer.step(
            'work',
            f'{found} primes below {LIMIT}, in {took * 1000:.0f} ms',
            'good' * (found == KNOWN_PRIMES),
        )
        self.printer.block(', '.join(f'{name}: {n} parts' for name, n in sorted(by_worker.items())))
        if found != KNOWN_PRIMES:
            self._problem(f'there are {KNOWN_PRIMES} primes below {LIMIT}, not {found}')

    async def _burn(self) -> None:
        """One supervisor computes, then two of them at once: the same work each, with the same arguments."""
        one = await self._burn_in('supervisor_1')
        two = await self._burn_in(*TREE)
        pids = {_actors.pid_of(self.portals[name]) for name in TREE}
        where = 'in one process' if len(pids) == 1 else 'in two processes'
        self.printer.step(
            'parallel', f'two busy actors {where} do {2 * one / two:.2f} x the work of one'
        )

    async def _burn_in(self, *names: str) -> float:
        began = time.perf_counter()
        async with trio.open_nursery() as tasks:
            for name in names:
                tasks.start_soon(
                    partial(self.portals[name].run, _actors.count_primes, first=0, last=BURN)
                )
        return time.perf_counter() - began

    # -- failure ------------------------------------------------------------------------------------------------

    async def _hold(self, witness: str) -> None:
        for name, stream in self.streams.items():
            await stream.send(['hold', witness])
            await self._answer(name)

    async def _fail(self) -> None:
        supervisor = next(name for name, workers in TREE.items() if FAILING in workers)
        self.failed_at = time.perf_counter()
        await self.streams[supervisor].send(['fail', FAILING])
        await trio.sleep_forever()

    def _show_failure(
        self, err: tractor.RemoteActorError, cancelled: list[str], took: float
    ) -> None:
        self.printer.step(
            'failure', f'{err.src_type_str} in {FAILING}, as it reached the root:', 'bad'
        )
        self.printer.block(source_traceback(err.tb_str))
        self.printer.block(' -> '.join(name for name, _ in err.relay_path) + ' -> root')
        if err.src_type is not ZeroDivisionError or (err.src_uid or ('',))[0] != FAILING:
            self._problem(f'expected the ZeroDivisionError of {FAILING}, got {err!r}')
        self.printer.step(
            'cancel', f'{", ".join(sorted(cancelled))}: all down after {took * 1000:.0f} ms'
        )
        missing = {name for workers in TREE.values() for name in workers} - {*cancelled}
        if missing:
            self._problem(f'not cancelled: {", ".join(sorted(missing))}')


def source_traceback(text: str) -> str:
    """The traceback of the actor which raised, out of those of all actors that passed it on."""
    lines = text.splitlines()
    starts = [index for index, line in enumerate(lines) if line.lstrip().startswith('Traceback (')]
    if not starts:
        return text
    inner = lines[starts[-1] :]
    ends = [index for index, line in enumerate(inner) if line.lstrip().startswith('------ (')]
    return textwrap.dedent('\n'.join(inner[: ends[0] if ends else None]))
