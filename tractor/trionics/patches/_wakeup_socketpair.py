"""Let trio's wakeup socket be drained after its write end was closed.

`WakeupSocketpair.drain()` reads until `BlockingIOError`. A closed write end gives end-of-file
instead, again and again, so the loop never ends. A forked child that closes inherited descriptors
runs into it.
"""

from __future__ import annotations

from typing import cast

from trio._core._wakeup_socketpair import WakeupSocketpair


class _EndOfFileSocket:
    """Gives end-of-file for a while, then `BlockingIOError`, so that any drain loop ends."""

    def __init__(self) -> None:
        self.reads = 0

    def recv(self, _max_bytes: int) -> bytes:
        self.reads += 1
        if self.reads > 2:
            raise BlockingIOError

        return b''


class _EndOfFilePair:
    """What `WakeupSocketpair.drain()` uses of its `self`."""

    def __init__(self) -> None:
        self.wakeup_sock = _EndOfFileSocket()


def _drain(self: WakeupSocketpair) -> None:
    """Read all pending wakeups; stop at end-of-file."""
    try:
        while self.wakeup_sock.recv(2**16):
            pass
    except BlockingIOError:
        return


def is_needed() -> bool:
    """Tell whether `drain()`, as it is now, reads on after end-of-file."""
    pair = _EndOfFilePair()
    WakeupSocketpair.drain(cast('WakeupSocketpair', pair))
    return pair.wakeup_sock.reads > 1


def apply() -> bool:
    """Replace `drain()` if needed, and tell whether that was done."""
    if not is_needed():
        return False

    WakeupSocketpair.drain = _drain  # type: ignore[method-assign]
    return True


def repro() -> None:
    """Drain a socket pair whose write end is closed: never returns unless patched."""
    pair = WakeupSocketpair()
    try:
        pair.write_sock.close()
        pair.drain()
    finally:
        pair.close()
