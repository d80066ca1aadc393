"""
The `Actor`: what one `trio.run()` of the tree knows about itself, and what its peers may ask of it.

Its dialogs are kept in `runtime/_calls.py`, its cancellation is in `runtime/_cancel.py`, its life from boot to end in
`runtime/_main.py`.
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
from tractor._exceptions import ModuleNotExposed, TransportClosed
from tractor.discovery._addr import wrap_address
from tractor.msg.types import Aid
from tractor.runtime import _flow, _loss, _rpc, _state
from tractor.runtime._cancel import Cancellable
from tractor.runtime._main import async_main as async_main
from tractor.runtime._mods import get_mod_nsps2fps, load_modules
from tractor.runtime._portal import Portal
from tractor.spawn._mp_fixup_main import _mp_figure_out_main

if TYPE_CHECKING:
    from tractor.ipc import Channel, IPCServer
    from tractor.msg.types import SpawnSpec

log = _log.get_logger()

Uid = tuple[str, str]


class Actor(Cancellable):
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

    # `Actor` methods which peers may call; everything else is answered with an error
    _rpc_methods: frozenset[str] = frozenset({_flow.ROOM_REQUEST})

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
        super().__init__(Aid(name=name, uuid=uuid, pid=os.getpid(), is_registrar=self.is_registrar))
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

        self._parent_chan: Channel | None = None
        self._task: trio.lowlevel.Task | None = None
        self._trio_token: trio.lowlevel.TrioToken | None = None
        self._actoruid2nursery: dict[Uid, Any] = {}

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
    def interp_id(self) -> int | None:
        """The interpreter of that process it runs in, 0 for the main one; `None` if it does not run right here."""
        running = _state.current_actor(err_on_no_runtime=False)
        return _state.current_interp_id() if running is self else None

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
                f'{sorted(self._rpc_methods | _rpc.CANCEL_REQUESTS)}'
            )
        method: Callable[..., Any] = getattr(self, name)
        return method

    # -- connections (hooks of the IPC layer) -------------------------------------------------------------------

    async def serve_channel(self, chan: Channel) -> tuple[bool, Any]:
        """Run the message loop of an accepted connection; see `process_messages()`."""
        return await _rpc.process_messages(chan)

    def on_channel_lost(self, chan: Channel, closed: TransportClosed | None) -> None:
        """The message loop of a channel has ended: fail what waits for it, cancel what it had started."""
        _loss.on_channel_lost(self, chan, closed)

    async def on_peer_gone(self, uid: Uid, chan: Channel, disconnected: bool) -> None:
        """An accepted connection is over; what it sent has been read, its dialogs have been told."""
        log.runtime('%s is gone: %s', uid, 'disconnected' if disconnected else 'not read any more')

    async def _ship_error(self, chan: Channel, err: BaseException, cid: str) -> None:
        await _rpc.try_ship_error_to_remote(
            chan, err, cid=cid, remote_descr='requester', actor=self
        )

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


def __getattr__(name: str) -> Any:
    if name in {'Registrar', 'Arbiter'}:
        return getattr(importlib.import_module('tractor.discovery._registry'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
