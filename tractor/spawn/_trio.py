"""
The `trio` backend: a child is a fresh OS process, started through trio's own subprocess support.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import trio

from tractor.spawn._life import supervise_child

if TYPE_CHECKING:
    from tractor.spawn._life import ChildSpec


def child_cmd(spec: ChildSpec) -> list[str]:
    """The command line of a child; tools recognise actors by its shape."""
    cmd = [
        sys.executable,
        '-m',
        'tractor._child',
        '--uid',
        str(spec.uid),
        '--parent_addr',
        str(spec.parent_addr),
    ]
    if spec.loglevel:
        cmd += ['--loglevel', spec.loglevel]
    if spec.infect_asyncio:
        cmd.append('--asyncio')
    return cmd


async def start(spec: ChildSpec) -> trio.Process:
    """
    Start the process of a child.

    It inherits standard streams and process group: a terminal's Ctrl-C reaches every actor.

    Raises:
        OSError: it cannot be started.
    """
    return await trio.lowlevel.open_process(child_cmd(spec), **spec.proc_kwargs)


async def trio_proc(*args: Any, **kwargs: Any) -> None:
    """Start a child with this backend and stay with it; arguments as for `_spawn.new_proc()`."""
    await supervise_child(start, *args, **kwargs)
