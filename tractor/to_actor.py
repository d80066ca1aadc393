"""
One call in another actor, in the manner of `trio.to_thread.run_sync()`.

| handle | the call runs in | afterwards |
|---|---|---|
| none | an actor of its own, in a nursery (and, if need be, a runtime) of its own | all of that is gone |
| `an=` | a new child of that nursery | the child is gone, the nursery goes on |
| `portal=` | that actor | the actor goes on |

Result and error arrive in the calling task. A cancelled call cancels the function, and ends the actor if it was
started for the call.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from tractor._exceptions import ActorFailure, TransportClosed
from tractor.msg._typed import types_of
from tractor.runtime._portal import Portal
from tractor.runtime._supervise import ActorNursery, open_nursery
from tractor.runtime._targets import module_level_name


async def run(
    fn: Callable[..., Awaitable[Any]],
    *args: Any,
    an: ActorNursery | None = None,
    portal: Portal | None = None,
    name: str | None = None,
    start_method: str | None = None,
    enable_modules: list[str] | None = None,
    **start_options: Any,
) -> Any:
    """
    Call an async function in another actor and wait for its result.

    Args:
        fn: a function of a module, or a `functools.partial` of one, which is how to pass keyword arguments.
        args: its positional arguments, sent as msgpack.
        an: start the actor in this nursery.
        portal: use this actor. Its module must be enabled there.
        name: the new actor's name; the function's by default.
        start_method: the new actor's backend.
        enable_modules: further modules whose functions may be called in it.
        start_options: others for `ActorNursery.start_actor()`.

    Returns:
        What the function returned.

    Raises:
        TypeError: `fn` is no async function of a module, or the arguments do not fit it; nothing was started.
        MsgTypeError: the arguments cannot be encoded.
        RemoteActorError: it raised; `ContextCancelled` if somebody else cancelled it.
        ActorFailure: the new actor died.
        TransportClosed: the connection to the given actor was lost.
    """
    target, kwargs = _bind(fn, args)
    options = {'name': name, 'start_method': start_method, 'enable_modules': enable_modules}
    given = {key: value for key, value in options.items() if value is not None} | start_options
    if portal is not None:
        if an is not None or given:
            raise TypeError(
                f'with `portal=` no actor is started: {sorted(given) or ["an"]} make no sense'
            )
        return await portal._call(*module_level_name(target), kwargs, types_of(target))
    if an is not None:
        return await _run_in_child(an, target, kwargs, given)
    async with open_nursery() as own:
        return await _run_in_child(own, target, kwargs, given)


async def _run_in_child(
    an: ActorNursery,
    target: Callable[..., Awaitable[Any]],
    kwargs: dict[str, Any],
    options: dict[str, Any],
) -> Any:
    module, fn_name = module_level_name(target)
    name = options.pop('name', fn_name)
    modules = [module, *options.pop('enable_modules', ())]
    portal = await an.start_actor(name, enable_modules=modules, **options)
    assert portal.chan.aid is not None
    child = an._children.get(portal.chan.aid.uid)
    if child is None:
        raise ActorFailure(f'{portal!r} was lost before it was given its task')
    try:
        return await portal._call(module, fn_name, kwargs, types_of(target))
    except TransportClosed as closed:
        died = await an._how_it_died(child, closed)
        raise died from died.__cause__
    finally:
        with trio.CancelScope(shield=True):
            await an._end(child)


def _bind(
    fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
) -> tuple[Callable[..., Awaitable[Any]], dict[str, Any]]:
    """The function proper, and its arguments by name, which is how they travel."""
    given: dict[str, Any] = {}
    while isinstance(fn, partial):
        args = (*fn.args, *args)
        given = {**fn.keywords, **given}
        fn = fn.func
    module_level_name(fn)
    if inspect.ismethod(fn):
        raise TypeError(f'{fn!r} belongs to an object, which stays here: pass a function')
    bound = inspect.signature(fn).bind(*args, **given)
    kwargs: dict[str, Any] = {}
    for key, value in bound.arguments.items():
        kind = bound.signature.parameters[key].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            kwargs.update(value)
        elif kind in {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY}:
            raise TypeError(
                f'{fn!r} takes {key!r} by position only, but arguments are sent by name'
            )
        else:
            kwargs[key] = value
    return fn, kwargs
