"""
What a `Context` knows about its dialog, and how it tells: state without behaviour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from tractor._exceptions import ContextCancelled, RemoteActorError, StreamOverrun
from tractor.msg import _ops
from tractor.runtime import _dialog
from tractor.runtime._queue import StreamQueue

if TYPE_CHECKING:
    from tractor._streaming import MsgStream
    from tractor.ipc import Channel
    from tractor.msg._codec import MsgCodec, MsgDec
    from tractor.msg._typed import PayloadTypes
    from tractor.msg.ptr import NamespacePath
    from tractor.msg.types import Started
    from tractor.runtime._portal import Portal
    from tractor.runtime._runtime import Actor

Uid = tuple[str, str]


class Unresolved:
    """The class itself stands for an outcome that is not known yet."""


class ContextState:
    """The attributes of a `tractor.Context`, its read-only properties and its text forms."""

    _portal: Portal | None = None
    _remote_func_type: str | None = None
    _caller_info: Any = None
    _scope: trio.CancelScope | None = None
    _scope_nursery: trio.Nursery | None = None
    _outcome_msg: Any = Unresolved
    _result: Any = Unresolved
    _result_dec: MsgDec | None = None
    _local_error: BaseException | None = None
    _remote_error: BaseException | None = None
    _cancel_called: bool = False
    _canceller: Uid | None = None
    _cancel_msg: Any = None
    _enter_debugger_on_cancel: bool = True
    _started_called: bool = False
    _started_msg: Started[Any] | None = None
    _started_pld: Any = None
    _stream_opened: bool = False
    _stream: MsgStream | None = None
    _allow_overruns: bool = False
    _overrun: StreamOverrun | None = None
    _peer_stopped: bool = False
    _strict_started: bool = False
    _cancel_on_msgerr: bool = True
    _changed: trio.Event | None = None
    _queue: StreamQueue | None = None
    _stream_ended: bool = False
    _rx: _ops.PldRx | None = None
    _pld_codec: MsgCodec | None = None
    _owner_waits: int = 0
    _discards: int = 0
    _dropped: list[Any] | None = None

    def __init__(
        self,
        chan: Channel,
        cid: str,
        nsf: NamespacePath | str,
        actor: Actor,
        requester: bool,
        msg_buffer_size: int = 64,
    ) -> None:
        self.chan = chan
        self.cid = cid
        self._nsf = nsf
        self._actor = actor
        self.is_requester = requester
        self._dialog = _dialog.Dialog(requester, nsf in _dialog.CANCEL_REQUESTS)
        self._msg_buffer_size = msg_buffer_size
        self._task = trio.lowlevel.current_task()

    def apply_types(self, types: PayloadTypes) -> None:
        """Encode and decode the payloads of this dialog as its function says."""
        self._pld_codec = types.codec
        if types.dec is not None:
            self._pld_rx._pld_dec = types.dec

    def _is_self_cancelled(self, error: BaseException | None = None) -> bool:
        error = error or self._remote_error
        return (
            self._cancel_called
            and isinstance(error, ContextCancelled)
            and error is self._remote_error
            and error.canceller == self._actor.aid.uid
        )

    def _is_own_overrun(self, error: BaseException) -> bool:
        return (
            isinstance(error, RemoteActorError)
            and error.boxed_type is StreamOverrun
            and error.sender == self._actor.aid.uid
        )

    # -- properties ------------------------------------------------------------------------------------------------

    @property
    def _rx_chan(self) -> StreamQueue:
        queue = self._queue
        if queue is None:
            queue = self._queue = StreamQueue(self._msg_buffer_size)
            if self._stream_ended:
                queue.end()
        return queue

    _send_chan = _rx_chan

    @property
    def _pld_rx(self) -> _ops.PldRx:
        if self._rx is None:
            self._rx = _ops.PldRx(ctx=self)
        return self._rx

    pld_rx = _pld_rx

    @property
    def portal(self) -> Portal | None:
        """The portal it was opened through; `None` on the child side."""
        return self._portal

    @property
    def parent_task(self) -> trio.lowlevel.Task:
        """The task that made this end."""
        return self._task

    @property
    def side(self) -> str:
        """`'parent'` or `'child'`."""
        return 'parent' if self._portal is not None else 'child'

    @property
    def peer_side(self) -> str:
        """The other one."""
        return 'child' if self._portal is not None else 'parent'

    @property
    def cancel_called(self) -> bool:
        """Whether `cancel()` was called on this end, by the user or by the block's own error handling."""
        return self._cancel_called

    @property
    def canceller(self) -> Uid | None:
        """The uid of the actor whose end caused ours: see the table at the top of this module."""
        return self._canceller

    @property
    def cancel_acked(self) -> bool:
        """Whether the peer answered our `cancel()` by being cancelled."""
        peer = self.chan.aid
        return (
            self._is_self_cancelled()
            and self._canceller == self._actor.aid.uid
            and peer is not None
            and getattr(self._remote_error, 'src_uid', None) == peer.uid
        )

    @property
    def cancelled_caught(self) -> bool:
        """Whether this end's scope was cancelled and absorbed it."""
        return bool(self._scope and self._scope.cancelled_caught)

    @property
    def maybe_error(self) -> BaseException | None:
        """The remote error if there is one, else the local one."""
        return self._remote_error if self._remote_error is not None else self._local_error

    @property
    def outcome(self) -> Any:
        """The error or the value it ended with; the class `Unresolved` before that."""
        error = self.maybe_error
        return self._result if error is None else error

    @property
    def has_outcome(self) -> bool:
        """Whether `outcome` is known."""
        return self.maybe_error is not None or self._result is not Unresolved

    def _final_result_is_set(self) -> bool:
        return self._result is not Unresolved

    @property
    def dst_maddr(self) -> Any:
        """The peer's address as a multiaddr."""
        return self.chan.maddr

    dmaddr = dst_maddr

    @property
    def repr_rpc(self) -> str:
        """`<function>() -> <outcome>`."""
        return f'{self._nsf}() -> {self.repr_outcome()}'

    @property
    def repr_caller(self) -> str:
        """Who opened it, as far as known."""
        return str(self._caller_info or self._task.name)

    @property
    def repr_api(self) -> str:
        """The API it came from."""
        return 'Portal.open_context()' if self._portal is not None else '@tractor.context'

    def repr_outcome(self, show_error_fields: bool = False, type_only: bool = False) -> str:
        """The outcome in a few words."""
        error = self.maybe_error
        if error is None:
            return repr(self._result) if self._final_result_is_set() else 'Unresolved'
        if type_only:
            return type(error).__name__
        if show_error_fields and isinstance(error, RemoteActorError):
            return error.reprol()
        return repr(error) if not isinstance(error, RemoteActorError) else type(error).__name__

    @property
    def repr_state(self) -> str:
        """One word for the phase it is in."""
        error = self.maybe_error
        if isinstance(error, ContextCancelled):
            return 'self-cancelled' if self.cancel_acked else 'peer-cancelled'
        if error is not None:
            cancelled = isinstance(error, trio.Cancelled) and self._canceller is not None
            return 'actor-cancelled' if cancelled else 'errored'
        if self._final_result_is_set():
            return 'result-returned'
        if self._stream is not None:
            return 'streaming-finished' if self._stream.closed else 'streaming'
        if self._started_called:
            return 'started'
        return 'syncing-to-child' if self._portal is not None else 'pre-started'

    def pformat(self, extra_fields: dict[str, Any] | None = None) -> str:
        """Several lines for people."""
        peer = self.chan.aid.reprol() if self.chan.aid else None
        fields = {
            'side': self.side,
            'peer': peer,
            'cid': self.cid,
            'rpc': self.repr_rpc,
            'state': self.repr_state,
            **(extra_fields or {}),
        }
        return '<Context(\n' + ''.join(f' |_{key}: {val}\n' for key, val in fields.items()) + ')>'

    __str__ = pformat
    __repr__ = pformat
