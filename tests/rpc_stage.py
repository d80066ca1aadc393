"""What tests of cancellation call in an actor of this process, and how they see what becomes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

import tractor


class Stage:
    """What the endpoints of a test share with it."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.release = trio.Event()
        self.ended = trio.Event()


STAGE = Stage()


@pytest.fixture(autouse=True)
def stage() -> Stage:
    STAGE.__init__()  # type: ignore[misc]
    return STAGE


async def ping(n: int = 0) -> int:
    return n


@asynccontextmanager
async def noting() -> AsyncIterator[None]:
    """Note how the function ends, and for whom."""
    stage, ctx = STAGE, tractor.current_ipc_ctx()
    stage.log.append('begun')
    try:
        yield
    except trio.Cancelled:
        stage.log.append(('cancelled', ctx.canceller))
        raise
    else:
        stage.log.append('returned')
    finally:
        stage.ended.set()


async def wait_plain() -> None:
    async with noting():
        await trio.sleep_forever()


@tractor.context
async def wait_context(ctx: tractor.Context) -> None:
    await ctx.started()
    async with noting():
        await trio.sleep_forever()


async def until_released() -> str:
    """Goes on whatever happens, until the test releases it."""
    async with noting():
        with trio.CancelScope(shield=True):
            await STAGE.release.wait()
        return 'released'
