"""Clean-up after the end of a child: what a killed one could not remove itself."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tractor import log as _log
from tractor.discovery._addr import UnwrappedAddress, wrap_address
from tractor.ipc._uds import HAS_UDS, UDSAddress
from tractor.runtime import _state

if TYPE_CHECKING:
    from tractor.runtime._runtime import Actor

log = _log.get_logger()


def unlink_uds_bind_addrs(
    proc: Any,
    *,
    bind_addrs: Iterable[UDSAddress | UnwrappedAddress | Any] | None = None,
    subactor: Actor | None = None,
) -> None:
    """
    Remove the socket files of a dead child. Best effort: it never raises, and logs what went wrong.

    Args:
        proc: the handle of the child.
        bind_addrs: the addresses that the child was told to bind, wrapped or not; those of other
            transports are ignored.
        subactor: the actor of the child. If it was not told any socket file, the one it chose by
            itself is found by its name and pid.
    """
    if not HAS_UDS:
        return
    try:
        paths = _told_paths(bind_addrs) or _chosen_path(proc, subactor)
    except Exception:
        # A boundary: nothing that goes wrong here may replace how the child ended.
        log.warning('Cannot tell the socket file of the dead child %r', proc, exc_info=True)
        return
    for path in paths:
        _unlink(path)


def _told_paths(bind_addrs: Iterable[Any] | None) -> list[Path]:
    addrs: list[Any] = [wrap_address(addr) for addr in bind_addrs or ()]
    return [addr.sockpath for addr in addrs if isinstance(addr, UDSAddress)]


def _chosen_path(proc: Any, subactor: Actor | None) -> list[Path]:
    pid: int | None = getattr(proc, 'pid', None)
    if subactor is None or pid is None:
        return []
    interp_id: int | None = getattr(proc, 'interp_id', 0)
    if interp_id is None or (pid, interp_id) == (os.getpid(), _state.current_interp_id()):
        # The child never got as far as an interpreter of its own; the file of that name is ours.
        return []
    bindspace = UDSAddress.def_bindspace
    filename = UDSAddress.get_sockname(
        name=subactor.aid.name,
        pid=pid,
        bindspace=bindspace,
        interp_id=interp_id,
    )
    return [bindspace / filename]


def _unlink(path: Path) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as err:
        log.warning('Cannot remove the socket file of a dead child: %s', err)
    else:
        log.runtime('Removed the socket file of a dead child: %s', path)
