"""
Actor nurseries: no child outlives the block that started it, and no error of one gets lost.

How a block ends:

| step | what |
|---|---|
| 1 | the body ended; if by an exception, that is the first error, and all children are cancelled |
| 2 | all one-shot actors are waited for; each contributes its error, if any, and is then cancelled |
| 3 | any error so far: everything left is cancelled |
| 4 | every child is gone |
| 5 | no error: nothing. One: that very exception. Several: a group of them, the body's first |

A cancellation or interrupt during 2 to 4 counts as the body's exception would. A one-shot actor which was cancelled
before it finished contributes nothing.

Which of several errors is raised, and how: `_outcome.py`.

A further interrupt while the children are brought down means that waiting is no longer wanted: they are killed.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import enable_ki_protection

from tractor import log as _log
from tractor._exceptions import ActorFailure, ContextCancelled, RuntimeFailure, TransportClosed
from tractor.discovery._addr import mk_uuid, wrap_address
from tractor.msg._typed import types_of
from tractor.runtime import _outcome, _state
from tractor.runtime._portal import Portal
from tractor.runtime._runtime import Actor
from tractor.runtime._targets import module_level_name, module_paths
from tractor.spawn import _spawn
from tractor.trionics._beg import collapse_eg
from tractor.trionics._taskc import start_or_cancel

if TYPE_CHECKING:
    from tractor.spawn._life import Child

log = _log.get_logger()

Uid = tuple[str, str]

_shutdown_msg = 'Actor-runtime-shutdown'

RootOpener = Callable[..., AbstractAsyncContextManager[Actor]]

_open_root: RootOpener | None = None

# seconds for a lost one-shot actor's process to end, so that its exit can be told
_EXIT_WITHIN: float = 1.0


def set_root_opener(opener: RootOpener) -> None:
    """Tell `open_nursery()` how a root actor is opened; called by the module above that knows."""
    global _open_root
    _open_root = opener


class ActorNursery:
    """
    The children of one block; made by `open_nursery()`.

    Args:
        actor: the local actor.
        tn: runs the life cycles of the children.
    """

    def __init__(self, actor: Actor, tn: trio.Nursery) -> None:
        self._actor = actor
        self._tn = tn
        self._children: dict[Uid, Child] = {}
        self._join_procs = trio.Event()
        self.errors: dict[Uid, BaseException] = {}
        self.exited = trio.Event()
        self._one_shots: dict[Portal, Child] = {}
        # how many `start_actor()` are under way, and who waits for a child to come or go
        self._starting = 0
        self._changed = trio.lowlevel.ParkingLot()
        self._interrupt: KeyboardInterrupt | None = None
        self._all_graceful = True
        self._at_least_one_child_in_debug = False
        self._scope_error: BaseException | None = None
        self._implicit_runtime_started = False
        self._cancel_called = False
        self._cancelled_caught = False
        self._closed = False

    def __repr__(self) -> str:
        names = [uid[0] for uid in self._children]
        return f'<ActorNursery of {self._actor.name!r} children={names}>'

    @property
    def cancel_called(self) -> bool:
        """Whether its children were cancelled, by the user or because of an error."""
        return self._cancel_called

    @property
    def cancelled_caught(self) -> bool:
        """Whether, after that, all of them went down by themselves."""
        return self._cancelled_caught

    @property
    def cancelled(self) -> bool:
        """Deprecated name of `cancel_called`."""
        log.warning('`ActorNursery.cancelled` is deprecated, use `.cancel_called`')
        return self._cancel_called

    @property
    def _cancel_after_result_on_exit(self) -> set[Portal]:
        return set(self._one_shots)

    # -- starting -----------------------------------------------------------------------------------------------

    async def start_actor(
        self,
        name: str,
        *,
        bind_addrs: list[Any] | None = None,
        rpc_module_paths: list[str] | None = None,
        enable_transports: list[str] | None = None,
        enable_modules: list[str] | None = None,
        loglevel: str | None = None,
        debug_mode: bool | None = None,
        infect_asyncio: bool = False,
        inherit_parent_main: bool = True,
        nursery: trio.Nursery | None = None,
        proc_kwargs: dict[str, Any] | None = None,
        start_method: str | None = None,
    ) -> Portal:
        """
        Start an actor which lives until it is cancelled.

        Args:
            name: its name; need not be unique.
            bind_addrs: where it shall listen; one address of its own choice by default.
            rpc_module_paths: deprecated, use `enable_modules`.
            enable_transports: kept for compatibility: a tree has one transport.
            enable_modules: the modules whose functions may be called in it.
            loglevel: its console level; this actor's by default.
            debug_mode: override the tree's setting.
            infect_asyncio: run trio as a guest of asyncio in it.
            inherit_parent_main: replay this program's `__main__` in it.
            nursery: runs its life cycle instead of this nursery's own.
            proc_kwargs: for `trio.lowlevel.open_process()` (backend `'trio'`).
            start_method: the backend for this one child.

        Returns:
            A portal to it. It has connected, but may still be loading its modules: requests wait for that.

        Raises:
            ModuleNotFoundError: one of the modules cannot be imported here; so do other errors of importing.
            TypeError: `enable_modules` is a string.
            ValueError: no such `start_method`.
            RuntimeError: that backend does not work here, or this nursery's block has ended.
            RuntimeFailure: this nursery, or this actor, is being cancelled.
            ActorFailure: it died before it was up.
            OSError: its process cannot be started.

        Cancelled meanwhile, the half-born child is killed.
        """
        # a cancelled task must see its cancellation, not what is refused because of it
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        method = _spawn.check_method(start_method) if start_method is not None else None
        if infect_asyncio and sys.platform == 'win32':
            raise RuntimeError('trio as a guest of asyncio is not supported on Windows')
        subactor = Actor(
            name,
            mk_uuid(),
            enable_modules=module_paths(enable_modules, rpc_module_paths),
            loglevel=loglevel or self._actor.loglevel or _log.get_loglevel(),
            inherit_parent_main=inherit_parent_main,
        )
        subactor._reg_addrs = list(self._actor.reg_addrs)
        spawn = partial(
            _spawn.new_proc,
            infect_asyncio=infect_asyncio,
            proc_kwargs=proc_kwargs,
            start_method=method,
        )
        args = (
            name,
            self,
            subactor,
            self.errors,
            [wrap_address(addr).unwrap() for addr in bind_addrs or ()],
            self._actor.accept_addr,
            self._child_vars(debug_mode, infect_asyncio),
        )
        self._starting += 1
        try:
            portal: Portal = await start_or_cancel(
                nursery or self._tn, spawn, *args, name=f'actor {name}'
            )
        finally:
            self._starting -= 1
            self._changed.unpark_all()
        return portal

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError('the block of this actor nursery has ended: it cannot start actors')
        if self._cancel_called:
            raise RuntimeFailure('this actor nursery has been cancelled: it cannot start actors')
        if self._actor._cancel_called:
            raise RuntimeFailure(f'{self._actor.name!r} is being cancelled: it cannot start actors')

    def _child_vars(self, debug_mode: bool | None, infect_asyncio: bool) -> dict[str, Any]:
        rtvars: dict[str, Any] = _state.get_runtime_vars()
        rtvars['_is_root'] = False
        rtvars['_is_infected_aio'] = infect_asyncio
        if debug_mode is not None:
            rtvars['_debug_mode'] = debug_mode
            self._at_least_one_child_in_debug |= debug_mode
        return rtvars

    async def run_in_actor(
        self,
        fn: Callable[..., Any],
        *,
        name: str | None = None,
        bind_addrs: list[Any] | None = None,
        rpc_module_paths: list[str] | None = None,
        enable_modules: list[str] | None = None,
        loglevel: str | None = None,
        infect_asyncio: bool = False,
        inherit_parent_main: bool = True,
        proc_kwargs: dict[str, Any] | None = None,
        start_method: str | None = None,
        **kwargs: Any,
    ) -> Portal:
        """
        Start an actor for one call of `fn`; it is cancelled when the result has arrived.

        Args:
            fn: an async function.
            name: the actor's name; the function's by default.
            enable_modules: further modules whose functions may be called in it.
            kwargs: arguments of `fn`.
            others: as for `start_actor()`.

        Returns:
            A portal to it, at once. Its result is collected at the end of the block, or by
            `Portal.wait_for_result()`.

        Raises:
            TypeError: `fn` is no plain async function, or is not found in its module; nothing was started.
            RemoteActorError: the arguments do not fit its signature.
            MsgTypeError: they cannot be encoded.
            ActorFailure: it died before it was up, or before it had begun.
            others: as `start_actor()`.

        When this fails, or is cancelled, the actor is gone.
        """
        module, fn_name = module_level_name(fn, inherit_parent_main)
        portal = await self.start_actor(
            name or fn_name,
            bind_addrs=bind_addrs,
            rpc_module_paths=rpc_module_paths,
            enable_modules=[module, *module_paths(enable_modules)],
            loglevel=loglevel,
            infect_asyncio=infect_asyncio,
            inherit_parent_main=inherit_parent_main,
            proc_kwargs=proc_kwargs,
            start_method=start_method,
        )
        assert portal.chan.aid is not None
        child = self._children.get(portal.chan.aid.uid)
        if child is None:
            raise ActorFailure(f'{portal!r} was lost before it was given its task')
        try:
            await portal._submit_for_result(module, fn_name, types_of(fn), **kwargs)
        except TransportClosed as closed:
            raise await self._how_it_died(child, closed) from closed
        except BaseException:
            # nobody else would ever end it: it would be a daemon
            with trio.CancelScope(shield=True):
                await self._end(child)
            raise
        self._one_shots[portal] = child
        return portal

    # -- ending -------------------------------------------------------------------------------------------------

    @enable_ki_protection
    async def cancel(self, hard_kill: bool = False) -> None:
        """
        Bring all children down, by asking, then terminating, then killing; see `spawn/_life.py` for the bounds.

        Args:
            hard_kill: begin by terminating.

        Returns when all are gone, shielded; one that is just being started too. Never raises for a child that
        does not respond; one that cannot even be killed is abandoned and reported at the end of the block.
        """
        self._cancel_called = True
        with trio.CancelScope(shield=True):
            while self._children or self._starting:
                async with collapse_eg(), trio.open_nursery() as tn:
                    for child in list(self._children.values()):
                        tn.start_soon(self._end, child, not hard_kill)
                if self._starting and not self._children:
                    await self._changed.park()
        self._join_procs.set()

    async def _end(self, child: Child, ask: bool = True) -> None:
        try:
            await _spawn.end_child(child, ask=ask)
        except ActorFailure as failure:
            log.critical('%s', failure)
            self.errors[child.subactor.aid.uid] = failure

    def _child_gone(self, child: Child) -> None:
        """Told by its life cycle, at the very end of it."""
        uid = child.subactor.aid.uid
        self._children.pop(uid, None)
        self._actor._actoruid2nursery.pop(uid, None)
        self._all_graceful &= child.returncode == 0
        self._changed.unpark_all()

    @enable_ki_protection
    async def _close(self, body_error: BaseException | None) -> None:
        """The end of the block, see the table at the top of this module."""
        self._closed = True
        if body_error is not None:
            await self._fail(body_error)
        self._join_procs.set()
        try:
            await self._collect_results()
            if self.errors:
                await self.cancel()
            while self._children or self._starting:
                await self._changed.park()
        except BaseException as err:  # noqa: BLE001 - becomes the block's outcome, below
            await self._fail(err)
        self._cancelled_caught = self._cancel_called and self._all_graceful
        outcome = self._outcome()
        if outcome is not None:
            raise outcome

    async def _fail(self, err: BaseException) -> None:
        """Note why the block ends early, and bring all children down, whatever interrupts that."""
        self._scope_error = err
        while True:
            self._note(err)
            try:
                await self.cancel()
            except KeyboardInterrupt as again:
                # nothing else gets through the shield
                err = again
                self._kill_all()
            else:
                return

    def _note(self, err: BaseException) -> None:
        if isinstance(err, KeyboardInterrupt):
            self._interrupt = err
        own = self._actor.aid.uid
        if _outcome.is_cancellation(self.errors.get(own)):
            self.errors[own] = err
        else:
            self.errors.setdefault(own, err)

    def _kill_all(self) -> None:
        for child in self._children.values():
            log.cancel('interrupted again: killing %r', child)
            child.proc.kill()

    async def _collect_results(self) -> None:
        pending = [
            (portal, child)
            for portal, child in self._one_shots.items()
            if child.subactor.aid.uid not in self.errors
        ]
        if not pending:
            return
        async with collapse_eg(), trio.open_nursery() as tn:
            for portal, child in pending:
                tn.start_soon(self._collect, portal, child)

    async def _collect(self, portal: Portal, child: Child) -> None:
        uid = child.subactor.aid.uid
        try:
            await portal.wait_for_result()
        except ContextCancelled as ctxc:
            if ctxc.canceller != self._actor.aid.uid and not self._cancel_called:
                self.errors[uid] = ctxc
        except TransportClosed as closed:
            if child.lost_before or not child.ending:
                self.errors[uid] = await self._how_it_died(child, closed)
        except Exception as err:  # noqa: BLE001 - an error of the child, raised by the block
            self.errors[uid] = err
        if not child.gone.is_set():
            with trio.CancelScope(shield=True):
                await self._end(child)

    async def _how_it_died(self, child: Child, closed: TransportClosed) -> BaseException:
        """A lost one-shot actor as an `ActorFailure` telling how its process ended, if it did."""
        with trio.move_on_after(_EXIT_WITHIN):
            await child.gone.wait()
        if not child.gone.is_set():
            return closed
        failure = ActorFailure(
            f'{child.subactor.aid.reprol()} {_spawn.describe_exit(child.returncode)} '
            'before its task had a result'
        )
        failure.__cause__ = closed
        return failure

    def _outcome(self) -> BaseException | None:
        own = self._actor.aid.uid
        errors = sorted(self.errors.items(), key=lambda item: item[0] != own)
        return _outcome.merge(
            [err for _, err in errors], self._interrupt, 'tractor.ActorNursery errored with'
        )


@asynccontextmanager
async def _open_nursery(actor: Actor) -> AsyncIterator[ActorNursery]:
    async with collapse_eg(), trio.open_nursery() as tn:
        an = ActorNursery(actor, tn)
        try:
            try:
                yield an
            except BaseException as err:  # noqa: BLE001 - raised again by `_close()`
                await an._close(err)
            else:
                await an._close(None)
        finally:
            an.exited.set()


@asynccontextmanager
async def open_nursery(*, hide_tb: bool = True, **kwargs: Any) -> AsyncIterator[ActorNursery]:
    """
    A block whose children are all gone when it has been left.

    Args:
        hide_tb: kept for compatibility.
        kwargs: for `open_root_actor()`, if no runtime is up yet; ignored otherwise.

    Raises:
        what its body or its children raised: the exception itself if it is one, a group if there are several.

    Without a runtime in the main process, it opens a root actor around itself.
    """
    actor = _state.current_actor(err_on_no_runtime=False)
    if actor is not None:
        async with _open_nursery(actor) as an:
            yield an
        return
    if not _state.is_main_process():
        raise RuntimeFailure('a child process has no runtime of its own to open a nursery in')
    assert _open_root is not None
    try:
        async with _open_root(**kwargs) as root, _open_nursery(root) as an:
            an._implicit_runtime_started = True
            yield an
    finally:
        log.info(_shutdown_msg)
