"""
How a broken stream is told: every failure of a byte stream becomes one `TransportClosed` here, and only here.

| what the stream raised | what it means | raised out of the message loop? |
|---|---|---|
| end of file, `ECONNRESET`, `EPIPE` while reading | the peer went away | no |
| the same while writing | the peer went away | yes: the sender asked for something that did not happen |
| `ClosedResourceError` | this side closed it | yes, when another task was using it |
| a frame above the size limit, too much garbage | the peer does not follow the protocol | no |

A write error is only called a closure when its whole tree of causes is one: a group in which anything else
happened too stays what it was.
"""

from __future__ import annotations

import errno
from typing import Any

import trio

from tractor._exceptions import TransportClosed

_LOCAL_CLOSE = 'another task closed this fd'
_GONE = frozenset({errno.ECONNRESET, errno.EPIPE})


def as_stream_error(err: OSError) -> trio.BrokenResourceError | trio.ClosedResourceError:
    """What `trio.SocketStream` would raise for an error of its socket."""
    if err.errno in {errno.EBADF, errno.ENOTSOCK}:
        return trio.ClosedResourceError('this socket was already closed')
    return trio.BrokenResourceError(f'socket connection broken: {err}')


def is_peer_closure(err: BaseException) -> bool:
    """Whether every branch of the causes of `err` ends in a reset or a broken pipe."""
    seen: set[int] = set()
    at: BaseException | None = err
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        if isinstance(at, BaseExceptionGroup):
            return all(is_peer_closure(member) for member in at.exceptions)
        if isinstance(at, OSError):
            return at.errno in _GONE
        at = at.__cause__ or at.__context__
    return False


def from_send(
    tpt: Any, err: trio.BrokenResourceError | trio.ClosedResourceError
) -> TransportClosed:
    """
    The `TransportClosed` for a failed write.

    Raises:
        trio.BrokenResourceError: `err` itself, when something else than a closure took part in it.
    """
    name = repr(type(tpt).__name__)
    reason = str(err.args[0]) if err.args else ''
    if isinstance(err, trio.ClosedResourceError):
        who = "'locally'" if reason == _LOCAL_CLOSE else "'by peer'"
        text = f'{name} was already closed {who}?\n'
    elif is_peer_closure(err):
        text = f'{name} already closed by peer\n'
    else:
        raise err
    return _closed(f'{text}{tpt!r}\n', err, 'transport', raise_on_report=True)


def from_recv(
    tpt: Any, err: trio.BrokenResourceError | trio.ClosedResourceError
) -> TransportClosed:
    """The `TransportClosed` for a failed read."""
    name = repr(type(tpt).__name__)
    if isinstance(err, trio.ClosedResourceError):
        return _closed(
            f'{name} was already closed locally?\n{tpt!r}\n',
            err,
            'error',
            raise_on_report=_LOCAL_CLOSE in err.args,
        )
    level = 'transport' if is_peer_closure(err) else 'warning'
    return _closed(f'{name} already closed by peer\n{tpt!r}\n', err, level)


def eof(tpt: Any) -> TransportClosed:
    """The `TransportClosed` for an orderly, or at least complete, end of the peer's bytes."""
    pending = tpt._reader.pending
    rest = f'in the middle of a frame, after {pending} bytes of it\n' if pending else ''
    return _closed(
        f'{type(tpt).__name__!r} already closed by peer\n{rest}{tpt!r}\n', None, 'transport'
    )


def refused(tpt: Any, err: Exception) -> TransportClosed:
    """The `TransportClosed` for bytes which this side does not accept."""
    return _closed(
        f'{type(tpt).__name__!r} refuses what the peer sends: {err}\n{tpt!r}\n', err, 'warning'
    )


def half_written(tpt: Any) -> TransportClosed:
    """The `TransportClosed` for a stream left in the middle of a frame by a cancelled write."""
    return _closed(
        f'{type(tpt).__name__!r} was cancelled in the middle of a frame\n{tpt!r}\n', None, 'warning'
    )


def _closed(
    text: str, src: Exception | None, level: str, raise_on_report: bool = False
) -> TransportClosed:
    return TransportClosed(text, loglevel=level, src_exc=src, raise_on_report=raise_on_report)
