"""Actors that only serve the functions of one module."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

import tractor


@asynccontextmanager
async def open_server(
    module: str, name: str = 'peer', **kwargs: Any
) -> AsyncIterator[tractor.Portal]:
    """Run an actor that serves one module, for the block; yields the portal to it.

    Args:
        module: the name of the module.
        name: of the actor.
        kwargs: others of `start_actor()`.

    At the end of the block the actor is cancelled, whether the block was or not.
    """
    async with tractor.open_nursery() as an:
        portal = await an.start_actor(name, enable_modules=[module], loglevel='critical', **kwargs)
        try:
            yield portal
        finally:
            with trio.CancelScope(shield=True):
                await an.cancel()
