"""
How a broken stream is told: every failure of a byte stream becomes one `TransportClosed` here, and only here.

| what the stream raised | what it means | raised out of the message loop? |
|---|---|---|
| end of file, `ECONNRESET`, `EPIPE` while reading | the peer went away | no |
| the same while writing | the peer went away | yes: the sender asked for something that did not happen |
| `ClosedResourceError` | this side closed it | yes, when another task was using it |
| a frame above the size limit, too much garbage | the peer does not follow the protocol | no |

A write error is only called a closure when its whole tree of causes is one: a group in which anything else
happened too is raised as it is, to the task whose write it was.
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


def is_peer_closure(err: BaseException, _above: frozenset[int] = frozenset()) -> bool:
    """Whether every branch of the causes of `err` ends in a reset or a broken pipe."""
    at: BaseException | None = err
    while at is not None and id(at) not in _above:
        _above |= {id(at)}
        if isinstance(at, BaseExceptionGroup):
            return all(is_peer_closure(member, _above) for member in at.exceptions)
        if isinstance(at, OSError):
            return at.errno in _GONE
        at = at.__cause__ or at.__context__
    return False


def is_closure(err: trio.BrokenResourceError | trio.ClosedResourceError) -> bool:
    """Whether a write failed because the stream was closed, at either end, and for no other reason."""
    return isinstance(err, trio.ClosedResourceError) or is_peer_closure(err)


def from_send(
    tpt: Any, err: trio.BrokenResourceError | trio.ClosedResourceError
) -> TransportClosed:
    """The `TransportClosed` for a failed write."""
    name = repr(type(tpt).__name__)
    if isinstance(err, trio.ClosedResourceError):
        who = "'locally'" if _LOCAL_CLOSE in err.args else "'by peer'"
        text = f'{name} was already closed {who}?'
    elif is_peer_closure(err):
        text = f'{name} already closed by peer'
    else:
        text = f'{name} is broken: {err}'
    return _closed(f'{text}\n{tpt!r}\n', err, 'transport', raise_on_report=True)


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


def to_sender(closed: TransportClosed) -> TransportClosed:
    """What a sender gets once the stream was lost: it asked for something that did not happen."""
    return _closed(closed.message, closed.src_exc, 'transport', raise_on_report=True)


def again(closed: TransportClosed) -> TransportClosed:
    """
    One more error for the same loss.

    Raising one object for every caller would make its traceback, and what that keeps alive, grow with each.
    """
    return _closed(
        closed.message, closed.src_exc, closed._loglevel, raise_on_report=closed._raise_on_report
    )


def half_written(tpt: Any) -> TransportClosed:
    """The `TransportClosed` for a stream left in the middle of a frame by a cancelled write."""
    return _closed(
        f'{type(tpt).__name__!r} was cancelled in the middle of a frame\n{tpt!r}\n', None, 'warning'
    )


def _closed(
    text: str, src: BaseException | None, level: str, raise_on_report: bool = False
) -> TransportClosed:
    return TransportClosed(text, loglevel=level, src_exc=src, raise_on_report=raise_on_report)
