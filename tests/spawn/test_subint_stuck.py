"""end to end: whatever an actor in a sub-interpreter is stuck in, it can be ended, and nothing of it is left."""

# each level is a resource
# ruff: noqa: PLR1702

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor._code_load import load_module_from_path
from tractor._exceptions import ActorFailure, TransportClosed
from tractor._testing import run_bounded
from tractor.spawn import _life

backend = load_module_from_path(Path(__file__).with_name('backend_peers.py'))
stuck = backend.load('subint_stuck_peers')
spinning = backend.load('subint_spinning_peers')
parent = backend.load('subint_parent_peers')
in_subint = backend.in_subint

pytestmark = backend.needs_subint

STUCK = 'subint_stuck_peers'


class Ended:
    """What a parent has seen of a stuck child and its end."""

    child: Any
    call: Any
    took: float
    pulse: Any


def end_stuck(options: dict[str, Any], kind: str, end: Any) -> Ended:
    """
    Start an actor, wait until it is stuck, end it, all under the eyes of its parent.

    Args:
        options: of the nursery.
        kind: of `subint_stuck_peers.KINDS`.
        end: an async function, called with the nursery and the child; must have ended it.
    """
    guest, fn = stuck.KINDS[kind]
    ended = Ended()
    ended.pulse = parent.Pulse()

    async def main() -> None:
        with parent.telling() as told:
            async with tractor.open_nursery(**options) as an, trio.open_nursery() as tn:
                portal = await an.start_actor('stuck', enable_modules=[STUCK], infect_asyncio=guest)
                ended.child = parent.child_of(an, portal)
                ended.call = parent.Call(portal, fn, told=told.fd)
                tn.start_soon(ended.call.make)
                await told.wait(call=ended.call)
                tn.start_soon(ended.pulse.beat)
                began = trio.current_time()
                await end(an, ended.child)
                ended.took = trio.current_time() - began
                await ended.call.ended.wait()
                tn.cancel_scope.cancel()

    run_bounded(main, timeout=parent.PATIENCE)
    return ended


def check(ended: Ended, returncode: int = -9) -> None:
    proc = ended.child.proc
    assert proc.returncode == proc.exitcode == proc.poll() == returncode
    assert isinstance(ended.call.error, TransportClosed)
    assert ended.pulse.longest < parent.PAUSE_OF_LOOP
    assert not proc._driver.thread.is_alive()
    assert proc._driver.leak == ''


@pytest.mark.parametrize('kind', stuck.KINDS)
def test_killed(in_subint: dict[str, Any], kind: str) -> None:
    async def kill(_: Any, child: Any) -> None:
        child.proc.kill()
        with trio.fail_after(parent.GONE_WITHIN):
            assert await child.proc.wait() == -9

    check(end_stuck(in_subint, kind, kill))


# --- by other ways than a kill

GROUP = 6
GROUPS = [list(stuck.KINDS)[start : start + GROUP] for start in range(0, len(stuck.KINDS), GROUP)]


@pytest.mark.parametrize('kinds', GROUPS, ids=lambda kinds: kinds[0])
def test_ended_by_a_nursery_that_is_cancelled(
    in_subint: dict[str, Any], kinds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_life, 'DONE_WITHIN', 0.5)
    children, calls = [], []

    async def start(an: Any, tn: trio.Nursery, kind: str, told: Any) -> None:
        guest, fn = stuck.KINDS[kind]
        portal = await an.start_actor(kind, enable_modules=[STUCK], infect_asyncio=guest)
        children.append(parent.child_of(an, portal))
        calls.append(parent.Call(portal, fn, told=told.fd))
        tn.start_soon(calls[-1].make)
        await told.wait(call=calls[-1])

    async def main() -> None:
        with parent.telling() as told:
            async with trio.open_nursery() as tn:
                with trio.CancelScope() as scope:
                    async with tractor.open_nursery(**in_subint) as an:
                        for kind in kinds:
                            await start(an, tn, kind, told)
                        began = trio.current_time()
                        scope.cancel()
                took = trio.current_time() - began
                # asked, told to terminate, killed: all at once
                assert took < 0.5 + 0.2 + parent.GONE_WITHIN

    run_bounded(main, timeout=parent.PATIENCE)
    assert [repr(child.proc) for child in children if child.proc.returncode != -9] == []
    assert [child.proc._driver.leak for child in children] == [''] * len(kinds)
    for call in calls:
        assert isinstance(call.error, TransportClosed | tractor.RemoteActorError), call.error


def test_ended_when_only_a_thread_is_left(in_subint: dict[str, Any]) -> None:
    """As a process would be: the actor is over, and a thread of it is not."""
    children = []

    async def main() -> None:
        with parent.telling() as told:
            async with tractor.open_nursery(**in_subint) as an:
                portal = await an.start_actor('stuck', enable_modules=[STUCK])
                child = parent.child_of(an, portal)
                children.append(child)
                await portal.run(stuck.leave_thread, told=told.fd)
                await told.wait()
                await portal.cancel_actor()
                assert child.proc.poll() is None
                child.proc.kill()
                with trio.fail_after(parent.GONE_WITHIN):
                    assert await child.proc.wait() == -9

    run_bounded(main, timeout=parent.PATIENCE)
    assert children[0].proc._driver.leak == ''


@pytest.mark.parametrize('how', ['kill', 'cancel'])
def test_ended_while_it_loads_a_module(
    in_subint: dict[str, Any], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of those which it exposes: it has connected back, and is not up."""
    failures: list[BaseException] = []
    children = []

    async def start(an: Any) -> None:
        try:
            await an.start_actor('stuck', enable_modules=['subint_spinning_peers'])
        except ActorFailure as err:
            failures.append(err)

    async def main() -> None:
        with parent.telling() as told:
            monkeypatch.setenv(spinning.TOLD_VAR, str(told.fd))
            async with tractor.open_nursery(**in_subint) as an:
                async with trio.open_nursery() as tn:
                    tn.start_soon(start, an)
                    children.append(await parent.child_called(an, 'stuck'))
                    await told.wait()
                    if how == 'kill':
                        children[0].proc.kill()
                    else:
                        tn.cancel_scope.cancel()
                        children[0].proc.kill()
                with trio.fail_after(parent.GONE_WITHIN):
                    assert await children[0].proc.wait() == -9

    run_bounded(main, timeout=parent.PATIENCE)
    assert children[0].proc._driver.leak == ''
    assert all('killed' in str(failure) for failure in failures)


@pytest.mark.parametrize('method', ['subint', 'trio'])
def test_what_it_has_started_ends_with_it(in_subint: dict[str, Any], method: str) -> None:
    """Children which are stuck as well, whatever they live in; the leak check of each test looks for them."""
    children = []
    # servers of `multiprocessing` which earlier tests have started
    before = parent.processes_below()

    async def main() -> None:
        with parent.telling() as told:
            async with tractor.open_nursery(**in_subint) as an, trio.open_nursery() as tn:
                portal = await an.start_actor('stuck', enable_modules=[STUCK])
                children.append(parent.child_of(an, portal))
                call = parent.Call(portal, stuck.children, told=told.fd, method=method, count=2)
                tn.start_soon(call.make)
                if method == 'subint':
                    # a process of its own has other file descriptors
                    await told.wait(2)
                else:
                    await parent.until(lambda: len(parent.processes_below()) >= len(before) + 2)
                children[0].proc.kill()
                with trio.fail_after(2 * parent.GONE_WITHIN):
                    assert await children[0].proc.wait() == -9
                await call.ended.wait()

    run_bounded(main, timeout=parent.PATIENCE)
    assert set(parent.processes_below()) <= set(before)


def test_killed_at_once_among_many(in_subint: dict[str, Any]) -> None:
    """Sixteen that spin on the same few cores."""
    children = []

    async def start(an: Any, tn: trio.Nursery, index: int, fd: int) -> None:
        portal = await an.start_actor(f'stuck{index}', enable_modules=[STUCK])
        children.append(parent.child_of(an, portal))
        tn.start_soon(parent.Call(portal, stuck.spin, told=fd).make)

    async def main() -> None:
        with parent.telling() as told:
            async with tractor.open_nursery(**in_subint) as an, trio.open_nursery() as tn:
                async with trio.open_nursery() as starting:
                    for index in range(16):
                        starting.start_soon(start, an, tn, index, told.fd)
                await told.wait(16)
                for child in children:
                    child.proc.kill()
                with trio.fail_after(parent.GONE_WITHIN):
                    for child in children:
                        await child.proc.wait()

    run_bounded(main, timeout=2 * parent.PATIENCE)
    assert {child.proc.returncode for child in children} == {-9}
    assert {child.proc._driver.leak for child in children} == {''}
