"""
Who may talk to an actor, and how a refusal is told: the errors, and the listener's log of them.

| check | transports | who makes it | error |
|---|---|---|---|
| the peer's user is ours | `uds` | both sides, as soon as they are connected | `ForeignUser` |
| TLS, when the tree has contexts for it | `tcp` | both sides, before the next | `TLSHandshakeError` |
| the pre-shared key, when the tree has one | all | both sides, before the first message | `AuthenticationError` |

All of them are a `TransportClosed`: for the layers above, a peer that was refused is one that cannot be reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio

from tractor import log as _log
from tractor._exceptions import TransportClosed, reg_err_types
from tractor.ipc._framing import HEADER, FrameTooLarge

log = _log.get_logger()

# seconds which one side gives the other for TLS and the key, where the caller sets no limit
HANDSHAKE_TIMEOUT: float = 10

# a listener logs one refusal in so many seconds, with the number of those in between
LOG_PERIOD: float = 1.0

# what the key exchange begins with. As the head of a frame it announces more than 1 GiB, so that an actor which
# knows of no key refuses it after these four bytes.
KEY_MAGIC: bytes = b'AuTr'

# first bytes of a TLS record: a handshake or an alert, and the major version of the protocol
_TLS_HEADS: tuple[bytes, ...] = (b'\x16\x03', b'\x15\x03')

NEED_KEY = (
    'it demands a key and this actor has none: pass authkey= to open_root_actor(), or set TRACTOR_AUTHKEY, '
    'with the key of that tree'
)
NEED_TLS = 'it speaks TLS and this actor does not: pass tls= to open_root_actor()'


class AccessDenied(TransportClosed):
    """One of the two ends of a connection refused the other."""

    def __init__(
        self,
        message: str,
        loglevel: str = 'warning',
        src_exc: BaseException | None = None,
        raise_on_report: bool = False,
    ) -> None:
        super().__init__(message, loglevel, src_exc, raise_on_report)


class ForeignUser(AccessDenied):
    """The process at the other end of a UNIX socket belongs to another user."""


class TLSHandshakeError(AccessDenied):
    """TLS could not be agreed on: one end has none, or does not trust the other's certificate."""


class AuthenticationError(AccessDenied):
    """The two ends do not have the same key, or only one of them has one."""


reg_err_types([AccessDenied, ForeignUser, TLSHandshakeError, AuthenticationError])


def what_it_speaks(first: bytes) -> type[AccessDenied] | None:
    """The error for a peer whose first bytes are no frame: of a key exchange, of TLS, or `None` for all else."""
    if first.startswith(KEY_MAGIC):
        return AuthenticationError
    return TLSHandshakeError if first.startswith(_TLS_HEADS) else None


def explained(closed: TransportClosed, who: str, accepted: bool) -> TransportClosed:
    """
    The same closure, or the reason behind it if the peer began with something that only looks like a frame.

    Args:
        closed: how the handshake ended.
        who: the peer.
        accepted: whether it connected to us. Then TLS is just what strangers try.
    """
    cause = closed.src_exc
    if not isinstance(cause, FrameTooLarge):
        return closed
    error = what_it_speaks(HEADER.pack(cause.size))
    if error is None:
        return closed
    need = NEED_KEY if error is AuthenticationError else NEED_TLS
    text = f'no connection with {who}: {need}\n'
    if accepted and error is TLSHandshakeError:
        return TransportClosed(text + closed.message, src_exc=cause)
    return error(text, src_exc=cause)


def closed_silently(who: str, cause: BaseException | None = None) -> TransportClosed:
    """For a peer that went away before it said anything: that is no refusal."""
    return TransportClosed(f'{who} closed the connection before it said anything\n', src_exc=cause)


def peer_of(tpt: Any) -> str:
    """Who is at the other end of a transport, as far as the system knows, for people."""
    describe = getattr(tpt, 'describe_peer', None)
    return describe() if describe is not None else str(tpt.raddr)


class Held[T]:
    """A value that belongs to the actor of this interpreter; whoever opens and ends that actor writes it."""

    def __init__(self) -> None:
        self.value: T | None = None

    @contextmanager
    def holding(self, value: T | None) -> Iterator[None]:
        """Hold this for the block; what was before is back at its end."""
        saved, self.value = self.value, value
        try:
            yield
        finally:
            self.value = saved


class Refusals:
    """
    What one listener logs of those it refused: one in `LOG_PERIOD` seconds.

    Args:
        listener: what to call it; a function, as an address may be known later only.
    """

    def __init__(self, listener: Any) -> None:
        self._listener = listener
        self._silent_until = float('-inf')
        self._kept = 0

    def note(self, denied: AccessDenied) -> None:
        """Log a refusal, or count it for the next one that is logged."""
        now = trio.current_time()
        if now < self._silent_until:
            self._kept += 1
            return
        kept, self._kept = self._kept, 0
        self._silent_until = now + LOG_PERIOD
        text = denied.message.strip()
        if kept:
            log.warning('%s: %s\n(%s more were refused before)', self._listener(), text, kept)
        else:
            log.warning('%s: %s', self._listener(), text)

    def close(self) -> None:
        """Log how many were counted since the last line, if any."""
        kept, self._kept = self._kept, 0
        if kept:
            log.warning('%s: %s more connections were refused', self._listener(), kept)
