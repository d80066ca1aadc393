"""contract: payloads decoded to the spec of their context, on a stand-in for the context."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import trio

from tractor import _exceptions
from tractor._exceptions import MessagingError, MsgTypeError, RemoteActorError
from tractor.log import get_logger
from tractor.msg import NamespacePath, _ops, types
from tractor.msg._codec import _def_tractor_codec as codec
from tractor.msg._codec import apply_codec, mk_codec, mk_hook_dec, unpack_spec_types
from tractor.msg._errors import pack_error
from tractor.runtime import _state

PEER = types.Aid('peer', 'u1')


class Point(msgspec.Struct):
    x: int


class FakeChan:
    aid = PEER


class FakeStream:
    def __init__(self, ctx: 'FakeContext') -> None:
        self._ctx = ctx
        self._eoc: trio.EndOfChannel | None = None
        self._closed = False


class FakeContext:
    """Records what would be done to a dialog."""

    def __init__(self, spec: Any = Any) -> None:
        self.cid = 'c'
        self.chan = FakeChan()
        self._pld_rx = _ops.PldRx(ctx=self)
        self._pld_rx.set_spec(spec)
        self._remote_error: BaseException | None = None
        self._stream: FakeStream | None = None
        self._pld_codec: Any = None

    def _maybe_cancel_and_set_remote_error(self, error: BaseException) -> None:
        self._remote_error = error

    def _decode_result(self) -> None:
        """There is none."""


@pytest.fixture
def current_ctx(monkeypatch: pytest.MonkeyPatch) -> FakeContext:
    ctx = FakeContext()
    monkeypatch.setattr(_state, 'current_ipc_ctx', lambda error_on_not_set=False: ctx)
    return ctx


def received(msg: Any) -> Any:
    return codec.decode(codec.encode(msg))


def an_error(exc: BaseException) -> types.Error:
    return pack_error(exc, cid='c', src_uid=PEER.uid)


def decode_pld(ctx: FakeContext, msg: Any, **kwargs: Any) -> Any:
    return ctx._pld_rx.decode_pld(msg, ctx, **{'expect_msg': types.Return, **kwargs})


def test_decoder_is_that_of_any_payload_by_default() -> None:
    rx = _ops.PldRx()
    assert rx.pld_dec is rx._pld_dec is _ops._def_any_pldec
    assert rx.dec is rx.pld_dec.dec
    assert rx.pld_dec.spec is Any
    assert repr(rx) == 'PldRx(Any)'


@pytest.mark.parametrize('carrier', [types.Started, types.Yield, types.Return])
def test_decode(carrier: Any) -> None:
    assert _ops.PldRx().decode(received(carrier('c', {'x': [1, None]}))) == {'x': [1, None]}
    ctx = FakeContext(Point | None)
    assert ctx._pld_rx.decode(received(carrier('c', Point(1)))) == Point(1)
    assert ctx._pld_rx.decode(received(carrier('c', None))) is None


@pytest.mark.parametrize('carrier', [types.Started, types.Yield, types.Return])
def test_payload_of_another_type_looks_like_an_error_of_the_peer(carrier: Any) -> None:
    ctx = FakeContext(Point | None)
    with pytest.raises(MsgTypeError) as caught:
        ctx._pld_rx.decode(received(carrier('c', 'text')))
    exc, name = caught.value, carrier.__name__
    assert exc.src_uid == PEER.uid
    assert exc.cid == 'c'
    assert exc.boxed_type is MsgTypeError
    assert exc.expected_msg_type is carrier
    assert exc.tb_str
    assert isinstance(exc.__cause__, msgspec.ValidationError)
    text = (
        f"invalid `{name}` msg payload\n\n'text'\n\nhas type <class 'str'>\n\n"
        f'and does not match type-spec `{name}.pld: Point|NoneType`'
    )
    assert text in exc.message
    assert text in repr(exc)
    assert ctx._remote_error is None


def test_decode_without_a_context_knows_no_peer() -> None:
    rx = _ops.PldRx()
    rx.set_spec(int)
    with pytest.raises(MsgTypeError) as caught:
        rx.decode(received(types.Yield('c', 'text')))
    assert caught.value.src_uid == ('<unknown>', '')


@pytest.mark.parametrize('raw', [b'\xa2\xff\xfe', b'\x91' * 200_000 + b'\x01'])
def test_payload_that_cannot_be_decoded_at_all(raw: bytes) -> None:
    with pytest.raises(MsgTypeError, match='invalid `Yield` msg payload'):
        _ops.PldRx().decode(types.Yield('c', msgspec.Raw(raw)))


def test_decode_of_what_is_not_encoded() -> None:
    with pytest.raises(TypeError):
        _ops.PldRx().decode(types.Yield('c', 5))


def test_decode_pld_records_a_type_error() -> None:
    ctx = FakeContext(int)
    with pytest.raises(MsgTypeError) as caught:
        decode_pld(ctx, received(types.Return('c', 'text')))
    assert ctx._remote_error is caught.value
    assert decode_pld(ctx, received(types.Return('c', 5))) == 5


def test_decode_pld_on_the_send_side_records_nothing() -> None:
    ctx = FakeContext(int)
    with pytest.raises(MsgTypeError) as caught:
        decode_pld(ctx, received(types.Started('c', 'text')), is_started_send_side=True)
    assert ctx._remote_error is None
    assert caught.value.tb_str == ''
    assert caught.value.src_uid is None
    assert decode_pld(ctx, received(types.Started('c', 5)), is_started_send_side=True) == 5


def test_decode_pld_of_cancel_ack_ignores_the_spec() -> None:
    assert decode_pld(FakeContext(str), received(types.CancelAck('c', True))) is True


def test_decode_pld_of_error() -> None:
    ctx = FakeContext()
    msg = an_error(ValueError('bad'))
    mismatch = decode_pld(ctx, msg, raise_error=False)
    assert type(mismatch) is MessagingError
    assert 'expected a `Return`' in str(mismatch)
    assert ctx._remote_error is None

    with pytest.raises(RemoteActorError) as caught:
        decode_pld(ctx, msg)
    assert caught.value.boxed_type is ValueError
    assert type(caught.value.__cause__) is MessagingError
    assert ctx._remote_error is caught.value

    with pytest.raises(RemoteActorError) as again:
        decode_pld(ctx, msg)
    assert again.value is caught.value


def test_decode_pld_of_stop() -> None:
    ctx = FakeContext()
    stop = types.Stop('c')
    assert decode_pld(ctx, stop) is stop

    stream = ctx._stream = FakeStream(ctx)
    with pytest.raises(trio.EndOfChannel) as caught:
        ctx._pld_rx.decode_pld(stop, stream, expect_msg=types.Yield)
    assert stream._eoc is caught.value

    error = ctx._remote_error = RemoteActorError('came before')
    with pytest.raises(RemoteActorError) as known:
        decode_pld(ctx, stop)
    assert known.value is error


@pytest.mark.parametrize('msg', [types.StartAck('c', 'context'), PEER, 'no message'])
def test_decode_pld_of_anything_else(msg: Any) -> None:
    with pytest.raises(MessagingError, match='expected a `Yield`'):
        decode_pld(FakeContext(), msg, expect_msg=types.Yield)


def test_raise_from_unexpected_msg() -> None:
    raise_from = _exceptions._raise_from_unexpected_msg
    assert raise_from is _ops._raise_from_unexpected_msg
    log, ctx, src_err = get_logger(), FakeContext(), AttributeError('pld')
    stream = ctx._stream = FakeStream(ctx)
    start_ack = types.StartAck('c', 'context')
    with pytest.raises(MessagingError, match='expected a `Yield`') as mismatch:
        raise_from(ctx, start_ack, src_err, log, types.Yield)
    assert mismatch.value.__cause__ is src_err

    stream._closed = True
    with pytest.raises(trio.ClosedResourceError) as closed:
        raise_from(ctx, start_ack, src_err, log, types.Yield)
    assert closed.value.__cause__ is src_err

    eoc = stream._eoc = trio.EndOfChannel()
    with pytest.raises(trio.EndOfChannel) as ended:
        raise_from(ctx, start_ack, src_err, log, types.Yield)
    assert ended.value is eoc

    with pytest.raises(RemoteActorError) as remote:
        raise_from(ctx, an_error(KeyError()), src_err, log, types.Yield)
    assert remote.value.__cause__ is src_err


def test_limit_plds(current_ctx: FakeContext) -> None:
    rx = current_ctx._pld_rx
    before = rx._pld_dec
    spec = int | None
    with _ops.limit_plds(spec) as dec:
        assert dec is rx._pld_dec
        assert dec.spec is spec
        with rx.limit_plds(str) as inner:
            assert rx.pld_dec is inner
        assert rx.pld_dec is dec
    assert rx._pld_dec is before
    with pytest.raises(KeyError), _ops.limit_plds(spec):
        raise KeyError
    assert rx._pld_dec is before


def test_limit_plds_with_a_hook(current_ctx: FakeContext) -> None:
    with _ops.limit_plds(
        dec_hook=lambda as_type, value: as_type(value), ext_types=[NamespacePath | None]
    ) as dec:
        assert unpack_spec_types(dec.spec) >= {NamespacePath, type(None)}
        value = current_ctx._pld_rx.decode(received(types.Yield('c', 'm:f')))
    assert type(value) is NamespacePath


def test_limit_plds_needs_a_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_state, 'current_ipc_ctx', lambda error_on_not_set=False: None)
    with pytest.raises(RuntimeError, match='open_context'), _ops.limit_plds(int):
        raise AssertionError('not reached')


def test_maybe_limit_plds(current_ctx: FakeContext) -> None:
    rx = current_ctx._pld_rx

    def hook(as_type: type, value: Any) -> Any:
        return as_type(value)

    async def main() -> None:
        before = rx.pld_dec
        async with _ops.maybe_limit_plds(current_ctx) as dec:
            assert dec is None
        async with _ops.maybe_limit_plds(current_ctx, Any) as dec:
            assert dec is before
        async with _ops.maybe_limit_plds(current_ctx, Point) as dec:
            assert dec is rx.pld_dec
            assert rx.pld_dec.spec is Point
        async with _ops.maybe_limit_plds(current_ctx, NamespacePath, dec_hook=hook) as dec:
            assert type(rx.decode(received(types.Yield('c', 'm:f')))) is NamespacePath
            assert rx.pld_dec.spec is NamespacePath
        async with _ops.maybe_limit_plds(current_ctx, dec_hook=hook, ext_types=[NamespacePath]):
            assert NamespacePath in unpack_spec_types(rx.pld_dec.spec)
        assert rx.pld_dec is before
        with pytest.raises(AssertionError, match='current context'):
            async with _ops.maybe_limit_plds(FakeContext(), int):
                raise KeyError('not reached')

    trio.run(main)


def test_validate_payload_msg() -> None:
    ctx = FakeContext(Point | None)
    started = types.Started('c', None)
    assert _ops.validate_payload_msg(started, Point(1), ctx) is None
    assert _ops.validate_payload_msg(started, Point(1), FakeStream(ctx)) is None
    with pytest.raises(MsgTypeError, match='does not match type-spec') as caught:
        _ops.validate_payload_msg(started, 'text', ctx)
    assert caught.value.tb_str == ''
    assert caught.value.cid == 'c'
    assert ctx._remote_error is None
    assert '------ - ------' not in repr(caught.value)

    failure = _ops.validate_payload_msg(started, 'text', ctx, raise_mte=False)
    assert type(failure) is MsgTypeError
    with pytest.raises(TypeError):
        _ops.validate_payload_msg(started, object(), ctx)
    with pytest.raises(TypeError):
        _ops.validate_payload_msg(started, object(), FakeContext())


def test_validate_payload_msg_uses_the_codec_of_the_task() -> None:
    started = types.Started('c', None)
    with apply_codec(mk_codec(enc_hook=lambda _: 'm:f', ext_types=[NamespacePath])):
        value = NamespacePath('m:f')
        assert _ops.validate_payload_msg(started, value, FakeContext(str)) is None


@pytest.mark.parametrize('error', [KeyError('k'), ZeroDivisionError(), NotImplementedError('no')])
@pytest.mark.parametrize('carrier', [types.Started, types.Yield, types.Return])
def test_whatever_a_hook_raises_is_about_the_payload(carrier: Any, error: Exception) -> None:
    """It must not get past the dialog: the message loop, which serves all of them, decodes some payloads."""

    def explode(kind: type, value: Any) -> Any:
        raise error

    ctx = FakeContext()
    ctx._pld_rx._pld_dec = mk_hook_dec(Path, explode)
    msg = received(carrier('c', 'x'))
    with pytest.raises(MsgTypeError, match=r'`\w+\.pld: Path`') as caught:
        ctx._pld_rx.decode(msg)
    assert caught.value.__cause__ is error
    assert type(error).__name__ in caught.value.tb_str
    with pytest.raises(MsgTypeError) as caught:
        decode_pld(ctx, msg, is_started_send_side=True)
    assert ctx._remote_error is None
    with pytest.raises(MsgTypeError) as caught:
        decode_pld(ctx, msg)
    assert caught.value is ctx._remote_error


def test_validate_payload_msg_says_how_to_encode() -> None:
    started = types.Started('c', None)
    with pytest.raises(TypeError) as caught:
        _ops.validate_payload_msg(started, [Path('/')], FakeContext())
    (note,) = caught.value.__notes__
    assert note.startswith('`[0]` is a pathlib.')
    assert 'enc_hook' in note

    def refuse(value: Any) -> Any:
        raise ValueError('never')

    ctx = FakeContext()
    ctx._pld_codec = mk_codec(enc_hook=str, ext_types=[Path])
    assert _ops.validate_payload_msg(started, Path('/'), ctx) is None
    # the dialog's own codec comes first, one of the task after it
    with apply_codec(mk_codec(enc_hook=refuse, ext_types=[Path])):
        assert _ops.validate_payload_msg(started, Path('/'), ctx) is None
    ctx._pld_codec = mk_codec(enc_hook=refuse, ext_types=[])
    with apply_codec(mk_codec(enc_hook=str, ext_types=[Path])):
        assert _ops.validate_payload_msg(started, Path('/'), ctx) is None
    with pytest.raises(ValueError, match='never') as other:
        _ops.validate_payload_msg(started, Path('/'), ctx)
    assert 'did not make encodable' in other.value.__notes__[0]


def test_strict_parity_of_arrays() -> None:
    ctx, started = FakeContext(), types.Started('c', None)
    ctx._pld_codec = mk_codec(enc_hook=np.ndarray.tolist, ext_types=[np.ndarray])
    ctx._pld_rx._pld_dec = mk_hook_dec(np.ndarray, lambda _, value: np.array(value, dtype='int64'))
    fine, off = np.array([[1, 2]], dtype='int64'), np.array([[1.5, 2]])
    assert _ops.validate_payload_msg(started, fine, ctx, strict_pld_parity=True) is None
    with pytest.raises(MsgTypeError, match='not equal'):
        _ops.validate_payload_msg(started, off, ctx, strict_pld_parity=True)


def test_strict_parity() -> None:
    ctx, started = FakeContext(), types.Started('c', None)
    assert _ops.validate_payload_msg(started, (1, 2), ctx) is None
    assert _ops.validate_payload_msg(started, [1, 2], ctx, strict_pld_parity=True) is None
    with pytest.raises(MsgTypeError) as caught:
        _ops.validate_payload_msg(started, (1, 2), ctx, strict_pld_parity=True)
    assert '- (1, 2)' in caught.value.message
    assert '+ [1, 2]' in caught.value.message
