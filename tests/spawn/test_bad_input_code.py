"""end to end: code that should not run in a sub-interpreter: one clear error where it is called, and nothing else happens."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tractor
from tractor import ContextCancelled, RemoteActorError
from tractor._code_load import load_module_from_path
from tractor._testing import run_bounded

backend = load_module_from_path(Path(__file__).with_name('backend_peers.py'))
peers = backend.load('rough_peers')
programs = load_module_from_path(Path(__file__).parents[1] / 'programs.py')

pytestmark = [pytest.mark.spawns, backend.on_subint]

HERE = ['rough_peers']
ADVICE = "use start_method='trio' for this actor"
Run = Callable[..., tractor.ActorNursery]

# what refuses sub-interpreters, and the name of the module which says so
REFUSING = {
    'faulthandler': 'faulthandler',
    'numpy': 'numpy._core._multiarray_umath',
}
each_extension = pytest.mark.parametrize('name', list(REFUSING))


# --- extensions which refuse


def check_refusal(err: BaseException, name: str) -> None:
    assert type(err) is RemoteActorError
    assert err.boxed_type is ImportError
    assert f'extension module {REFUSING[name]!r} does not support sub-interpreters' in str(err)
    assert ADVICE in str(err)


@each_extension
def test_importing_one_in_a_call(run: Run, name: str) -> None:
    """The actor goes on, and the advice helps."""

    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('kid', enable_modules=HERE)
        for _ in range(2):
            check_refusal(
                await backend.failure_of(portal.run, peers.import_module, name=name), name
            )
        assert await portal.run(peers.give, value=1) == 1
        await an.cancel()
        told = await tractor.to_actor.run(peers.import_module, name, start_method='trio')
        assert told == name

    run(body)


@each_extension
def test_a_module_that_imports_one(
    options: dict[str, Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be enabled: whoever calls it is told why, and so is the block."""
    module = f'needs_{name}'
    (tmp_path / f'{module}.py').write_text(f'import {name}\nasync def give():\n    return 1\n')
    monkeypatch.syspath_prepend(tmp_path)
    needs = load_module_from_path(tmp_path / f'{module}.py')

    async def main(method: str) -> Any:
        async with tractor.open_nursery(**options) as an:
            portal = await an.start_actor('kid', enable_modules=[module], start_method=method)
            value = await portal.run(needs.give)
            await an.cancel()
        return value

    with pytest.raises(RemoteActorError) as info:
        run_bounded(main, 'subint')
    check_refusal(info.value, name)
    assert run_bounded(main, 'trio') == 1


@each_extension
def test_a_one_shot_actor_of_such_a_module(
    options: dict[str, Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f'also_needs_{name}'
    (tmp_path / f'{module}.py').write_text(f'import {name}\nasync def give():\n    return 1\n')
    monkeypatch.syspath_prepend(tmp_path)
    needs = load_module_from_path(tmp_path / f'{module}.py')

    async def main() -> None:
        async with tractor.open_nursery(**options) as an:
            await an.run_in_actor(needs.give)

    with pytest.raises(RemoteActorError) as info:
        run_bounded(main)
    check_refusal(info.value, name)


@each_extension
def test_a_main_module_that_imports_one(name: str, tmp_path: Path, start_method: str) -> None:
    """Below the guard it may; at its top the children cannot load it, unless they are told not to."""
    (tmp_path / 'program.py').write_text(f"""
import {name}
import trio, tractor
from tractor._testing.addr import get_rando_addr

async def mine():
    return 1

async def main():
    try:
        async with tractor.open_nursery(
            start_method='subint', loglevel='critical', registry_addrs=[get_rando_addr('tcp')]
        ) as an:
            portal = await an.start_actor('kid', enable_modules=['trio'], inherit_parent_main=False)
            print(await portal.run(trio.sleep, seconds=0))
            await portal.cancel_actor()
            portal = await an.run_in_actor(mine, start_method='trio')
            print(await portal.wait_for_result())
            await an.run_in_actor(mine)
    except tractor.RemoteActorError as err:
        print(err.boxed_type.__name__, {REFUSING[name]!r} in str(err), {ADVICE!r} in str(err))

if __name__ == '__main__':
    trio.run(main)
""")
    out = programs.run('program.py', cwd=tmp_path)
    assert out.splitlines() == ['None', '1', 'ImportError True True']


def test_a_module_that_fails_for_another_reason(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own error comes, not one about extensions."""
    (tmp_path / 'fails_below.py').write_text(
        'import tractor\n'
        'if tractor.runtime._state.current_interp_id():\n'
        '    raise LookupError("not here")\n'
        'async def give():\n'
        '    return 1\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    fails = load_module_from_path(tmp_path / 'fails_below.py')

    async def main() -> None:
        async with tractor.open_nursery(**options) as an:
            await an.run_in_actor(fails.give)

    with pytest.raises(RemoteActorError, match='not here') as info:
        run_bounded(main)
    assert info.value.boxed_type is LookupError
    assert ADVICE not in str(info.value)


# --- what belongs to the process


@pytest.mark.parametrize(
    ('kind', 'boxed', 'text'),
    [
        ('fork', RuntimeError, 'fork not supported for isolated subinterpreters'),
        ('execv', RuntimeError, 'exec not supported for isolated subinterpreters'),
        ('signal', ValueError, 'signal only works in main thread of the main interpreter'),
        ('wakeup_fd', ValueError, 'only works in main thread of the main interpreter'),
        (
            'chdir',
            RuntimeError,
            "use absolute paths (for a subprocess its cwd=), or start_method='trio'",
        ),
        ('fchdir', RuntimeError, 'the working directory belongs to the whole process'),
        ('exit', SystemExit, '3'),
        ('daemon thread', RuntimeError, 'daemon threads are disabled'),
    ],
)
def test_rough_code(run: Run, kind: str, boxed: type[BaseException], text: str) -> None:
    """The caller gets the error; actor, process and the actors beside it are as before."""

    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('kid', enable_modules=HERE)
        beside = await an.start_actor('beside', enable_modules=HERE)
        before = await peers.state_of_the_process()
        for _ in range(2):
            err = await backend.failure_of(portal.run, peers.be_rough, kind=kind)
            assert type(err) is RemoteActorError
            assert err.boxed_type is boxed
            assert text in str(err)
        for one in (portal, beside):
            assert await one.run(peers.state_of_the_process) == before
        assert await peers.state_of_the_process() == before
        await an.cancel()

    run(body)


def test_all_rough_code_is_looked_at(start_method: str) -> None:
    [mark] = [m for m in test_rough_code.pytestmark if m.args[0] != 'start_method']
    assert {kind for kind, *_ in mark.args[1]} == set(peers.ROUGH)


def test_interrupting_the_main_thread(run: Run) -> None:
    """That of the process is none of its business: the actor is cancelled, by itself."""

    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('kid', enable_modules=HERE)
        beside = await an.start_actor('beside', enable_modules=HERE)
        uid = portal.chan.aid.uid
        child = an._children[uid]
        err = await backend.failure_of(portal.run, peers.interrupt_main)
        assert isinstance(err, ContextCancelled)
        assert err.canceller == uid
        await child.gone.wait()
        assert child.returncode == 0
        assert await beside.run(peers.give, value=1) == 1
        await an.cancel()

    run(body)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_current_directory_is_no_change(run: Run) -> None:
    """So a program that changes its own at its top can be loaded by its children."""

    async def body(an: tractor.ActorNursery) -> None:
        here = Path.cwd()
        portal = await an.start_actor('kid', enable_modules=HERE)
        assert await portal.run(peers.stay_here, path=str(here)) is None
        err = await backend.failure_of(portal.run, peers.stay_here, path=str(here / 'none'))
        assert err.boxed_type is FileNotFoundError
        assert Path.cwd() == here
        await an.cancel()

    run(body)


def test_the_process_that_forks_is_warned(start_method: str, tmp_path: Path) -> None:
    """Once, as long as it hosts interpreters; what becomes of the child is not in our hands."""
    (tmp_path / 'program.py').write_text("""
import os, signal
import trio, tractor
from tractor._testing.addr import get_rando_addr

def fork():
    pid = os.fork()
    if not pid:
        os._exit(0)
    # it may be over already, or have crashed, or hang, before it runs anything of this
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

async def main():
    async with tractor.open_nursery(
        start_method='subint', loglevel='critical', registry_addrs=[get_rando_addr('tcp')]
    ) as an:
        await an.start_actor('kid')
        fork()
        fork()
        await an.cancel()

if __name__ == '__main__':
    fork()
    trio.run(main)
    fork()
""")
    with programs.started('-W', 'ignore', 'program.py', cwd=tmp_path) as proc:
        _, err = proc.communicate(timeout=programs.TIMEOUT)
    assert proc.returncode == 0, err
    assert err.count('os.fork() in a process that hosts sub-interpreters') == 1
    assert 'Traceback' not in err


def test_nested_interpreters(run: Run) -> None:
    """Each is of the same process, and its own."""
    mixed = backend.load('mixed_peers')

    async def body(an: tractor.ActorNursery) -> None:
        _, *told = await mixed.down(['subint'] * 5)
        assert {pid for _, _, pid, _ in told} == {os.getpid()}
        assert len({interp for *_, interp in told} - {0}) == 5

    run(body)
