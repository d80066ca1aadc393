"""
Exceptions to `Error` messages and back.

Packing must work whatever the exception holds, since an error that cannot be sent leaves the
caller waiting: each field is brought to its wire type first, and what still cannot be encoded
is dropped. Unpacking must work whatever a peer sent: the message is only kept, all reading of
its fields happens in the exception, on demand.
"""

from __future__ import annotations

import sys
import traceback
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw

from tractor._exceptions import ContextCancelled, MsgTypeError, RemoteActorError
from tractor.msg import _codec
from tractor.msg.types import Error, Return, Start, Started, Yield
from tractor.runtime import _state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from tractor.msg._codec import MsgCodec, MsgDec

Uid = tuple[str, str]

_UNKNOWN_UID: Uid = ('<unknown>', '')

_BAD_MSG_TYPES = (Started, Yield, Return, Start)

# characters of a value that an error text shows
_MAX_REPR = 4096

# how deep, and how far into each container, what cannot be encoded is looked for
_MAX_DEPTH = 32
_MAX_PARTS = 1000


def own_uid() -> Uid:
    """Uid of the current actor, a placeholder where no runtime is up."""
    actor = _state.current_actor(err_on_no_runtime=False)
    return _UNKNOWN_UID if actor is None else _wire_uid(actor.aid.uid) or _UNKNOWN_UID


def pack_error(
    exc: BaseException,
    cid: str | None = None,
    src_uid: Uid | None = None,
    tb: TracebackType | None = None,
    tb_str: str = '',
    message: str = '',
) -> Error:
    """
    Make the message which carries an exception to a peer.

    A received error keeps its origin at its first relay, and is boxed as a `RemoteActorError`.
    Everything else, a relayed relay included, originates here.

    Args:
      exc: the exception, raised or not.
      cid: dialog it ends; without one it concerns the whole connection.
      src_uid: uid to give as the origin in place of our own.
      tb: traceback to format in place of the exception's.
      tb_str: text to send in place of a formatted traceback.
      message: head line in place of the exception's `message`, if it has one.

    Returns:
      A message that any codec can encode.
    """
    us = own_uid()
    data = exc.msgdata if isinstance(exc, RemoteActorError) else {}
    name = _wire_str(type(exc).__name__)
    origin: dict[str, Any] = {
        'src_uid': _wire_uid(src_uid) or us,
        'src_type_str': name,
        'boxed_type_str': name,
    }
    if type(exc) is RemoteActorError and (first_src := _first_relay_src(exc)):
        origin = first_src
    hops = map(_wire_uid, exc.relay_path) if isinstance(exc, RemoteActorError) else ()
    error = Error(
        **origin,
        relay_path=[*filter(None, hops), us],
        message=_wire_str(message or _message_of(exc)),
        tb_str=_wire_str(tb_str or _format_exception(exc, tb)),
        canceller=_wire_uid(data.get('canceller')),
        sender=_wire_uid(data.get('sender')),
        cid=None if cid is None else _wire_str(cid),
        _bad_msg=_wire_bad_msg(data.get('_bad_msg')),
        _bad_msg_as_dict=_wire_bad_dict(data.get('_bad_msg_as_dict')),
    )
    return error if _is_sendable(error, Error) else _minimal_error(error, us)


def pack_from_raise(
    local_err: BaseException, cid: str, hide_tb: bool = True, **fields: Any
) -> Error:
    """
    Pack an exception that was not raised yet, with a traceback to here.

    Args:
      local_err: the exception.
      cid: dialog it ends.
      hide_tb: hide this frame from test and debugger tracebacks.
      fields: as for `pack_error()`.
    """
    __tracebackhide__ = hide_tb
    try:
        raise local_err
    except BaseException as err:  # noqa: BLE001  (raised here, to be sent)
        return pack_error(err, cid=cid, **fields)


def unpack_error(
    msg: Any,
    chan: object = None,  # noqa: ARG001
    box_type: type[RemoteActorError] = RemoteActorError,
) -> RemoteActorError | None:
    """
    Box a received `Error` in an exception; never raises.

    Args:
      msg: the message.
      chan: channel it came from; accepted for callers of the compatible signature.
      box_type: class of the box, unless the message names one of the runtime's own.

    Returns:
      The exception, `None` if `msg` is no `Error`.
    """
    if not isinstance(msg, Error):
        return None
    name = msg.boxed_type_str
    head = f'remote task raised a {name!r}\n'
    if name == 'MsgTypeError':
        # the text of the sender says it all, and is there already if this is a relay
        text = str(msg.message or '').removeprefix(head)
        return MsgTypeError(f'{head}{text}', ipc_msg=msg)
    if name == 'ContextCancelled':
        return ContextCancelled(head, ipc_msg=msg)
    return box_type(head, ipc_msg=msg)


def _first_relay_src(exc: RemoteActorError) -> dict[str, Any] | None:
    """Where a box was raised first, if it is to be kept: decided on names, not on classes,
    since a class may be unknown here."""
    src_uid, name = _wire_uid(exc.src_uid), exc.src_type_str
    if src_uid is None or not name or exc.boxed_type_str == 'RemoteActorError':
        return None
    return {
        'src_uid': src_uid,
        'src_type_str': _wire_str(name),
        'boxed_type_str': 'RemoteActorError',
    }


def _format_exception(exc: BaseException, tb: TracebackType | None) -> str:
    tb = exc.__traceback__ if tb is None else tb
    try:
        return ''.join(traceback.format_exception(type(exc), exc, tb))
    except Exception as err:  # noqa: BLE001  (code of the application runs here)
        return f'{type(exc).__name__}: <its traceback cannot be shown: {type(err).__name__}>\n'


def _message_of(exc: BaseException) -> str:
    """The `message` that an exception of any library may have."""
    message = getattr(exc, 'message', None)
    return message if isinstance(message, str) else ''


def _wire_str(value: Any) -> str:
    """A plain `str` that is valid UTF-8."""
    text = str.__str__(value) if isinstance(value, str) else _safe_repr(value)
    return text if text.isascii() else text.encode('utf-8', 'backslashreplace').decode('utf-8')


def _wire_uid(value: Any) -> Uid | None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    return _wire_str(value[0]), _wire_str(value[1])


def _wire_bad_msg(msg: Any) -> Any:
    """
    Bring the offending message of a type error into a form that can be sent, else drop it.

    Its payload is what could not be encoded or did not fit, so it is encoded here, where a
    failure has no consequence, and with the codec of the task which meant to send it.
    """
    if not isinstance(msg, Started | Yield | Return) or not isinstance(msg.cid, str):
        return None
    try:
        raw = Raw(_codec.current_codec().enc.encode(msg.pld))
    except Exception:  # noqa: BLE001  (an encode hook may raise anything)
        return None
    encoded = type(msg)(cid=msg.cid, pld=raw)
    return encoded if _is_sendable(encoded, type(msg)) else None


def _wire_bad_dict(fields: Any) -> dict[Any, Any] | None:
    return fields if isinstance(fields, dict) and _is_sendable(fields, dict) else None


def _is_sendable(obj: Any, as_type: Any) -> bool:
    """Whether this survives the way to a peer, whatever codec the two of us use."""
    try:
        msgspec.msgpack.decode(_codec._def_tractor_codec.enc.encode(obj), type=as_type)
    except Exception:  # noqa: BLE001  (the answer is the outcome)
        return False
    return True


def _minimal_error(error: Error, us: Uid) -> Error:
    """What is left to say when an error cannot be sent as it is."""
    return Error(
        src_uid=us,
        src_type_str=error.src_type_str,
        boxed_type_str=error.boxed_type_str,
        relay_path=[us],
        message='the error could not be encoded, only its type and traceback are known',
        tb_str=error.tb_str,
        cid=error.cid,
    )


def _safe_repr(value: Any, limit: int = _MAX_REPR, show: Callable[[Any], str] = repr) -> str:
    """`repr()` that neither fails nor floods a log."""
    try:
        text = show(value)
    except Exception as err:  # noqa: BLE001  (code of the application runs here)
        return f'<{type(value).__name__} whose repr raised {type(err).__name__}>'
    return text if len(text) <= limit else f'{text[:limit]}.. <{len(text) - limit} more>'


def _caller_line() -> str:
    """The innermost line outside of this package, which is what sent the bad message."""
    frame = sys._getframe(1)
    package = __name__.partition('.')[0]
    while frame.f_back is not None:
        if str(frame.f_globals.get('__name__')).partition('.')[0] != package:
            break
        frame = frame.f_back
    code = frame.f_code
    return f'  File "{code.co_filename}", line {frame.f_lineno}, in {code.co_qualname}'


def _mk_send_mte(
    msg: Any,
    codec: MsgCodec,
    message: str | None = None,
    verb_header: str = '',
    src_type_error: BaseException | None = None,
    is_invalid_payload: bool = False,
    **mte_kwargs: Any,
) -> MsgTypeError:
    """
    Build the error of a sender whose message cannot be encoded or is none at all.

    Args:
      msg: what was to be sent.
      codec: what was to encode it.
      message: text in place of the default one, which names the message and the valid types.
      verb_header: put before the text.
      src_type_error: what the encoder raised; becomes the `__cause__`.
      is_invalid_payload: the payload is at fault, not the message around it.
      mte_kwargs: as for `MsgTypeError.from_decode()`.

    Raises:
      RuntimeError: `codec` is a `MsgDec`, which encodes nothing.
    """
    if isinstance(codec, _codec.MsgDec):
        raise RuntimeError('a `MsgDec` sends nothing, pass the `MsgCodec` of the sender')
    if not message:
        blame = 'Its payload is at fault.\n\n' if is_invalid_payload else ''
        message = (
            f'invalid msg -> {_safe_repr(msg, show=str)}: {type(msg)}\n\n{blame}'
            f'{_caller_line()}\n\n'
            f'Valid IPC msgs are:\n\n{codec.msg_spec_str}\n'
        )
    if src_type_error is not None:
        message = f'{message.rstrip()}\n\n{type(src_type_error).__name__}: {src_type_error}\n'
        message += encode_hint(codec, msg, src_type_error)
    if verb_header:
        message = f'{verb_header} {message}'
    bad_msg = msg if isinstance(msg, _BAD_MSG_TYPES) else None
    mte = MsgTypeError.from_decode(message, bad_msg=bad_msg, **mte_kwargs)
    mte.__cause__ = src_type_error
    return mte


def encode_hint(codec: MsgCodec, value: Any, err: BaseException) -> str:
    """
    Say what in a value, or message, the encoder could not take, and how to make it.

    Args:
      codec: what was to encode it; its encode hook may be called again.
      value: what was to be encoded.
      err: what the encoder raised.
    """
    path, culprit = _find_culprit(value, codec)
    kind = type(culprit)
    text = f'`{path.lstrip(".") or "it"}` is a {kind.__module__}.{kind.__qualname__}'
    hook = codec.enc.enc_hook
    if hook is not None:
        return f'{text}, which the encode hook {_safe_repr(hook)} did not make encodable\n'
    if not isinstance(err, TypeError):
        return f'{text}\n'
    return (
        f'{text}, which msgpack does not know.\n'
        'To send such objects, pass `enc_hook=..`, and for receiving them `dec_hook=..`, to the decorator of the '
        'function, `@tractor.context(..)` or `@tractor.msg.typed(..)`; or apply a codec in the sending task: '
        '`apply_codec(mk_codec(enc_hook=.., ext_types=[..]))`\n'
    )


def _find_culprit(value: Any, codec: MsgCodec) -> tuple[str, Any]:
    """The innermost part of a value which cannot be encoded, and where in it that is."""
    path = ''
    for _ in range(_MAX_DEPTH):
        for step, child in islice(_parts_of(value), _MAX_PARTS):
            try:
                codec.enc.encode(child)
            except Exception:  # noqa: BLE001  (an encode hook may raise anything)
                path, value = path + step, child
                break
        else:
            break
    return path, value


def _parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
    elif is_dataclass(value) and not isinstance(value, type):
        names = tuple(field.name for field in fields(value))
    elif isinstance(value, dict):
        yield from ((f' key {_safe_repr(key, 64)}', key) for key in value)
        yield from ((f'[{_safe_repr(key, 64)}]', each) for key, each in value.items())
        return
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f'[{at}]', each) for at, each in enumerate(value))
        return
    else:
        return
    yield from ((f'.{name}', getattr(value, name, None)) for name in names)


def _mk_recv_mte(
    msg: Any,
    codec: MsgCodec | MsgDec,
    message: str | None = None,
    verb_header: str = '',
    src_validation_error: BaseException | None = None,
    is_invalid_payload: bool = False,
    **mte_kwargs: Any,
) -> MsgTypeError:
    """
    Build the error of a receiver whose decoder refused a message or its payload.

    Args:
      msg: the message whose payload was refused, or the bytes of a whole message.
      codec: what refused it.
      message: text in place of the default one.
      verb_header: put before the text.
      src_validation_error: what the decoder raised; becomes the `__cause__`.
      is_invalid_payload: the payload is at fault, not the message around it.
      mte_kwargs: as for `MsgTypeError.from_decode()`.

    Returns:
      The error, whatever `msg` is: also for bytes which are no message at all.
    """
    fields: dict[str, Any] = {}
    if is_invalid_payload:
        message = message or _describe_bad_payload(msg, codec)
        fields['bad_msg'] = msg
    else:
        decoded = _decode_any(msg)
        message = message or _describe_bad_envelope(decoded, src_validation_error)
        if isinstance(decoded, dict):
            fields['bad_msg_as_dict'] = decoded
            fields['cid'] = decoded.get('cid')
    if verb_header:
        message = f'{verb_header} {message}'
    if src_validation_error is not None:
        fields['boxed_type'] = type(src_validation_error)
    mte = MsgTypeError.from_decode(message, **{**fields, **mte_kwargs})
    mte.__cause__ = src_validation_error
    return mte


def _decode_any(raw: Any) -> Any:
    """Decode without a spec; what is not even msgpack is returned as bytes."""
    try:
        return msgspec.msgpack.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return bytes(raw)


def _describe_bad_payload(msg: Any, codec: MsgCodec | MsgDec) -> str:
    value = _decode_any(msg.pld) if isinstance(msg.pld, Raw | bytes) else msg.pld
    name = type(msg).__name__
    return (
        f'invalid `{name}` msg payload\n\n{_safe_repr(value)}\n\nhas type {type(value)!r}\n\n'
        f'and does not match type-spec `{name}.pld: {codec.pld_spec_str}`'
    )


def _describe_bad_envelope(decoded: Any, err: BaseException | None) -> str:
    if not isinstance(decoded, dict):
        head = f'invalid IPC msg, not a map with a `msg_type` but {type(decoded).__name__}'
        return f'{head}\n\n{_safe_repr(decoded, 256)}\n'
    reason = '' if err is None else str(err)
    text = f'invalid `{decoded.get("msg_type", "<untagged>")}` IPC msg'
    # the decoder ends its reason with the path of the field: - at `$.name[..]`
    path = reason.rpartition('`$.')[2].rstrip('`') if '`$.' in reason else ''
    field = path.partition('.')[0].partition('[')[0]
    if field in decoded:
        text += f', field `{field}` = {_safe_repr(decoded[field], 256)}'
    return f'{text}\n\n{reason}\n'
