"""
Reading and writing a connected socket as `trio.SocketStream` does it, with the same checkpoints and errors, but in one
plain system call where nothing has to be waited for, and without the frames of the layers in between.

Elsewhere than on POSIX sockets are no file descriptors: there it is trio's own way.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Any

import trio

from tractor.ipc import _faults

_HAS_FD_IO: bool = sys.platform != 'win32'


def _not_now(_fd: int, _arg: Any) -> Any:
    raise BlockingIOError


_read: Callable[[int, int], bytes] = os.read if _HAS_FD_IO else _not_now
_write: Callable[[int, memoryview], int] = os.write if _HAS_FD_IO else _not_now


def send_nowait(stream: trio.SocketStream, data: memoryview) -> int:
    """
    Give the kernel as much as it takes now; returns how many bytes.

    Raises:
        OSError: it takes nothing now, for whatever reason.
    """
    return _write(stream.socket.fileno(), data)


async def send_some(stream: trio.SocketStream, data: memoryview) -> int:
    """
    Give the kernel a part of the data once it takes any; returns how many bytes, none if it is cancelled.

    Raises:
        trio.BrokenResourceError: the connection is lost.
        trio.ClosedResourceError: it was closed here.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    try:
        try:
            count = _write(stream.socket.fileno(), data)
        except OSError as err:
            if _is_final(err):
                raise
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return count
        return await stream.socket.send(data)
    except OSError as err:
        raise _faults.as_stream_error(err) from err


async def receive_some(stream: trio.SocketStream, size: int, is_drained: bool = False) -> bytes:
    """
    Wait for at most `size` bytes; none when the peer has ended the connection.

    Args:
        stream: where from.
        size: at most so many bytes, at least one.
        is_drained: the last time it gave fewer bytes than were asked for: it is not asked again before it has more.

    Raises:
        trio.BrokenResourceError: the connection is lost.
        trio.ClosedResourceError: it was closed here.

    Cancelled: nothing was taken.
    """
    sock = stream.socket
    try:
        if not is_drained:
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                data = _read(sock.fileno(), size)
            except OSError as err:
                if _is_final(err):
                    raise
            else:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return data
        if not _HAS_FD_IO or sock.fileno() < 0:
            # it is no file descriptor, or closed: trio waits, or says so
            return await sock.recv(size)
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                return _read(sock.fileno(), size)
            except BlockingIOError:
                continue
    except OSError as err:
        raise _faults.as_stream_error(err) from err


def _is_final(err: OSError) -> bool:
    # an error of a connection is told once: who asked first has to raise it
    return not isinstance(err, BlockingIOError) and err.errno != errno.EBADF
