"""contract: what type errors say, on the sending and on the receiving side."""

import builtins
from typing import Any

import msgspec
import pytest

from tractor._exceptions import MsgTypeError, RemoteActorError
from tractor.msg import _errors, types
from tractor.msg._codec import _def_tractor_codec as codec
from tractor.msg._codec import mk_codec, mk_dec
from tractor.msg._errors import pack_error, unpack_error

MID = ('mid', 'u2')


class NoText:
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError('no text')


def over_the_wire(error: types.Error) -> RemoteActorError:
    received = unpack_error(codec.decode(codec.encode(error)))
    assert received is not None
    return received


DIVIDER = '------ - ------'


@pytest.mark.parametrize('msg', [object(), {'a': object()}, types.Yield('c', object()), NoText()])
def test_send_side_default_text(msg: Any) -> None:
    mte = _errors._mk_send_mte(msg=msg, codec=codec)
    assert type(mte) is MsgTypeError
    assert type(mte.message) is str
    assert 'Valid IPC msgs are:\n\nStarted\nYield\nReturn\nAid\n' in mte.message
    assert f'{__file__}", line' in mte.message
    assert mte.tb_str == ''
    for text in (repr(mte), str(mte), mte.message):
        assert DIVIDER not in text
    assert 'MsgTypeError' in repr(mte)
    assert [line for line in mte.message.splitlines() if line not in repr(mte)] == []


def test_send_side_names_the_message() -> None:
    msg = {'plain': 1}
    mte = _errors._mk_send_mte(msg=msg, codec=codec, verb_header='while sending')
    assert mte.message.startswith("while sending invalid msg -> {'plain': 1}: <class 'dict'>\n")
    assert mte._message is mte.message
    assert mte.bad_msg is None
    assert mte.cid is None
    text = _errors._mk_send_mte(msg='text', codec=codec, is_invalid_payload=True).message
    assert text.startswith("invalid msg -> text: <class 'str'>\n\nIts payload is at fault.\n\n")
    huge = _errors._mk_send_mte(msg='x' * 1_000_000, codec=codec).message
    assert len(huge) < 10_000


def test_send_side_hint() -> None:
    bad = types.Yield('c', object())
    with pytest.raises(TypeError) as caught:
        codec.encode(bad)
    mte = _errors._mk_send_mte(
        msg=bad, codec=codec, message='cannot send', src_type_error=caught.value
    )
    assert mte.message.startswith('cannot send\n\nTypeError: ')
    assert 'object' in mte.message
    assert 'enc_hook' in mte.message
    assert mte.__cause__ is caught.value
    assert mte.bad_msg is bad
    assert mte.expected_msg_type is types.Yield
    assert mte.expected_msg == 'Yield'
    assert mte.cid == 'c'
    assert mte.reprol() == f'MsgTypeError[MsgTypeError](expected_msg_type={types.Yield!r})'

    hooked = mk_codec(enc_hook=repr, ext_types=[object])
    other = _errors._mk_send_mte(
        msg=bad, codec=hooked, message='cannot send', src_type_error=caught.value
    )
    assert 'enc_hook' not in other.message


def test_send_side_needs_a_codec() -> None:
    with pytest.raises(RuntimeError, match='MsgCodec'):
        _errors._mk_send_mte(msg=1, codec=mk_dec(int))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ('value', 'shown', 'kind'),
    [([1, 'x'], "[1, 'x']", builtins.list), ((1,), '[1]', builtins.list), ('t', "'t'", str)],
)
def test_receive_side_payload_text(value: Any, shown: str, kind: type) -> None:
    dec = mk_dec(int | None)
    msg = codec.decode(codec.encode(types.Started('c', value)))
    with pytest.raises(msgspec.ValidationError) as caught:
        dec.decode(msg.pld)
    mte = _errors._mk_recv_mte(
        msg=msg, codec=dec, src_validation_error=caught.value, is_invalid_payload=True
    )
    assert mte.message == (
        f'invalid `Started` msg payload\n\n{shown}\n\nhas type {kind!r}\n\n'
        'and does not match type-spec `Started.pld: int|NoneType`'
    )
    assert mte.bad_msg is msg
    assert mte.cid == 'c'
    assert mte.boxed_type is msgspec.ValidationError
    assert mte.__cause__ is caught.value
    assert mte.tb_str == ''


def recv_mte(wire: bytes) -> MsgTypeError:
    try:
        codec.decode(wire)
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        return _errors._mk_recv_mte(msg=wire, codec=codec, src_validation_error=err)
    raise AssertionError('decoded')


def test_receive_side_envelope() -> None:
    wire = msgspec.msgpack.encode({'msg_type': 'Yield', 'cid': 5, 'pld': None})
    mte = recv_mte(wire)
    assert mte.message.startswith('invalid `Yield` IPC msg, field `cid` = 5\n\nExpected `str`')
    assert mte.bad_msg_as_dict == {'msg_type': 'Yield', 'cid': 5, 'pld': None}
    assert mte.bad_msg == types.Yield(5, None)  # type: ignore[arg-type]
    assert mte.bad_msg is mte.bad_msg
    assert mte.expected_msg_type is types.Yield
    assert mte.cid is None
    assert mte.boxed_type is msgspec.ValidationError

    received = over_the_wire(pack_error(mte, cid=mte.cid, src_uid=MID))
    assert isinstance(received, MsgTypeError)
    assert received.src_uid == MID
    assert received.bad_msg_as_dict == mte.bad_msg_as_dict
    assert 'invalid `Yield` IPC msg' in received.message


@pytest.mark.parametrize(
    ('wire', 'text'),
    [
        (msgspec.msgpack.encode({'msg_type': 'Unheard', 'cid': 'c'}), 'invalid `Unheard` IPC msg'),
        (msgspec.msgpack.encode({'cid': 'c'}), 'invalid `<untagged>` IPC msg'),
        (msgspec.msgpack.encode([1, 2]), 'not a map with a `msg_type` but list'),
        (b'\xc0', 'not a map with a `msg_type` but NoneType'),
        (b'\xc1', 'not a map with a `msg_type` but bytes'),
        (b'', 'not a map with a `msg_type` but bytes'),
    ],
)
def test_receive_side_of_what_is_no_message(wire: bytes, text: str) -> None:
    mte = recv_mte(wire)
    assert text in mte.message
    assert mte.bad_msg is None
    assert repr(over_the_wire(pack_error(mte, cid=mte.cid)))
