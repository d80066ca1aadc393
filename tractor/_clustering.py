"""
A flat cluster: the same modules in a number of actors, started together.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from tractor.runtime import _state
from tractor.runtime._mods import get_mod_nsps2fps
from tractor.runtime._portal import Portal
from tractor.runtime._supervise import open_nursery
from tractor.trionics._beg import collapse_eg


@asynccontextmanager
async def open_actor_cluster(
    modules: list[str],
    count: int | None = None,
    names: list[str] | None = None,
    hard_kill: bool = False,
    **runtime_kwargs: Any,
) -> AsyncIterator[dict[str, Portal]]:
    """
    A number of equal actors for the block.

    Args:
        modules: the modules whose functions may be called in them.
        count: how many; one per CPU by default.
        names: their names, without the prefix; `worker_{i}` by default.
        hard_kill: terminate them at the end instead of asking.
        runtime_kwargs: for `open_nursery()`.

    Yields:
        The portals, by `<name of this actor>.<name>`.

    Raises:
        ValueError: there are not as many different names as actors.
        ModuleNotFoundError: one of the modules cannot be imported; so do other errors of importing.
    """
    if count is None:
        count = os.cpu_count() or 1
    if names is None:
        names = [f'worker_{i}' for i in range(count)]
    if len(names) != count:
        raise ValueError(f'{count} actors need as many names, got {len(names)}: {names}')
    if len(set(names)) != count:
        raise ValueError(f'the names of the actors of a cluster must differ, got {names}')
    # what cannot be imported is told once, not by each of them
    get_mod_nsps2fps(modules)
    portals: dict[str, Portal] = {}
    async with open_nursery(**runtime_kwargs) as an:
        prefix = _state.current_actor().name

        async def start(name: str) -> None:
            key = f'{prefix}.{name}'
            portals[key] = await an.start_actor(key, enable_modules=modules)

        async with collapse_eg(), trio.open_nursery() as tn:
            for name in names:
                tn.start_soon(start, name)
        yield portals
        await an.cancel(hard_kill=hard_kill)
