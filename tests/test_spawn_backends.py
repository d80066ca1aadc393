"""end to end: what every backend does alike, and how one is chosen."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import trio

import tractor
from tractor._code_load import load_module_from_path
from tractor._exceptions import ActorFailure
from tractor._testing import run_bounded, tractor_test
from tractor.spawn import _life, _mp, _spawn, _subint

pytestmark = pytest.mark.spawns

# under the name by which the actors import it
supervised = sys.modules.get('supervised') or load_module_from_path(
    Path(__file__).with_name('supervised.py')
)

programs = load_module_from_path(Path(__file__).with_name('programs.py'))

HERE = ['supervised']
KEYS = get_args(_spawn.SpawnMethodKey)
METHODS = [key for key in KEYS if key != 'subint' or sys.version_info >= _subint.REQUIRED_PYTHON]


def parent_of(pid: int) -> int:
    return int(Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[1])


# --- the registry of backends


def test_every_key_has_a_backend() -> None:
    assert tuple(_spawn._methods) == KEYS
    assert {key: fn.__name__ for key, fn in _spawn._methods.items()} == {
        'trio': 'trio_proc',
        'mp_spawn': 'mp_proc',
        'mp_forkserver': 'mp_proc',
        'subint': 'subint_proc',
    }


@pytest.mark.parametrize('key', METHODS)
def test_choosing_one_for_the_process(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_spawn, '_spawn_method', _spawn._spawn_method)
    monkeypatch.setattr(_spawn, '_ctx', _spawn._ctx)
    ctx = _spawn.try_set_start_method(key)
    assert _spawn._spawn_method == key
    assert _spawn._ctx is ctx
    if key in ('trio', 'subint'):
        assert ctx is None
    else:
        assert ctx.get_start_method() == key.removeprefix('mp_')


def test_no_fork_server_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_spawn.sys, 'platform', 'win32')
    with pytest.raises(RuntimeError, match='Windows'):
        _spawn.check_method('mp_forkserver')
    assert _spawn.check_method('mp_spawn') == 'mp_spawn'


@pytest.mark.parametrize(
    ('returncode', 'text'),
    [
        (None, 'is still running'),
        (0, 'exited with code 0'),
        (3, 'exited with code 3'),
        (-9, 'was killed by SIGKILL'),
        (-15, 'was killed by SIGTERM'),
        (-1000, 'was killed by signal 1000'),
    ],
)
def test_the_words_for_an_end(returncode: int | None, text: str) -> None:
    assert _spawn.describe_exit(returncode) == text


# --- one for each child


@pytest.mark.parametrize('below', [None, *METHODS])
@pytest.mark.parametrize('child', METHODS)
def test_mixed_trees(
    start_method: str, tpt_proto: str, reg_addr: Any, child: str, below: str | None
) -> None:
    """The method of a child is also what its own children are started with, unless they say so."""

    async def main() -> None:
        async with tractor.open_nursery(
            start_method=start_method,
            enable_transports=[tpt_proto],
            registry_addrs=[reg_addr],
            loglevel='critical',
        ) as an:
            portal = await an.start_actor('kid', enable_modules=HERE, start_method=child)
            told = await portal.run(supervised.whoami)
            first, second = await portal.run(supervised.whoami_below, start_method=below)
            await an.cancel()
        assert [told['method'], told['default_method']] == [child, child]
        assert first['method'] == first['default_method'] == (below or child)
        assert second['method'] == second['default_method'] == (below or child)
        # the choice for one child changes nothing here
        assert _spawn._spawn_method == start_method

    run_bounded(main)


@tractor_test
async def test_all_backends_in_one_nursery(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with tractor.open_nursery() as an:
        portals = {
            method: await an.run_in_actor(supervised.whoami, name=method, start_method=method)
            for method in METHODS
        }
        for method, portal in portals.items():
            told = await portal.wait_for_result()
            assert told['method'] == told['name'] == method


# --- the process of a child


@tractor_test
async def test_the_parent_process_of_a_child(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async with tractor.open_nursery() as an:
        portal = await an.start_actor('kid', enable_modules=HERE)
        pid, interp_id = (await portal.run(supervised.whoami))['place']
        if start_method == 'subint':
            assert pid == os.getpid()
            assert interp_id > 0
        elif start_method == 'mp_forkserver':
            from multiprocessing import forkserver

            assert parent_of(pid) == forkserver._forkserver._forkserver_pid
        else:
            assert parent_of(pid) == os.getpid()
        await an.cancel()


def test_what_the_fork_server_has_loaded(tmp_path: Path) -> None:
    """What a child finds before anything of its own is imported, its server had imported."""
    (tmp_path / 'told.py').write_text("""
import os, sys

def tell(names):
    print(os.getppid(), [name for name in names if name not in sys.modules], flush=True)
""")
    (tmp_path / 'program.py').write_text("""
import told
from importlib.util import find_spec
from multiprocessing import forkserver
from tractor.spawn import _mp

if __name__ == '__main__':
    # some are optional
    names = [name for name in _mp._PRELOAD if find_spec(name)]
    proc = _mp.get_context('mp_forkserver').Process(target=told.tell, args=(names,))
    with _mp._HiddenMain():
        proc.start()
    proc.join()
    print(forkserver._forkserver._forkserver_pid)
""")
    child, server = programs.run('program.py', cwd=tmp_path).splitlines()
    assert child == f'{server} []'
    assert {'trio', 'msgspec', 'tractor'} <= set(_mp._PRELOAD)


@pytest.mark.parametrize('method', METHODS)
def test_without_inheriting_the_main_module_nobody_replays_it(tmp_path: Path, method: str) -> None:
    (tmp_path / 'program.py').write_text("""
import sys, trio, tractor
from tractor._testing.addr import get_rando_addr

print('this is', __name__, flush=True)

async def main():
    async with tractor.open_nursery(
        start_method=sys.argv[1], loglevel='critical', registry_addrs=[get_rando_addr('tcp')]
    ) as an:
        portal = await an.start_actor('kid', inherit_parent_main=False)
        await portal.cancel_actor()

if __name__ == '__main__':
    trio.run(main)
""")
    assert programs.run('program.py', method, cwd=tmp_path) == 'this is __main__\n'


def test_no_context_for_trio() -> None:
    assert _mp.get_context('trio') is None
    assert _mp.get_context('mp_spawn') is _mp.get_context('mp_spawn')


# --- the ladder, without processes


class FakeProc:
    """A process that obeys some signals only."""

    pid = 0

    def __init__(self, obeys: str) -> None:
        self._obeys = obeys
        self._gone = trio.Event()
        self.returncode: int | None = None
        self.got: list[str] = []

    def poll(self) -> int | None:
        return self.returncode

    def terminate(self) -> None:
        self._take('terminate', -15)

    def kill(self) -> None:
        self._take('kill', -9)

    def _take(self, verb: str, code: int) -> None:
        self.got.append(verb)
        if verb == self._obeys:
            self.returncode = code
            self._gone.set()

    async def wait(self) -> int:
        await self._gone.wait()
        assert self.returncode is not None
        return self.returncode


async def in_virtual_time(fn: Any) -> None:
    with trio.fail_after(60):
        await fn()


def run_virtual(fn: Any) -> None:
    from trio.testing import MockClock

    trio.run(in_virtual_time, fn, clock=MockClock(autojump_threshold=0))


def test_hard_kill_waits_then_kills() -> None:
    async def main() -> None:
        proc = FakeProc(obeys='kill')
        begin = trio.current_time()
        await _life.hard_kill(proc)
        assert trio.current_time() - begin == pytest.approx(_life.TERMINATE_AFTER)
        assert proc.got == ['kill']

    run_virtual(main)


def test_hard_kill_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(_life.log, 'critical', lambda text, *args: logged.append(text % args))

    async def main() -> None:
        proc = FakeProc(obeys='kill')
        await _life.hard_kill(proc, terminate_after=0.1)
        [text] = logged
        assert text.startswith('#T-800 deployed to collect zombie B0')
        assert repr(proc) in text

    run_virtual(main)


def test_hard_kill_gives_up_in_the_end() -> None:
    async def main() -> None:
        proc = FakeProc(obeys='nothing')
        begin = trio.current_time()
        with pytest.raises(ActorFailure, match='abandoned'):
            await _life.hard_kill(proc)
        bound = _life.TERMINATE_AFTER + _life.KILL_WITHIN
        assert trio.current_time() - begin == pytest.approx(bound)

    run_virtual(main)


def test_hard_kill_of_one_that_has_ended_waits_for_nothing() -> None:
    async def main() -> None:
        proc = FakeProc(obeys='terminate')
        proc.terminate()
        begin = trio.current_time()
        await _life.hard_kill(proc)
        assert trio.current_time() == begin
        assert proc.got == ['terminate']

    run_virtual(main)


def test_it_cannot_be_cancelled_out_of_killing() -> None:
    async def main() -> None:
        proc = FakeProc(obeys='kill')
        with trio.CancelScope() as scope:
            scope.cancel()
            await _life.hard_kill(proc)
        assert proc.got == ['kill']

    run_virtual(main)
