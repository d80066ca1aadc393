"""
A `Context` is one end of a dialog between two tasks in two actors: the task that opened it (the parent side) and
the task that runs the `@context` function (the child side).

What arrives is routed by kind (`runtime/_dialog.py`): handshake slots, a bounded stream queue, and an outcome that
is written once. Nothing that arrives can raise here; the tasks concerned are woken and find out.

| received | `canceller` becomes | our scope |
|---|---|---|
| `ContextCancelled` asked for by this actor, and `cancel()` was called here | our uid | cancelled unless the owner waits on this dialog |
| `ContextCancelled` asked for by this actor, `cancel()` was not called | our uid | cancelled |
| `ContextCancelled` asked for by anybody else | the peer's uid | cancelled |
| any other error | uid of its source | cancelled |
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from tractor import log as _log
from tractor._exceptions import ContextCancelled, MsgTypeError, RemoteActorError, TransportClosed
from tractor._streaming import MsgStream, open_stream_from_ctx
from tractor.msg import _errors, _ops
from tractor.msg._typed import ATTRIBUTE, PayloadTypes, encode_payload
from tractor.msg.types import CancelAck, Error, Return, Started, Stop, Yield
from tractor.runtime import _dialog, _endpoint, _state
from tractor.runtime._ctx_state import ContextState, Unresolved

if TYPE_CHECKING:
    from tractor.ipc import Channel
    from tractor.msg.ptr import NamespacePath
    from tractor.runtime._runtime import Actor

log = _log.get_logger()

F = TypeVar('F', bound=Callable[..., Any])

# seconds which `Context.cancel()` waits for the peer's answer
CANCEL_TIMEOUT: float = 0.616


class Context(ContextState):
    """
    One end of a dialog; made by `Portal.open_context()` and, for the other end, by the runtime.

    One received `Error` is one exception object: whatever raises or returns it, it is that object, and it is
    `maybe_error` and `outcome` too.
    """

    # -- what arrives (called by the message loop; never awaits, never raises) ---------------------------------

    def deliver(self, msg: Any) -> bool:
        """Take a message of this dialog; `False` if the stream queue has no room for it."""
        action = self._dialog.feed(msg)
        if action is _dialog.ITEM:
            return self._take_item(msg)
        if action is _dialog.RESULT:
            self._take_result(msg)
        elif action is _dialog.ACK:
            self._remote_func_type = msg.functype
        elif action is _dialog.FIRST:
            self._take_started(msg)
        elif action is _dialog.ERROR:
            self._take_error(msg)
        elif action is _dialog.STOP:
            self._take_stop()
        else:
            level = log.runtime if action is _dialog.LATE else log.warning
            level(
                '%s %s for %s in phase %s: dropped',
                action,
                type(msg).__name__,
                self.cid,
                self._dialog.phase,
            )
            return True
        changed = self._changed
        if changed is not None:
            self._changed = None
            changed.set()
        return True

    def _take_item(self, msg: Yield[Any]) -> bool:
        queue = self._rx_chan
        # once its sender was told off nothing is taken any more: what is queued stays without gaps
        if queue.closed or self._discards or self._overrun is not None:
            self._drop(msg)
            return True
        return queue.put(msg, force=self._allow_overruns)

    def _drop(self, *msgs: Any) -> None:
        if self._dropped is not None:
            self._dropped += msgs

    def _take_started(self, msg: Started[Any]) -> None:
        self._started_msg = msg
        try:
            self._started_pld = self._pld_rx.decode(msg)
        except MsgTypeError as mte:
            self._set_remote_error(mte)
        else:
            self._started_called = True

    def _take_result(self, msg: Any) -> None:
        self._outcome_msg = msg
        self._end_stream()
        if type(msg) is CancelAck:
            self._result = msg.pld
        elif not self._pld_rx._limits:
            self._decode_result()

    def _decode_result(self) -> None:
        """
        Decode what the function returned, if that is here: once, and for whoever asks within `limit_plds()`.

        While such a block lasts, nothing is decoded on arrival: whether that is before or after its end is chance.
        """
        rx, msg = self._pld_rx, self._outcome_msg
        known = self._result_dec is not None and not rx._limits
        if known or self._result_dec is rx._pld_dec or self._remote_error is not None:
            return
        if type(msg) is Return:
            self._result_dec = rx._pld_dec
            try:
                self._result = rx.decode(msg)
            except MsgTypeError as mte:
                self._set_remote_error(mte)

    def _take_error(self, msg: Error) -> None:
        self._cancel_msg = msg
        if self._dialog.done:
            self._outcome_msg = msg
        error = _errors.unpack_error(msg, self.chan)
        if error is not None:
            self._set_remote_error(error)

    def _take_stop(self) -> None:
        self._peer_stopped = True
        if self._stream is not None:
            self._stream._stop_msg = Stop(cid=self.cid)
        self._end_stream()

    def _end_stream(self) -> None:
        self._stream_ended = True
        if self._queue is not None:
            self._queue.end()

    def _set_remote_error(self, error: BaseException) -> None:
        """Record why the other side ended, once; wake and cancel what depends on it."""
        if self._remote_error is not None:
            return
        self._remote_error = error
        ours = self._actor.aid.uid
        if isinstance(error, ContextCancelled) and error.canceller == ours:
            self._canceller = ours
        elif isinstance(error, RemoteActorError):
            self._canceller = error.src_uid or self._canceller
        self._end_stream()
        self._notify()
        self._interrupt()

    _maybe_cancel_and_set_remote_error = _set_remote_error

    def _interrupt(self) -> None:
        """Cancel our scope for the remote error, unless what the owner waits for is just that error."""
        scope = self._scope
        if scope is None or scope.cancel_called:
            return
        if self._is_self_cancelled():
            if not self._owner_waits:
                scope.cancel()
        elif self._cancel_on_msgerr or not isinstance(self._remote_error, MsgTypeError):
            scope.cancel()

    def lose(self, closed: BaseException) -> None:
        """The connection is gone: whoever waits for this dialog gets `closed`."""
        if not self._dialog.done:
            self._dialog.end()
            self._set_remote_error(closed)

    def _notify(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    # -- waiting ------------------------------------------------------------------------------------------------

    async def _wait(self, ready: Callable[[Context], bool]) -> None:
        """
        Wait until `ready(self)` or a remote error is known.

        A cancellation that comes with a remote error gives way to it: the error is the cause.
        """
        owner = trio.lowlevel.current_task() is self._task
        self._owner_waits += owner
        try:
            while self._remote_error is None and not ready(self):
                if self._changed is None:
                    self._changed = trio.Event()
                await self._changed.wait()
        except trio.Cancelled:
            if self._remote_error is None:
                raise
        finally:
            self._owner_waits -= owner

    async def wait_for_result(self, hide_tb: bool = True) -> Any:
        """
        The value which the function of the child side returned.

        Returns:
            That value; or, when `cancel()` was called here and the peer complied, the `ContextCancelled`.

        Raises:
            RemoteActorError: the function raised, or was cancelled by somebody else.
            RuntimeError: called on the child side.

        May be called again, also after the block was left: same value, same exception object. Cancelling the wait
        leaves the dialog untouched. Once the outcome is known this is no checkpoint. Without an open stream, stream
        messages that arrive while it waits are dropped; with one they have to be read by somebody.
        """
        if self._portal is None:
            raise RuntimeError('only the side that opened a context can wait for its result')
        if not self.has_outcome:
            discards = self._drop_unread()
            self._discards += discards
            try:
                await self._wait(_result_known)
            finally:
                self._discards -= discards
        self._decode_result()
        if self._remote_error is not None:
            lenient = self._allow_overruns or self._cancel_called
            return self._maybe_raise_remote_err(
                self._remote_error, raise_overrun_from_self=not lenient
            )
        return self._result

    def _drop_unread(self) -> bool:
        """Drop the stream messages which nobody can read; whether that is so."""
        unreadable = self._stream is None or self._stream.closed
        if unreadable and self._queue is not None:
            self._drop(*self._queue.clear())
        return unreadable

    async def result(self, hide_tb: bool = True) -> Any:
        """Deprecated name of `wait_for_result()`."""
        log.warning('`Context.result()` is deprecated, use `Context.wait_for_result()`')
        return await self.wait_for_result(hide_tb=hide_tb)

    def maybe_raise(self, hide_tb: bool = True, **kwargs: Any) -> BaseException | None:
        """Raise the remote error if there is one that is not absorbed here."""
        if self._remote_error is None:
            return None
        return self._maybe_raise_remote_err(self._remote_error, **kwargs)

    def _maybe_raise_remote_err(
        self,
        remote_error: BaseException,
        from_src_exc: BaseException | bool | None = False,
        raise_ctxc_from_self_call: bool = False,
        raise_overrun_from_self: bool = True,
        hide_tb: bool = True,
    ) -> BaseException:
        """The one place that decides: absorb (and return) or raise."""
        if self._is_self_cancelled(remote_error):
            absorb = not raise_ctxc_from_self_call
        else:
            absorb = not raise_overrun_from_self and self._is_own_overrun(remote_error)
        if absorb:
            if self._local_error is None:
                self._local_error = remote_error
            return remote_error
        if from_src_exc is False:
            raise remote_error
        raise remote_error from from_src_exc  # type: ignore[misc]

    # -- acting -------------------------------------------------------------------------------------------------

    async def started(
        self,
        value: Any = None,
        validate_pld_spec: bool = True,
        strict_pld_parity: bool = False,
        hide_tb: bool = True,
    ) -> None:
        """
        Tell the parent side that this task is up; its `open_context()` yields `value`.

        Args:
            value: the first value.
            validate_pld_spec: check it against the payload spec before sending.
            strict_pld_parity: also demand that it survives the trip unchanged (a tuple does not).

        Raises:
            RuntimeError: called on the parent side, or a second time.
            TypeError: the value cannot be encoded; nothing was sent.
            MsgTypeError: it does not match the spec; nothing was sent and `started()` may be called again.
            TransportClosed: the parent is gone.
        """
        if self._portal is not None:
            raise RuntimeError(
                '`Context.started()` is for the child side: this side opened the context'
            )
        if self._started_called:
            raise RuntimeError('`Context.started()` was called already')
        msg = Started(cid=self.cid, pld=value)
        if validate_pld_spec:
            _ops.validate_payload_msg(
                pld_msg=msg, pld_value=value, ipc=self, strict_pld_parity=strict_pld_parity
            )
        self._started_called = True
        try:
            await self.chan.send(encode_payload(self._pld_codec, Started, self.cid, value))
        except MsgTypeError:
            self._started_called = False
            raise
        self._started_msg = msg
        self._started_pld = value

    async def cancel(self, timeout: float = CANCEL_TIMEOUT) -> None:
        """
        Cancel the dialog.

        On the parent side: ask the child side's task to be cancelled and wait, shielded, at most `timeout` seconds
        for the answer; its outcome has arrived when this returns in time. On the child side: cancel this task.

        Raises nothing for what the peer does; a timeout is logged.
        """
        self._cancel_called = True
        if self._portal is None:
            if self._scope is not None:
                self._scope.cancel()
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + timeout) as scope:
            try:
                await self._portal.run_from_ns('self', '_cancel_task', cid=self.cid)
            except (TransportClosed, RemoteActorError) as err:
                log.cancel('the cancel request for %s was not answered: %s', self.cid, err)
        if scope.cancelled_caught:
            log.cancel('%s did not answer the cancel request within %s s', self.repr_rpc, timeout)

    def open_stream(
        self,
        allow_overruns: bool = False,
        msg_buffer_size: int | None = None,
        backpressure: bool = False,
    ) -> AbstractAsyncContextManager[MsgStream]:
        """
        This side's end of the two-way stream; see `tractor.MsgStream`.

        Args:
            allow_overruns: let received messages queue up beyond the buffer instead of failing the sender.
            msg_buffer_size: messages that may wait here unread; 64 by default.
            backpressure: let `MsgStream.send()` wait while the peer's buffer is full instead of overrunning it. A
                peer that neither reads its stream nor closes it holds the sender for good.

        Raises (on entry):
            RuntimeError: the dialog was cancelled, or this is the child side and `started()` was not called.
            trio.ClosedResourceError: the dialog is over, or had its stream already.
        """
        return open_stream_from_ctx(self, allow_overruns, msg_buffer_size, backpressure)

    async def send_stop(self) -> None:
        """Tell the peer that no more stream messages come from here."""
        await self.chan.send(Stop(cid=self.cid))

    async def send_yield(self, data: Any) -> None:
        """Deprecated: send one stream message."""
        warnings.warn(
            '`Context.send_yield()` is deprecated, use `MsgStream.send()`',
            DeprecationWarning,
            stacklevel=2,
        )
        await self.chan.send(encode_payload(self._pld_codec, Yield, self.cid, data))


def _result_known(ctx: Context) -> bool:
    return ctx._outcome_msg is not Unresolved


def mk_context(
    chan: Channel,
    cid: str,
    nsf: NamespacePath | str,
    msg_buffer_size: int = 64,
    pld_spec: Any = Any,
    *,
    actor: Actor | None = None,
    requester: bool = False,
    **kwargs: Any,
) -> Context:
    """
    Make one end of a dialog.

    Args:
        chan: the connection it runs over.
        cid: its id, chosen by the requester.
        nsf: the function, as `module:name`.
        msg_buffer_size: stream messages that may wait unread.
        pld_spec: the type of its payloads.
        actor: the local actor; the current one by default.
        requester: whether this side sends the `Start`.
        kwargs: further initial values of its attributes.
    """
    actor = actor or _state.current_actor()
    ctx = Context(chan, cid, nsf, actor, requester, msg_buffer_size)
    if pld_spec is not Any:
        ctx._pld_rx.set_spec(pld_spec)
    for name, value in kwargs.items():
        setattr(ctx, name, value)
    return ctx


def context(
    func: F | None = None,
    *,
    pld_spec: Any = Any,
    dec_hook: Callable[..., Any] | None = None,
    enc_hook: Callable[..., Any] | None = None,
    ext_types: list[Any] | None = None,
) -> Any:
    """
    Mark an async function as the child side of a dialog, to be opened with `Portal.open_context()`.

    Args:
        func: the function; one of its parameters must be annotated `tractor.Context`.
        pld_spec: the type which every payload of the dialog, in either direction, must have.
        enc_hook: called with a value of a type which msgpack does not know; returns one of a known type. Used by
            both sides, for arguments, the first value, stream messages and the result.
        dec_hook: called with such a type and what was decoded; returns the value. Used by both sides; arguments
            are then converted to what the parameters are annotated with.
        ext_types: the types which the hooks handle; without a `pld_spec` every payload must have one of them.

    Raises:
        TypeError: no parameter is annotated `tractor.Context`, or the codec library does not support the types.
    """
    if func is None:
        return lambda wrapped: context(
            wrapped,
            pld_spec=pld_spec,
            dec_hook=dec_hook,
            enc_hook=enc_hook,
            ext_types=ext_types,
        )
    func._tractor_context_meta = {  # type: ignore[attr-defined]
        'ctx_var_name': _endpoint.find_context_param(func, Context),
        'pld_spec': pld_spec,
        'dec_hook': dec_hook,
        'enc_hook': enc_hook,
        'ext_types': ext_types,
        'sig': _endpoint.signature_of(func),
    }
    types = PayloadTypes(func, pld_spec, enc_hook, dec_hook, ext_types)
    setattr(func, ATTRIBUTE, types)
    return func


def __getattr__(name: str) -> Any:
    if name == 'open_context_from_portal':
        from tractor.runtime import _open_context

        return _open_context.open_context_from_portal
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
