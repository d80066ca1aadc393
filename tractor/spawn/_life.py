"""
The one life cycle of a child, whatever backend started it:

| state | ends when | then |
|---|---|---|
| starting | the backend returned a handle | connecting; a failure leaves `start_actor()` |
| connecting | the child connected back | running: `SpawnSpec` sent, portal handed out |
| connecting | the child died first | `ActorFailure`, telling how |
| connecting | the spawner was cancelled | killed at once: nothing can be told to it yet |
| running | the child is gone | its record is removed, its socket file unlinked |
| running | it could not be ended by any means | abandoned: `ActorFailure` naming it |

and it is ended, by whoever wants that, through one ladder (`end_child()`):

| step | how | next step after |
|---|---|---|
| ask | `Portal.cancel_actor()` through its connection | 0.5 s without a sign of life, 3 s in all |
| terminate | `handle.terminate()`, and one that was stopped is continued: it could not act on that | 1.6 s |
| kill | `handle.kill()` | 3 s, for an interpreter 9 s |
| abandon | give up waiting, and say so | - |
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import trio

from tractor import log as _log
from tractor._exceptions import ActorFailure, ActorTooSlowError, TransportClosed
from tractor.ipc import _auth, _tls
from tractor.msg.types import SpawnSpec
from tractor.runtime import _loss
from tractor.runtime._portal import Portal
from tractor.spawn._reap import unlink_uds_bind_addrs
from tractor.trionics._beg import collapse_eg

if TYPE_CHECKING:
    from tractor.ipc import Channel
    from tractor.runtime._runtime import Actor
    from tractor.runtime._supervise import ActorNursery

log = _log.get_logger()

# seconds: for a sign of life, for a whole sub-tree to come down, after SIGTERM, after SIGKILL
ALIVE_WITHIN: float = 0.5
DONE_WITHIN: float = 3.0
TERMINATE_AFTER: float = 1.6
KILL_WITHIN: float = 3.0


# exit codes of a child whose own runtime ended it, see `_entry.py`: that one has told its peers itself
_ORDERLY: frozenset[int | None] = frozenset({None, 0, 1})


class ChildHandle(Protocol):
    """What supervision does with a child; it never asks which backend made it."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    async def wait(self) -> int: ...


@dataclass(frozen=True)
class ChildSpec:
    """
    Everything a backend needs to know about the child it starts.

    Args:
        uid: its `(name, uuid)`.
        parent_addr: where it connects back to, unwrapped.
        loglevel: its console level.
        infect_asyncio: run trio as a guest of asyncio.
        method: the key of the backend.
        proc_kwargs: for `trio.lowlevel.open_process()`.
        authkey: the key of the tree. It must reach the child in a way that nobody else can see.
        tls: how the child finds the function that makes its TLS contexts.
    """

    uid: tuple[str, str]
    parent_addr: tuple[str, Any]
    loglevel: str | None
    infect_asyncio: bool
    method: str
    proc_kwargs: dict[str, Any] = field(default_factory=dict)
    authkey: bytes | None = field(default=None, repr=False)
    tls: tuple[str, str] | None = None


StartChild = Callable[[ChildSpec], Awaitable[Any]]


class Child:
    """
    The one record of a child; unpacks as `(subactor, proc, portal)`.

    Args:
        subactor: its description.
        proc: its handle.
        portal: the portal to it, once it has connected back.
    """

    def __init__(self, subactor: Actor, proc: Any, portal: Portal | None = None) -> None:
        self.subactor = subactor
        self.proc = proc
        self.portal = portal
        # up, or never to be; and gone
        self.settled = trio.Event()
        self.gone = trio.Event()
        self.returncode: int | None = None
        # somebody brings it down; and its connection was gone already when that began
        self.ending = False
        self.lost_before = False
        self.abandoned = trio.CancelScope(shield=True)

    def __iter__(self) -> Any:
        return iter((self.subactor, self.proc, self.portal))

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return (self.subactor, self.proc, self.portal)[index]

    def __repr__(self) -> str:
        return f'<Child {self.subactor.aid.reprol()} {self.proc!r}>'


@trio.lowlevel.enable_ki_protection
async def supervise_child(
    start: StartChild,
    name: str,
    actor_nursery: ActorNursery,
    subactor: Actor,
    errors: dict[tuple[str, str], BaseException],
    bind_addrs: list[Any],
    parent_addr: tuple[str, Any],
    _runtime_vars: dict[str, Any],
    *,
    infect_asyncio: bool = False,
    task_status: trio.TaskStatus[Portal] = trio.TASK_STATUS_IGNORED,
    proc_kwargs: dict[str, Any] | None = None,
) -> None:
    """
    The one life cycle, see the table at the top of this module; arguments as for `new_proc()`.

    Args:
        start: the backend's way of starting a child.
    """
    uid = subactor.aid.uid
    spec = ChildSpec(
        uid=uid,
        parent_addr=parent_addr,
        loglevel=subactor.loglevel,
        infect_asyncio=infect_asyncio,
        method=subactor._spawn_method or 'trio',
        proc_kwargs=proc_kwargs or {},
        authkey=_auth.current.value,
        tls=_tls.for_child([parent_addr, *bind_addrs]),
    )
    server = actor_nursery._actor.ipc_server
    # before the child exists: it cannot connect faster than it is expected
    server.expect_peer(uid)
    child: Child | None = None
    try:
        proc = await start(spec)
        subactor._aid.pid = proc.pid
        child = actor_nursery._children[uid] = Child(subactor, proc)
        actor_nursery._actor._actoruid2nursery[uid] = actor_nursery
        chan = await _connect_back(actor_nursery, child)
        await _send_spawn_spec(child, chan, _spawn_spec(subactor, bind_addrs, _runtime_vars))
        child.portal = Portal(chan)
        child.settled.set()
        task_status.started(child.portal)
        # when the spawner was cancelled meanwhile, that call has not handed over this task, and nobody has a portal
        await trio.lowlevel.checkpoint_if_cancelled()
        with child.abandoned:
            await proc.wait()
    finally:
        server.forget_peer(uid)
        if child is not None:
            with trio.CancelScope(shield=True):
                await _reap(actor_nursery, child, bind_addrs)


async def _connect_back(nursery: ActorNursery, child: Child) -> Channel:
    """The child's connection; `ActorFailure` if its process ends before there is one, `OSError` if none can be made."""
    chans: list[Channel] = []
    uid = child.subactor.aid.uid

    async def watch(scope: trio.CancelScope) -> None:
        await child.proc.wait()
        scope.cancel()

    async def refuse(scope: trio.CancelScope) -> None:
        lacking.append(await server.wait_exhausted(ALIVE_WITHIN))
        scope.cancel()

    server = nursery._actor.ipc_server
    lacking: list[OSError] = []
    async with collapse_eg(), trio.open_nursery() as tn:
        tn.start_soon(watch, tn.cancel_scope)
        tn.start_soon(refuse, tn.cancel_scope)
        await server.expect_peer(uid).wait()
        # none: it has connected and is lost again, so its end is near
        chans.extend(server._peers.get(uid, ()))
        if not chans:
            tn.cancel_scope.deadline = trio.current_time() + ALIVE_WITHIN
            await trio.sleep_forever()
        tn.cancel_scope.cancel()
    if not chans:
        raise lacking[0] if lacking else _died_early(child)
    return chans[-1]


async def _send_spawn_spec(child: Child, chan: Channel, spec: SpawnSpec) -> None:
    try:
        await chan.send(spec)
    except TransportClosed as closed:
        with trio.move_on_after(ALIVE_WITHIN):
            await child.proc.wait()
        raise _died_early(child) from closed


def _died_early(child: Child) -> ActorFailure:
    return ActorFailure(
        f'{child.subactor.aid.reprol()} {describe_exit(child.proc.returncode)} before it was up\n'
        f'proc: {child.proc!r}\n'
        'its own output tells more'
    )


def _spawn_spec(subactor: Actor, bind_addrs: list[Any], rtvars: dict[str, Any]) -> SpawnSpec:
    return SpawnSpec(
        _parent_main_data=dict(subactor._parent_main_data),
        _runtime_vars=rtvars,
        enable_modules=subactor.enable_modules,
        reg_addrs=subactor.reg_addrs,
        bind_addrs=bind_addrs or None,
    )


async def _reap(nursery: ActorNursery, child: Child, bind_addrs: list[Any]) -> None:
    """Make sure the process is gone, remove what is left of it, tell whoever waits."""
    proc, subactor = child.proc, child.subactor
    if proc.poll() is None and not child.abandoned.cancelled_caught:
        proc.kill()
        with trio.move_on_after(_kill_within(proc)):
            await proc.wait()
    returncode = child.returncode = proc.poll()
    try:
        if returncode not in _ORDERLY and child.portal is not None:
            _tell_died(nursery, child, returncode)
        unlink_uds_bind_addrs(proc, bind_addrs=bind_addrs, subactor=subactor)
    finally:
        close = getattr(proc, 'close', None)
        if close is not None and returncode is not None:
            close()
        child.settled.set()
        child.gone.set()
        nursery._child_gone(child)


def _tell_died(nursery: ActorNursery, child: Child, returncode: int | None) -> None:
    who = child.subactor.aid.reprol()
    how = describe_exit(returncode)
    if not child.ending:
        log.error('%s %s', who, how)
    _loss.lose_peer(
        nursery._actor, child.subactor.aid.uid, TransportClosed(f'{who} {how}\n', loglevel='error')
    )


def describe_exit(returncode: int | None) -> str:
    """How a process ended, in words."""
    if returncode is None:
        return 'is still running'
    if returncode >= 0:
        return f'exited with code {returncode}'
    try:
        return f'was killed by {signal.Signals(-returncode).name}'
    except ValueError:
        return f'was killed by signal {-returncode}'


# -- ending a child -------------------------------------------------------------------------------------------------


async def end_child(child: Child, *, ask: bool = True) -> None:
    """
    Bring a child down: the one escalation ladder.

    Args:
        child: its record.
        ask: begin by asking; `False` begins by terminating.

    Raises:
        ActorFailure: it could not be ended by any means and has been abandoned.

    To be called under a shield; bounded by the sum of the steps. A second call waits for the first, which an
    impatient one shortens. One that is torn out of it half-way, by an interrupt, kills.
    """
    if child.ending:
        if not ask:
            _terminate(child.proc)
            # what need not obey that may still be within the time that the first call has granted
            with trio.move_on_after(getattr(child.proc, 'terminate_after', TERMINATE_AFTER)):
                await child.gone.wait()
            if not child.gone.is_set():
                child.proc.kill()
        await child.gone.wait()
        return
    child.ending = True
    child.lost_before = child.portal is not None and not child.portal.chan.connected()
    async with collapse_eg(), trio.open_nursery() as tn:
        tn.start_soon(_kill_when_torn_out, child)
        if not (ask and await _ask(child)) and not child.gone.is_set():
            _terminate(child.proc)
            await hard_kill(
                child.proc, getattr(child.proc, 'terminate_after', TERMINATE_AFTER), child=child
            )
        tn.cancel_scope.cancel()


async def _kill_when_torn_out(child: Child) -> None:
    # a task of its own: the steps of the ladder are shielded and would notice only when they are over
    try:
        await trio.sleep_forever()
    finally:
        if not child.gone.is_set():
            child.proc.kill()


def _terminate(proc: Any) -> None:
    proc.terminate()
    if hasattr(signal, 'SIGCONT') and proc.pid != os.getpid() and proc.poll() is None:
        # gone a moment ago: all the better
        with contextlib.suppress(ProcessLookupError):
            os.kill(proc.pid, signal.SIGCONT)


async def _ask(child: Child) -> bool:
    """Ask it to cancel itself, once it is up and can be asked; whether it is gone."""
    with trio.move_on_after(DONE_WITHIN):
        await child.settled.wait()
    if child.portal is None:
        return child.gone.is_set()
    return await soft_kill(child.proc, child.gone.wait, child.portal)


async def soft_kill(proc: Any, wait_func: Callable[[], Awaitable[Any]], portal: Portal) -> bool:
    """
    Ask a child to cancel itself and wait for its end.

    Args:
        proc: its handle.
        wait_func: waits until it is gone.
        portal: the portal to it.

    Returns:
        Whether it is gone.
    """
    gone = False
    start = trio.current_time()

    async def wait_gone(scope: trio.CancelScope) -> None:
        nonlocal gone
        await wait_func()
        gone = True
        scope.cancel()

    async with collapse_eg(), trio.open_nursery() as tn:
        tn.cancel_scope.deadline = start + DONE_WITHIN
        tn.start_soon(wait_gone, tn.cancel_scope)
        try:
            await portal.request_cancel(
                alive_within=ALIVE_WITHIN, done_within=DONE_WITHIN, raise_on_timeout=True
            )
        except ActorTooSlowError as slow:
            if not gone:
                log.cancel('%s', slow)
            tn.cancel_scope.cancel()
    return gone


async def hard_kill(
    proc: Any,
    terminate_after: float = TERMINATE_AFTER,
    *,
    bind_addrs: list[Any] | None = None,
    subactor: Actor | None = None,
    child: Child | None = None,
) -> None:
    """
    Wait for a process that should be ending, kill it if it does not, abandon it if even that fails.

    Args:
        proc: its handle.
        terminate_after: seconds until it is killed.
        bind_addrs, subactor: for removing the socket file of one that was killed.
        child: its record, if it has one.

    Raises:
        ActorFailure: it could not be killed.
    """
    with trio.CancelScope(shield=True):
        with trio.move_on_after(terminate_after):
            await proc.wait()
        if proc.poll() is None:
            log.critical('#T-800 deployed to collect zombie B0\n%r', proc)
            proc.kill()
            with trio.move_on_after(_kill_within(proc)):
                await proc.wait()
        if proc.poll() is None:
            raise await _abandon(proc, child)
        if child is not None:
            await child.gone.wait()
        elif subactor is not None:
            unlink_uds_bind_addrs(proc, bind_addrs=bind_addrs, subactor=subactor)


def _kill_within(proc: Any) -> float:
    # what the kernel does for a process, an interpreter does itself, and on a busy machine it waits for its turn
    patience: float = getattr(proc, 'patience', 1.0)
    return KILL_WITHIN * patience


async def _abandon(proc: Any, child: Child | None) -> ActorFailure:
    """Stop waiting for what cannot be killed; the error which says so."""
    failure = ActorFailure(f'{proc!r} cannot be killed: it has been abandoned')
    describe = getattr(proc, 'describe', None)
    if describe is not None:
        failure.add_note(await describe())
    if child is not None:
        child.abandoned.cancel()
        if child.portal is not None:
            # within one process there is no end of file before somebody closes the connection
            with trio.move_on_after(ALIVE_WITHIN):
                await child.portal.chan.aclose()
    return failure
