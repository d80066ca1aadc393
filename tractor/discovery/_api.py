"""
Finding actors by name.

Every lookup asks a registrar; connections to peers are never reused for it, so that what is found is really there.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio

from tractor import log as _log
from tractor._exceptions import TransportClosed
from tractor.discovery._addr import default_lo_addrs, mk_uuid, wrap_address
from tractor.ipc._access import AccessDenied
from tractor.ipc._chan import Channel, _connect_chan
from tractor.msg.types import Aid
from tractor.runtime import _state
from tractor.runtime._portal import LocalPortal, Portal, open_portal
from tractor.runtime._registration import ask_registry, open_registry_portal

log = _log.get_logger()

Unwrapped = tuple[str, Any]

# how often somebody that hangs up during the handshake is called, and the pause after the first time (seconds)
_GREETINGS: int = 3
_GREETING_PAUSE: float = 0.05

# what a connection fails with for reasons of our own: it says nothing about who listens
_OUT_OF_RESOURCES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL}
)

# first and longest pause (seconds) before an address which the registry keeps is tried again
_WAIT_PAUSE: float = 0.05
_WAIT_PAUSE_MAX: float = 0.5


# -- asking a registrar ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def get_registry(addr: Any = None) -> AsyncIterator[Portal | LocalPortal]:
    """
    A portal to a registrar, for the block.

    Args:
        addr: where it listens: wrapped, unwrapped or a multiaddr, like every address here; this actor's own registry by
            default. Ignored in a registrar itself.

    Raises:
        OSError: nobody listens there, or who does says nothing for 10 s (`TimeoutError`).
        TransportClosed: it closed the connection, or is no actor.
        ValueError, TypeError: `addr` is no address.
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
    kwargs.setdefault('shield', True)
    async with _connect_chan(mailbox) as chan, open_portal(chan, **kwargs) as portal:
        yield portal


def get_peer_by_name(name: str) -> list[Channel] | None:
    """The channels of connected peers of that name. For looking at: lookups do not use them."""
    server = _state.current_actor().ipc_server
    found = [chan for uid, chans in server._peers.items() if uid[0] == name for chan in chans]
    return found or None


def prefer_addr(addrs: list[Unwrapped]) -> Unwrapped:
    """The best of several addresses: a UNIX socket, else one of this host, else the rest; the latest of these."""
    if len(addrs) == 1:
        return addrs[0][0], addrs[0][1]
    best = max(enumerate(addrs), key=lambda item: (_nearness(item[1]), item[0]))[1]
    return best[0], best[1]


def _nearness(addr: Unwrapped) -> int:
    if not isinstance(addr[1], int):
        return 2
    return int(_is_of_this_host(addr[0]))


def _is_of_this_host(host: str) -> bool:
    """Whether an address literal is one of ours: only such a one can be bound, which asks no name server."""
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    try:
        packed = socket.inet_pton(family, host)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        # a name, or somebody else's
        return False
    return any(packed)


@asynccontextmanager
async def query_actor(
    name: str, regaddr: Any = None
) -> AsyncIterator[tuple[Unwrapped | None, Portal | LocalPortal | None]]:
    """
    Where the actor of a name listens, and the portal to the registrar that said so, for the block.

    Args:
        name: the actor's name, or its uuid.
        regaddr: the registrar's address; this actor's own registry by default.

    Yields:
        `(addr, portal)`; the address is `None` when the registrar knows nobody of that name.

    Raises:
        RuntimeError: a registrar asks for `'registrar'`, itself.
        OSError: the registrar cannot be reached, or does not answer.
        TransportClosed: it was lost before it had answered.
    """
    actor = _state.current_actor()
    if actor.is_registrar and name == 'registrar':
        raise RuntimeError('this actor is the registrar: it need not look itself up')
    async with get_registry(regaddr) as registry:
        yield await _where_is(name, registry), registry


async def _where_is(name: str, registry: Portal | LocalPortal) -> Unwrapped | None:
    addrs = await ask_registry(registry, 'find_actor', name=name)
    return prefer_addr(addrs) if addrs else None


# -- portals to what was found --------------------------------------------------------------------------------------


@asynccontextmanager
async def maybe_open_portal(addr: Any, name: str) -> AsyncIterator[Portal | None]:
    """
    A portal to the actor of a name, or `None`, for the block.

    Args:
        addr: the registrar's address.
        name: the actor's name, or its uuid.

    Raises:
        the same as `query_actor()`.

    An entry where nobody listens any more is removed from the registry. Then the next one of that name counts.
    """
    async with AsyncExitStack() as stack:
        yield await _portal_by_name(stack, addr, name)


async def _portal_by_name(stack: AsyncExitStack, regaddr: Any, name: str) -> Portal | None:
    tried: set[Unwrapped] = set()
    chan: Channel | None = None
    async with query_actor(name, regaddr) as (first, registry):
        assert registry is not None
        addr = first
        while chan is None and addr is not None and addr not in tried:
            tried.add(addr)
            chan = await _connect_to(stack, name, addr, registry)
            if chan is None:
                addr = await _where_is(name, registry)
    if chan is None:
        return None
    return await stack.enter_async_context(open_portal(chan, shield=True))


async def _connect_to(
    stack: AsyncExitStack, name: str, addr: Unwrapped, registry: Portal | LocalPortal
) -> Channel | None:
    """A connection to the actor of a name at an address, closed with `stack`; `None` if it is not there any more."""
    try:
        chan = await _greet(stack, addr)
    except OSError as err:
        if err.errno in _OUT_OF_RESOURCES:
            raise
        log.warning('nobody listens at %s any more: %s', addr, err)
    else:
        assert chan.aid is not None
        if name in chan.aid.uid:
            return chan
        # whose address that is now will say so to the registrar itself: its entry must not be deleted
        log.runtime('%s is not at %s any more, but %s', name, addr, chan.aid.reprol())
        return None
    # outside of the handler: a cancellation of this call hides no error
    await ask_registry(registry, 'delete_addr', addr=addr)
    return None


async def _greet(stack: AsyncExitStack, addr: Unwrapped) -> Channel:
    """
    Connect and shake hands.

    An actor which just stops listening closes what it had not accepted yet; soon it will refuse connections.
    """
    aid = _state.current_actor().aid
    for attempt in range(1, _GREETINGS):
        async with AsyncExitStack() as this_time:
            chan = await this_time.enter_async_context(_connect_chan(addr))
            try:
                await chan._do_handshake(aid=aid)
            except AccessDenied:
                raise
            except TransportClosed as closed:
                log.runtime('%s hung up: %s', addr, closed)
            else:
                stack.push_async_exit(this_time.pop_all())
                return chan
        await trio.sleep(_GREETING_PAUSE * attempt)
    chan = await stack.enter_async_context(_connect_chan(addr))
    await chan._do_handshake(aid=aid)
    return chan


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
        name: its name, or its uuid. Of several with one name the one that registered last is meant.
        registry_addrs: the registrars to ask; this tree's by default. Ignored in a registrar, which asks itself.
        enable_transports: whose default registry to ask when this tree has none.
        only_first: yield the first that is found; a list of all otherwise, one per registrar at most.
        raise_on_none: raise instead of yielding `None`.

    Raises:
        RuntimeError: nobody was found, with `raise_on_none`.
        OSError: nobody was found, and a registrar cannot be reached or does not answer.
        TransportClosed: nobody was found, and a registrar was lost before it had answered.

    An entry where nobody listens any more is removed from the registry.
    """
    regs = (
        registry_addrs
        or _state._runtime_vars['_registry_addrs']
        or default_lo_addrs(enable_transports or _state.current_ipc_protos())
    )
    if _state.current_actor().is_registrar:
        # whatever the address, it is this actor that answers
        regs = list(regs)[:1]
    async with AsyncExitStack() as stack:
        portals = await _portals_by_name(stack, regs, name, only_first)
        if not portals and raise_on_none:
            raise RuntimeError(f'no actor {name!r} is registered at {list(regs)}')
        if only_first:
            yield portals[0] if portals else None
        else:
            yield portals or None


async def _portals_by_name(
    stack: AsyncExitStack, regs: list[Any], name: str, only_first: bool
) -> list[Portal]:
    portals: list[Portal] = []
    unreachable: list[OSError | TransportClosed] = []
    for regaddr in regs:
        try:
            portal = await _portal_by_name(stack, regaddr, name)
        except (OSError, TransportClosed) as err:
            if len(regs) > 1:
                log.warning('the registrar at %s was not asked for %r: %s', regaddr, name, err)
            unreachable.append(err)
            continue
        if portal is not None:
            portals.append(portal)
            if only_first:
                break
    if unreachable and not portals:
        # who could not be asked may know that name
        try:
            raise unreachable[0]
        finally:
            unreachable.clear()
    return portals


@asynccontextmanager
async def wait_for_actor(name: str, registry_addr: Any = None) -> AsyncIterator[Portal]:
    """
    A portal to the actor of a name, for the block; waits until it is there.

    Args:
        name: its name.
        registry_addr: the registrar's address; this actor's own registry by default.

    Raises:
        OSError: the registrar cannot be reached, or does not answer.
        TransportClosed: it was lost meanwhile.

    An entry where nobody listens any more is removed from the registry, and waited past. There is no time limit; the
    waiting can be cancelled.
    """
    async with AsyncExitStack() as stack:
        yield await _wait_for_portal(stack, name, registry_addr)


async def _wait_for_portal(stack: AsyncExitStack, name: str, regaddr: Any) -> Portal:
    chan: Channel | None = None
    pause = _WAIT_PAUSE
    async with get_registry(regaddr) as registry:
        # a first answer at once, also from a registrar which then has a reason to be silent
        await ask_registry(registry, 'find_actor', name=name)
        tried: set[Unwrapped] = set()
        while chan is None:
            addr = prefer_addr(await registry.run_from_ns('self', 'wait_for_actor', name=name))
            if addr in tried:
                # its entry stays, for whatever reason
                await trio.sleep(pause)
                pause = min(2 * pause, _WAIT_PAUSE_MAX)
            tried.add(addr)
            chan = await _connect_to(stack, name, addr, registry)
    return await stack.enter_async_context(open_portal(chan, shield=True))


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
        except AccessDenied:
            raise
        except TransportClosed as closed:
            log.runtime('%s does not answer a probe: %s', addr, closed)
        except trio.TooSlowError:
            if not self.connected:
                return 'absent'
        return None


async def _probe_registry_addrs(
    addrs: list[Any], timeout: float = 3
) -> tuple[list[Any], list[Any]]:
    """
    Probe several addresses at once: those of registrars, and those of something else, in the given order.

    Raises:
        AccessDenied: one of them refuses us, or is to be refused.
    """
    verdicts: dict[int, str] = {}
    denied: list[AccessDenied] = []

    async def probe(index: int, addr: Any) -> None:
        try:
            verdicts[index] = await _probe_registry(addr, timeout=timeout)
        except AccessDenied as err:
            denied.append(err)

    wrapped = [wrap_address(addr) for addr in addrs]
    async with trio.open_nursery() as tn:
        for index, addr in enumerate(wrapped):
            tn.start_soon(probe, index, addr)
    if denied:
        # not an error of this call's own making: its traceback must not keep this frame
        try:
            raise denied[0]
        finally:
            denied.clear()
    found = [addr for index, addr in enumerate(wrapped) if verdicts[index] == 'registrar']
    occupied = [addr for index, addr in enumerate(wrapped) if verdicts[index] == 'occupied']
    return found, occupied
