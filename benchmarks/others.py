"""The work of the rows done with the standard library: `others.py CASE KIND ARGUMENTS`.

Prints seconds for each operation of the case. A KIND is `spawn` or `forkserver` (a `multiprocessing` context),
`processes` or `interpreters` (an executor of `concurrent.futures` with the context `spawn`, or with
interpreters), or `forkserver_pool`.

| case | arguments | |
|---|---|---|
| `call` | KIND COUNT | a value there and back: a pipe, or an executor's `submit().result()` |
| `queue` | KIND COUNT | the same with two queues |
| `emit` | KIND SIZE COUNT | bytes one way, through a pipe |
| `emit_to_queue` | KIND SIZE COUNT | the same through a queue |
| `start` | KIND COUNT | start one worker, call it once, stop it |
| `crowd` | KIND NUMBER | until the last of many workers has answered; then, until all are gone |
| `burn` | KIND WORKERS COUNT | until each of some workers has counted down once |
| `kill` | KIND COUNT | until a process that spins is gone |
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import work

NOW = time.perf_counter
WARM_UP = 20


def context(kind: str) -> Any:
    """Of `multiprocessing`."""
    chosen: Any = multiprocessing.get_context(kind)
    if kind == 'forkserver':
        chosen.set_forkserver_preload(['trio', 'msgspec'])
    return chosen


def executor(kind: str, workers: int) -> Any:
    """A pool; the caller closes it."""
    if kind == 'interpreters':
        return futures.InterpreterPoolExecutor(workers)  # type: ignore[attr-defined, unused-ignore]
    method = 'forkserver' if kind == 'forkserver_pool' else 'spawn'
    return futures.ProcessPoolExecutor(workers, mp_context=context(method))


def is_pool(kind: str) -> bool:
    """Whether the kind is an executor's."""
    return kind in ('processes', 'interpreters', 'forkserver_pool')


def timed(run_one: Callable[[int], object], count: int) -> float:
    """Seconds for each, after a few which fill caches."""
    for n in range(WARM_UP):
        run_one(n)
    start = NOW()
    for n in range(count):
        run_one(n)
    return (NOW() - start) / count


def call(kind: str, count: int) -> float:
    """A value there and back."""
    if is_pool(kind):
        with executor(kind, 1) as pool:
            return timed(lambda n: pool.submit(work.same, n).result(), count)
    ours, theirs = context(kind).Pipe()
    proc = context(kind).Process(target=work.serve, args=(theirs,))
    proc.start()

    def run_one(n: int) -> None:
        ours.send(n)
        ours.recv()

    took = timed(run_one, count)
    ours.send(None)
    proc.join()
    return took


def queue(kind: str, count: int) -> float:
    """The same with two queues."""
    requests, answers = context(kind).Queue(), context(kind).Queue()
    proc = context(kind).Process(target=work.serve_queues, args=(requests, answers))
    proc.start()

    def run_one(n: int) -> None:
        requests.put(n)
        answers.get()

    took = timed(run_one, count)
    requests.put(None)
    proc.join()
    return took


def emit(kind: str, size: int, count: int) -> float:
    """Bytes one way; the start of the process is not counted."""
    ours, theirs = context(kind).Pipe()
    proc = context(kind).Process(target=work.emit, args=(theirs, size, count + 1))
    proc.start()
    ours.recv()
    start = NOW()
    for _ in range(count):
        ours.recv()
    took = NOW() - start
    ours.send(None)
    proc.join()
    return took / count


def emit_to_queue(kind: str, size: int, count: int) -> float:
    """The same through a queue."""
    answers = context(kind).Queue()
    proc = context(kind).Process(target=work.emit_to_queue, args=(answers, size, count + 1))
    proc.start()
    answers.get()
    start = NOW()
    for _ in range(count):
        answers.get()
    took = NOW() - start
    proc.join()
    return took / count


def one_worker(kind: str) -> None:
    """Start it, call it, stop it; it has trio and msgspec, as every actor does; an interpreter cannot."""
    if is_pool(kind):
        with executor(kind, 1) as pool:
            if kind == 'interpreters':
                pool.submit(work.same, 1).result()
            else:
                pool.submit(work.import_both).result()
        return
    ours, theirs = context(kind).Pipe()
    proc = context(kind).Process(target=work.stay, args=(theirs,))
    proc.start()
    ours.recv()
    ours.send(None)
    proc.join()


def start(kind: str, count: int) -> float:
    """The median of some workers, after two which start helper processes."""
    took = []
    for _ in range(count + 2):
        begin = NOW()
        one_worker(kind)
        took.append(NOW() - begin)
    return statistics.median(took[2:])


def crowd(kind: str, number: int) -> tuple[float, float]:
    """Many at once, and their end."""
    begin = NOW()
    pipes = [context(kind).Pipe() for _ in range(number)]
    procs = [context(kind).Process(target=work.stay, args=(theirs,)) for _, theirs in pipes]
    for proc in procs:
        proc.start()
    for ours, _ in pipes:
        ours.recv()
    started = NOW()
    for ours, _ in pipes:
        ours.send(None)
    for proc in procs:
        proc.join()
    return started - begin, NOW() - started


def burn(kind: str, workers: int, count: int) -> float:
    """Counting down on several cores; the workers have started before."""
    with executor(kind, workers) as pool:
        list(pool.map(work.burn, [1000] * workers))
        begin = NOW()
        list(pool.map(work.burn, [count] * workers))
        return NOW() - begin


def kill(kind: str, count: int) -> float:
    """A process that spins."""
    took = []
    for _ in range(count):
        proc = context(kind).Process(target=work.spin)
        proc.start()
        begin = NOW()
        proc.kill()
        proc.join()
        took.append(NOW() - begin)
    return statistics.median(took)


CASES: dict[str, Callable[..., float | tuple[float, ...]]] = {
    case.__name__: case for case in (call, queue, emit, emit_to_queue, start, crowd, burn, kill)
}


if __name__ == '__main__':
    name, worker_kind, *numbers = sys.argv[1:]
    figures = CASES[name](worker_kind, *map(int, numbers))
    print(*(figures if isinstance(figures, tuple) else (figures,)))
