"""contract: every message on the wire, byte for byte, and the tables of message types."""

from typing import Any

import msgspec
import pytest
from msgspec import Raw

import tractor.msg
from tractor.msg import types
from tractor.msg._codec import _def_tractor_codec as codec

NIL, FALSE, TRUE = b'\xc0', b'\xc2', b'\xc3'


def text(value: str) -> bytes:
    """A msgpack string of at most 31 bytes."""
    return bytes([0xA0 | len(value)]) + value.encode()


def array(*items: bytes) -> bytes:
    return bytes([0x90 | len(items)]) + b''.join(items)


def mapping(*items: bytes) -> bytes:
    return bytes([0x80 | len(items) // 2]) + b''.join(items)


def message(name: str, /, **fields: bytes) -> bytes:
    flat = [part for key, value in fields.items() for part in (text(key), value)]
    return mapping(text('msg_type'), text(name), *flat)


UID = array(text('sub'), text('u1'))

WIRE: list[tuple[Any, bytes]] = [
    (
        types.Aid('sub', 'u1'),
        message(
            'Aid', name=text('sub'), uuid=text('u1'), pid=NIL, is_registrar=NIL, is_probe=FALSE
        ),
    ),
    (
        types.Aid('sub', 'u1', pid=7, is_registrar=True, is_probe=True),
        message(
            'Aid', name=text('sub'), uuid=text('u1'), pid=b'\x07', is_registrar=TRUE, is_probe=TRUE
        ),
    ),
    (
        types.SpawnSpec(
            _parent_main_data={'init_main': 1},
            _runtime_vars={'_is_root': True},
            enable_modules={'mod': '/mod.py'},
            reg_addrs=[('localhost', 5)],
            bind_addrs=[('/run', 'sub.sock')],
        ),
        message(
            'SpawnSpec',
            _parent_main_data=mapping(text('init_main'), b'\x01'),
            _runtime_vars=mapping(text('_is_root'), TRUE),
            enable_modules=mapping(text('mod'), text('/mod.py')),
            reg_addrs=array(array(text('localhost'), b'\x05')),
            bind_addrs=array(array(text('/run'), text('sub.sock'))),
        ),
    ),
    (
        types.SpawnSpec({}, {}, {}, [], None),
        message(
            'SpawnSpec',
            _parent_main_data=mapping(),
            _runtime_vars=mapping(),
            enable_modules=mapping(),
            reg_addrs=array(),
            bind_addrs=NIL,
        ),
    ),
    (
        types.Start('c', 'mod.path', 'func', {'x': 1}, ('sub', 'u1')),
        message(
            'Start',
            cid=text('c'),
            ns=text('mod.path'),
            func=text('func'),
            kwargs=mapping(text('x'), b'\x01'),
            uid=UID,
            pld_spec=text('typing.Any'),
        ),
    ),
    (
        types.StartAck('c', 'context'),
        message('StartAck', cid=text('c'), functype=text('context')),
    ),
    (types.Stop('c'), message('Stop', cid=text('c'))),
    (types.CancelAck('c', True), message('CancelAck', cid=text('c'), pld=TRUE)),
    (
        types.Error(('sub', 'u1'), 'ValueError', 'ValueError', [('sub', 'u1')]),
        message(
            'Error',
            src_uid=UID,
            src_type_str=text('ValueError'),
            boxed_type_str=text('ValueError'),
            relay_path=array(UID),
            message=NIL,
            tb_str=text(''),
            canceller=NIL,
            sender=NIL,
            cid=NIL,
            _bad_msg=NIL,
            _bad_msg_as_dict=NIL,
        ),
    ),
    (
        types.Error(
            src_uid=('sub', 'u1'),
            src_type_str='A',
            boxed_type_str='B',
            relay_path=[],
            message='m',
            tb_str='t',
            canceller=('sub', 'u1'),
            sender=('sub', 'u1'),
            cid='c',
            _bad_msg=types.Yield('c', [1]),
            _bad_msg_as_dict={'cid': 2},
        ),
        message(
            'Error',
            src_uid=UID,
            src_type_str=text('A'),
            boxed_type_str=text('B'),
            relay_path=array(),
            message=text('m'),
            tb_str=text('t'),
            canceller=UID,
            sender=UID,
            cid=text('c'),
            _bad_msg=message('Yield', cid=text('c'), pld=array(b'\x01')),
            _bad_msg_as_dict=mapping(text('cid'), b'\x02'),
        ),
    ),
]

CARRIERS = [types.Started, types.Yield, types.Return]


@pytest.mark.parametrize(('msg', 'wire'), WIRE)
def test_message_on_the_wire(msg: Any, wire: bytes) -> None:
    assert codec.encode(msg) == wire
    assert codec.decode(wire) == msg
    assert type(codec.decode(wire)) is type(msg)


def test_wire_example_of_the_protocol() -> None:
    wire = b'\x83\xa8msg_type\xa7Started\xa3cid\xa1c\xa3pld\x01'
    assert codec.encode(types.Started('c', 1)) == wire


@pytest.mark.parametrize('carrier', CARRIERS)
def test_payload_is_left_encoded(carrier: Any) -> None:
    wire = message(carrier.__name__, cid=text('c'), pld=mapping(text('k'), array(b'\x01', NIL)))
    assert codec.encode(carrier('c', {'k': [1, None]})) == wire

    msg = codec.decode(wire)
    assert type(msg) is carrier
    assert isinstance(msg.pld, Raw)
    assert bytes(msg.pld) == mapping(text('k'), array(b'\x01', NIL))
    assert codec.encode(msg) == wire


def test_unknown_fields_of_newer_peers_are_ignored() -> None:
    wire = message('Stop', cid=text('c'), reason=text('done'))
    assert codec.decode(wire) == types.Stop('c')


def test_key_order_does_not_matter_to_the_receiver() -> None:
    wire = mapping(text('cid'), text('c'), text('msg_type'), text('Stop'))
    assert codec.decode(wire) == types.Stop('c')


@pytest.mark.parametrize(
    'wire',
    [
        message('StartAck', cid=text('c'), functype=text('coroutine')),
        message('CancelAck', cid=text('c'), pld=b'\x01'),
        message('PayloadMsg', cid=text('c'), pld=NIL),
        message('Stop', cid=b'\x01'),
        message('Stop'),
        message('Unheard'),
        mapping(text('cid'), text('c')),
        array(text('Stop'), text('c')),
        NIL,
    ],
)
def test_what_is_no_message_is_refused(wire: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        codec.decode(wire)


def test_aid_identity_is_its_uuid() -> None:
    aid = types.Aid('sub', 'abcdefgh', pid=3)
    assert aid.uid == ('sub', 'abcdefgh')
    assert aid == types.Aid('other', 'abcdefgh', pid=4)
    assert hash(aid) == hash(types.Aid('other', 'abcdefgh'))
    assert aid != types.Aid('sub', 'other', pid=3)
    assert aid != 'abcdefgh'
    assert aid.__eq__('abcdefgh') is NotImplemented
    assert aid.reprol() == 'sub@3'
    assert aid.reprol(sin_uuid=False) == 'sub[abcdef]@3'
    assert "  name: str = 'sub',\n" in repr(aid)


def test_spawn_spec_does_not_print_its_private_fields() -> None:
    spec = types.SpawnSpec({'secret': 1}, {'secret': 2}, {}, [], None)
    assert 'secret' not in repr(spec)
    assert 'enable_modules' in repr(spec)


def test_tables() -> None:
    names = [
        'Aid',
        'SpawnSpec',
        'Start',
        'StartAck',
        'Stop',
        'CancelAck',
        'Error',
        'Started',
        'Yield',
        'Return',
    ]
    assert [msg_type.__name__ for msg_type in types.__msg_types__] == names
    assert list(types._msg_table) == names
    assert types._msg_table['Stop'] is types.Stop
    assert tractor.msg.__msg_spec__ is types.MsgType
    assert set(types.MsgType.__args__) == set(types.__msg_types__)
    assert types.Msg is types.PayloadMsg
    assert types.log is not None


def test_mk_msg_spec() -> None:
    spec, members = types.mk_msg_spec(int | None)
    assert members[:3] == [carrier[int | None] for carrier in CARRIERS]
    assert members[3:] == types._runtime_msgs
    assert set(spec.__args__) == set(members)

    decoder = msgspec.msgpack.Decoder(spec)
    assert decoder.decode(codec.encode(types.Return('c', 5))).pld == 5
    assert decoder.decode(codec.encode(types.CancelAck('c', True))).pld is True
    with pytest.raises(msgspec.ValidationError):
        decoder.decode(codec.encode(types.Return('c', 'text')))
    with pytest.raises(ValueError, match='indexed_generics'):
        types.mk_msg_spec(spec_build_method='defstruct')  # type: ignore[arg-type]


def test_from_dict_msg() -> None:
    fields = {'msg_type': 'Started', 'cid': 5, 'pld': 'x'}
    msg = types.from_dict_msg(fields)
    assert msg == types.Started(5, 'x')  # type: ignore[arg-type]
    assert fields == {'cid': 5, 'pld': 'x'}
    assert types.from_dict_msg({'cid': 'c'}, msgT=types.Stop) == types.Stop('c')
    assert types.from_dict_msg({'kind': 'Stop', 'cid': 'c'}, tag_field='kind') == types.Stop('c')

    pretty = types.from_dict_msg({'msg_type': 'Stop', 'cid': 'c'}, use_pretty=True)
    assert repr(pretty) == "Stop(\n  cid: str = 'c',\n)"
    with pytest.raises(KeyError):
        types.from_dict_msg({'cid': 'c'})
    with pytest.raises(TypeError):
        types.from_dict_msg({'msg_type': 'Stop', 'id': 'c'})


def test_public_names() -> None:
    names = (
        'NamespacePath Struct MsgCodec MsgDec mk_codec mk_dec apply_codec current_codec '
        '_def_msgspec_codec _ctxvar_MsgCodec PayloadT PayloadMsg Msg Started Yield Return '
        'CancelAck Aid SpawnSpec Start StartAck Stop Error MsgType __msg_types__ __msg_spec__ '
        'typed limit_plds'
    )
    assert [name for name in names.split() if not hasattr(tractor.msg, name)] == []
