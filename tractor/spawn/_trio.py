"""
The `trio` backend: a child is a fresh OS process, started through trio's own subprocess support.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
    if spec.tls:
        cmd += ['--tls', str(spec.tls)]
    return cmd


@contextmanager
def _inherited_key(spec: ChildSpec) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """
    A pipe from which the child reads the key, for the block: neither its command line nor its environment show it.

    Yields:
        What to add to the command line, and the options of the process.

    Raises:
        RuntimeError: a process cannot inherit a pipe on this system.
    """
    options = dict(spec.proc_kwargs)
    if spec.authkey is None:
        yield [], options
        return
    if os.name != 'posix':
        raise RuntimeError("with authkey=, use start_method='mp_spawn' on this system")
    read_end, write_end = os.pipe()
    try:
        with open(write_end, 'wb') as pipe:
            pipe.write(spec.authkey)
        if options.get('close_fds', True):
            options['pass_fds'] = (*options.get('pass_fds', ()), read_end)
        else:
            os.set_inheritable(read_end, True)
        yield ['--key_fd', str(read_end)], options
    finally:
        os.close(read_end)


async def start(spec: ChildSpec) -> trio.Process:
    """
    Start the process of a child.

    It inherits standard streams and process group: a terminal's Ctrl-C reaches every actor.

    Raises:
        OSError: it cannot be started.
    """
    with _inherited_key(spec) as (more, options):
        return await trio.lowlevel.open_process(child_cmd(spec) + more, **options)


async def trio_proc(*args: Any, **kwargs: Any) -> None:
    """Start a child with this backend and stay with it; arguments as for `_spawn.new_proc()`."""
    await supervise_child(start, *args, **kwargs)
