"""contract: what trio and the standard library offer works in a child on every backend: threads, processes, asyncio."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tractor
from tractor._code_load import load_module_from_path

backend = load_module_from_path(Path(__file__).with_name('backend_peers.py'))
peers = backend.load('rough_peers')

pytestmark = [pytest.mark.spawns, backend.on_each_backend]

HERE = ['rough_peers']
Run = Callable[..., tractor.ActorNursery]

EXPECTED: dict[str, Any] = {
    'subprocess': '1\n',
    'trio process': '1\n',
    'path': True,
    'to_thread': 42,
    'from_thread': 'from a thread',
    'getaddrinfo': True,
    'multiprocessing': [42, 0],
    'executor': [0, 2, 4],
    'asyncio': ['1\n', 42],
}


def test_all_of_them_are_looked_at(start_method: str) -> None:
    assert list(EXPECTED) == list(peers.USES)


@pytest.mark.parametrize('what', list(EXPECTED))
def test_using_it(run: Run, what: str) -> None:
    """Twice, so that what the first use leaves behind does not harm."""

    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('kid', enable_modules=HERE)
        for _ in range(2):
            assert await portal.run(peers.use, what=what) == EXPECTED[what]
        await an.cancel()

    run(body)


def test_asyncio_as_the_host(run: Run) -> None:
    items = [1, 'two', {'three': [3, None]}]

    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('kid', enable_modules=HERE, infect_asyncio=True)
        async with portal.open_context(peers.talk_to_asyncio, items=items) as (ctx, first):
            assert first == 'asyncio is up'
            assert await ctx.wait_for_result() == items
        # and what needs threads works there, too
        assert await portal.run(peers.use, what='to_thread') == 42
        await an.cancel()

    run(body)


# --- threads that the user leaves behind


def test_a_thread_that_ends_is_waited_for(run: Run, tmp_path: Path) -> None:
    path = tmp_path / 'done'

    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('kid', enable_modules=HERE)
        child = an._children[portal.chan.aid.uid]
        await portal.run(peers.leave_a_thread, path=str(path))
        assert not path.exists()
        await an.cancel()
        assert child.returncode == 0

    run(body)
    assert path.read_text() == 'done'


def test_a_thread_that_does_not_end_is_ended(run: Run) -> None:
    import trio

    async def body(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('kid', enable_modules=HERE)
        child = an._children[portal.chan.aid.uid]
        await portal.run(peers.leave_a_thread, path=None)
        with trio.CancelScope(deadline=trio.current_time() + backend.LADDER_WITHIN) as scope:
            await an.cancel()
        assert not scope.cancel_called
        assert child.returncode is not None
        assert child.returncode < 0

    run(body)
