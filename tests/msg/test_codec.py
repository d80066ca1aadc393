"""contract: codecs and payload decoders, their specs, hooks and scope."""

from typing import Any

import msgspec
import pytest
import trio
from msgspec import Raw

from tractor.msg import _codec
from tractor.msg._codec import mk_codec, mk_dec
from tractor.msg.ptr import NamespacePath
from tractor.msg.types import Return, Started, Stop, Yield


class Point(msgspec.Struct):
    x: int


def enc_path(obj: Any) -> str:
    if isinstance(obj, NamespacePath):
        return str.__str__(obj)
    raise NotImplementedError


def dec_path(as_type: type, value: Any) -> Any:
    return as_type(value)


def test_encoder_and_decoder_are_plain_reused_attributes() -> None:
    codec = mk_codec()
    assert codec.enc is codec.enc is codec._enc
    assert codec.dec is codec.dec is codec._dec
    assert type(vars(_codec.MsgCodec)['enc']) is type(vars(_codec.MsgCodec)['_enc'])

    buffer = bytearray(b'head')
    codec.enc.encode_into(Stop('c'), buffer, 4)
    assert codec.dec.decode(memoryview(buffer)[4:]) == Stop('c')


def test_default_codecs() -> None:
    assert _codec._def_tractor_codec is not _codec._def_msgspec_codec
    assert _codec._def_tractor_codec.pld_spec is Raw
    assert _codec._def_msgspec_codec.pld_spec is Any
    assert _codec.current_codec() is _codec._def_tractor_codec
    assert _codec._ctxvar_MsgCodec.name == 'msgspec_codec'
    assert repr(_codec._def_tractor_codec).startswith('MsgCodec(\n  lib: ')


def test_codec_shows_its_spec() -> None:
    codec = mk_codec(int | None)
    names = [
        'Started',
        'Yield',
        'Return',
        'Aid',
        'SpawnSpec',
        'Start',
        'StartAck',
        'Stop',
        'CancelAck',
        'Error',
    ]
    assert codec.msg_spec_str.split('\n') == names
    assert codec.pld_spec == int | None
    assert codec.pld_spec_str == 'int|NoneType'
    assert _codec.pformat_msgspec(codec, join_char=',') == ','.join(names)
    assert _codec.pformat_msgspec(codec, msg=Stop('c')) == 'Stop'
    assert _codec.mk_msgspec_table(codec.dec)[Stop] == 'Stop'
    assert _codec.mk_msgspec_table(mk_dec(int | None)) == {int: 'int', type(None): 'NoneType'}
    assert codec.msg_spec is codec.dec.type
    assert _codec.unpack_spec_types(int | str) == {int, str}
    assert _codec.unpack_spec_types(int) == {int}
    assert _codec.unpack_spec_types(list[int]) == {list[int]}


def test_codec_encode_variants() -> None:
    codec = mk_codec(enc_hook=enc_path, ext_types=[NamespacePath])
    wire = codec.encode(Stop('c'))
    assert codec.encode(Stop('c'), use_buf=True) == wire
    assert codec.encode(Stop('d'), use_buf=True) == codec.encode(Stop('d'))
    assert codec.encode(NamespacePath('m:f'), as_ext_type=True) == codec.encode('m:f')
    assert codec.encode({'plain': [1]}) == msgspec.msgpack.encode({'plain': [1]})
    with pytest.raises(TypeError, match='enc_hook'):
        mk_codec().encode('x', as_ext_type=True)


def test_codec_hooks() -> None:
    with pytest.raises(TypeError, match='ext_types'):
        mk_codec(enc_hook=enc_path)
    with pytest.raises(ValueError, match='msgspec'):
        mk_codec(libname='other')

    codec = mk_codec(enc_hook=enc_path, ext_types=[NamespacePath])
    assert codec.enc.enc_hook is enc_path
    assert codec.dec.dec_hook is None
    with pytest.raises(TypeError):
        mk_codec().encode(Yield('c', NamespacePath('m:f')))

    ext_dec = mk_dec(None, dec_hook=dec_path, ext_types=[NamespacePath])
    eager = mk_codec(None, enc_hook=enc_path, ext_types=[NamespacePath], ext_dec=ext_dec)
    assert eager.dec.dec_hook is dec_path
    msg = eager.decode(codec.encode(Yield('c', NamespacePath('m:f'))))
    assert type(msg.pld) is NamespacePath
    assert eager.decode(codec.encode(Yield('c', None))).pld is None


def test_mk_dec_specs() -> None:
    spec = int | None
    dec = mk_dec(spec)
    assert dec.spec is dec.pld_spec is spec
    assert dec.spec_str == dec.pld_spec_str == 'int|NoneType'
    assert dec.dec is dec._dec
    assert dec.hook is None
    assert dec.decode(b'\x05') == 5
    with pytest.raises(msgspec.ValidationError):
        dec.decode(b'\xa1x')
    assert mk_dec(Point).decode(msgspec.msgpack.encode({'x': 1})) == Point(1)


def test_mk_dec_arguments() -> None:
    with pytest.raises(TypeError, match='spec'):
        mk_dec(None)
    with pytest.raises(TypeError, match='ext_types'):
        mk_dec(int, dec_hook=dec_path)
    # without a hook the types are ignored, so nothing but nil fits
    nil_only = mk_dec(None, ext_types=[int])
    assert nil_only.decode(b'\xc0') is None
    with pytest.raises(msgspec.ValidationError):
        nil_only.decode(b'\x05')


@pytest.mark.parametrize('ext_types', [[NamespacePath], [NamespacePath | None]])
def test_mk_dec_with_hook(ext_types: list[Any]) -> None:
    dec = mk_dec(int, dec_hook=dec_path, ext_types=ext_types)
    wanted = set().union(*map(_codec.unpack_spec_types, ext_types))
    assert _codec.unpack_spec_types(dec.spec) == {Raw} | wanted
    assert dec.hook is dec_path
    assert type(dec.decode(msgspec.msgpack.encode('m:f'))) is NamespacePath


def test_apply_codec_is_scoped_to_the_task() -> None:
    codec = mk_codec(enc_hook=enc_path, ext_types=[NamespacePath])
    seen: dict[str, Any] = {}

    async def note(name: str, ready: trio.Event, asked: trio.Event) -> None:
        ready.set()
        await asked.wait()
        seen[name] = _codec.current_codec()

    async def main() -> None:
        with trio.fail_after(5):
            async with trio.open_nursery() as tn:
                asked = trio.Event()
                sibling, child = trio.Event(), trio.Event()
                tn.start_soon(note, 'sibling', sibling, asked)
                await sibling.wait()
                with _codec.apply_codec(codec) as applied:
                    assert applied is codec is _codec.current_codec()
                    tn.start_soon(note, 'child', child, asked)
                    await child.wait()
                    asked.set()
                assert _codec.current_codec() is _codec._def_tractor_codec

    trio.run(main)
    assert seen == {'sibling': _codec._def_tractor_codec, 'child': codec}


def test_apply_codec_refuses_the_current_one() -> None:
    with (
        pytest.raises(AssertionError, match='already'),
        _codec.apply_codec(_codec.current_codec()),
    ):
        raise RuntimeError('not reached')


def test_apply_codec_is_undone_by_errors() -> None:
    with pytest.raises(KeyError), _codec.apply_codec(mk_codec()):
        raise KeyError('x')
    assert _codec.current_codec() is _codec._def_tractor_codec


def test_limit_msg_spec_decodes_eagerly() -> None:
    wire = _codec.current_codec().encode(Return('c', 1))
    with _codec.limit_msg_spec(int) as codec:
        assert _codec.current_codec() is codec
        assert codec.decode(wire) == Return('c', 1)
        with pytest.raises(msgspec.ValidationError):
            codec.decode(codec.encode(Started('c', 'text')))
    assert isinstance(_codec.current_codec().decode(wire).pld, Raw)
