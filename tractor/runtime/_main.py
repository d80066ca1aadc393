"""
The life of one actor, from its first connection to its last.

| phase | what is done | what may fail |
|---|---|---|
| connect (child) | reach the parent, shake hands, take the `SpawnSpec` | the parent is gone: exit code 1 |
| listen | bind | an address is taken |
| load | replay `__main__`, import what is exposed | a module is missing |
| register | enter the registries | one is unreachable |
| serve | started; a child serves its parent from now on | - |
| end | `lifetime_stack`, unregister, close the parent's connection | nothing: all of it is bounded and logged |

Peers are gone by then: their connections are served in the nursery which has ended.

The parent's connection is served from the outer nursery under a shield: it outlives every task, so that results,
errors and acknowledgements always have a way up.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

import trio

from tractor import log as _log
from tractor._exceptions import InternalError, MsgTypeError
from tractor.discovery._addr import get_address_cls, wrap_address
from tractor.ipc._chan import Channel
from tractor.ipc._server import open_ipc_server
from tractor.msg.types import SpawnSpec
from tractor.runtime import _orphan, _registration, _rpc, _state
from tractor.trionics._beg import collapse_eg

if TYPE_CHECKING:
    from tractor.runtime._runtime import Actor

log = _log.get_logger()


@trio.lowlevel.enable_ki_protection
async def async_main(
    actor: Actor,
    accept_addrs: list[Any] | None = None,
    parent_addr: Any = None,
    task_status: trio.TaskStatus[tuple[list[Any], list[Any]]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """
    Run an actor.

    Args:
        actor: it.
        accept_addrs: where to listen, for a root; a child learns that from its parent.
        parent_addr: where the parent listens, for a child.
        task_status: started with `(accept_addrs, registry addrs)`.

    Raises:
        OSError: an address cannot be bound, the parent or a registry cannot be reached.
        other errors: of importing the exposed modules.

    A failing child tells its parent first.
    """
    life = _Life(actor, task_status)
    actor._trio_token = trio.lowlevel.current_trio_token()
    try:
        if parent_addr is not None:
            accept_addrs = await life.connect(parent_addr)
        await life.run(accept_addrs or [])
    except Exception as err:
        if parent_addr is not None:
            await _rpc.try_ship_error_to_remote(actor._parent_chan, err, actor=actor)
        raise
    finally:
        await life.end()


class _Life:
    def __init__(self, actor: Actor, task_status: trio.TaskStatus[Any]) -> None:
        self.actor = actor
        self.task_status = task_status
        self.registered: list[Any] = []

    async def connect(self, parent_addr: Any) -> list[Any]:
        actor = self.actor
        try:
            chan = await Channel.from_addr(parent_addr)
        except OSError as err:
            log.critical('cannot reach the parent at %s: %s', parent_addr, err)
            raise
        try:
            parent = await chan._do_handshake(aid=actor.aid)
        except BaseException:
            with trio.CancelScope(shield=True):
                await chan.aclose()
            raise
        actor._parent_chan = chan
        _orphan.start_guard(parent.pid)
        spec = await chan.recv()
        if isinstance(spec, MsgTypeError):
            raise spec
        if not isinstance(spec, SpawnSpec):
            raise InternalError(f'the parent must send a SpawnSpec first, it sent {type(spec)}')
        return apply_spawn_spec(actor, spec)

    async def run(self, accept_addrs: list[Any]) -> None:
        if not accept_addrs:
            raise RuntimeError('an actor needs at least one address to listen on')
        async with collapse_eg():
            if self.actor._root_tn is not None:
                await self._serve(self.actor._root_tn, accept_addrs)
                return
            async with trio.open_nursery() as root_tn:
                self.actor._root_tn = root_tn
                try:
                    await self._serve(root_tn, accept_addrs)
                except BaseException:
                    # a failed service ends the actor: its parent's connection must not hold it any longer
                    if self.actor._parent_chan_cs is not None:
                        self.actor._parent_chan_cs.cancel()
                    raise

    async def _serve(self, root_tn: trio.Nursery, accept_addrs: list[Any]) -> None:
        actor = self.actor
        async with (
            collapse_eg(),
            trio.open_nursery() as service_tn,
            open_ipc_server(parent_tn=service_tn, stream_handler_tn=service_tn) as server,
        ):
            actor._service_tn = service_tn
            actor._ipc_server = server
            actor._task = trio.lowlevel.current_task()
            actor.load_modules()
            await server.listen_on(accept_addrs=accept_addrs, stream_handler_nursery=service_tn)
            await _registration.register(actor, self.registered, service_tn)
            self.task_status.started((actor.accept_addrs, actor.reg_addrs))
            if actor._parent_chan is not None:
                # before anything is run for the parent: an interrupt must find its handler in place
                await service_tn.start(_cancel_on_sigint, actor)
                actor._parent_chan_cs = await root_tn.start(serve_parent, actor)
            await trio.sleep_forever()

    async def end(self) -> None:
        """Always runs to its end: shielded, bounded, and what fails is logged."""
        actor = self.actor
        try:
            actor.lifetime_stack.close()
        except Exception as err:
            log.error('a callback of the lifetime stack failed', exc_info=err)
        finally:
            with trio.CancelScope(shield=True):
                if not actor.is_registrar:
                    await _registration.unregister(actor, self.registered)
                if actor._parent_chan is not None:
                    await actor._parent_chan.aclose()


def apply_spawn_spec(actor: Actor, spec: SpawnSpec) -> list[Any]:
    """Take what the parent says about this child; returns where to listen."""
    actor._spawn_spec = spec
    rtvars = spec._runtime_vars
    if bool(rtvars.get('_is_infected_aio')) != actor._infected_aio:
        raise InternalError('the parent and the command line disagree about asyncio guest mode')
    rtvars['_is_root'] = False
    _state._runtime_vars.update(rtvars)
    actor.reg_addrs = [tuple(addr) for addr in spec.reg_addrs]
    actor.enable_modules = dict(spec.enable_modules)
    actor._parent_main_data = dict(spec._parent_main_data)
    if spec.bind_addrs:
        return [wrap_address(addr) for addr in spec.bind_addrs]
    return [get_address_cls(key).get_random() for key in _state._runtime_vars['_enable_tpts']]


@trio.lowlevel.enable_ki_protection
async def serve_parent(
    actor: Actor, task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED
) -> None:
    """
    Serve the parent's requests until the actor is cancelled.

    A parent that is gone without having asked for that leaves an orphan: it cancels itself.
    """
    chan = actor._parent_chan
    assert chan is not None
    disconnected, _ = await _rpc.process_messages(chan, shield=True, task_status=task_status)
    if disconnected and not actor._cancel_called:
        log.cancel('the parent %s is gone: cancelling this actor', chan.aid)
        actor.cancel_soon()
    await actor._cancel_complete.wait()


async def _cancel_on_sigint(
    actor: Actor, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """An interrupt cancels a child like a request from its parent would: everybody concerned is told."""
    if _state.current_interp_id() != 0 or threading.current_thread() is not threading.main_thread():
        task_status.started()
        return
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            actor.cancel_soon()
            return
