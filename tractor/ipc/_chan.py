"""
A `Channel` is one connection to one peer actor: a transport, and who is at the other end.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from tractor import log as _log
from tractor._exceptions import MsgTypeError, TransportClosed
from tractor.discovery._addr import wrap_address
from tractor.ipc import _access, _auth, _tls
from tractor.ipc._framing import MAX_FRAME_SIZE, MAX_GREETING_SIZE
from tractor.ipc._transport import MsgpackTransport
from tractor.ipc._types import transport_from_addr, transport_from_stream
from tractor.msg._errors import pack_error
from tractor.msg.types import Aid

log = _log.get_logger()

_NO_TRANSPORT = '<no-tpt>'


class Channel:
    """
    One connection to one peer.

    Args:
        transport: the connected transport; without one the channel is a mere description (of a local portal).

    Exactly one task may read it, normally the actor's message loop; any task may send. A channel that was lost
    stays lost: there is no reconnection.
    """

    __slots__ = (
        '__weakref__',
        '_accepted',
        '_aid',
        '_cancel_called',
        '_closed',
        '_exc',
        '_transport',
    )

    def __init__(self, transport: MsgpackTransport | None = None) -> None:
        self._transport = transport
        self._aid: Aid | None = None
        self._exc: BaseException | None = None
        self._closed = False
        self._cancel_called = False
        # whether the other end connected to us
        self._accepted = False

    @classmethod
    def from_stream(cls, stream: Any) -> Channel:
        """
        Wrap a stream that was accepted.

        Raises:
            NotImplementedError: no transport knows this kind of stream.
            ForeignUser: the peer of a UNIX socket belongs to another user.
        """
        chan = cls(transport_from_stream(stream)(stream))
        chan._accepted = True
        return chan

    @classmethod
    async def from_addr(cls, addr: Any, **kwargs: Any) -> Channel:
        """
        Connect to an address (wrapped, unwrapped or a multiaddr); no handshake is made.

        Raises:
            OSError: nobody listens there.
            ForeignUser: the listener at a UNIX socket belongs to another user.
        """
        addr = wrap_address(addr)
        return cls(await transport_from_addr(addr).connect_to(addr, **kwargs))

    # -- messages ---------------------------------------------------------------------------------------------

    async def send(self, payload: Any, hide_tb: bool = False) -> None:
        """
        Send one message; returns once the kernel has taken it.

        Raises:
            MsgTypeError: it cannot be encoded; nothing was sent.
            TransportClosed: the connection is gone.
        """
        if log.isEnabledFor(_log.CUSTOM_LEVELS['TRANSPORT']):
            log.transport('=> send IPC msg:\n\n%s\n', pformat(payload))
        await self._tpt().send(payload, hide_tb=hide_tb)

    async def post(self, payload: Any) -> None:
        """
        Like `send()`, but a checkpoint only if the kernel cannot take the message at once.

        For the runtime, where something else is waited for next anyway.
        """
        if log.isEnabledFor(_log.CUSTOM_LEVELS['TRANSPORT']):
            log.transport('=> send IPC msg:\n\n%s\n', pformat(payload))
        await self._tpt().post(payload)

    async def recv(self) -> Any:
        """
        The next message; a frame that violates the message spec comes as a `MsgTypeError` value.

        Raises:
            TransportClosed: no further message will come.
        """
        msg = await self._tpt().recv()
        if log.isEnabledFor(_log.CUSTOM_LEVELS['TRANSPORT']):
            log.transport('<= recv IPC msg:\n\n%s\n', pformat(msg))
        return msg

    def __aiter__(self) -> Channel:
        return self

    async def __anext__(self) -> Any:
        return self.as_msg(await self.recv())

    def as_msg(self, item: Any) -> Any:
        """The item itself, or for a `MsgTypeError` value the `Error` message its dialog gets instead."""
        if isinstance(item, MsgTypeError):
            return pack_error(item, cid=item.cid, src_uid=self._aid.uid if self._aid else None)
        return item

    def _tpt(self) -> MsgpackTransport:
        if self._transport is None:
            raise TransportClosed('this channel has no transport: it describes a local actor\n')
        return self._transport

    # -- life ---------------------------------------------------------------------------------------------------

    async def _do_handshake(self, aid: Aid, timeout: float | None = None) -> Aid:
        """
        Say who we are, learn who they are. Until they have said it, they may send small frames only.

        Before that comes TLS and the proof of the pre-shared key, where this actor has them.

        Args:
            aid: our own identity.
            timeout: seconds for all of it; `None` is forever, but for TLS and the key.

        Raises:
            TransportClosed: the peer is gone, too slow, or did not send an identity.
            AccessDenied: it is one which refuses us, or which we refuse.
        """
        tpt = self._tpt()
        if _auth.current.value is not None or _tls.current.value is not None:
            timeout = await self._secure(tpt, timeout)
        tpt.max_frame_size = MAX_GREETING_SIZE
        bad: BaseException | None = None
        peer: Any = None
        try:
            with trio.fail_after(timeout if timeout is not None else float('inf')):
                await tpt.send(aid)
                peer = await tpt.recv()
        except TransportClosed as closed:
            known = _access.explained(closed, _access.peer_of(tpt), self._accepted)
            if known is closed:
                raise
            raise known from closed
        except (trio.TooSlowError, MsgTypeError, msgspec.DecodeError, ValueError, TypeError) as err:
            bad = err
        if isinstance(peer, MsgTypeError):
            bad = peer
        elif bad is None and not isinstance(peer, Aid):
            bad = TypeError(f'expected an Aid, got {type(peer)!r}')
        if bad is not None:
            raise TransportClosed(
                f'Peer sent an invalid actor handshake!\n{bad!r}\n{tpt!r}\n',
                loglevel='warning',
                src_exc=bad,
            )
        tpt.max_frame_size = MAX_FRAME_SIZE
        self._aid = peer
        tpt.peer = peer.reprol()
        return peer

    async def _secure(self, tpt: MsgpackTransport, timeout: float | None) -> float | None:
        """Agree on TLS, prove to have the key; the seconds that are left of `timeout`."""
        limit = _access.HANDSHAKE_TIMEOUT if timeout is None else timeout
        deadline = trio.current_time() + limit
        who = _access.peer_of(tpt)
        tls, key = _tls.current.value, _auth.current.value
        if tls is not None and tpt.address_type.proto_key == 'tcp':  # type: ignore[attr-defined]
            host = (tpt.laddr if self._accepted else tpt.raddr).domain
            tpt.stream = await tls.wrap(
                tpt.stream, accepted=self._accepted, host=host, who=who, timeout=limit
            )
        if key is not None:
            left = max(deadline - trio.current_time(), 0)
            await _auth.authenticate(
                tpt.stream, key, accepted=self._accepted, who=who, timeout=left
            )
        return None if timeout is None else max(deadline - trio.current_time(), 0)

    async def aclose(self) -> None:
        """Close our end; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._transport is not None:
            await self._transport.aclose()

    def connected(self) -> bool:
        """Whether our end is open and the peer is not known to be gone."""
        return self._transport is not None and not self._closed and self._transport.connected()

    # -- what it is -----------------------------------------------------------------------------------------------

    @property
    def aid(self) -> Aid | None:
        """The peer, once it has said who it is."""
        return self._aid

    @property
    def uid(self) -> tuple[str, str] | None:
        """Deprecated: the peer's `(name, uuid)`; use `.aid.uid`."""
        warnings.warn(
            '`Channel.uid` is deprecated, use `Channel.aid.uid`', DeprecationWarning, stacklevel=2
        )
        return self._aid.uid if self._aid else None

    @property
    def transport(self) -> MsgpackTransport | None:
        """The transport below."""
        return self._transport

    @property
    def stream(self) -> Any:
        """The byte stream below the transport."""
        return self._transport.stream if self._transport else None

    @property
    def laddr(self) -> Any:
        """Our address."""
        return self._transport.laddr if self._transport else None

    @property
    def raddr(self) -> Any:
        """The peer's address."""
        return self._transport.raddr if self._transport else None

    @property
    def maddr(self) -> Any:
        """The peer's address as a multiaddr."""
        return self._transport.maddr if self._transport else _NO_TRANSPORT

    @property
    def cancel_called(self) -> bool:
        """Whether `Portal.cancel_actor()` was called through this channel."""
        return self._cancel_called

    @property
    def closed(self) -> bool:
        """Whether `aclose()` was called."""
        return self._closed

    def pformat(self, privates: bool = False) -> str:
        """
        Several lines for people: state, peer, addresses.

        Args:
            privates: show also the multiaddr, which takes a library that is slow to load, and private attributes.
        """
        state = 'connected' if self.connected() else 'closed' if self._closed else 'disconnected'
        lines = [
            f'state: {state}',
            f'peer: {self._aid.reprol() if self._aid else None}',
            f'transport: {type(self._transport).__name__ if self._transport else _NO_TRANSPORT}',
        ]
        if self._transport is not None:
            lines += [f'laddr: {self.laddr}', f'raddr: {self.raddr}']
        if privates:
            lines += [
                f'maddr: {self.maddr}',
                f'_exc: {self._exc!r}',
                f'_cancel_called: {self._cancel_called}',
            ]
        return '<Channel(\n' + ''.join(f' |_{line}\n' for line in lines) + ')>'

    __str__ = pformat
    __repr__ = pformat


@asynccontextmanager
async def _connect_chan(addr: Any, close_timeout: float | None = None) -> AsyncIterator[Channel]:
    """
    A connected channel for the block, closed at its end whatever happens.

    Args:
        addr: where to connect.
        close_timeout: seconds the closing may take; `None` is as long as it takes.

    Raises:
        OSError: nobody listens there.
        ForeignUser: the listener at a UNIX socket belongs to another user.
    """
    chan = await Channel.from_addr(addr)
    try:
        yield chan
    finally:
        limit = float('inf') if close_timeout is None else close_timeout
        with trio.CancelScope(shield=True, relative_deadline=limit) as cs:
            await chan.aclose()
        if cs.cancelled_caught:
            log.warning('closing %s took more than %s s', chan, close_timeout)


def pformat(msg: Any) -> str:
    # only who looks at every message loads it
    from pprint import pformat as render

    return render(msg)
