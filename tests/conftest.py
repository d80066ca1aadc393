"""Fixtures of the whole suite: those of the plugin that the package ships, and what many modules need."""

import functools
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import tractor
from tractor._testing import run_bounded
from tractor._testing.peer import play_in_memory

# also named in the project's pytest options; a run with other options needs it as much
pytest_plugins = ['tractor._testing.pytest']

# A shell makes what it starts in the background ignore interrupts, and programs inherit that: here they are sent.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def options(start_method: str, tpt_proto: str, reg_addr: Any) -> dict[str, Any]:
    """For whatever opens a runtime: `open_nursery()`, `open_root_actor()`, `open_actor_cluster()`."""
    return {
        'start_method': start_method,
        'enable_transports': [tpt_proto],
        'registry_addrs': [reg_addr],
        'loglevel': 'critical',
    }


@pytest.fixture
def run(options: dict[str, Any]) -> Callable[..., tractor.ActorNursery]:
    """Run a body in an actor nursery of its own runtime; afterwards all of it must be over."""

    def run(
        body: Callable[[tractor.ActorNursery], Awaitable[object]], timeout: float = 60
    ) -> tractor.ActorNursery:
        opened: list[tractor.ActorNursery] = []

        async def main() -> None:
            async with tractor.open_nursery(**options) as an:
                opened.append(an)
                await body(an)

        try:
            run_bounded(main, timeout=timeout)
        finally:
            assert opened[0].exited.is_set()
            assert opened[0]._children == {}
            assert tractor.current_actor(err_on_no_runtime=False) is None
        return opened[0]

    return run


@pytest.fixture
def play(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Run `main(root, peer)` with a root that exposes the test module and a peer connected to it, in memory."""
    return functools.partial(play_in_memory, module=request.module.__name__)
