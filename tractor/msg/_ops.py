"""
Decoding payloads, for a context, to its own type spec.

What a payload error does to a dialog is decided here as well: it is recorded on the context as
if the sender had reported it, and raised where the payload was asked for. Messages reach these
functions one at a time; which of them a caller waits for is the business of the context.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import msgspec
import trio
from msgspec import Raw

from tractor._exceptions import MessagingError, MsgTypeError, RemoteActorError
from tractor.log import get_logger
from tractor.msg import _codec
from tractor.msg._codec import MsgDec, mk_dec, mk_hook_dec
from tractor.msg._errors import _mk_recv_mte, encode_hint, pack_error, unpack_error
from tractor.msg._recv import Receiving, context_of
from tractor.msg.types import CancelAck, Error, Return, Started, Stop, Yield
from tractor.runtime import _state

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

log = get_logger()

_def_any_pldec: MsgDec = mk_dec(spec=Any)


class StreamState(Protocol):
    """What is read and written here of a `MsgStream`."""

    _eoc: Any
    _closed: Any


class DialogContext(Protocol):
    """
    What is used here of a `Context`.

    `chan.aid` identifies the peer. `_maybe_cancel_and_set_remote_error()` records an error and
    cancels the scope of the context; it does not raise.
    """

    cid: str
    chan: Any
    _pld_rx: PldRx
    _remote_error: BaseException | None
    _pld_codec: Any
    _rx_chan: Any
    _result: Any
    _peer_stopped: bool
    _dialog: Any
    _stream: Any
    _outcome_msg: Any
    _dropped: list[Any] | None

    def _maybe_cancel_and_set_remote_error(self, error: BaseException) -> None: ...
    async def wait_for_result(self) -> Any: ...
    async def _wait(self, ready: Callable[[Any], bool]) -> None: ...
    def _drop_unread(self) -> bool: ...
    def _decode_result(self) -> None: ...


class PldRx(Receiving, eq=False):
    """
    Takes the messages of one context, and decodes their payloads.

    `ctx` is that context; errors then tell from which peer a payload came.
    """

    _pld_dec: MsgDec = _def_any_pldec
    ctx: Any = None
    _limits: int = 0

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self._pld_dec.spec_str})'

    @property
    def pld_dec(self) -> MsgDec:
        """The decoder in use, with its spec."""
        return self._pld_dec

    @property
    def dec(self) -> msgspec.msgpack.Decoder[Any]:
        """The codec library's decoder in use."""
        return self._pld_dec.dec

    @contextmanager
    def limit_plds(self, spec: Any = None, **dec_kwargs: Any) -> Iterator[MsgDec]:
        """
        Decode to another spec for the length of a block.

        Args:
          spec: type, or union of types, of all payloads.
          dec_kwargs: as for `tractor.msg.mk_dec()`.
        """
        previous = self._pld_dec
        dec = self.set_spec(spec, **dec_kwargs)
        self._limits += 1
        try:
            yield dec
        finally:
            self._unlimit(previous)

    def _unlimit(self, previous: MsgDec) -> None:
        self._pld_dec = previous
        self._limits -= 1
        if not self._limits and self.ctx is not None:
            self.ctx._decode_result()

    def set_spec(self, spec: Any = None, **dec_kwargs: Any) -> MsgDec:
        """Decode to another spec from now on; arguments as for `limit_plds()`."""
        self._pld_dec = mk_dec(spec, **dec_kwargs)
        return self._pld_dec

    def decode(self, msg: Any, ipc: Any = None) -> Any:
        """
        Decode the payload of a received `Started`, `Yield` or `Return`.

        Args:
          msg: the message, its payload still encoded.
          ipc: context, or stream of it, to which the message belongs; `self.ctx` if not given.

        Raises:
          MsgTypeError: the payload is not of the spec. Built as an error received from the
            peer, but not recorded on the context.
          TypeError: the payload is not encoded.
        """
        try:
            return self._pld_dec._dec.decode(msg.pld)
        except TypeError:
            # the codec library makes a payload error of one which a hook raises, so it is about `pld`
            raise
        except Exception as err:
            # a wrong type, no valid msgpack, too deep a nesting, or whatever a decode hook raises
            mte = _mk_payload_mte(msg, self._pld_dec, err)
            raise _as_if_received(mte, msg, self.ctx if ipc is None else ipc) from err

    def decode_pld(
        self,
        msg: Any,
        ipc: Any,
        expect_msg: Any,
        raise_error: bool = True,
        hide_tb: bool = True,
        is_started_send_side: bool = False,
    ) -> Any:
        """
        Answer what a received message of any type means to one who waits for `expect_msg`.

        Args:
          msg: the message.
          ipc: context, or stream of it, to which the message belongs.
          expect_msg: type waited for, named in errors.
          raise_error: for an `Error`, raise what it carries.
          hide_tb: hide this frame from test and debugger tracebacks.
          is_started_send_side: a payload is checked before it is sent: raise the type error
            itself and record nothing.

        Returns:
          The payload, or the boolean of a `CancelAck`. The message itself for a `Stop` where no
          stream was opened. For an `Error`, with `raise_error` off, a `MessagingError`.

        Raises:
          MsgTypeError: the payload is not of the spec; recorded on the context.
          RemoteActorError: the message is an `Error`, or one came before; recorded likewise.
          trio.EndOfChannel: the peer ended the stream.
          MessagingError: any other message.
        """
        __tracebackhide__ = hide_tb
        ctx = context_of(ipc)
        match msg:
            case Started() | Yield() | Return():
                return self._decode_and_record(msg, ctx, is_started_send_side)
            case CancelAck():
                return msg.pld
            case Stop() if ctx._stream is None:
                log.warning('%r sent a `Stop` but no stream is open here, cid: %s', ctx, msg.cid)
                return msg
        surprise = _unexpected(msg, expect_msg)
        if isinstance(msg, Error) and not raise_error:
            return surprise
        return _raise_from_unexpected_msg(ctx, msg, surprise, log, expect_msg, hide_tb)

    def _decode_and_record(self, msg: Any, ctx: DialogContext, is_send_side: bool) -> Any:
        if not is_send_side:
            try:
                return self.decode(msg, ctx)
            except MsgTypeError as mte:
                ctx._maybe_cancel_and_set_remote_error(mte)
                raise
        try:
            return self._pld_dec._dec.decode(msg.pld)
        except TypeError:
            raise
        except Exception as err:
            raise _mk_payload_mte(msg, self._pld_dec, err) from err


def _mk_payload_mte(msg: Any, dec: MsgDec, err: BaseException) -> MsgTypeError:
    return _mk_recv_mte(msg=msg, codec=dec, src_validation_error=err, is_invalid_payload=True)


def _as_if_received(mte: MsgTypeError, msg: Any, ipc: Any) -> RemoteActorError:
    """Rebuild a type error as the peer would have reported it, had it checked what it sent."""
    aid = getattr(getattr(context_of(ipc), 'chan', None), 'aid', None)
    error = pack_error(mte, cid=msg.cid, src_uid=None if aid is None else aid.uid)
    received = unpack_error(error)
    return mte if received is None else received


def _unexpected(msg: Any, expect_msg: Any) -> MessagingError:
    expected = getattr(expect_msg, '__name__', str(expect_msg))
    return MessagingError(f'expected a `{expected}` but the peer sent {msg!r}')


def _raise_from_unexpected_msg(
    ctx: DialogContext,
    msg: Any,
    src_err: BaseException | None,
    log: Any,
    expect_msg: Any,
    hide_tb: bool = True,
) -> NoReturn:
    """
    Raise what a message means to one who waits for another.

    Args:
      ctx: context to which it belongs.
      msg: the message.
      src_err: becomes the `__cause__`; made from the two types if absent.
      log: where to note the end of a stream.
      expect_msg: type waited for.
      hide_tb: hide this frame from test and debugger tracebacks.

    Raises:
      RemoteActorError: the message is an `Error`, recorded on the context, or one came before.
      trio.EndOfChannel: the peer ended the stream.
      trio.ClosedResourceError: the stream was closed here.
      MessagingError: otherwise.
    """
    __tracebackhide__ = hide_tb
    cause = src_err or _unexpected(msg, expect_msg)
    if isinstance(msg, Error):
        raise _record_error(ctx, msg) from cause
    stream: StreamState | None = ctx._stream
    if stream is not None and (stream._eoc or isinstance(msg, Stop)):
        if ctx._remote_error is not None:
            raise ctx._remote_error from cause
        if not stream._eoc:
            stream._eoc = trio.EndOfChannel(f'the peer ended its stream, cid: {ctx.cid}')
        log.runtime('the stream of context %s was ended by its peer', ctx.cid)
        raise stream._eoc from cause
    if stream is not None and stream._closed:
        raise trio.ClosedResourceError('this stream was closed here already') from cause
    if cause is src_err and isinstance(cause, MessagingError):
        raise cause
    raise _unexpected(msg, expect_msg) from src_err


def _record_error(ctx: DialogContext, msg: Error) -> BaseException:
    """The one exception of a received `Error`, unpacked unless that was done on arrival."""
    if ctx._remote_error is not None:
        return ctx._remote_error
    error = unpack_error(msg, ctx.chan)
    if error is None:
        raise MessagingError(f'not an `Error`: {msg!r}')
    ctx._maybe_cancel_and_set_remote_error(error)
    return error


def _current_ctx() -> Any:
    return _state.current_ipc_ctx()


@contextmanager
def limit_plds(spec: Any = None, **dec_kwargs: Any) -> Iterator[MsgDec]:
    """
    Limit the payloads that the context of this task receives, for the length of a block.

    Args:
      spec: type, or union of types, of all payloads.
      dec_kwargs: as for `tractor.msg.mk_dec()`, for instance `dec_hook` and `ext_types`.

    Raises:
      RuntimeError: the calling task has no context.
    """
    ctx = _current_ctx()
    if ctx is None:
        raise RuntimeError(
            'no IPC context to limit: use this in a `@tractor.context` function or in the block '
            'of a `Portal.open_context()`'
        )
    with ctx._pld_rx.limit_plds(spec, **dec_kwargs) as dec:
        yield dec


@asynccontextmanager
async def maybe_limit_plds(
    ctx: Any,
    spec: Any = None,
    dec_hook: Any = None,
    **dec_kwargs: Any,
) -> AsyncIterator[MsgDec | None]:
    """
    Limit the payloads of `ctx` for the length of a block, if a spec or a hook is given.

    Args:
      ctx: context of the calling task.
      spec: type, or union of types, of all payloads.
      dec_hook: as for `tractor.msg.mk_dec()`, like `dec_kwargs`; without `ext_types` it builds
        the unknown types in `spec`.

    Raises:
      AssertionError: `ctx` is not the current context of the calling task.
    """
    if spec is None and dec_hook is None:
        yield None
        return
    if (current := _current_ctx()) is not ctx:
        raise AssertionError(f'only the current context can be limited, {current!r}, not {ctx!r}')
    rx: PldRx = ctx._pld_rx
    previous = rx.pld_dec
    if spec is None or dec_kwargs:
        rx.set_spec(spec, dec_hook=dec_hook, **dec_kwargs)
    elif dec_hook is not None or previous.spec is not spec:
        rx._pld_dec = mk_hook_dec(spec, dec_hook)
    rx._limits += 1
    try:
        yield rx.pld_dec
    finally:
        rx._unlimit(previous)


async def drain_to_final_msg(
    ctx: DialogContext,
    msg_limit: int = 6,
    hide_tb: bool = True,
) -> tuple[Return[Any] | Error | None, list[Any]]:
    """
    Wait for the last message of a dialog, past whatever its stream still brings.

    Args:
        ctx: the side that opened the dialog.
        msg_limit, hide_tb: kept for compatibility: it always waits until the dialog is over.

    Returns:
        The `Return`, or the `Error` which our own `cancel()` caused, and the stream messages dropped on the way.

    Raises:
        RemoteActorError: the other side failed, or was cancelled by somebody else.
    """
    dropped: list[Any] = []
    ctx._dropped = dropped
    try:
        ctx._drop_unread()
        await ctx.wait_for_result()
    finally:
        ctx._dropped = None
    final = ctx._outcome_msg
    return (final if isinstance(final, (Return, Error)) else None), dropped


def validate_payload_msg(
    pld_msg: Any,
    pld_value: Any,
    ipc: Any,
    raise_mte: bool = True,
    strict_pld_parity: bool = False,
    hide_tb: bool = True,
) -> MsgTypeError | None:
    """
    Check a payload before it is sent, against the spec of this side of its context.

    Args:
      pld_msg: the `Started`, `Yield` or `Return` which is to carry it.
      pld_value: the payload.
      ipc: context, or stream of it, to send on.
      raise_mte: raise a failure, else return it.
      strict_pld_parity: the receiver must also get an equal value; a tuple arrives as a list.
      hide_tb: hide this frame from test and debugger tracebacks.

    Returns:
      The failure if there is one and `raise_mte` is off.

    Raises:
      MsgTypeError: the payload is not of the spec, or not equal to what arrives.
      TypeError: the payload cannot be encoded.
    """
    __tracebackhide__ = hide_tb
    ctx = context_of(ipc)
    msg_type = type(pld_msg)
    raw = Raw(_encode_as_sender(ctx, pld_value))
    if ctx._pld_rx.pld_dec.spec is Any and not strict_pld_parity:
        return None
    encoded = msg_type(cid=pld_msg.cid, pld=raw)
    try:
        arrived = ctx._pld_rx.decode_pld(
            encoded, ctx, expect_msg=msg_type, hide_tb=hide_tb, is_started_send_side=True
        )
        if strict_pld_parity and not _is_equal(arrived, pld_value):
            raise MsgTypeError.from_decode(
                _describe_disparity(msg_type, pld_value, arrived), bad_msg=encoded
            )
    except MsgTypeError as mte:
        if raise_mte:
            raise
        return mte
    return None


def _encode_as_sender(ctx: DialogContext, value: Any) -> bytes:
    """
    Encode as sending will do.

    Raises:
      TypeError, or what else the encoder or a hook raises; a note says how it could be encoded.
    """
    of_task, of_dialog = _codec.current_codec(), ctx._pld_codec
    if of_dialog is not None:
        try:
            return of_dialog.enc.encode(value)
        except Exception as err:
            if of_task is _codec._def_tractor_codec:
                err.add_note(encode_hint(of_dialog, value, err))
                raise
    try:
        return of_task.enc.encode(value)
    except Exception as err:
        err.add_note(encode_hint(of_task, value, err))
        raise


def _is_equal(arrived: Any, sent: Any) -> bool:
    try:
        return bool(arrived == sent)
    except ValueError:
        # arrays compare item by item
        return type(arrived) is type(sent) and bool((arrived == sent).all())


def _describe_disparity(msg_type: type, sent: Any, arrived: Any) -> str:
    from difflib import ndiff
    from pprint import pformat

    diff = '\n'.join(ndiff(pformat(sent).splitlines(), pformat(arrived).splitlines()))
    return f'`{msg_type.__name__}` msg payload is not equal to what arrives\n\n{diff}\n'
