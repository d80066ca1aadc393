"""end to end: the handle of an actor in a sub-interpreter, which has the face of a process."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor._code_load import load_module_from_path
from tractor._testing import run_bounded
from tractor.spawn import _subint

backend = load_module_from_path(Path(__file__).with_name('backend_peers.py'))
peers = backend.load('subint_life_peers')
parent = backend.load('subint_parent_peers')
in_subint = backend.in_subint

pytestmark = backend.needs_subint

PEERS = 'subint_life_peers'


@pytest.fixture
def with_actor(in_subint: dict[str, Any]) -> Callable[[Callable[..., Awaitable[None]]], Any]:
    """Run `body(nursery, portal, handle)` with an actor in a sub-interpreter; its handle, when all is over."""

    def run(body: Callable[..., Awaitable[None]]) -> Any:
        handles = []

        async def main() -> None:
            async with tractor.open_nursery(**in_subint) as an:
                portal = await an.start_actor('one', enable_modules=[PEERS])
                handle = parent.child_of(an, portal).proc
                handles.append(handle)
                await body(an, portal, handle)
                with trio.fail_after(parent.PATIENCE):
                    await handle.wait()

        run_bounded(main, timeout=parent.PATIENCE)
        return handles[0]

    return run


def test_of_one_that_runs(with_actor: Any) -> None:
    async def body(an: Any, portal: Any, handle: Any) -> None:
        facts = await portal.run(peers.whoami)
        assert handle.pid == facts['pid'] == os.getpid()
        assert handle.interp_id == facts['interp_id'] > 0
        assert (handle.returncode, handle.exitcode, handle.poll()) == (None, None, None)
        assert repr(handle) == (
            f"<SubintHandle 'one' interpreter {handle.interp_id} of pid {handle.pid} returncode=None>"
        )
        assert handle in _subint.live_children()
        await portal.cancel_actor()

    handle = with_actor(body)
    assert (handle.returncode, handle.exitcode, handle.poll()) == (0, 0, 0)
    assert handle not in _subint.live_children()
    assert handle._driver.error == ''


def test_terminated(with_actor: Any) -> None:
    async def body(_an: Any, _portal: Any, handle: Any) -> None:
        handle.terminate()
        assert await handle.wait() == 0

    assert with_actor(body).returncode == 0


def test_killed_twice(with_actor: Any) -> None:
    async def body(_an: Any, _portal: Any, handle: Any) -> None:
        handle.kill()
        handle.kill()
        assert await handle.wait() == -9

    assert with_actor(body).returncode == -9


@pytest.mark.parametrize('verb', ['kill', 'terminate'])
def test_verbs_after_the_end(with_actor: Any, verb: str) -> None:
    async def body(_an: Any, portal: Any, handle: Any) -> None:
        await portal.cancel_actor()
        assert await handle.wait() == 0
        getattr(handle, verb)()
        assert await handle.wait() == 0

    handle = with_actor(body)
    getattr(handle, verb)()
    assert handle.returncode == 0


def test_failed(with_actor: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Its traceback goes where that of a process would."""

    async def body(_an: Any, portal: Any, handle: Any) -> None:
        with pytest.raises((tractor.TransportClosed, tractor.RemoteActorError)):
            await portal.run(peers.crash)
        assert await handle.wait() == 1

    handle = with_actor(body)
    assert handle.returncode == 1
    assert 'returncode=1: ' in repr(handle)
    assert 'TrioInternalError' in repr(handle)
    assert 'ValueError: as asked' in capfd.readouterr().err


def test_several_wait(with_actor: Any) -> None:
    codes: list[int] = []

    async def body(_an: Any, _portal: Any, handle: Any) -> None:
        async def wait() -> None:
            codes.append(await handle.wait())

        async with trio.open_nursery() as tn:
            for _ in range(3):
                tn.start_soon(wait)
            handle.kill()

    with_actor(body)
    assert codes == [-9, -9, -9]


def test_waiting_is_cancelled(with_actor: Any) -> None:
    async def body(_an: Any, portal: Any, handle: Any) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await handle.wait()
        assert scope.cancelled_caught
        assert handle.returncode is None
        # neither the actor nor another who waits has noticed
        await portal.run(peers.nothing)
        await portal.cancel_actor()
        assert await handle.wait() == 0

    with_actor(body)


def test_close_waits_for_the_thread(with_actor: Any) -> None:
    async def body(_an: Any, _portal: Any, handle: Any) -> None:
        handle.kill()
        await handle.wait()
        handle.close()
        assert not handle._driver.thread.is_alive()

    handle = with_actor(body)
    handle.close()


def test_described_where_it_is(with_actor: Any) -> None:
    async def body(an: Any, portal: Any, handle: Any) -> None:
        stacks = await handle.describe()
        assert stacks.startswith('the actor:\n')
        # wherever it is just then
        assert 'tractor' in stacks
        await portal.cancel_actor()

    assert with_actor(body).returncode == 0
