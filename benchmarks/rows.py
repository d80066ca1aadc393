"""All rows of the table, in its order."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

from measure import COUNT, TURNS, Command, Row, many

TRANSPORTS = ('uds', 'tcp')
KIB, MIB = 1 << 10, 1 << 20

HAS_FORKSERVER = hasattr(os, 'fork')
HAS_INTERPRETERS = importlib.util.find_spec('concurrent.interpreters') is not None

METHODS = (
    'trio',
    'mp_spawn',
    *(['mp_forkserver'] if HAS_FORKSERVER else []),
    *(['subint'] if HAS_INTERPRETERS else []),
)
PLAIN = ('trio', *(['subint'] if HAS_INTERPRETERS else []))

# what the columns are called
MP, QUEUE = 'multiprocessing', 'multiprocessing.Queue'
POOL, INTERPRETERS = 'ProcessPoolExecutor', 'InterpreterPoolExecutor'
OTHERS = (MP, QUEUE, POOL, INTERPRETERS)


def others(case: str, kinds: dict[str, str], *args: str) -> dict[str, Command]:
    """The same work with the standard library, for those columns which this Python has."""
    return {
        column: ('others.py', case, kind, *args)
        for column, kind in kinds.items()
        if column != INTERPRETERS or HAS_INTERPRETERS
    }


POOLS = {POOL: 'processes', INTERPRETERS: 'interpreters'}
CALLS = {
    **others('call', {MP: 'spawn'}, COUNT),
    **others('queue', {QUEUE: 'spawn'}, COUNT),
    **others('call', POOLS, COUNT),
}


def places() -> Iterator[tuple[str, str]]:
    """Every backend once, and both transports."""
    for tpt in TRANSPORTS:
        yield 'trio', tpt
    for method in METHODS[1:]:
        yield method, 'uds'


# -- starting -------------------------------------------------------------------------------------


def imports() -> Iterator[Row]:
    """A fresh interpreter."""
    yield Row(
        'import',
        'import',
        ('floor.py', 'import', 'tractor', COUNT),
        ('floor.py', 'import', 'trio, msgspec', COUNT),
        unit='ms',
        count=5,
        target=1.25,
    )


def starts() -> Iterator[Row]:
    """Actors that start, are called once, and end."""
    floors = {'trio': 'python', **{name: name for name in METHODS[1:]}}
    targets = {'trio': 1.5, 'mp_forkserver': 4.0}
    for method in METHODS:
        forked = method == 'mp_forkserver'
        kinds = {MP: 'forkserver' if forked else 'spawn', **POOLS}
        if forked:
            kinds[POOL] = 'forkserver_pool'
        for tpt in TRANSPORTS:
            yield Row(
                f'spawn {method} {tpt}',
                'start',
                ('cases.py', 'spawn', method, tpt, COUNT),
                ('floor.py', floors[method], COUNT),
                others('start', kinds, COUNT),
                unit='ms',
                count=5,
                target=targets.get(method),
                block=f'spawn {method}',
            )
    yield from crowd_rows()
    yield from burns()


def crowd_rows() -> Iterator[Row]:
    """Sixteen at once."""
    for method in METHODS:
        floor = 'interpreters' if method == 'subint' else 'crowd'
        kind = 'forkserver' if method == 'mp_forkserver' else 'spawn'
        for figure, verb in enumerate(('start', 'stop')):
            yield Row(
                f'{verb} 16 {method}',
                'start',
                ('crowds.py', 'crowd', method, 'uds', many(16)),
                ('floor.py', floor, many(16)),
                others('crowd', {MP: kind}, many(16)),
                unit='ms',
                block=f'16 {method}',
                figure=figure,
                heavy=method != 'trio',
            )


def burns() -> Iterator[Row]:
    """Two at work on two cores."""
    for method in PLAIN:
        yield Row(
            f'two busy {method}',
            'start',
            ('crowds.py', 'burn', method, 'uds', '2', COUNT),
            ('floor.py', 'burn', '2', COUNT),
            others('burn', POOLS, '2', COUNT),
            unit='ms',
            count=10_000_000,
        )
        yield Row(
            f'cancel spinning {method}',
            'start',
            ('crowds.py', 'spinning', method, 'uds', '1'),
            unit='ms',
        )


# -- messages -------------------------------------------------------------------------------------


def calls() -> Iterator[Row]:
    """One there and one back."""
    for method, tpt in places():
        for name, target in (('rpc', 2.2), ('pingpong', 1.6)):
            yield Row(
                f'{name} {method} {tpt}',
                'call',
                ('cases.py', name, method, tpt, COUNT),
                ('floor.py', 'pingpong', COUNT),
                CALLS,
                target=target,
                block=f'calls {method} {tpt}',
            )


def streams() -> Iterator[Row]:
    """Small messages one way."""
    columns = {
        **others('emit', {MP: 'spawn'}, '32', COUNT),
        **others('emit_to_queue', {QUEUE: 'spawn'}, '32', COUNT),
    }
    for method, tpt in places():
        for name in ('down', 'up'):
            yield Row(
                f'{name} {method} {tpt}',
                'stream',
                ('cases.py', name, method, tpt, COUNT),
                # over the same transport
                ('floor.py', 'bytes', tpt, '32', COUNT),
                columns,
                count=20_000,
                # 0.8 of the rate
                target=1.25,
                block=f'streams {method} {tpt}',
            )


SIZES = {
    32: ('32 B', 20_000),
    4 * KIB: ('4 KiB', 10_000),
    64 * KIB: ('64 KiB', 2000),
    MIB: ('1 MiB', 200),
    16 * MIB: ('16 MiB', 20),
    64 * MIB: ('64 MiB', 6),
}


def payloads() -> Iterator[Row]:
    """Messages of all sizes, one way, against bare trio streams that carry the same."""
    for method, tpt in places():
        for size, (shown, count) in SIZES.items():
            if (method, tpt) not in (('trio', 'uds'), ('trio', 'tcp')) and size != MIB:
                continue
            block = f'payload {shown} {method} {tpt}'
            ours = ('cases.py', 'payload', method, tpt, str(size), COUNT)
            yield Row(
                f'{shown} {method} {tpt}',
                'payload',
                ours,
                ('floor.py', 'bytes', tpt, str(size), COUNT),
                others('emit', {MP: 'spawn'}, str(size), COUNT),
                count=count,
                block=block,
                heavy=size > MIB,
            )
            if size == MIB:
                yield Row(
                    f'{shown} {method} {tpt}, socket',
                    'payload',
                    ours,
                    ('floor.py', 'socket', tpt, str(size), COUNT),
                    count=count,
                    # 0.8 of the rate
                    target=1.25,
                    block=block,
                )


# -- many -----------------------------------------------------------------------------------------


def fan_ins() -> Iterator[Row]:
    """Many actors send to one."""
    for method in PLAIN:
        for number in (1, 4, 16, 64):
            count = many(max(100, 20_000 // number))
            ours = ('crowds.py', 'fan_in', method, 'uds', many(number), count)
            yield Row(
                f'fan-in {number} {method}',
                'fan-in',
                ours,
                ('floor.py', 'fan_in', many(number), count),
                block=f'fan-in {number} {method}',
                heavy=number > 4,
            )
            if number == 64:
                yield Row(
                    f'fan-in 64 to 1 {method}',
                    'fan-in',
                    ours,
                    ('crowds.py', 'fan_in', method, 'uds', '1', many(20_000)),
                    # 0.7 of the rate
                    target=1.43,
                    block=f'fan-in {number} {method}',
                    heavy=True,
                )


def contexts() -> Iterator[Row]:
    """Many contexts on one connection, against one."""
    for tpt in TRANSPORTS:
        for number in (1, 10, 100, 1000):
            yield Row(
                f'contexts {number} {tpt}',
                'contexts',
                ('cases.py', 'many', 'trio', tpt, many(number), COUNT),
                ('cases.py', 'pingpong', 'trio', tpt, COUNT),
                target=1.5 if number > 1 else None,
                block=f'contexts {tpt}',
            )


def trees() -> Iterator[Row]:
    """Binary trees, as deep as said: up, down, and until the last actor had learnt that it goes down."""
    for method in PLAIN:
        for depth in (1, 2, 3, 4, 5, *([6] if method == 'subint' else [])):
            number = 2**depth - 1
            block = f'tree {depth} {method}'
            ours = ('crowds.py', 'tree', method, 'uds', str(depth))
            floor = ('floor.py', 'interpreters' if method == 'subint' else 'crowd', str(number))
            mp = {} if method == 'subint' else others('crowd', {MP: 'spawn'}, str(number))
            for figure, verb in enumerate(('start', 'stop')):
                yield Row(
                    f'{verb} tree {depth} {method}',
                    'tree',
                    ours,
                    floor,
                    mp,
                    unit='ms',
                    block=block,
                    figure=figure,
                    heavy=depth > 2,
                )
            yield Row(
                f'cancel tree {depth} {method}',
                'tree',
                ours,
                unit='ms',
                target={('trio', 5): 150, ('subint', 6): 300}.get((method, depth)),
                block=block,
                figure=2,
                heavy=depth > 2,
            )


def can_trace() -> bool:
    """Whether system calls of other processes can be counted here."""
    if not (shutil.which('strace') and shutil.which('timeout')):
        return False
    asleep = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
    try:
        done = subprocess.run(
            [
                'timeout',
                '-s',
                'INT',
                '0.3',
                'strace',
                '-c',
                '-o',
                os.devnull,
                '-p',
                str(asleep.pid),
            ],
            capture_output=True,
            check=False,
        )
    finally:
        asleep.kill()
        asleep.wait()
    return b'attached' in done.stderr


def idle() -> Iterator[Row]:
    """Actors that do nothing."""
    for method in METHODS:
        yield Row(
            f'memory {method}',
            'idle',
            ('crowds.py', 'memory', method, 'uds', many(8)),
            ('floor.py', 'memory', many(8)),
            unit='MiB',
            target=1.25 if method == 'trio' else None,
        )
    for method in METHODS:
        yield Row(
            f'wake-ups {method}',
            'idle',
            ('crowds.py', 'wakeups', method, 'uds', COUNT),
            unit='calls',
            count=10,
            target=0,
            turns=1,
        )


# -- starting, keeping, stopping in more detail ------------------------------------------------


PAUSE = '0.5'
KINDS = ('spin', 'swallow', 'park', 'sleep', 'receive', 'thread')


def actor(method: str, spares: int, case: str, *args: str) -> Command:
    """A measurement of `spawn.py`."""
    return ('spawn.py', '--case', method, str(spares), case, *args)


def actors() -> Iterator[Row]:
    """Sub-interpreters against processes."""
    if not HAS_INTERPRETERS:
        return
    for name, base, case, count, target in (
        # 1.85 times the work of one
        ('two busy actors', actor('subint', 0, 'burn', '1'), ('burn', '2'), 1, 1.08),
        ('spawn, cold', ('floor.py', 'subint', COUNT), ('spawn', '0', COUNT), 8, 1.35),
        ('16 at once, cold', actor('trio', 0, 'at_once', many(16)), ('at_once', many(16)), 1, 0.7),
        ('memory, idle', actor('trio', 1, 'memory', many(8)), ('memory', many(8)), 1, 0.75),
        ('call', actor('trio', 0, 'rpc', COUNT), ('rpc', COUNT), 2000, 1.0),
        ('stream', actor('trio', 0, 'stream', COUNT), ('stream', COUNT), 2000, 1.0),
    ):
        unit = 'us' if count == 2000 else 'MiB' if 'memory' in name else 'ms'
        # memory is that of the later actors in a program: with spares, as by default
        ours = actor('subint', int('memory' in name), *case)
        yield Row(name, 'actors', ours, base, unit=unit, count=count, target=target)
    yield Row(
        'spawn, warm',
        'actors',
        actor('subint', 1, 'spawn', PAUSE, COUNT),
        ('floor.py', 'subint', COUNT),
        unit='ms',
        count=8,
        target=0.15,
    )
    yield Row(
        'spawn mp_forkserver',
        'actors',
        actor('mp_forkserver', 0, 'spawn', '0', COUNT),
        ('floor.py', 'mp_forkserver', COUNT),
        unit='ms',
        count=8,
        target=3.0,
    )
    yield Row(
        'growth in 200 cycles',
        'actors',
        actor('subint', 1, 'cycles', COUNT),
        unit='KiB',
        count=200,
        target=3000,
    )
    for kind in KINDS:
        yield Row(
            f'kill: {kind}',
            'actors',
            actor('subint', 0, 'kill', kind, COUNT),
            unit='ms',
            count=3,
            target=150,
            turns=min(TURNS, 3),
        )


GROUPS = {
    'import': imports,
    'start': starts,
    'call': calls,
    'stream': streams,
    'payload': payloads,
    'fan-in': fan_ins,
    'contexts': contexts,
    'tree': trees,
    'idle': idle,
    'actors': actors,
}


def choose(groups: list[str], words: list[str]) -> list[Row]:
    """The rows of these groups, or of all, whose name contains one of the words, if there are any."""
    rows = [row for name in groups or GROUPS for row in GROUPS[name]()]
    return [row for row in rows if not words or any(word in row.name for word in words)]
