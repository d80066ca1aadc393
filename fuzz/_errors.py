"""What is asked of every exception made of what a peer sent."""

from __future__ import annotations

import traceback
from typing import Any

from tractor._exceptions import (
    ContextCancelled,
    MsgTypeError,
    RemoteActorError,
    _app_err_types,
    get_err_type,
)
from tractor.msg import _codec
from tractor.msg._errors import pack_error, unpack_error
from tractor.msg.types import Error

_CODEC = _codec._def_tractor_codec

_TEXTS = ('message', 'tb_str', 'boxed_type_str')
_UIDS = ('src_uid', 'relay_uid', 'sender')

# bytes which rendering may add for each byte that is rendered, and in any case
_BLOWUP, _HEAD = 12, 4096


def check(error: RemoteActorError) -> None:
    """Each attribute has its type, each rendering works and is not much larger than what it shows."""
    for name in _TEXTS:
        assert isinstance(getattr(error, name), str), name
    for name in _UIDS:
        _check_uid(getattr(error, name))
    for uid in error.relay_path:
        _check_uid(uid)
        assert uid is not None
    assert error.cid is None or isinstance(error.cid, str)
    assert error.src_type_str is None or isinstance(error.src_type_str, str)
    for found in (error.src_type, error.boxed_type):
        assert found is None or issubclass(found, BaseException)
    assert isinstance(error.is_inception(), bool)
    assert isinstance(error.unwrap(), BaseException)
    _check_renderings(error)
    if isinstance(error, ContextCancelled):
        _check_uid(error.canceller)
    if isinstance(error, MsgTypeError):
        _check_type_error(error)


def _check_uid(uid: Any) -> None:
    assert uid is None or (isinstance(uid, tuple) and all(isinstance(part, str) for part in uid))


def _check_type_error(error: MsgTypeError) -> None:
    as_dict, bad = error.bad_msg_as_dict, error.bad_msg
    assert as_dict is None or isinstance(as_dict, dict)
    assert error.expected_msg_type is (None if bad is None else type(bad))
    assert error.expected_msg is None or isinstance(error.expected_msg, str)


def _check_renderings(error: RemoteActorError) -> None:
    shown = [
        str(error),
        repr(error),
        error.pformat(),
        error.pformat(with_type_header=False),
        error.reprol(),
        ''.join(traceback.format_exception(error)),
        repr(error.ipc_msg),
    ]
    try:
        raise error
    except RemoteActorError as caught:
        shown += [repr(caught), str(caught)]
    assert all(isinstance(text, str) for text in shown)
    assert isinstance(error.msgdata, dict)
    size = len(repr(error.msgdata)) + len(error.message)
    assert max(map(len, shown)) <= _BLOWUP * size + _HEAD


def check_relay(error: RemoteActorError) -> Error:
    """It can be packed for the next peer, whatever it holds; returns the message that peer gets."""
    before = list(error.relay_path)
    msg = _CODEC.decode(_CODEC.encode(pack_error(error, cid='c0')))
    assert isinstance(msg, Error)
    assert error.relay_path == before
    again = unpack_error(msg)
    assert again is not None
    assert again.tb_str
    assert len(again.relay_path) <= len(before) + 1
    if not isinstance(error, MsgTypeError):
        known = get_err_type(msg.boxed_type_str)
        assert again.boxed_type is known
    return msg


def is_named(err: BaseException) -> bool:
    """Whether it is one of the errors by which a dialog is documented to end."""
    import trio

    from tractor import _exceptions as exceptions

    return isinstance(
        err,
        exceptions.RemoteActorError
        | exceptions.TransportClosed
        | exceptions.MessagingError
        | trio.EndOfChannel
        | trio.ClosedResourceError,
    )


_KNOWN_TYPES = frozenset(_app_err_types)


def no_new_types() -> bool:
    """Whether no type was registered by what a peer sent."""
    return frozenset(_app_err_types) == _KNOWN_TYPES
