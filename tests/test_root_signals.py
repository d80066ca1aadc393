"""end to end: whole programs and the signals that end them: exit codes, streams, and that nobody stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor._code_load import load_module_from_path
from tractor._testing import run_bounded
from tractor._testing.addr import get_rando_addr

pytestmark = pytest.mark.spawns

# under the name by which the actors import it
supervised = sys.modules.get('supervised') or load_module_from_path(
    Path(__file__).with_name('supervised.py')
)
programs = load_module_from_path(Path(__file__).with_name('programs.py'))

# prints the pids of its tree, then waits for its end in one of several places
PROGRAM = """
import os, sys
import trio, tractor
import supervised

async def tree(an):
    portal = await an.start_actor('top', enable_modules=['supervised'])
    return portal, portal.open_context(supervised.tree, depth=1, stuck=WHERE == 'stuck')


def tell(pids):
    print(*pids, flush=True)


async def in_the_body():
    async with tractor.open_nursery(**OPTIONS) as an:
        _, opening = await tree(an)
        async with opening as (_, places):
            tell(pid for pid, _ in places)
            await trio.sleep_forever()


async def at_the_end_of_the_block():
    async with tractor.open_nursery(**OPTIONS) as an:
        portal = await an.start_actor('daemon', enable_modules=['supervised'])
        tell([(await portal.run(supervised.whoami))['pid']])


async def in_a_one_shot():
    async with tractor.open_nursery(**OPTIONS) as an:
        portal = await an.run_in_actor(supervised.forever)
        tell([an._children[portal.chan.aid.uid].proc.pid])


async def in_another_task():
    async with tractor.open_root_actor(**OPTIONS), trio.open_nursery() as tn:
        async def other():
            async with tractor.open_nursery() as an:
                _, opening = await tree(an)
                async with opening as (_, places):
                    tell(pid for pid, _ in places)
                    await trio.sleep_forever()
        tn.start_soon(other)


async def busy():
    async with tractor.open_nursery(**OPTIONS) as an:
        portal = await an.start_actor('daemon', enable_modules=['supervised'])
        tell([(await portal.run(supervised.whoami))['pid']])
        while True:
            await portal.run(supervised.nothing)


MAINS = {
    'body': in_the_body, 'stuck': in_the_body, 'end': at_the_end_of_the_block,
    'one_shot': in_a_one_shot, 'task': in_another_task, 'busy': busy,
}

if __name__ == '__main__':
    WHERE, METHOD, ADDR = sys.argv[1], sys.argv[2], eval(sys.argv[3])
    OPTIONS = dict(
        start_method=METHOD, registry_addrs=[ADDR], loglevel='critical',
        enable_transports=['tcp' if isinstance(ADDR[1], int) else 'uds'],
    )
    trio.run(MAINS[WHERE])
"""


@pytest.fixture
def addr(tpt_proto: str) -> str:
    return repr(tuple(get_rando_addr(tpt_proto)))


def start(tmp_path: Path, *args: str, text: str = PROGRAM, **options: Any) -> Any:
    (tmp_path / 'program.py').write_text(text)
    (tmp_path / 'supervised.py').symlink_to(Path(__file__).with_name('supervised.py').resolve())
    return programs.started('program.py', *args, cwd=tmp_path, **options)


def exists(pid: int) -> bool:
    return os.path.exists(f'/proc/{pid}')


def pids_told(proc: subprocess.Popen[str]) -> list[int]:
    assert proc.stdout is not None
    return [int(pid) for pid in proc.stdout.readline().split()]


@pytest.mark.parametrize('where', ['body', 'stuck', 'end', 'one_shot', 'task', 'busy'])
def test_sigint_to_the_root(tmp_path: Path, start_method: str, addr: str, where: str) -> None:
    with start(tmp_path, where, start_method, addr) as proc:
        pids = pids_told(proc)
        assert all(map(exists, pids))
        proc.send_signal(signal.SIGINT)
        _, stderr = proc.communicate(timeout=10)
    if where != 'task':
        # from another task's nursery it may come in a group, which ends with 1
        assert proc.returncode == -signal.SIGINT, stderr
        assert 'Group' not in stderr
    assert 'KeyboardInterrupt' in stderr
    assert not any(map(exists, pids))


@pytest.mark.parametrize('where', ['body', 'end', 'busy'])
def test_sigint_to_all_as_from_a_terminal(
    tmp_path: Path, start_method: str, addr: str, where: str
) -> None:
    with start(tmp_path, where, start_method, addr, start_new_session=True) as proc:
        pids = pids_told(proc)
        os.killpg(proc.pid, signal.SIGINT)
        _, stderr = proc.communicate(timeout=10)
    assert proc.returncode == -signal.SIGINT, stderr
    # of the root, and of nobody else
    assert stderr.count('\nKeyboardInterrupt\n') == 1
    assert 'Group' not in stderr
    assert not any(map(exists, pids))


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGKILL])
def test_no_orphans_of_a_root_that_is_killed(
    tmp_path: Path, start_method: str, addr: str, signum: int
) -> None:
    where = eval(addr)
    with start(tmp_path, 'body', start_method, addr) as proc:
        pids = pids_told(proc)
        fds = [os.pidfd_open(pid) for pid in pids]
        proc.send_signal(signum)
        proc.wait(10)
        assert proc.returncode == -signum
        if isinstance(where[1], str):
            # its own socket file is the one thing that nobody else removes
            Path(*where).unlink()

        async def gone() -> None:
            for fd in fds:
                await trio.lowlevel.wait_readable(fd)

        run_bounded(gone, timeout=3)
        for fd in fds:
            os.close(fd)


def test_an_error_of_the_program(tmp_path: Path, start_method: str, addr: str) -> None:
    text = PROGRAM.replace(
        "    'body'",
        """    'error': error, 'body'""",
    ).replace(
        'MAINS =',
        """async def error():
    async with tractor.open_nursery(**OPTIONS) as an:
        await an.start_actor('daemon')
        await an.run_in_actor(supervised.fail, text='so it failed')


MAINS =""",
    )
    with start(tmp_path, 'error', start_method, addr, text=text) as proc:
        _, stderr = proc.communicate(timeout=20)
    assert proc.returncode == 1
    assert 'tractor._exceptions.RemoteActorError' in stderr
    assert 'ValueError: so it failed' in stderr


# --- a daemon

DAEMON = """
import sys
import tractor

if __name__ == '__main__':
    tractor.run_daemon(
        sys.argv[4].split(','), name='served', registry_addrs=[eval(sys.argv[3])],
        start_method=sys.argv[2], loglevel='critical',
        enable_transports=['tcp' if isinstance(eval(sys.argv[3])[1], int) else 'uds'],
    )
"""


def test_a_daemon_serves_until_a_signal(
    tmp_path: Path, start_method: str, tpt_proto: str, addr: str
) -> None:
    async def use() -> None:
        async with tractor.open_root_actor(
            name='client',
            registry_addrs=[where],
            enable_transports=[tpt_proto],
            loglevel='critical',
            tpt_bind_addrs=[get_rando_addr(tpt_proto)],
        ) as actor:
            assert not actor.is_registrar
            async with tractor.find_actor('served') as portal:
                assert portal is not None
                told = await portal.run(supervised.whoami)
                assert told['name'] == 'served'
                assert told['pid'] == proc.pid
                assert told['is_root']
                assert await portal.run(supervised.whoami_once_below)

    where = eval(addr)
    with start(tmp_path, 'daemon', start_method, addr, 'supervised', text=DAEMON) as proc:
        run_bounded(_listening, where)
        run_bounded(use)
        proc.send_signal(signal.SIGINT)
        _, stderr = proc.communicate(timeout=10)
    assert proc.returncode == -signal.SIGINT, stderr
    assert 'KeyboardInterrupt' in stderr


async def _listening(addr: Any) -> None:
    from tractor.discovery._addr import wrap_address
    from tractor.discovery._api import _probe_registry

    while await _probe_registry(wrap_address(addr), attempt_timeout=5) != 'registrar':
        await trio.lowlevel.checkpoint()


def test_a_daemon_imports_first(tmp_path: Path, start_method: str, addr: str) -> None:
    with start(tmp_path, 'daemon', start_method, addr, 'no.such.module', text=DAEMON) as proc:
        _, stderr = proc.communicate(timeout=20)
    assert proc.returncode == 1
    assert 'ModuleNotFoundError' in stderr
    # it was not yet a runtime
    assert 'open_root_actor' not in stderr


# --- exit codes of children


@pytest.mark.skipon_spawn_backend(
    'subint', reason='signals are sent to processes, and that of the actor is the one of the test'
)
@pytest.mark.parametrize(
    ('signum', 'returncode'),
    [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_signal_to_a_child_only(
    start_method: str, tpt_proto: str, reg_addr: Any, signum: int, returncode: int
) -> None:
    async def main() -> None:
        async with tractor.open_nursery(
            start_method=start_method,
            registry_addrs=[reg_addr],
            enable_transports=[tpt_proto],
            loglevel='critical',
        ) as an:
            portal = await an.start_actor('kid', enable_modules=['supervised'])
            pid = (await portal.run(supervised.whoami))['pid']
            [child] = an._children.values()
            os.kill(pid, signum)
            await child.gone.wait()
            assert child.returncode == returncode
        assert an.errors == {}

    run_bounded(main)


def test_an_interrupt_that_cancels_a_child_tells_its_callers(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    async def main() -> None:
        async with tractor.open_nursery(
            start_method=start_method,
            registry_addrs=[reg_addr],
            enable_transports=[tpt_proto],
            loglevel='critical',
        ) as an:
            portal = await an.start_actor('kid', enable_modules=['supervised'])
            with pytest.raises(tractor.ContextCancelled) as caught:
                async with portal.open_context(supervised.tree, depth=0) as (_, [(pid, _)]):
                    if start_method == 'subint':
                        # its process is the one of the test, so this is its interrupt
                        [child] = an._children.values()
                        child.proc.terminate()
                    else:
                        os.kill(pid, signal.SIGINT)
                    await trio.sleep_forever()
            assert caught.value.canceller == portal.chan.aid.uid

    run_bounded(main)
