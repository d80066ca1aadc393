"""
An actor's entries in the registries: made at boot, renewed when a registrar comes back, removed at its end.

A registrar which is the root of the actor's own tree cannot come back: its death ends the tree. For any other one,
an independent program, the actor keeps the connection over which it registered. A task waits for the end of that
connection, which costs nothing as long as all is well: nothing is sent and nobody wakes up.

| link to a registrar | while | left when | for |
|---|---|---|---|
| none | the registrar is this actor, its parent or its root | never | - |
| kept | registered, connected | the connection is lost | away |
| away | nobody to talk to | 0.25 to 0.5 s are over | trying |
| trying | connecting, registering every address again | done | kept |
| trying | the same | refused, lost or too slow | away |
| closed | the actor goes down, from any state | never | - |

What is at the address must say that it is a registrar. The pause is random, so that the actors which a registrar
has lost do not all come back in the same instant.

The registrar knows these connections as those of peers. It waits for none of them when it ends; the actor closes
its own before it unregisters, which takes a fresh connection as ever.
"""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import trio

from tractor import log as _log
from tractor._exceptions import RemoteActorError, TransportClosed
from tractor.discovery._addr import wrap_address
from tractor.ipc._chan import Channel, _connect_chan
from tractor.runtime import _rpc, _state
from tractor.runtime._portal import LocalPortal, Portal, open_portal
from tractor.trionics._beg import collapse_eg

if TYPE_CHECKING:
    from tractor.runtime._runtime import Actor

log = _log.get_logger()

# seconds, shielded, for removing our entry from one registry
_UNREGISTER_TIMEOUT: float = 0.5

# seconds which a registrar has to take a connection and shake hands, and then for each answer
_ANSWER_WITHIN: float = 10.0

# seconds for connecting to a registrar that was lost: its host may be away, and back before the system would try again
_CONNECT_WITHIN: float = 1.0

# shortest and longest pause (seconds) before a lost registrar is tried again
_RETRY_PAUSE: tuple[float, float] = (0.25, 0.5)

# Of the connection to a registrar on another host, which may die without saying so: seconds until the system asks,
# between its questions, and how many of them may go unanswered.
_KEEPALIVE: dict[str, int] = {'TCP_KEEPIDLE': 10, 'TCP_KEEPINTVL': 5, 'TCP_KEEPCNT': 3}

_NO_ANSWER = (OSError, TransportClosed, RemoteActorError)


# -- talking to a registrar -----------------------------------------------------------------------------------------


@asynccontextmanager
async def open_registry_portal(addr: Any) -> AsyncIterator[Portal | LocalPortal]:
    """
    A portal to the registrar at an address; to this actor itself if it is one.

    Raises:
        OSError: nobody listens there, or who does says nothing (`TimeoutError`).
        TransportClosed: it closed the connection, or is no actor.
    """
    actor = _state.current_actor()
    if actor.is_registrar:
        yield LocalPortal(actor, Channel(transport=None))
        return
    async with AsyncExitStack() as stack:
        with _bounded(addr, _ANSWER_WITHIN):
            chan = await stack.enter_async_context(_connect_chan(wrap_address(addr)))
            await chan._do_handshake(aid=actor.aid)
        # Shielded, like all that read in lookups: who cancels a lookup is to see just that, not in addition that its
        # connection has ended.
        yield await stack.enter_async_context(open_portal(chan, shield=True))


async def ask_registry(registry: Portal | LocalPortal, func: str, **kwargs: Any) -> Any:
    """
    Make a request to a registrar that can be answered at once.

    Args:
        registry: the portal to it.
        func: one of its requests.
        kwargs: the arguments.

    Raises:
        TimeoutError: it does not answer.
        TransportClosed: it is gone.
        RemoteActorError: it refuses.
    """
    with _bounded(registry.chan.raddr, _ANSWER_WITHIN):
        return await registry.run_from_ns('self', func, **kwargs)


@contextmanager
def _bounded(addr: Any, seconds: float) -> Iterator[None]:
    """`TimeoutError` about the registrar at `addr` after so many seconds, unless people are debugging the tree."""
    with trio.move_on_after(float('inf') if _state.is_debug_mode() else seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise TimeoutError(
            f'the registrar at {addr} did not answer within {seconds} s: '
            'it cannot be reached, is stuck, or something else listens there'
        )


# -- the entries ----------------------------------------------------------------------------------------------------


async def register(actor: Actor, registered: list[Any], tn: trio.Nursery) -> None:
    """
    Enter every address this actor listens on into every registry.

    Args:
        actor: the actor.
        registered: gets the address of each registry which may know the actor from now on, also when this fails.
        tn: runs the tasks that register again when a registrar comes back.

    Raises:
        OSError: a registry cannot be reached, or does not answer.
        TransportClosed, RemoteActorError: it does not answer any more, or refuses.
    """
    for reg_addr in actor.reg_addrs:
        if _dies_with(actor, reg_addr):
            async with open_registry_portal(reg_addr) as registry:
                registered.append(reg_addr)
                await _enter(actor, registry)
        else:
            link = _Link(actor, reg_addr, registered)
            await tn.start(link.run, name=f'link to the registrar at {reg_addr}')


def _dies_with(actor: Actor, reg_addr: Any) -> bool:
    """Whether this actor cannot outlive that registrar."""
    if actor.is_registrar:
        return True
    addr = wrap_address(reg_addr)
    parent = actor._parent_chan
    if parent is None:
        return False
    roots = _state._runtime_vars['_root_addrs']
    return parent.raddr == addr or any(wrap_address(root) == addr for root in roots)


async def _enter(actor: Actor, registry: Portal | LocalPortal) -> None:
    for addr in actor.accept_addrs:
        await ask_registry(registry, 'register_actor', uid=actor.aid.uid, addr=addr)


class _Link:
    """
    Keeps this actor registered with one registrar, see the table above.

    Args:
        actor: the actor.
        reg_addr: where the registrar listens.
        registered: gets that address as soon as the registrar may know the actor.
    """

    def __init__(self, actor: Actor, reg_addr: Any, registered: list[Any]) -> None:
        self._actor = actor
        self._addr = reg_addr
        self._registered = registered
        self._up = False

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Register, say so, and from then on whenever the registrar was lost."""
        while True:
            try:
                await self._hold(task_status)
            except _NO_ANSWER as err:
                if not self._up:
                    raise
                log.runtime('the registrar at %s does not answer: %s', self._addr, err)
            await trio.sleep(random.uniform(*_RETRY_PAUSE))

    async def _hold(self, task_status: trio.TaskStatus[None]) -> None:
        """Connect, register, and wait until the connection is lost."""
        async with AsyncExitStack() as stack:
            with _bounded(self._addr, _CONNECT_WITHIN if self._up else _ANSWER_WITHIN):
                chan = await stack.enter_async_context(_connect_chan(self._addr))
            with _bounded(self._addr, _ANSWER_WITHIN):
                await self._check(chan)
            await stack.enter_async_context(collapse_eg())
            tn = await stack.enter_async_context(trio.open_nursery())
            lost = trio.Event()
            reading = await tn.start(_read_until_lost, chan, lost)
            try:
                if self._addr not in self._registered:
                    self._registered.append(self._addr)
                await _enter(self._actor, Portal(chan))
                self._say_so(task_status)
                await lost.wait()
            finally:
                reading.cancel()

    def _say_so(self, task_status: trio.TaskStatus[None]) -> None:
        if self._up:
            log.info('registered again at %s, which was away', self._addr)
            return
        self._up = True
        task_status.started()

    async def _check(self, chan: Channel) -> None:
        peer = await chan._do_handshake(aid=self._actor.aid)
        if peer.is_registrar is False:
            raise ConnectionRefusedError(f'{peer.reprol()} at {self._addr} is no registrar')
        _notice_dead_host(chan)


async def _read_until_lost(
    chan: Channel,
    lost: trio.Event,
    task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
) -> None:
    # shielded: a request that is cancelled from outside is to see that, not the end of its connection
    try:
        await _rpc.process_messages(chan, shield=True, task_status=task_status)
    except (TransportClosed, RemoteActorError) as err:
        log.runtime('%s failed: %s', chan.aid, err)
    finally:
        lost.set()


def _notice_dead_host(chan: Channel) -> None:
    """Let the system find out whether the host at the other end is still there: this process sleeps meanwhile."""
    if chan.raddr.proto_key != 'tcp' or not isinstance(chan.stream, trio.SocketStream):
        return
    chan.stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        if hasattr(socket, option):
            chan.stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def unregister(actor: Actor, reg_addrs: list[Any]) -> None:
    """
    Remove this actor's entry from the registries, from all at once.

    Shielded, at most half a second; failures are logged.
    """
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as tn:
            for reg_addr in reg_addrs:
                tn.start_soon(_unregister, actor, reg_addr)


async def _unregister(actor: Actor, reg_addr: Any) -> None:
    try:
        # inside of the collapsing: a connection that is given up at the deadline has its own error to add
        async with collapse_eg():
            with trio.move_on_after(_UNREGISTER_TIMEOUT) as scope:
                await _unregister_from(actor, reg_addr)
    except _NO_ANSWER as err:
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
