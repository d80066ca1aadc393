"""end to end: programs whose root is infected, and what interrupts them: exit codes, order, and that nobody stays."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tractor._code_load import load_module_from_path
from tractor._testing.addr import get_rando_addr

programs = load_module_from_path(Path(__file__).parents[1] / 'programs.py')

PROGRAM = """
import asyncio, functools, os, sys
import trio, tractor
from tractor import to_asyncio


def tell(*what):
    print(*what, flush=True)


async def waiting(chan):
    chan.started_nowait()
    try:
        await chan.get()
    except to_asyncio.TrioCancelled:
        tell('asyncio: told')
        raise


async def shielded(seconds=0.5):
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)
        tell('trio: work done')


async def bare():
    tell(0)
    await shielded()


async def linked():
    async with to_asyncio.open_channel_from(waiting):
        tell(0)
        await shielded()


async def root():
    async with tractor.open_root_actor(**OPTIONS) as actor:
        actor.lifetime_stack.callback(tell, 'actor: callback')
        await bare()
    tell('main: went on', actor.cancel_caller.uid == actor.aid.uid)


async def root_linked():
    async with tractor.open_root_actor(**OPTIONS) as actor:
        actor.lifetime_stack.callback(tell, 'actor: callback')
        await linked()
    tell('main: went on', actor.cancel_caller.uid == actor.aid.uid)


async def tree():
    async with tractor.open_nursery(**OPTIONS) as nursery:
        pids = []
        for infected in (True, False):
            portal = await nursery.start_actor('kid', infect_asyncio=infected)
            pids.append(nursery._children[portal.chan.aid.uid].proc.pid)
        async with to_asyncio.open_channel_from(waiting):
            tell(*pids)
            await trio.sleep_forever()


async def stuck():
    tell(0)
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


async def fails_meanwhile():
    try:
        await bare()
    finally:
        raise ValueError('while tearing down')


async def stops_the_loop():
    tell(0)
    while True:
        asyncio.get_running_loop().stop()
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()


async def identify():
    async with tractor.open_root_actor(**OPTIONS) as actor:
        tell(actor.is_registrar, actor.is_infected_aio())
        await trio.sleep_forever()


if __name__ == '__main__':
    NAME, METHOD, ADDR = sys.argv[1], sys.argv[2], eval(sys.argv[3])
    OPTIONS = dict(
        start_method=METHOD, registry_addrs=[ADDR], loglevel='error',
        enable_transports=['tcp' if isinstance(ADDR[1], int) else 'uds'],
    )
    to_asyncio.run_as_asyncio_guest(globals()[NAME])
"""


def start(tmp_path: Path, name: str, method: str = 'trio', addr: Any = None, **options: Any) -> Any:
    (tmp_path / 'program.py').write_text(PROGRAM)
    addr = addr or tuple(get_rando_addr('tcp'))
    return programs.started('program.py', name, method, repr(addr), cwd=tmp_path, **options)


def line(proc: subprocess.Popen[str]) -> list[str]:
    assert proc.stdout is not None
    return proc.stdout.readline().split()


def exists(pid: int) -> bool:
    return os.path.exists(f'/proc/{pid}')


@pytest.mark.parametrize('times', [1, 2])
@pytest.mark.parametrize(
    ('name', 'told'),
    [
        ('bare', ['trio: work done']),
        ('linked', ['trio: work done', 'asyncio: told']),
        ('root', ['actor: callback', 'trio: work done', 'main: went on True']),
        (
            'root_linked',
            ['actor: callback', 'trio: work done', 'asyncio: told', 'main: went on True'],
        ),
    ],
)
def test_an_interrupt(tmp_path: Path, name: str, told: list[str], times: int) -> None:
    """All of it is torn down, shielded work included; then it is a `KeyboardInterrupt`."""
    with start(tmp_path, name) as proc:
        assert line(proc) == ['0']
        for _ in range(times):
            proc.send_signal(signal.SIGINT)
        stdout, stderr = proc.communicate(timeout=20)
    assert proc.returncode == -signal.SIGINT, stderr
    assert stdout.splitlines() == told
    assert stderr.splitlines()[-1] == 'KeyboardInterrupt'
    assert 'abandoned' not in stderr


def test_an_error_while_tearing_down_is_the_cause(tmp_path: Path) -> None:
    with start(tmp_path, 'fails_meanwhile') as proc:
        assert line(proc) == ['0']
        proc.send_signal(signal.SIGINT)
        _, stderr = proc.communicate(timeout=20)
    assert proc.returncode == -signal.SIGINT, stderr
    assert 'ValueError: while tearing down' in stderr
    assert stderr.splitlines()[-1] == 'KeyboardInterrupt'


def test_who_insists_is_not_kept_waiting(tmp_path: Path) -> None:
    """A trio task that does not end: the third interrupt ends the program."""
    with start(tmp_path, 'stuck') as proc:
        assert line(proc) == ['0']
        for _ in range(3):
            proc.send_signal(signal.SIGINT)
            # those that come while one is being handled count as one
            with contextlib.suppress(subprocess.TimeoutExpired):
                proc.wait(timeout=0.5)
        if proc.poll() is None:
            # on a busy machine
            proc.send_signal(signal.SIGINT)
        _, stderr = proc.communicate(timeout=20)
    assert 'KeyboardInterrupt' in stderr, stderr
    assert proc.returncode != 0


def test_a_loop_that_is_stopped_again_and_again(tmp_path: Path) -> None:
    with start(tmp_path, 'stops_the_loop') as proc:
        _, stderr = proc.communicate(timeout=20)
    assert proc.returncode == 1
    assert 'AsyncioRuntimeTranslationError: the asyncio loop ended before the trio run' in stderr


def test_two_infected_roots(tmp_path: Path) -> None:
    """The second joins the registry of the first, and is infected as well."""
    addr = tuple(get_rando_addr('tcp'))
    with start(tmp_path, 'identify', addr=addr) as first:
        assert line(first) == ['True', 'True']
        with start(tmp_path, 'identify', addr=addr) as second:
            assert line(second) == ['False', 'True']
            second.send_signal(signal.SIGINT)
            second.communicate(timeout=20)
            assert second.returncode == -signal.SIGINT
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=20)
        assert first.returncode == -signal.SIGINT


@pytest.mark.spawns
@pytest.mark.parametrize('to_all', [False, True])
def test_an_interrupted_tree(
    tmp_path: Path, to_all: bool, start_method: str, tpt_proto: str
) -> None:
    addr = tuple(get_rando_addr(tpt_proto))
    with start(tmp_path, 'tree', start_method, addr, start_new_session=True) as proc:
        pids = [int(pid) for pid in line(proc)]
        if to_all:
            os.killpg(proc.pid, signal.SIGINT)
        else:
            proc.send_signal(signal.SIGINT)
        stdout, stderr = proc.communicate(timeout=20)
    assert proc.returncode == -signal.SIGINT, stderr
    assert stdout.splitlines() == ['asyncio: told']
    assert stderr.count('\nKeyboardInterrupt\n') == 1
    assert not any(map(exists, pids))
