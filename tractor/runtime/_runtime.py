"""
The `Actor`: what one `trio.run()` of the tree knows about itself, and what its peers may ask of it.

| cancellation, in order | why there |
|---|---|
| 1. remember who asked first | later requests change nothing |
| 2. cancel every RPC task, wait for all | their outcomes are sent before the request is acknowledged |
| 3. stop listening, wait until that is done | nobody new gets in |
| 4. break the shield of the parent's message loop | it would outlive everything else |
| 5. cancel the service nursery | connections and background tasks end |
| 6. `_cancel_complete` | the acknowledgement goes out |
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from types import ModuleType
from typing import TYPE_CHECKING, Any

import trio

from tractor import log as _log
from tractor._context import Context, mk_context
from tractor._exceptions import ContextCancelled, ModuleNotExposed, TransportClosed
from tractor.discovery._addr import mk_uuid, wrap_address
from tractor.msg.types import Aid, Start
from tractor.runtime import _loss, _rpc, _state
from tractor.runtime._main import async_main as async_main
from tractor.runtime._mods import get_mod_nsps2fps, load_modules
from tractor.runtime._portal import Portal
from tractor.spawn._mp_fixup_main import _mp_figure_out_main

if TYPE_CHECKING:
    from tractor.ipc import Channel, IPCServer
    from tractor.msg.types import SpawnSpec

log = _log.get_logger()

Uid = tuple[str, str]

# seconds for what a cancelled child still has to say, and for its nursery here to notice that it is gone
_DRAIN_TIMEOUT: float = 0.5


class Actor:
    """
    One actor. Built in the parent as the description of a child, and again in the child as the real thing.

    Args:
        name: its name; need not be unique.
        uuid: its identity, see `mk_uuid()`.
        enable_modules: module paths whose functions peers may call; imported right here.
        loglevel: console level, passed on verbatim.
        registry_addrs: where it registers, wrapped or unwrapped.
        spawn_method: the backend it was started with.
        inherit_parent_main: replay the parent's `__main__` module in this actor.
        arbiter_addr: deprecated, use `registry_addrs`.

    Raises:
        ModuleNotFoundError: one of `enable_modules` cannot be imported; so do other errors of importing it.
    """

    is_registrar: bool = False
    msg_buffer_size: int = 64

    # `Actor` methods which peers may call; everything else is answered with an error
    _rpc_methods: frozenset[str] = frozenset()

    def __init__(
        self,
        name: str,
        uuid: str,
        *,
        enable_modules: list[str] | None = None,
        loglevel: str | None = None,
        registry_addrs: list[Any] | None = None,
        spawn_method: str | None = None,
        inherit_parent_main: bool = True,
        arbiter_addr: tuple[str, int] | None = None,
    ) -> None:
        if arbiter_addr is not None:
            warnings.warn(
                '`Actor(arbiter_addr=)` is deprecated, use `registry_addrs=`',
                DeprecationWarning,
                stacklevel=2,
            )
            registry_addrs = registry_addrs or [arbiter_addr]
        self._aid = Aid(name=name, uuid=uuid, pid=os.getpid(), is_registrar=self.is_registrar)
        self.lifetime_stack = ExitStack()
        self.loglevel = loglevel
        self.enable_modules: dict[str, str] = get_mod_nsps2fps(enable_modules or [])
        self._mods: dict[str, ModuleType] = {}
        self._spawn_method = spawn_method
        self._inherit_parent_main = inherit_parent_main
        self._parent_main_data: dict[str, str] = dict(_mp_figure_out_main(inherit_parent_main))  # type: ignore[arg-type]
        self._spawn_spec: SpawnSpec | None = None
        self._forkserver_info: Any = None
        self._infected_aio = False
        self._reg_addrs: list[tuple[str, Any]] = []
        if registry_addrs:
            self.reg_addrs = [wrap_address(addr).unwrap() for addr in registry_addrs]
            _state._runtime_vars['_registry_addrs'] = list(self.reg_addrs)

        self._root_tn: trio.Nursery | None = None
        self._service_tn: trio.Nursery | None = None
        self._ipc_server: IPCServer | None = None
        self._parent_chan: Channel | None = None
        self._parent_chan_cs: trio.CancelScope | None = None
        self._task: trio.lowlevel.Task | None = None

        # by connection, not by peer: both ends of a connection to ourselves have the same peer
        self._contexts: dict[tuple[Channel, str], Context] = {}
        self._rpc_tasks: dict[
            tuple[Channel, str], tuple[Context, Callable[..., Any], trio.Event]
        ] = {}
        self._ongoing_rpc_tasks = trio.Event()
        self._ongoing_rpc_tasks.set()
        self._actoruid2nursery: dict[Uid, Any] = {}
        self._cancel_called = False
        self._cancel_called_by: Aid | None = None
        self._cancel_complete = trio.Event()
        self._cancelling = False

    # -- identity -----------------------------------------------------------------------------------------------

    @property
    def aid(self) -> Aid:
        """Who it is, as it tells peers."""
        return self._aid

    @property
    def name(self) -> str:
        """Its name."""
        return self._aid.name

    @property
    def pid(self) -> int | None:
        """The process it runs in."""
        return self._aid.pid

    @property
    def uid(self) -> Uid:
        """Deprecated: use `.aid.uid`."""
        warnings.warn(
            '`Actor.uid` is deprecated, use `Actor.aid.uid`', DeprecationWarning, stacklevel=2
        )
        return self._aid.uid

    @property
    def is_arbiter(self) -> bool:
        """Deprecated: use `.is_registrar`."""
        warnings.warn(
            '`is_arbiter` is deprecated, use `is_registrar`', DeprecationWarning, stacklevel=2
        )
        return self.is_registrar

    @property
    def is_root(self) -> bool:
        """Whether it is the root of its tree."""
        return _state.is_root_process()

    @property
    def spawn_method(self) -> str | None:
        """The backend it was started with; `None` for a root."""
        return self._spawn_method

    def is_infected_aio(self) -> bool:
        """Whether trio runs as a guest of asyncio in it."""
        return self._infected_aio

    # -- addresses ----------------------------------------------------------------------------------------------

    @property
    def reg_addrs(self) -> list[tuple[str, Any]]:
        """The registry addresses, unwrapped."""
        return self._reg_addrs

    @reg_addrs.setter
    def reg_addrs(self, addrs: list[Any]) -> None:
        if not addrs:
            log.warning(
                'an actor without registry addresses could not be found: keeping %s',
                self._reg_addrs,
            )
            return
        self._reg_addrs = [tuple(addr) for addr in addrs]

    @property
    def registry_addrs(self) -> list[Any]:
        """The registry addresses, wrapped."""
        return [wrap_address(addr) for addr in self._reg_addrs]

    @property
    def ipc_server(self) -> IPCServer:
        """Its listening side."""
        assert self._ipc_server is not None
        return self._ipc_server

    @property
    def accept_addrs(self) -> list[tuple[str, Any]]:
        """Where it listens, unwrapped."""
        return self.ipc_server.accept_addrs

    @property
    def accept_addr(self) -> tuple[str, Any]:
        """The first of these."""
        return self.accept_addrs[0]

    # -- code ---------------------------------------------------------------------------------------------------

    def load_modules(self) -> None:
        """
        Replay the parent's `__main__` if it was given, then import what peers may call.

        Raises:
            ModuleNotFoundError: a module cannot be found here; other errors of importing pass too.
        """
        self._mods = load_modules(self.enable_modules, self._parent_main_data)

    def _get_rpc_func(self, ns: str, funcname: str) -> Callable[..., Any]:
        try:
            module = self._mods[ns]
        except KeyError:
            raise ModuleNotExposed(
                f'{self.name!r} does not expose the module {ns!r}\n'
                f'exposed: {sorted(self._mods)}\n'
                f'pass it when starting that actor: enable_modules=[{ns!r}]'
            ) from None
        func: Callable[..., Any] = getattr(module, funcname)
        return func

    def _get_method(self, name: str) -> Callable[..., Any]:
        if name not in self._rpc_methods:
            raise AttributeError(
                f'{name!r} is not among the requests which {self.name!r} serves itself: '
                f'{sorted(self._rpc_methods | _rpc._CANCEL_REQUESTS)}'
            )
        method: Callable[..., Any] = getattr(self, name)
        return method

    # -- dialogs ------------------------------------------------------------------------------------------------

    def get_context(
        self,
        chan: Channel,
        cid: str,
        nsf: Any,
        msg_buffer_size: int | None = None,
        allow_overruns: bool = False,
    ) -> Context:
        """
        Our end of the dialog `cid` of a channel, made if there is none.

        Args:
            chan: the connection.
            cid: the dialog's id.
            nsf: the function, as `module:name`.
            msg_buffer_size: resize its stream buffer (messages).
            allow_overruns: whether the buffer may be exceeded; always applied.
        """
        ctx = self._contexts.get((chan, cid))
        if ctx is None:
            ctx = self._contexts[chan, cid] = mk_context(
                chan, cid, nsf, self.msg_buffer_size, actor=self, requester=False
            )
        ctx._allow_overruns = allow_overruns
        if msg_buffer_size is not None:
            ctx._rx_chan.max_buffer_size = msg_buffer_size
        return ctx

    async def start_remote_task(
        self,
        chan: Channel,
        nsf: Any,
        kwargs: dict[str, Any],
        portal: Portal | None = None,
        msg_buffer_size: int | None = None,
        allow_overruns: bool = False,
        load_nsf: bool = False,
        ack_timeout: float = float('inf'),
        ctx_meta: dict[str, Any] | None = None,
    ) -> Context:
        """
        Ask a peer to run a function and wait until it has accepted.

        Args:
            chan: the connection to the peer.
            nsf: the function, as `module:name`.
            kwargs: its arguments.
            portal: the portal it is called through.
            msg_buffer_size: stream messages that may wait unread here.
            allow_overruns: let that many be exceeded.
            load_nsf: kept for compatibility.
            ack_timeout: seconds to wait for the acceptance.
            ctx_meta: what `@tractor.context` knows about the function.

        Raises:
            RemoteActorError: the peer refused.
            MsgTypeError: the arguments cannot be encoded; nothing was sent.
            TransportClosed: the connection was lost.
            trio.TooSlowError: the acceptance did not come in time.

        When this fails or is cancelled, the peer is asked to cancel what it may have begun.
        """
        ns, _, name = str(nsf).partition(':')
        ctx = await self._send_start(chan, ns, name, kwargs, portal, msg_buffer_size, ctx_meta)
        ctx._allow_overruns = allow_overruns
        try:
            with trio.fail_after(ack_timeout):
                await ctx._wait(_accepted)
        except BaseException:
            self._forget(ctx)
            if portal is not None:
                await portal._abandon(ctx)
            raise
        if ctx._remote_error is not None and ctx._remote_func_type is None:
            self._forget(ctx)
            raise ctx._remote_error
        return ctx

    async def _send_start(
        self,
        chan: Channel,
        ns: str,
        name: str,
        kwargs: dict[str, Any],
        portal: Portal | None = None,
        msg_buffer_size: int | None = None,
        ctx_meta: dict[str, Any] | None = None,
    ) -> Context:
        cid = mk_uuid()
        ctx = Context(
            chan, cid, f'{ns}:{name}', self, True, msg_buffer_size or self.msg_buffer_size
        )
        ctx._portal = portal
        if ctx_meta is not None:
            ctx.apply_meta(ctx_meta)
        self._contexts[chan, cid] = ctx
        try:
            await chan.send(Start(cid=cid, ns=ns, func=name, kwargs=kwargs, uid=self._aid.uid))
        except BaseException as err:
            self._forget(ctx)
            if isinstance(err, trio.Cancelled) and portal is not None:
                # it is queued by now and will be written with whatever is sent next
                await portal._abandon(ctx)
            raise
        return ctx

    def _forget(self, ctx: Context) -> None:
        self._contexts.pop((ctx.chan, ctx.cid), None)

    def _call_begins(self, chan: Channel, ctx: Context, func: Callable[..., Any]) -> None:
        if not self._rpc_tasks:
            self._ongoing_rpc_tasks = trio.Event()
        self._rpc_tasks[chan, ctx.cid] = ctx, func, trio.Event()

    def _call_ended(self, chan: Channel, ctx: Context) -> None:
        ctx._dialog.end()
        self._forget(ctx)
        _, _, done = self._rpc_tasks.pop((chan, ctx.cid), (None, None, None))
        if done is not None:
            done.set()
        if not self._rpc_tasks:
            self._ongoing_rpc_tasks.set()

    # -- connections (hooks of the IPC layer) -------------------------------------------------------------------

    async def serve_channel(self, chan: Channel) -> tuple[bool, Any]:
        """Run the message loop of an accepted connection; see `process_messages()`."""
        return await _rpc.process_messages(chan)

    def on_channel_lost(self, chan: Channel, closed: TransportClosed | None) -> None:
        """The message loop of a channel has ended: fail what waits for it, cancel what it had started."""
        _loss.on_channel_lost(self, chan, closed)

    async def on_peer_gone(self, uid: Uid, chan: Channel, disconnected: bool) -> None:
        """An accepted connection is over: let what a cancelled child still said reach its waiters."""
        nursery = self._actoruid2nursery.get(uid)
        if nursery is None or not (self._cancel_called or chan._cancel_called):
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _DRAIN_TIMEOUT):
            await _loss.drain_to_contexts(self, uid, chan)

    # -- cancellation -------------------------------------------------------------------------------------------

    @property
    def cancel_called(self) -> bool:
        """Whether anybody asked for its cancellation."""
        return self._cancel_called_by is not None

    @property
    def cancel_caller(self) -> Aid | None:
        """Who did, first."""
        return self._cancel_called_by

    @property
    def cancel_complete(self) -> bool:
        """Whether everything below it is down."""
        return self._cancel_complete.is_set()

    async def cancel(self, req_chan: Channel | None) -> bool:
        """
        Cancel everything this actor runs: tasks, the sub-tree, listeners, connections.

        Args:
            req_chan: the connection the request came through; `None` for our own.

        Returns:
            `True`, when all of it is down. A later call waits for the first one.
        """
        if self._cancel_called_by is None:
            asker = req_chan.aid if req_chan is not None else None
            self._cancel_called_by = asker or self._aid
        self._cancel_called = True
        with trio.CancelScope(shield=True):
            if self._cancelling:
                await self._cancel_complete.wait()
                return True
            self._cancelling = True
            try:
                await self.cancel_rpc_tasks(self._cancel_called_by, None)
                await self._stop_serving()
            finally:
                self._cancel_complete.set()
        return True

    def going_down(self) -> ContextCancelled:
        """What a request gets that comes after the cancellation has begun."""
        asker = self._cancel_called_by or self._aid
        return ContextCancelled(
            f'{self.name!r} is being cancelled and takes no further requests\n',
            boxed_type=trio.Cancelled,
            canceller=asker.uid,
        )

    async def _stop_serving(self) -> None:
        server = self._ipc_server
        if server is not None:
            server.stop_listening()
            if server._shutdown is not None:
                await server._shutdown.wait()
        if self._parent_chan_cs is not None:
            self._parent_chan_cs.cancel()
        if self._service_tn is not None:
            self._service_tn.cancel_scope.cancel()

    def cancel_soon(self) -> None:
        """Cancel this actor from synchronous code of its own thread; in a root that ends the main task too."""
        log.cancel('`Actor.cancel_soon()` was called!')
        root_tn = self._root_tn
        assert root_tn is not None
        root_tn.start_soon(self._cancel_all)

    async def _cancel_all(self) -> None:
        await self.cancel(None)
        assert self._root_tn is not None
        self._root_tn.cancel_scope.cancel()

    async def _cancel_task(
        self,
        cid: str,
        parent_chan: Channel,
        requesting_aid: Aid | None = None,
        ipc_msg: Any = None,
    ) -> bool:
        """
        Cancel one RPC task and wait for its end; a request for an unknown or finished one is answered with `True`.

        Args:
            cid: its dialog.
            parent_chan: the connection that started it; no other can cancel it.
            requesting_aid: who asks.
            ipc_msg: the request itself.
        """
        entry = self._rpc_tasks.get((parent_chan, cid))
        if entry is None:
            log.runtime('no task %s to cancel for %s', cid, requesting_aid)
            return True
        ctx, _, done = entry
        if requesting_aid is not None and ctx._canceller is None:
            ctx._canceller = requesting_aid.uid
        ctx._cancel_msg = ipc_msg or ctx._cancel_msg
        if ctx._scope is not None:
            ctx._scope.cancel()
        await done.wait()
        return True

    async def cancel_rpc_tasks(self, req_aid: Aid | None, parent_chan: Channel | None) -> None:
        """
        Cancel RPC tasks, all at once, and wait for them.

        Args:
            req_aid: who asks.
            parent_chan: only those of this connection; `None` for all.
        """
        chosen = [
            (ctx, done)
            for (chan, _), (ctx, _, done) in self._rpc_tasks.items()
            if parent_chan is None or chan is parent_chan
        ]
        for ctx, _ in chosen:
            if req_aid is not None and ctx._canceller is None:
                ctx._canceller = req_aid.uid
            if ctx._scope is not None:
                ctx._scope.cancel()
        for _, done in chosen:
            await done.wait()

    # -- relatives ----------------------------------------------------------------------------------------------

    def get_parent(self) -> Portal:
        """A portal to the parent."""
        assert self._parent_chan is not None, 'a root actor has no parent'
        return Portal(self._parent_chan)

    @property
    def repr_state(self) -> str:
        """One word for the phase it is in."""
        if self.cancel_complete:
            return 'cancelled'
        if self._cancel_called:
            return 'cancelling'
        return 'running' if self._service_tn is not None else 'described'

    def pformat(self, ds: str = ': ', indent: int = 0, privates: bool = False) -> str:
        """Several lines for people."""
        fields: dict[str, Any] = {
            'aid': self._aid.reprol(sin_uuid=False),
            'state': self.repr_state,
            'spawn_method': self._spawn_method,
            'modules': sorted(self.enable_modules),
        }
        if privates:
            fields |= {'_contexts': len(self._contexts), '_rpc_tasks': len(self._rpc_tasks)}
        pad = ' ' * indent
        body = ''.join(f'{pad} |_{key}{ds}{value}\n' for key, value in fields.items())
        return f'{pad}<{type(self).__name__}(\n{body}{pad})>'

    __repr__ = pformat


def _accepted(ctx: Context) -> bool:
    return ctx._remote_func_type is not None or ctx._dialog.done


def __getattr__(name: str) -> Any:
    if name in {'Registrar', 'Arbiter'}:
        return getattr(importlib.import_module('tractor.discovery._registry'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
