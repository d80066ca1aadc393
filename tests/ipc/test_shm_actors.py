"""end to end: shared memory between actors, and what is left of it when they end, however they do."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import tractor
from tractor._code_load import load_module_from_path
from tractor._exceptions import ActorFailure
from tractor._testing import _procs
from tractor._testing.addr import get_rando_addr
from tractor.ipc._shm import (
    ShmArray,
    ShmList,
    attach_shm_list,
    attach_shm_ndarray,
    open_shm_list,
    open_shm_ndarray,
)

pytestmark = pytest.mark.spawns

# under the name by which the actors import it
shm_actors = sys.modules.get('shm_actors') or load_module_from_path(
    Path(__file__).with_name('shm_actors.py')
)

segments = sys.modules.get('segments') or load_module_from_path(
    Path(__file__).with_name('segments.py')
)
left_of = segments.left_of

TIMEOUT = 60


@pytest.fixture
def numpy_method(start_method: str) -> str:
    """The backend of actors that use NumPy."""
    pytest.importorskip('numpy')
    return 'trio' if start_method == 'subint' else start_method


async def start(an: tractor.ActorNursery, name: str, method: str | None = None) -> tractor.Portal:
    return await an.start_actor(name, enable_modules=['shm_actors'], start_method=method)


def wait_gone(pids: list[int]) -> None:
    """Wait for the end of these processes, which are not ours."""
    procs = _procs.scan()
    _procs.wait_gone([procs[pid] for pid in pids if pid in procs], TIMEOUT)


# --- between actors


def test_a_list_of_the_parent_is_written_by_children(run: Any, key: str) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        shml = open_shm_list(key, sequence=[1, 2.5, 'ab'])
        portal = await start(an, 'child')
        assert await portal.run(shm_actors.add_to_list, key=shml.key) == [1, 2.5, 'ab']
        assert shml[:] == [2, 5.0, 'abab']
        with pytest.raises(tractor.RemoteActorError) as caught:
            await portal.run(shm_actors.add_to_list, key=shml.key, readonly=True)
        assert caught.value.boxed_type is ValueError
        await an.cancel()

    run(body)
    assert left_of(key) == []


def test_each_write_is_read_by_the_other(run: Any, key: str) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        shml = open_shm_list(key, sequence=[0.0], readonly=False)
        portal = await start(an, 'reader')
        async with (
            portal.open_context(shm_actors.read_when_told, key=key) as (_ctx, _),
            _ctx.open_stream() as stream,
        ):
            for number in (1.5, 2, 'x', None, True):
                shml[0] = number
                await stream.send('now')
                assert await stream.receive() == number
        await portal.cancel_actor()

    run(body)
    assert left_of(key) == []


@pytest.mark.parametrize('start_method', ['trio'])
def test_attaching_often_leaks_nothing(run: Any, key: str) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        open_shm_list(key, sequence=['first'])
        portal = await start(an, 'child')
        first = await portal.run(shm_actors.attach_often, key=key, count=10)
        last = await portal.run(shm_actors.attach_often, key=key, count=4000)
        # a socket more or less
        assert last[0] - first[0] <= 2
        assert last[1] <= 1
        await an.cancel()

    run(body)


def test_an_array_of_the_parent_is_written_by_a_child(
    run: Any, key: str, numpy_method: str
) -> None:
    async def body(an: tractor.ActorNursery) -> None:
        array = open_shm_ndarray(1000, key=key, dtype=shm_actors.FIELDS, append_start_index=0)
        writer, reader = [await start(an, f'child{i}', numpy_method) for i in range(2)]
        assert await writer.run(shm_actors.push_rows, token=array.token, count=500) == 500
        assert array.array['index'].tolist() == [*range(500)]
        total = sum(range(500))
        assert await reader.run(shm_actors.sum_rows, token=array.token) == [total / 2, total]
        assert await reader.run(shm_actors.maybe_open, key=f'{key}_m') is True
        assert await writer.run(shm_actors.maybe_open, key=f'{key}_m') is False
        await an.cancel()

    run(body)
    assert left_of(key) == []


def test_an_array_of_a_child_outlives_it_where_it_is_attached(
    run: Any, key: str, numpy_method: str
) -> None:
    arrays: list[ShmArray] = []

    async def body(an: tractor.ActorNursery) -> None:
        portal = await start(an, 'owner', numpy_method)
        token = await portal.run(shm_actors.open_array, key=key)
        arrays.append(attach_shm_ndarray(token))
        await portal.run(shm_actors.push_rows, token=token, count=3)
        await portal.cancel_actor()

    run(body)
    assert left_of(key) == []
    assert arrays[0].array['size'].tolist() == [0, 1, 2]


def test_arrays_in_a_sub_interpreter_say_why_not(run: Any, start_method: str) -> None:
    if start_method != 'subint':
        pytest.skip('NumPy can be imported in every process')

    async def body(an: tractor.ActorNursery) -> None:
        portal = await start(an, 'child')
        assert "start_method='trio'" in await portal.run(shm_actors.try_array)
        await an.cancel()

    run(body)


# --- the end of an owner


@pytest.mark.parametrize('ending', ['return', 'raise', 'exit', 'wait'])
def test_the_end_of_the_owner_is_the_end_of_the_list(
    run: Any, key: str, ending: str, start_method: str
) -> None:
    if (ending, start_method) == ('exit', 'subint'):
        pytest.skip('the process is that of the test')
    watchers: list[int] = []
    attached: list[ShmList] = []

    async def body(an: tractor.ActorNursery) -> None:
        portal = await start(an, 'owner')
        async with portal.open_context(shm_actors.own_list, key=key, ending=ending) as (ctx, told):
            name, watcher = told
            watchers.append(watcher)
            attached.append(attach_shm_list(name))
            if ending == 'wait':
                await ctx.cancel()
            else:
                async with ctx.open_stream() as stream:
                    await stream.send('end')
                    await ctx.wait_for_result()
        await portal.cancel_actor()

    expected = {'raise': tractor.RemoteActorError, 'exit': (ActorFailure, tractor.TransportClosed)}
    if (error := expected.get(ending)) is not None:
        with pytest.raises(error):
            run(body)
    else:
        run(body)
    if ending == 'exit':
        wait_gone(watchers)
    else:
        # all was over when the nursery was
        assert {*watchers} & {*_procs.scan()} == set()
    assert left_of(key) == []
    assert attached[0][:] == [1, 'two', 3.0]
    attached[0].shm.close()


@pytest.mark.parametrize('way', ['kill', 'terminate'])
def test_a_killed_owner_leaves_nothing(run: Any, key: str, way: str) -> None:
    seen: list[Any] = []

    async def body(an: tractor.ActorNursery) -> None:
        portal = await start(an, 'owner')
        watcher = await portal.run(shm_actors.open_list, key=key)
        shml = attach_shm_list(key)
        (record,) = an._children.values()
        assert record[1].pid == shml[0]
        getattr(record.proc, way)()
        wait_gone([watcher])
        seen.extend([left_of(key), shml[0] > 0])

    with suppress(ActorFailure):
        run(body)
    # while its parent is alive
    assert seen == [[], True]


def test_a_stuck_owner_leaves_nothing(run: Any, key: str) -> None:
    watchers: list[int] = []

    async def body(an: tractor.ActorNursery) -> None:
        portal = await start(an, 'owner')
        async with portal.open_context(shm_actors.own_and_spin, key=key) as (ctx, watcher):
            watchers.append(watcher)
            assert left_of(key) == [key]
            async with ctx.open_stream() as stream:
                await stream.send('spin')
                await an.cancel()

    with suppress(tractor.ContextCancelled, tractor.TransportClosed, ActorFailure):
        run(body)
    wait_gone(watchers)
    assert left_of(key) == []


# --- programs


@contextmanager
def program(role: str, key: str, start_method: str) -> Iterator[subprocess.Popen[str]]:
    """One of `shm_actors`, in a session of its own; killed at the end if need be."""
    path = Path(__file__).with_name('shm_actors.py')
    env = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join(filter(None, sys.path)),
        'SHM_TEST_PORT': str(get_rando_addr('tcp')[1]),
        'TRACTOR_SPAWN_METHOD': start_method,
    }
    with subprocess.Popen(
        [sys.executable, str(path), role, key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        text=True,
        start_new_session=True,
    ) as proc:
        try:
            yield proc
        finally:
            proc.kill()


def numbers(proc: subprocess.Popen[str]) -> list[int]:
    assert proc.stdout is not None
    line = proc.stdout.readline()
    assert line, proc.stderr.read() if proc.stderr else ''
    return [int(word) for word in line.split()]


@pytest.mark.parametrize('order', ['root first', 'children first', 'group', 'random'])
def test_a_killed_tree_leaves_nothing(key: str, order: str, start_method: str) -> None:
    with program('tree', key, start_method) as proc:
        pids, watchers = numbers(proc), numbers(proc)
        assert left_of(key) == [f'{key}_0', f'{key}_1', f'{key}_root']
        if order == 'group':
            os.killpg(proc.pid, signal.SIGKILL)
        else:
            ordered = {'root first': pids, 'children first': pids[::-1]}.get(order)
            # in a tree of sub-interpreters there is one only
            for pid in dict.fromkeys(ordered or random.sample(pids, len(pids))):
                os.kill(pid, signal.SIGKILL)
        _, err = proc.communicate(timeout=TIMEOUT)
    wait_gone([*watchers, *pids])
    assert left_of(key) == []
    assert err == ''


@pytest.mark.parametrize('count', [0, 1, 2, 3, 10, 57])
def test_killed_at_any_moment_it_leaves_nothing(key: str, count: int) -> None:
    with program('churn', key, 'trio') as proc:
        (watcher,) = numbers(proc)
        assert proc.stdout is not None
        for _ in range(count):
            assert proc.stdout.readline() == 'opened\n'
        proc.kill()
        proc.communicate(timeout=TIMEOUT)
    wait_gone([watcher])
    assert left_of(key) == []


def test_a_forked_process_does_not_keep_them(key: str) -> None:
    with program('fork', key, 'trio') as proc:
        (watcher,) = numbers(proc)
        proc.kill()
        # while the forked one lives
        wait_gone([watcher])
        assert left_of(key) == []
        proc.communicate(timeout=TIMEOUT)


@pytest.mark.parametrize('interrupted', [False, True])
def test_an_orderly_end_is_silent_and_complete(key: str, interrupted: bool) -> None:
    with program('hold', key, 'trio') as proc:
        (watcher,) = numbers(proc)
        if interrupted:
            # what Ctrl-C does
            os.killpg(proc.pid, signal.SIGINT)
            _, err = proc.communicate(timeout=TIMEOUT)
            assert proc.returncode == -signal.SIGINT
            assert 'KeyboardInterrupt' in err.splitlines()
        else:
            _, err = proc.communicate(timeout=TIMEOUT)
            assert proc.returncode == 0
            assert err == ''
    # at once: the program waited for it
    assert watcher not in _procs.scan()
    assert left_of(key) == []
    assert 'leaked' not in err
