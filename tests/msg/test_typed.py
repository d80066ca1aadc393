"""contract: the types that a decorated function has, what encodes for them, and what errors of either say."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

import tractor
from tractor import MsgTypeError
from tractor.msg import _codec, apply_codec, mk_codec, typed
from tractor.msg._codec import mk_dec
from tractor.msg._typed import PayloadTypes, encode_args, encode_payload, types_of
from tractor.msg.types import Start, Yield


class Text(str):
    """Nothing that can be encoded without help."""


class Deep(msgspec.Struct):
    items: list[Any]


@dataclasses.dataclass
class Plain:
    at: Any


def encode(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError


def decode(kind: type, value: Any) -> Any:
    return kind(value)


# --- what a function says


@typed
async def pay(price: Decimal, note=None, *more: int) -> Decimal:  # type: ignore[no-untyped-def]
    return price


@typed(enc_hook=encode, dec_hook=decode, ext_types=[Path])
async def walk(path: Path) -> AsyncGenerator[Path, None]:
    yield path


@typed
@tractor.stream
async def one_way(stream: tractor.Context, count: int) -> None:
    await stream.send_yield(count)


@typed
async def nothing_said(one, two: Any):  # type: ignore[no-untyped-def]
    return one


@typed
async def later(node: Later) -> AsyncIterator[Later]:
    yield node


class Later(msgspec.Struct):
    """Defined after what is annotated with it."""

    next: Later | None


def test_specs_of_annotations() -> None:
    assert types_of(pay).dec.spec is Decimal
    assert types_of(pay).codec is None
    assert types_of(walk).dec.spec is Path
    assert types_of(walk).dec.hook is decode
    assert types_of(walk).codec.enc.enc_hook is encode
    assert types_of(one_way).dec is None
    assert types_of(later).dec.spec is Later
    assert types_of(nothing_said).dec is None
    assert types_of(encode) is None
    # made once, used for every dialog
    assert types_of(walk).dec is types_of(walk).dec
    assert types_of(walk).codec is types_of(walk).codec
    assert repr(types_of(pay)) == f'<PayloadTypes of {__name__}:pay: typing.Any>'


def test_arguments_are_converted() -> None:
    given = {'price': '1.50', 'note': [1], 'unknown': (1,)}
    assert types_of(pay).convert_args(given) == {**given, 'price': Decimal('1.50')}
    assert types_of(walk).convert_args({'path': 'a'}) == {'path': Path('a')}
    node = {'next': {'next': None}}
    assert types_of(later).convert_args({'node': node}) == {'node': Later(Later(None))}


@pytest.mark.parametrize(
    ('func', 'given', 'shown'),
    [
        (pay, {'price': [1]}, '`price: Decimal`'),
        (walk, {'path': 1}, '`path: Path`'),
        (later, {'node': {}}, '`node: Later`'),
    ],
)
def test_arguments_of_other_types(func: Any, given: dict[str, Any], shown: str) -> None:
    with pytest.raises(MsgTypeError) as caught:
        types_of(func).convert_args(given)
    ((name, value),) = given.items()
    text = caught.value.message
    assert text.startswith(
        f'invalid argument `{name}` of {__name__}:{func.__name__}()\n\n{value!r}'
    )
    assert f'has type {type(value)!r}\n\nand does not match type-spec {shown}' in text
    assert isinstance(caught.value.__cause__, msgspec.ValidationError)


def test_annotations_that_mean_nothing() -> None:
    @typed
    async def lost(value: NoSuchThing) -> int:  # type: ignore[name-defined]  # noqa: F821
        return value

    with pytest.raises(TypeError, match=r'lost\(\) cannot be evaluated.*NoSuchThing'):
        assert types_of(lost).dec
    with pytest.raises(TypeError, match='NoSuchThing'):
        types_of(lost).convert_args({'value': 1})


def test_a_context_has_its_own_way() -> None:
    with pytest.raises(TypeError, match=r'@tractor\.context'):

        @typed
        @tractor.context
        async def dialog(ctx: tractor.Context) -> None: ...


# --- contexts


def context_of(**options: Any) -> PayloadTypes:
    @tractor.context(**options)
    async def dialog(ctx: tractor.Context, path: Path, other: NoSuchThing = None) -> None:  # type: ignore[name-defined]  # noqa: F821
        ...

    assert dialog._tractor_context_meta['ext_types'] == options.get('ext_types')
    types = types_of(dialog)
    assert types is not None
    return types


def test_specs_of_contexts() -> None:
    assert context_of().dec is None
    assert context_of(enc_hook=encode).dec is None
    assert context_of(ext_types=[Path]).dec is None
    spec = list[Path] | None
    for options in ({}, {'dec_hook': decode}, {'dec_hook': decode, 'ext_types': [Path]}):
        assert context_of(pld_spec=spec, **options).dec.spec is spec
    exts = context_of(dec_hook=decode, ext_types=[Path | None])
    assert _codec.unpack_spec_types(exts.dec.spec) == {Raw, Path, type(None)}
    assert exts.dec.decode(b'\xa1a') == Path('a')
    assert exts.dec.decode(b'\xc0') is None


def test_arguments_of_contexts() -> None:
    given = {'path': 'a', 'other': 1}
    assert context_of().convert_args(given) == given
    # an annotation that cannot be evaluated leaves them all as they came
    assert context_of(dec_hook=decode).convert_args(given) == given


@pytest.mark.parametrize('exts', [[Path, Text], [Path, int]])
def test_unions_that_cannot_be_told_apart(exts: list[Any]) -> None:
    for make in (
        lambda: mk_dec(None, dec_hook=decode, ext_types=exts),
        lambda: context_of(dec_hook=decode, ext_types=exts).dec,
    ):
        with pytest.raises(TypeError, match='custom type') as caught:
            make()
        assert ['msgspec.Struct' in note for note in caught.value.__notes__] == [True]


# --- encoding


def test_payloads_are_encoded_by_the_dialog() -> None:
    codec = types_of(walk).codec
    assert encode_payload(None, Yield, 'c', Path('a')) == Yield('c', Path('a'))
    msg = encode_payload(codec, Yield, 'c', [Path('a')])
    assert bytes(msg.pld) == b'\x91\xa1a'
    with pytest.raises(MsgTypeError) as caught:
        encode_payload(codec, Yield, 'c', {'x': [1, Text('t')]})
    mte = caught.value
    assert f"`pld['x'][1]` is a {__name__}.Text, which the encode hook" in mte.message
    assert mte.bad_msg == Yield('c', {'x': [1, 't']})
    assert isinstance(mte.__cause__, NotImplementedError)
    # what the task has asked for comes next
    with apply_codec(mk_codec(enc_hook=str.__str__, ext_types=[Text])) as other:
        msg = encode_payload(codec, Yield, 'c', Text('t'))
        assert other.encode(msg) == other.encode(Yield('c', 't'))


def test_arguments_are_encoded_by_the_dialog() -> None:
    def request(**kwargs: Any) -> Start:
        return Start(cid='c', ns='m', func='f', kwargs=kwargs, uid=('a', '1'))

    codec = types_of(walk).codec
    start = request(path=Path('a'), n=1)
    encode_args(codec, start)
    default = _codec._def_tractor_codec
    assert default.encode(start) == default.encode(request(path='a', n=1))
    bad = request(path=Text('t'))
    encode_args(None, bad)
    assert bad == request(path=Text('t'))
    with pytest.raises(MsgTypeError, match=r"`kwargs\['path'\]` is a .*\.Text") as caught:
        encode_args(codec, bad)
    assert caught.value.bad_msg is bad
    with apply_codec(mk_codec(enc_hook=str.__str__, ext_types=[Text])):
        encode_args(codec, bad)
    assert bad == request(path=Text('t'))


@pytest.mark.parametrize(
    ('value', 'shown'),
    [
        (Text('t'), f'`pld` is a {__name__}.Text'),
        (Deep([0, {'a': (Text('t'),)}]), f"`pld.items[1]['a'][0]` is a {__name__}.Text"),
        (Plain({1, Path('/')}), 'is a pathlib.'),
        ({3: 1, Plain: 1}, "`pld key <class '"),
        ([2**64], '`pld[0]` is a builtins.int'),
        (['\ud800'], '`pld[0]` is a builtins.str'),
        ([1] * 5000 + [Text('t')], '`pld` is a builtins.list'),
    ],
)
def test_what_cannot_be_sent_is_named(value: Any, shown: str) -> None:
    with pytest.raises(MsgTypeError) as caught:
        encode_payload(mk_codec(), Yield, 'c', value)
    assert shown in caught.value.message
    assert ('enc_hook' in caught.value.message) is isinstance(caught.value.__cause__, TypeError)


def test_a_value_which_contains_itself() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(MsgTypeError, match='RecursionError') as caught:
        encode_payload(types_of(walk).codec, Yield, 'c', value)
    assert len(caught.value.message) < 10_000
