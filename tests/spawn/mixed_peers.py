"""What the tests of mixed trees run in other actors; loads nothing but the package itself."""

from __future__ import annotations

import os
from typing import Any

import trio

import tractor
from tractor.runtime import _state
from tractor.spawn import _spawn

HERE = [__name__]


async def where() -> list[Any]:
    """The backend of this actor, what its children get, its process and its interpreter."""
    actor = tractor.current_actor()
    default = _state._runtime_vars.get(_spawn.METHOD_VAR, _spawn._spawn_method)
    return [actor.spawn_method, default, os.getpid(), actor.interp_id]


async def down(methods: list[str | None]) -> list[list[Any]]:
    """`where()` of this actor and of a line of actors below it, each started with the next method."""
    here = await where()
    if not methods:
        return [here]
    async with tractor.open_nursery() as an:
        portal = await an.start_actor(
            f'level{len(methods)}', enable_modules=HERE, start_method=methods[0]
        )
        below = await portal.run(down, methods=methods[1:])
        await an.cancel()
    return [here, *below]


async def fail_below(methods: list[str]) -> None:
    """Fail at the end of such a line of actors."""
    if not methods:
        raise KeyError('at the bottom')
    async with tractor.open_nursery() as an:
        portal = await an.start_actor(
            f'level{len(methods)}', enable_modules=HERE, start_method=methods[0]
        )
        await portal.run(fail_below, methods=methods[1:])


async def one_shots_below(methods: list[str]) -> list[Any]:
    """The same as `down()` with one-shot actors."""
    if not methods:
        return [await where()]
    async with tractor.open_nursery() as an:
        portal = await an.run_in_actor(
            one_shots_below, start_method=methods[0], methods=methods[1:]
        )
        return [await where(), *await portal.wait_for_result()]


async def inherited_below(depth: int) -> list[Any]:
    """`where()` of a line of so many actors below this one, none of which names a method."""
    return (await down([None] * depth))[1:]


@tractor.context
async def tree(ctx: tractor.Context, methods: list[list[str]]) -> None:
    """
    Hold a tree below: one child for each method of the first list, each with children of the second, and so on.

    Says `where()` of all, this one first, depth first.
    """
    async with tractor.open_nursery() as an:
        found = [await where()]
        async with trio.open_nursery() as tn:
            for n, method in enumerate(methods[0] if methods else []):
                portal = await an.start_actor(
                    f'{method}.{len(methods)}.{n}', enable_modules=HERE, start_method=method
                )
                found += await tn.start(_hold, portal, methods[1:])
            await ctx.started(found)
            await trio.sleep_forever()


async def _hold(portal: tractor.Portal, methods: list[list[str]], task_status: Any) -> None:
    async with portal.open_context(tree, methods=methods) as (_, found):
        task_status.started(found)
        await trio.sleep_forever()


@tractor.context
async def relay(ctx: tractor.Context, methods: list[str]) -> None:
    """A stream through a line of actors; the last one doubles what it gets."""
    if not methods:
        await ctx.started()
        async with ctx.open_stream() as stream:
            async for item in stream:
                await stream.send(2 * item)
        return
    async with tractor.open_nursery() as an:
        portal = await an.start_actor('next', enable_modules=HERE, start_method=methods[0])
        async with portal.open_context(relay, methods=methods[1:]) as (below, _):
            await ctx.started()
            async with ctx.open_stream() as upper, below.open_stream() as lower:
                async for item in upper:
                    await lower.send(item)
                    await upper.send(await lower.receive())
        await an.cancel()


async def choose_and_look(method: str) -> list[Any]:
    """What a child gets once this actor has chosen another method for its process."""
    _spawn.try_set_start_method(method)
    return (await down([None]))[1]


@tractor.context
async def spin(ctx: tractor.Context) -> None:
    actor = tractor.current_actor()
    await ctx.started({'pid': os.getpid(), 'interp_id': actor.interp_id})
    while True:  # stuck on purpose
        pass


@tractor.context
async def stuck_below(ctx: tractor.Context, method: str) -> dict[str, Any] | None:
    """Hold such a child until this is cancelled; says where it is."""
    async with tractor.open_nursery() as an:
        portal = await an.start_actor('spinning', enable_modules=HERE, start_method=method)
        async with portal.open_context(spin) as (below, told):
            await ctx.started(told)
            return await below.wait_for_result()
