"""
An actor's entries in the registries: made at boot, removed at its end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from tractor import log as _log
from tractor._exceptions import RemoteActorError, TransportClosed
from tractor.discovery._addr import wrap_address
from tractor.ipc._chan import Channel, _connect_chan
from tractor.runtime import _state
from tractor.runtime._portal import LocalPortal, Portal, open_portal

if TYPE_CHECKING:
    from tractor.runtime._runtime import Actor

log = _log.get_logger()

# seconds, shielded, for removing our entry from one registry
_UNREGISTER_TIMEOUT: float = 0.5


@asynccontextmanager
async def open_registry_portal(addr: Any) -> AsyncIterator[Portal | LocalPortal]:
    """
    A portal to the registrar at an address; to this actor itself if it is one.

    Raises:
        OSError: nobody listens there.
    """
    actor = _state.current_actor()
    if actor.is_registrar:
        yield LocalPortal(actor, Channel(transport=None))
        return
    async with _connect_chan(wrap_address(addr)) as chan, open_portal(chan) as portal:
        yield portal


async def register(actor: Actor, registered: list[Any]) -> None:
    """
    Enter every address this actor listens on into every registry.

    Args:
        actor: the actor.
        registered: gets the address of each registry which may know the actor from now on, also when this fails.

    Raises:
        OSError: a registry cannot be reached.
        TransportClosed, RemoteActorError: it does not answer any more, or refuses.
    """
    for reg_addr in actor.reg_addrs:
        async with open_registry_portal(reg_addr) as registry:
            registered.append(reg_addr)
            for addr in actor.accept_addrs:
                await registry.run_from_ns('self', 'register_actor', uid=actor.aid.uid, addr=addr)


async def unregister(actor: Actor, reg_addrs: list[Any]) -> None:
    """
    Remove this actor's entry from the registries.

    Shielded, at most half a second for each; failures are logged.
    """
    for reg_addr in reg_addrs:
        deadline = trio.current_time() + _UNREGISTER_TIMEOUT
        with trio.CancelScope(shield=True, deadline=deadline) as scope:
            try:
                await _unregister_from(actor, reg_addr)
            except (OSError, TransportClosed, RemoteActorError) as err:
                log.runtime('not unregistered from %s: %s', reg_addr, err)
        if scope.cancelled_caught:
            log.warning('unregistering from %s took more than %s s', reg_addr, _UNREGISTER_TIMEOUT)


async def _unregister_from(actor: Actor, reg_addr: Any) -> None:
    uid = actor.aid.uid
    async with AsyncExitStack() as stack:
        try:
            chan = await stack.enter_async_context(_connect_chan(reg_addr))
        except OSError:
            # a registrar which stopped listening may still be our parent
            parent = actor._parent_chan
            if parent is None or not parent.connected() or parent.raddr != wrap_address(reg_addr):
                raise
            chan = parent
        # nobody reads the parent's connection any more either
        async with open_portal(chan) as registry:
            await registry.run_from_ns('self', 'unregister_actor', uid=uid)
