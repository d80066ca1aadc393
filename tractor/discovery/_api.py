"""
Finding actors by name.

Every lookup asks a registrar; connections to peers are never reused for it, so that what is found is really there.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio

from tractor import log as _log
from tractor._exceptions import TransportClosed
from tractor.discovery._addr import default_lo_addrs, mk_uuid, wrap_address
from tractor.ipc._chan import Channel, _connect_chan
from tractor.msg.types import Aid
from tractor.runtime import _state
from tractor.runtime._portal import LocalPortal, Portal, open_portal
from tractor.runtime._registration import open_registry_portal

log = _log.get_logger()

Unwrapped = tuple[str, Any]


# -- asking a registrar ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def get_registry(addr: Any = None) -> AsyncIterator[Portal | LocalPortal]:
    """
    A portal to a registrar, for the block.

    Args:
        addr: where it listens; this actor's own registry by default. Ignored in a registrar itself.

    Raises:
        OSError: nobody listens there.
        NoRuntime: this process has no actor runtime.
    """
    actor = _state.current_actor()
    if addr is None and not actor.is_registrar:
        addr = actor.reg_addrs[0]
    async with open_registry_portal(addr) as portal:
        yield portal


@asynccontextmanager
async def get_root(**kwargs: Any) -> AsyncIterator[Portal]:
    """
    A portal to the root of this tree, for the block.

    Args:
        kwargs: for `open_portal()`.

    Raises:
        OSError: it does not listen any more.
        NoRuntime: this process has no actor runtime.
    """
    _state.current_actor()
    mailbox = _state._runtime_vars['_root_mailbox']
    async with _connect_chan(mailbox) as chan, open_portal(chan, **kwargs) as portal:
        yield portal


def get_peer_by_name(name: str) -> list[Channel] | None:
    """The channels of connected peers of that name. For looking at: lookups do not use them."""
    server = _state.current_actor().ipc_server
    found = [chan for uid, chans in server._peers.items() if uid[0] == name for chan in chans]
    return found or None


def prefer_addr(addrs: list[Unwrapped]) -> Unwrapped:
    """The best of several addresses of one actor: a UNIX socket, else loopback, else the rest; the latest of these."""
    best = max(enumerate(addrs), key=lambda item: (_nearness(item[1]), item[0]))[1]
    return best[0], best[1]


def _nearness(addr: Unwrapped) -> int:
    if not isinstance(addr[1], int):
        return 2
    # not loaded before an address has to be judged: it is slow to import
    import ipaddress

    try:
        return int(ipaddress.ip_address(addr[0]).is_loopback)
    except ValueError:
        return 0


@asynccontextmanager
async def query_actor(
    name: str, regaddr: Any = None
) -> AsyncIterator[tuple[Unwrapped | None, Portal | LocalPortal | None]]:
    """
    Where the actor of a name listens, and the portal to the registrar that said so, for the block.

    Args:
        name: the actor's name.
        regaddr: the registrar's address; this actor's own registry by default.

    Yields:
        `(addr, portal)`; the address is `None` when the registrar knows nobody of that name.

    Raises:
        RuntimeError: a registrar asks for `'registrar'`, itself.
        OSError: the registrar cannot be reached.
    """
    actor = _state.current_actor()
    if actor.is_registrar and name == 'registrar':
        raise RuntimeError('this actor is the registrar: it need not look itself up')
    async with get_registry(regaddr) as registry:
        addrs = await registry.run_from_ns('self', 'find_actor', name=name)
        yield (prefer_addr(addrs) if addrs else None), registry


# -- portals to what was found --------------------------------------------------------------------------------------


@asynccontextmanager
async def maybe_open_portal(addr: Any, name: str) -> AsyncIterator[Portal | None]:
    """
    A portal to the actor of a name, or `None`, for the block.

    Args:
        addr: the registrar's address.
        name: the actor's name.

    An entry where nobody listens any more is removed from the registry.
    """
    async with AsyncExitStack() as stack:
        yield await _portal_by_name(stack, addr, name)


async def _portal_by_name(stack: AsyncExitStack, regaddr: Any, name: str) -> Portal | None:
    async with query_actor(name, regaddr) as (addr, registry):
        if addr is None:
            return None
        chan = await _connect_or_delete(stack, addr, registry)
    if chan is None:
        return None
    return await stack.enter_async_context(open_portal(chan))


async def _connect_or_delete(
    stack: AsyncExitStack, addr: Unwrapped, registry: Portal | LocalPortal | None
) -> Channel | None:
    try:
        return await stack.enter_async_context(_connect_chan(addr))
    except OSError as err:
        log.warning('nobody listens at %s any more: %s', addr, err)
    # outside of the handler: a cancellation of this call hides no error
    assert registry is not None
    await registry.run_from_ns('self', 'delete_addr', addr=addr)
    return None


@asynccontextmanager
async def find_actor(
    name: str,
    registry_addrs: list[Any] | None = None,
    enable_transports: list[str] | None = None,
    only_first: bool = True,
    raise_on_none: bool = False,
) -> AsyncIterator[Any]:
    """
    A portal to the actor of a name, or `None`, for the block.

    Args:
        name: its name.
        registry_addrs: the registrars to ask; this tree's by default.
        enable_transports: whose default registry to ask when this tree has none.
        only_first: yield the first that is found; a list of all otherwise, one per registrar at most.
        raise_on_none: raise instead of yielding `None`.

    Raises:
        RuntimeError: nobody was found, with `raise_on_none`.
        OSError: a registrar cannot be reached.
    """
    regs = (
        registry_addrs
        or _state._runtime_vars['_registry_addrs']
        or default_lo_addrs(enable_transports or _state.current_ipc_protos())
    )
    async with AsyncExitStack() as stack:
        portals: list[Portal] = []
        for regaddr in regs:
            portal = await _portal_by_name(stack, regaddr, name)
            if portal is not None:
                portals.append(portal)
                if only_first:
                    break
        if not portals and raise_on_none:
            raise RuntimeError(f'no actor {name!r} is registered at {list(regs)}')
        if only_first:
            yield portals[0] if portals else None
        else:
            yield portals or None


@asynccontextmanager
async def wait_for_actor(name: str, registry_addr: Any = None) -> AsyncIterator[Portal]:
    """
    A portal to the actor of a name, for the block; waits until it is there.

    Args:
        name: its name.
        registry_addr: the registrar's address; this actor's own registry by default.

    Raises:
        OSError: the registrar cannot be reached.

    An entry where nobody listens any more is removed from the registry, and waited past.
    """
    async with AsyncExitStack() as stack:
        chan: Channel | None = None
        while chan is None:
            async with get_registry(registry_addr) as registry:
                addrs = await registry.run_from_ns('self', 'wait_for_actor', name=name)
                chan = await _connect_or_delete(stack, prefer_addr(addrs), registry)
        yield await stack.enter_async_context(open_portal(chan))


# -- electing a registrar -------------------------------------------------------------------------------------------


async def _probe_registry(
    addr: Any,
    timeout: float = 3,
    attempt_timeout: float = 1,
    max_attempts: int = 3,
    retry_delay: float = 0.05,
    close_timeout: float = 0.2,
) -> str:
    """
    What is at a registry address: `'registrar'`, `'occupied'` by something else, or `'absent'`.

    Args:
        addr: the address, wrapped.
        timeout, attempt_timeout, retry_delay, close_timeout: seconds.
        max_attempts: how often a listener that does not answer is tried.

    Only a completed handshake proves a registrar: anybody may listen there.
    """
    probe = _Probe()
    with trio.move_on_after(timeout):
        for attempt in range(1, max_attempts + 1):
            verdict = await probe.attempt(addr, attempt_timeout, close_timeout)
            if verdict is not None:
                return verdict
            if attempt < max_attempts:
                await trio.sleep(retry_delay * attempt)
    return 'occupied' if probe.connected else 'absent'


class _Probe:
    def __init__(self) -> None:
        self.connected = False

    async def attempt(self, addr: Any, timeout: float, close_timeout: float) -> str | None:
        """One try; `None` is worth another."""
        aid = Aid(name='registry-probe', uuid=mk_uuid(), pid=os.getpid(), is_probe=True)
        try:
            with trio.fail_after(timeout):
                async with _connect_chan(addr.unwrap(), close_timeout=close_timeout) as chan:
                    self.connected = True
                    peer = await chan._do_handshake(aid=aid, timeout=timeout)
                    return 'occupied' if peer.is_registrar is False else 'registrar'
        except OSError:
            return 'occupied' if self.connected else 'absent'
        except TransportClosed as closed:
            log.runtime('%s does not answer a probe: %s', addr, closed)
        except trio.TooSlowError:
            if not self.connected:
                return 'absent'
        return None


async def _probe_registry_addrs(
    addrs: list[Any], timeout: float = 3
) -> tuple[list[Any], list[Any]]:
    """Probe several addresses at once: those of registrars, and those of something else, in the given order."""
    verdicts: dict[int, str] = {}

    async def probe(index: int, addr: Any) -> None:
        verdicts[index] = await _probe_registry(addr, timeout=timeout)

    wrapped = [wrap_address(addr) for addr in addrs]
    async with trio.open_nursery() as tn:
        for index, addr in enumerate(wrapped):
            tn.start_soon(probe, index, addr)
    found = [addr for index, addr in enumerate(wrapped) if verdicts[index] == 'registrar']
    occupied = [addr for index, addr in enumerate(wrapped) if verdicts[index] == 'occupied']
    return found, occupied
