"""
The listening side of an actor: endpoints, the table of connected peers, and who waits for whom.

| state | set when | cleared when |
|---|---|---|
| `_peers[uid]` | a peer completed its handshake | its last channel's message loop ended |
| `_peer_connected[uid]` | somebody expects that peer | the peer connected, or nobody expects it any more |
| `_no_more_peers` | no peer is tracked (also at the start) | a peer is tracked |
| `_shutdown` | the last group of listeners is gone | never: it does not exist before the first group listens |

A probe (`Aid.is_probe`) is answered and dropped; it touches none of these.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import trio

from tractor import log as _log
from tractor._exceptions import RemoteActorError, TransportClosed
from tractor.discovery._addr import default_lo_addrs, wrap_address
from tractor.ipc._access import AccessDenied, Refusals
from tractor.ipc._chan import Channel
from tractor.ipc._types import backend_from_addr
from tractor.msg.types import Aid
from tractor.runtime import _state
from tractor.trionics._beg import collapse_eg

log = _log.get_logger()

Uid = tuple[str, str]

# seconds which an accepted connection has to say who it is
_PRE_REG_HANDSHAKE_TIMEOUT: float = 10

# Accepted connections that have not said who they are. With one more the oldest is dropped: an actor needs a
# few milliseconds for it, so that connections which say nothing do not keep actors out.
_MAX_HALF_OPEN: int = 256

# what `accept()` fails with when a resource is exhausted, and the seconds until it is tried again
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_ACCEPT_RETRY: float = 0.1


class Endpoint:
    """
    One listening address.

    Args:
        addr: where to listen; replaced by the address really bound (a port 0 becomes the port it got).
        listen_tn: the nursery of the accept loops.
        stream_handler_tn: the nursery of the accepted connections.
    """

    def __init__(
        self, addr: Any, listen_tn: trio.Nursery, stream_handler_tn: trio.Nursery | None = None
    ) -> None:
        self.addr = addr
        self.listen_tn = listen_tn
        self.stream_handler_tn = stream_handler_tn
        self.peer_tpts: dict[Any, Any] = {}
        self.refusals = Refusals(lambda: self.addr)
        self._listener: Any = None

    async def start_listener(self) -> Any:
        """
        Bind.

        Raises:
            OSError: the address cannot be bound.
        """
        backend = backend_from_addr(self.addr)
        self._listener = await backend.start_listener(self.addr)
        self.addr = backend.bound_addr(self.addr, self._listener)
        return self._listener

    def close_listener(self) -> None:
        """Stop listening and remove what the address left in the file system; a second call does nothing."""
        listener, self._listener = self._listener, None
        self.refusals.close()
        if listener is not None:
            backend_from_addr(self.addr).close_listener(self.addr, listener)

    def __repr__(self) -> str:
        state = 'listening' if self._listener is not None else 'closed'
        return f'<Endpoint {self.addr} {state}>'


class Server:
    """
    The listeners of one actor and the peers that came through them.

    Made by `open_ipc_server()`.
    """

    def __init__(self, parent_tn: trio.Nursery, stream_handler_tn: trio.Nursery) -> None:
        self._parent_tn = parent_tn
        self._stream_handler_tn = stream_handler_tn
        self._no_more_peers = trio.Event()
        self._no_more_peers.set()
        self._endpoints: list[Endpoint] = []
        self._peers: dict[Uid, list[Channel]] = {}
        self._peer_connected: dict[Uid, trio.Event] = {}
        self._shutdown: trio.Event | None = None
        # what ends each group of listeners, also of those that are not bound yet
        self._groups: list[trio.CancelScope] = []
        # oldest first
        self._half_open: dict[trio.CancelScope, None] = {}
        # why nothing could be accepted the last time, and who wants to know
        self._exhausted: OSError | None = None
        self._exhausted_lot = trio.lowlevel.ParkingLot()

    # -- listening ------------------------------------------------------------------------------------------------

    async def listen_on(
        self,
        *,
        accept_addrs: list[Any] | None = None,
        stream_handler_nursery: trio.Nursery | None = None,
    ) -> list[Endpoint]:
        """
        Bind all of these addresses and accept on them.

        Args:
            accept_addrs: wrapped or unwrapped addresses or multiaddrs; `None` is the default loopback address.
            stream_handler_nursery: where accepted connections are served; the server's own by default.

        Returns:
            One endpoint per address; all accept by now.

        Raises:
            OSError: one cannot be bound; then none is.
            RuntimeError: the server has been shut down.
        """
        if self.is_shutdown():
            raise RuntimeError('this IPC server has been shut down: it cannot listen again')
        if accept_addrs is None:
            accept_addrs = list(default_lo_addrs([_state._def_tpt_proto]))
        addrs = [wrap_address(addr) for addr in accept_addrs]
        handlers = stream_handler_nursery or self._stream_handler_tn
        endpoints: list[Endpoint] = await self._parent_tn.start(self._serve_group, addrs, handlers)
        return endpoints

    @trio.lowlevel.enable_ki_protection
    async def _serve_group(
        self,
        addrs: list[Any],
        handlers: trio.Nursery,
        task_status: trio.TaskStatus[list[Endpoint]],
    ) -> None:
        group: list[Endpoint] = []
        scope = trio.CancelScope()
        self._groups.append(scope)
        try:
            with scope:
                async with collapse_eg(), trio.open_nursery() as listen_tn:
                    for addr in addrs:
                        endpoint = Endpoint(addr, listen_tn, handlers)
                        group.append(endpoint)
                        await endpoint.start_listener()
                    # who gave up meanwhile has not begun to listen, hence there is nothing that ends
                    await trio.lowlevel.checkpoint_if_cancelled()
                    if self._shutdown is None:
                        self._shutdown = trio.Event()
                    for endpoint in group:
                        listen_tn.start_soon(self._accept, endpoint, handlers)
                    self._endpoints += group
                    task_status.started(list(group))
        finally:
            self._close_group(group, scope)

    @trio.lowlevel.enable_ki_protection
    async def _accept(self, endpoint: Endpoint, handlers: trio.Nursery) -> None:
        # not `trio.serve_listeners()`: there the error of a handler which is cancelled at that moment is lost
        listener = endpoint._listener
        assert listener is not None
        while True:
            try:
                stream = await listener.accept()
            except OSError as err:
                if err.errno not in _OUT_OF_RESOURCES:
                    raise
                log.error('no further connections are accepted for now: %s', err)
                self._exhausted = err
                self._exhausted_lot.unpark_all()
                await trio.sleep(_ACCEPT_RETRY)
                continue
            self._exhausted = None
            try:
                handlers.start_soon(self._handle, stream, endpoint.refusals)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(stream)
                raise

    def _close_group(self, group: list[Endpoint], scope: trio.CancelScope) -> None:
        for endpoint in group:
            if endpoint in self._endpoints:
                self._endpoints.remove(endpoint)
            try:
                endpoint.close_listener()
            except OSError as err:
                log.warning('closing %r failed: %s', endpoint, err)
        self._groups.remove(scope)
        if not self._groups and self._shutdown is not None:
            self._shutdown.set()

    @trio.lowlevel.enable_ki_protection
    async def _handle(self, stream: trio.SocketStream, refusals: Refusals) -> None:
        await handle_stream_from_peer(stream, server=self, refusals=refusals)

    async def wait_exhausted(self, patience: float) -> OSError:
        """
        Wait until no connection can be accepted any more, because the system lacks something for it.

        Args:
            patience: seconds in which that may pass.

        Returns:
            What is lacking.
        """
        while True:
            if self._exhausted is None:
                await self._exhausted_lot.park()
            await trio.sleep(patience)
            if (lacking := self._exhausted) is not None:
                return lacking

    def cancel(self) -> bool:
        """Stop accepting, and cancel what runs in the same nursery; `True` if there was anything to stop."""
        running = not self.is_shutdown()
        self._parent_tn.cancel_scope.cancel()
        return running

    def stop_listening(self) -> None:
        """Stop accepting; connections already accepted go on."""
        for scope in self._groups:
            scope.cancel()

    async def wait_for_shutdown(self) -> None:
        """Wait until every listener is gone; returns at once when none ever was."""
        if self._shutdown is None:
            log.warning('this IPC server never listened: nothing to wait for')
            return
        await self._shutdown.wait()

    def is_shutdown(self) -> bool:
        """Whether listeners were there and all are gone."""
        return self._shutdown is not None and self._shutdown.is_set()

    # -- peers ----------------------------------------------------------------------------------------------------

    def expect_peer(self, uid: Uid) -> trio.Event:
        """Announce that `uid` will connect; the event is set once it has."""
        event = self._peer_connected.get(uid)
        if event is None:
            event = trio.Event()
            if self._peers.get(uid):
                event.set()
            else:
                self._peer_connected[uid] = event
        return event

    def forget_peer(self, uid: Uid) -> None:
        """Nobody waits for `uid` any more."""
        self._peer_connected.pop(uid, None)

    async def wait_for_peer(self, uid: Uid) -> tuple[trio.Event, Channel]:
        """
        Wait until `uid` is connected.

        Returns:
            The event that was waited for, and the newest channel of that peer.

        Nothing here notices that a peer will never come: race it against the death of its process.
        """
        while True:
            event = self.expect_peer(uid)
            await event.wait()
            chans = self._peers.get(uid)
            if chans:
                return event, chans[-1]
            # it came and went before this task had its turn

    def _track(self, uid: Uid, chan: Channel) -> None:
        if self._no_more_peers.is_set():
            self._no_more_peers = trio.Event()
        event = self._peer_connected.pop(uid, None)
        if event is not None:
            event.set()
        self._peers.setdefault(uid, []).append(chan)

    def _untrack(self, uid: Uid, chan: Channel) -> None:
        chans = self._peers.get(uid, [])
        if chan in chans:
            chans.remove(chan)
        if not chans:
            self._peers.pop(uid, None)
        if not self._peers:
            self._no_more_peers.set()

    def has_peers(self, check_chans: bool = False) -> bool:
        """
        Whether any peer is connected.

        Args:
            check_chans: count only channels that are still connected.
        """
        if not check_chans:
            return not self._no_more_peers.is_set()
        return any(chan.connected() for chans in self._peers.values() for chan in chans)

    def len_peers(self) -> int:
        """How many channels are tracked."""
        return sum(len(chans) for chans in self._peers.values())

    async def wait_for_no_more_peers(self) -> None:
        """Wait until no peer is connected. Bound it: a peer may stay as long as it likes."""
        await self._no_more_peers.wait()

    # -- what it is -----------------------------------------------------------------------------------------------

    @property
    def proto_keys(self) -> list[str]:
        """The transport of each endpoint."""
        return [endpoint.addr.proto_key for endpoint in self._endpoints]

    @property
    def addrs(self) -> list[Any]:
        """The wrapped address of each endpoint."""
        return [endpoint.addr for endpoint in self._endpoints]

    @property
    def accept_addrs(self) -> list[tuple[str, Any]]:
        """The unwrapped address of each endpoint."""
        return [endpoint.addr.unwrap() for endpoint in self._endpoints]

    def epsdict(self) -> dict[Any, Endpoint]:
        """The endpoints by their address."""
        return {endpoint.addr: endpoint for endpoint in self._endpoints}

    @property
    def repr_state(self) -> str:
        """One word for the phase it is in."""
        if self._shutdown is None:
            return 'never-started'
        return 'shutdown' if self._shutdown.is_set() else 'listening'

    def pformat(self, privates: bool = False) -> str:
        """Several lines for people: state, addresses, peers."""
        lines = [
            f'state: {self.repr_state}',
            f'addrs: {self.addrs}',
            f'channels: {self.len_peers()}',
        ]
        if privates:
            lines.append(f'_peers: {list(self._peers)}')
        return '<Server(\n' + ''.join(f' |_{line}\n' for line in lines) + ')>'

    __repr__ = pformat


IPCServer = Server


async def handle_stream_from_peer(
    stream: trio.SocketStream, *, server: Server, refusals: Refusals | None = None
) -> None:
    """
    Serve one accepted connection until it ends.

    Args:
        stream: the connection.
        server: whose it is.
        refusals: where its listener counts those it does not let in; by default each is logged.

    Whatever arrives on it, the failure ends here with this connection: nothing escapes that would harm the others.
    The stream is closed when this returns, also when it is cancelled.
    """
    async with stream_closed_at_end(stream):
        actor = _state.current_actor(err_on_no_runtime=False)
        if actor is None:
            log.warning('dropping a connection: this process has no actor runtime to answer with')
            return
        chan = await _greet(
            stream, actor.aid, server, refusals or Refusals(lambda: 'an IPC server')
        )
        if chan is None or chan.aid is None:
            return
        await _serve_peer(chan, chan.aid, actor, server)


@asynccontextmanager
async def stream_closed_at_end(stream: Any) -> AsyncIterator[None]:
    """Close a stream at the end of the block without waiting for anybody."""
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


async def _greet(
    stream: trio.SocketStream, aid: Aid, server: Server, refusals: Refusals
) -> Channel | None:
    """
    Shake hands; `None` when there is nobody to serve: a probe, garbage, a peer that is gone or too slow, or may not in.
    """
    chan: Channel | None = None
    with _half_open(server) as scope:
        try:
            chan = Channel.from_stream(stream)
            await chan._do_handshake(aid=aid, timeout=_PRE_REG_HANDSHAKE_TIMEOUT)
        except AccessDenied as denied:
            refusals.note(denied)
        except (TransportClosed, OSError) as err:
            # an `OSError` is a connection that was reset before anybody could look at it
            log.runtime('no handshake with an accepted connection:\n%s', err)
    if scope.cancelled_caught:
        log.runtime('dropped an accepted connection: too many others say nothing either\n%r', chan)
    if chan is None or chan.aid is None or chan.aid.is_probe:
        return None
    return chan


@contextmanager
def _half_open(server: Server) -> Iterator[trio.CancelScope]:
    """Count a connection as one that has not said who it is, for the block; may cancel another such block."""
    scopes = server._half_open
    while len(scopes) >= _MAX_HALF_OPEN:
        oldest = next(iter(scopes))
        del scopes[oldest]
        oldest.cancel()
    with trio.CancelScope() as scope:
        scopes[scope] = None
        try:
            yield scope
        finally:
            scopes.pop(scope, None)


async def _serve_peer(chan: Channel, aid: Aid, actor: Any, server: Server) -> None:
    serve: Callable[[Channel], Awaitable[tuple[bool, Any]]] = actor.serve_channel
    uid = aid.uid
    server._track(uid, chan)
    disconnected = False
    try:
        disconnected, _ = await serve(chan)
    except RemoteActorError as err:
        # the peer's runtime failed as a whole: whoever waits for it has been told, this actor goes on
        if err is not chan._exc:
            raise
        log.error('%s failed: %s', aid.reprol(), err)
    finally:
        try:
            await actor.on_peer_gone(uid, chan, disconnected)
        finally:
            server._untrack(uid, chan)


@asynccontextmanager
async def open_ipc_server(
    parent_tn: trio.Nursery | None = None,
    stream_handler_tn: trio.Nursery | None = None,
) -> AsyncIterator[Server]:
    """
    A server for the block; it listens once `listen_on()` is called.

    Args:
        parent_tn: runs the listeners; without one the server opens its own and cancels it at the end.
        stream_handler_tn: runs the accepted connections; `parent_tn` by default.

    On exit all listeners are gone. Accepted connections live as long as the nursery they run in.
    """
    if parent_tn is None:
        async with collapse_eg(), trio.open_nursery() as own_tn:
            try:
                yield Server(own_tn, stream_handler_tn or own_tn)
            finally:
                own_tn.cancel_scope.cancel()
        return
    server = Server(parent_tn, stream_handler_tn or parent_tn)
    try:
        yield server
    finally:
        server.stop_listening()
        if server._shutdown is not None:
            with trio.CancelScope(shield=True):
                await server._shutdown.wait()
