"""
The registrar: the actor that knows which actors of a host (or of several) are up, and where.
"""

from __future__ import annotations

from typing import Any

import trio

from tractor import log as _log
from tractor.discovery._addr import wrap_address
from tractor.runtime import _state
from tractor.runtime._runtime import Actor

log = _log.get_logger()

Uid = tuple[str, str]
Unwrapped = tuple[str, Any]

# what a registrar needs besides the connections of those who are registered
_SPARE_DESCRIPTORS: int = 100


class Registrar(Actor):
    """
    An actor that serves the name registry besides everything else. Arguments as for `Actor`.

    Names are not unique: an entry belongs to a uid. Nobody is checked for being alive: an entry goes when its actor
    unregisters, when another takes its address, or when a lookup finds nobody there.

    An actor of another tree keeps the connection over which it registered, to notice when this registrar dies. Each
    costs a file descriptor and a task that sleeps.
    """

    is_registrar = True
    _rpc_methods = Actor._rpc_methods | frozenset(
        {
            'delete_addr',
            'find_actor',
            'get_registry',
            'register_actor',
            'unregister_actor',
            'wait_for_actor',
        }
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._registry: dict[Uid, list[Unwrapped]] = {}
        self._waiters: dict[str, trio.Event] = {}

    def is_registry(self) -> bool:
        """Whether this actor serves a registry."""
        return self.is_registrar

    async def register_actor(self, uid: Uid, addr: Unwrapped) -> None:
        """
        Enter an address of an actor; again does nothing.

        Args:
            uid: the actor's `(name, uuid)`.
            addr: where it listens. Any other actor's claim to it is void now.

        Raises:
            PermissionError: a peer asks for somebody else.
            ValueError, TypeError: nobody can listen there, or it is no address at all.
        """
        uid, addr = _as_uid(uid), _as_listening(addr)
        _check_asker(uid)
        self._make_room()
        for other, addrs in list(self._registry.items()):
            if other != uid and addr in addrs:
                log.runtime('%s takes over %s from %s', uid, addr, other)
                self._drop(other, addr)
        addrs = self._registry.setdefault(uid, [])
        if addr not in addrs:
            addrs.append(addr)
        waiter = self._waiters.pop(uid[0], None)
        if waiter is not None:
            waiter.set()

    async def unregister_actor(self, uid: Uid) -> None:
        """Remove everything about an actor."""
        if self._registry.pop(_as_uid(uid), None) is None:
            log.warning('%s is not registered: there is nothing to remove', uid)

    async def find_actor(self, name: str) -> list[Unwrapped] | None:
        """
        Where the actor of this name listens, the one registered last.

        Args:
            name: its name, or its uuid.
        """
        for uid in reversed(self._registry):
            if name in uid and self._registry[uid]:
                return list(self._registry[uid])
        return None

    async def wait_for_actor(self, name: str) -> list[Unwrapped]:
        """Where all actors of this name listen, oldest first; waits until there is one."""
        while True:
            found = [
                addr for uid, addrs in self._registry.items() if uid[0] == name for addr in addrs
            ]
            if found:
                return found
            waiter = self._waiters.get(name)
            if waiter is None:
                waiter = self._waiters[name] = trio.Event()
            try:
                await waiter.wait()
            finally:
                # the last one to leave takes the event along
                if self._waiters.get(name) is waiter and not waiter.statistics().tasks_waiting:
                    del self._waiters[name]

    async def get_registry(self) -> dict[str, list[Unwrapped]]:
        """All entries; the keys are `name.uuid`."""
        return {'.'.join(uid): list(addrs) for uid, addrs in self._registry.items()}

    async def delete_addr(self, addr: Unwrapped) -> Uid | None:
        """
        Remove an address where nobody was found.

        Returns:
            The uid it belonged to.
        """
        addr = _as_addr(addr)
        for uid, addrs in list(self._registry.items()):
            if addr in addrs:
                log.warning('%s is gone from %s: removing that entry', uid, addr)
                self._drop(uid, addr)
                return uid
        log.warning('nobody is registered at %s', addr)
        return None

    def _make_room(self) -> None:
        """Each entry may come with a connection that stays: ask the system for more of them in time."""
        limit = _descriptor_limit()
        if limit is not None and 2 * (len(self._registry) + _SPARE_DESCRIPTORS) > limit[0]:
            _raise_descriptor_limit(*limit)

    def _drop(self, uid: Uid, addr: Unwrapped) -> None:
        self._registry[uid].remove(addr)
        if not self._registry[uid]:
            del self._registry[uid]


Arbiter = Registrar


def _as_uid(uid: Any) -> Uid:
    name, uuid = uid
    return str(name), str(uuid)


def _as_addr(addr: Any) -> Unwrapped:
    if isinstance(addr, str):
        return wrap_address(addr).unwrap()
    place, which = addr
    return str(place), which


def _as_listening(addr: Any) -> Unwrapped:
    if addr is None or None in tuple(addr):
        # for `wrap_address()` that is the default registry
        raise TypeError(f'an actor is registered at the address it listens on, not at {addr!r}')
    wrapped = wrap_address(addr)
    if not wrapped.is_valid:
        raise ValueError(
            f'nobody could be found at {wrapped.unwrap()}: register the address that was bound'
        )
    return wrapped.unwrap()


def _check_asker(uid: Uid) -> None:
    ctx = _state.current_ipc_ctx()
    # a task of this actor that registers somebody may run on behalf of a peer, too: then for another request
    if ctx is None or str(ctx._nsf) != 'self:register_actor':
        return
    asker = ctx.chan.aid
    if asker is not None and asker.uid != uid:
        raise PermissionError(
            f'{asker.uid} may not register {uid}: an actor registers itself, over its own connection'
        )


# -- file descriptors -----------------------------------------------------------------------------------------------


def _descriptor_limit() -> tuple[int, int] | None:
    """How many descriptors this process may have, and may at most ask for; `None` if there is no telling."""
    try:
        import resource
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if resource.RLIM_INFINITY in {soft, hard} else (soft, hard)


def _raise_descriptor_limit(soft: int, hard: int) -> None:
    wanted = min(hard, 2 * soft)
    if wanted <= soft:
        return
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as err:
        log.warning('this registrar may run out of file descriptors, there are %s: %s', soft, err)
