"""
Errors that a peer sent: huge ones, deep ones, of unknown types, relayed many times, of the wrong types throughout.

`unpack_error()` never raises, nor does any rendering or attribute of what it returns, and that can be sent on.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fuzz import _errors
from fuzz._choices import Choices, packed
from fuzz._harness import watched
from fuzz._values import encode, fields, value
from tractor._exceptions import RemoteActorError
from tractor.msg import _codec
from tractor.msg._errors import pack_error, unpack_error
from tractor.msg.types import Error, Yield

_CODEC = _codec._def_tractor_codec

# relays of one error in a row
_MAX_RELAYS = 6

_RAW = 100


def one_input(data: bytes) -> None:
    """One byte says what to log and how the message is made: as bytes, as a map, or by hand with any values."""
    c = Choices(data)
    flags = c.byte()
    with watched(everything=flags % 2 == 1):
        _unpacked(c, flags // 2)


def _unpacked(c: Choices, how: int) -> None:
    relays = c.below(_MAX_RELAYS)
    if how < 50:
        msg = _decoded(encode(fields(c, 'Error')))
    elif how < 75:
        msg = _decoded(c.blob())
    else:
        msg = _by_hand(c)
    error = unpack_error(msg)
    if not isinstance(msg, Error):
        assert error is None
        return
    assert error is not None
    _errors.check(error)
    _relayed(error, relays)
    if isinstance(msg._bad_msg, msgspec.Struct | None):
        # the attributes stay as they are however often they were read
        assert unpack_error(msg) is not error
    assert _errors.no_new_types()


def _decoded(body: bytes) -> Any:
    try:
        return _CODEC.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _by_hand(c: Choices) -> Error:
    """A message whose fields nobody has checked."""
    made: dict[str, Any] = {}
    for name in Error.__struct_fields__:
        made[name] = value(c, 2)
    if c.byte() >= 200:
        made['_bad_msg'] = Yield(cid=value(c, 1), pld=value(c, 2))
    for name in ('boxed_type_str', 'src_type_str'):
        if c.byte() < 128:
            made[name] = c.pick(('MsgTypeError', 'ContextCancelled', 'ValueError', 'StreamOverrun'))
    return Error(**made)


def _relayed(error: RemoteActorError, times: int) -> None:
    """Each hop adds itself, and a constant amount of text at most."""
    for _ in range(times):
        msg = _errors.check_relay(error)
        received = unpack_error(msg)
        assert received is not None
        _errors.check(received)
        error = received
    try:
        raise ValueError('while handling it') from error
    except ValueError as err:
        outer = unpack_error(_CODEC.decode(_CODEC.encode(pack_error(err, cid='c0'))))
        assert outer is not None
        _errors.check(outer)


def seeds() -> list[bytes]:
    """A plain error, a relayed one, a cancellation, an overrun and two type errors."""
    base = {
        'msg_type': 'Error',
        'src_uid': ['a', '1'],
        'src_type_str': 'ValueError',
        'boxed_type_str': 'ValueError',
        'relay_path': [['a', '1']],
        'message': 'm',
        'tb_str': 'Traceback\n  x\n',
        'canceller': None,
        'sender': None,
        'cid': 'c0',
    }
    bad = {'msg_type': 'Yield', 'cid': 'c0', 'pld': [1]}
    maps = [
        base,
        {**base, 'boxed_type_str': 'RemoteActorError', 'relay_path': [['a', '1'], ['b', '2']] * 9},
        {**base, 'boxed_type_str': 'ContextCancelled', 'canceller': ['a', '1']},
        {**base, 'boxed_type_str': 'StreamOverrun', 'sender': ['a', '1']},
        {**base, 'boxed_type_str': 'MsgTypeError', '_bad_msg': bad},
        {**base, 'boxed_type_str': 'MsgTypeError', '_bad_msg_as_dict': bad},
    ]
    raws = [bytes([_RAW, 3]) + packed(encode(made)) for made in maps]
    return [*raws, bytes([1, 2]), bytes([151, 2]) + bytes(range(0, 256, 3)), bytes(40)]
