"""What the tests of one-shot calls run in other actors; loads nothing but the package itself."""

from __future__ import annotations

from typing import Any

import trio

import tractor
from tractor._testing import deaths


async def add(one: int, two: int = 2, *, three: int = 3) -> int:
    return one + two + three


async def collect(func: str, **fn_name: Any) -> Any:
    """Named like the parameters of the machinery in between."""
    return [func, fn_name]


async def by_position(one: int, /) -> int:
    return one


async def many(*numbers: int) -> int:
    return sum(numbers)


async def whoami() -> list[Any]:
    actor = tractor.current_actor()
    return [actor.name, deaths.where_am_i(), actor.spawn_method, sorted(actor.enable_modules)]


async def fail() -> None:
    raise ValueError('boom')


async def forever() -> None:
    await trio.sleep_forever()


async def die() -> None:
    deaths.exit_now(7)
    await trio.sleep_forever()


async def cancel_own_actor() -> None:
    tractor.current_actor().cancel_soon()
    await trio.sleep_forever()


async def unencodable() -> object:
    return object()


async def calls_another() -> int:
    from tractor import to_actor

    return await to_actor.run(add, 10)


@tractor.context
async def a_context(ctx: tractor.Context) -> None:
    await ctx.started()


def not_async() -> None:
    """Nothing."""
