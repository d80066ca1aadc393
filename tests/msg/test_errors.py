"""contract: exceptions become `Error` messages and back, over any number of hops."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import trio
from msgspec import Raw

from tractor import _exceptions
from tractor._exceptions import (
    ContextCancelled,
    MsgTypeError,
    RemoteActorError,
    StreamOverrun,
)
from tractor.msg import _errors, types
from tractor.msg._codec import _def_tractor_codec as codec
from tractor.msg._codec import apply_codec, mk_codec
from tractor.msg._errors import pack_error, pack_from_raise, unpack_error
from tractor.runtime import _state

SRC, MID, TOP = ('src', 'u1'), ('mid', 'u2'), ('top', 'u3')

Uid = tuple[str, str]
BeActor = Callable[[Uid], None]


class AppError(Exception):
    """Known to nobody but the actor that raises it."""


@pytest.fixture
def be_actor(monkeypatch: pytest.MonkeyPatch) -> BeActor:
    """Make this the actor of the given uid."""

    def become(uid: Uid) -> None:
        actor = SimpleNamespace(aid=SimpleNamespace(uid=uid))
        monkeypatch.setattr(_state, 'current_actor', lambda err_on_no_runtime=True: actor)

    return become


def raised(exc: BaseException) -> BaseException:
    try:
        raise exc
    except BaseException as err:  # noqa: BLE001
        return err


def over_the_wire(error: types.Error) -> RemoteActorError:
    received = unpack_error(codec.decode(codec.encode(error)))
    assert received is not None
    return received


def relay(exc: BaseException, *path: Uid, be_actor: BeActor) -> RemoteActorError:
    """Raise in the first actor of the path, relay by the others, receive after the last."""
    for uid in path:
        be_actor(uid)
        exc = over_the_wire(pack_error(raised(exc), cid='c'))
    assert isinstance(exc, RemoteActorError)
    return exc


def test_first_hop(be_actor: BeActor) -> None:
    exc = relay(ValueError('bad value'), SRC, be_actor=be_actor)
    assert type(exc) is RemoteActorError
    assert exc.boxed_type is exc.src_type is ValueError
    assert exc.boxed_type_str == exc.src_type_str == 'ValueError'
    assert exc.src_uid == exc.relay_uid == SRC
    assert exc.relay_path == [SRC]
    assert exc.cid == 'c'
    assert not exc.is_inception()
    assert exc.message == "remote task raised a 'ValueError'\n"
    assert exc.tb_str == exc.msgdata['tb_str']
    assert 'ValueError: bad value' in exc.tb_str
    assert 'in raised' in exc.tb_str
    assert type(exc.unwrap()) is ValueError
    assert exc.unwrap().args == (exc.tb_str,)


@pytest.mark.parametrize(
    ('exc', 'src_type'), [(ValueError('bad value'), ValueError), (AppError('bad value'), None)]
)
def test_second_hop_keeps_the_source(
    exc: Exception, src_type: type | None, be_actor: BeActor
) -> None:
    received = relay(exc, SRC, MID, be_actor=be_actor)
    assert type(received) is RemoteActorError
    assert received.boxed_type is RemoteActorError
    assert received.is_inception()
    assert received.src_type_str == type(exc).__name__
    assert received.src_type is src_type
    assert received.src_uid == SRC
    assert received.relay_path == [SRC, MID]
    assert received.relay_uid == MID
    assert f"tractor._exceptions.RemoteActorError: remote task raised a '{type(exc).__name__}'" in (
        received.tb_str
    )
    assert 'bad value' in received.tb_str


def test_third_hop_restarts_at_its_relayer(be_actor: BeActor) -> None:
    received = relay(ValueError('bad value'), SRC, MID, TOP, be_actor=be_actor)
    assert received.boxed_type is received.src_type is RemoteActorError
    assert received.src_uid == TOP
    assert received.relay_path == [SRC, MID, TOP]
    assert received.relay_uid == TOP
    assert 'ValueError: bad value' in received.tb_str
    assert "src_uid=('src', 'u1')" in received.tb_str


def test_packing_does_not_touch_the_exception(be_actor: BeActor) -> None:
    exc = relay(ValueError('bad value'), SRC, be_actor=be_actor)
    be_actor(MID)
    first, second = pack_error(exc), pack_error(exc)
    assert exc.relay_path == [SRC]
    assert first.relay_path == second.relay_path == [SRC, MID]


def test_cid_is_that_of_the_dialog_shipped_on(be_actor: BeActor) -> None:
    exc = relay(ValueError('bad value'), SRC, be_actor=be_actor)
    assert pack_error(exc, cid='other').cid == 'other'
    assert pack_error(exc).cid is None


def test_unregistered_type_is_relayed_as_text(be_actor: BeActor) -> None:
    exc = relay(AppError('bad value'), SRC, be_actor=be_actor)
    assert exc.boxed_type is exc.src_type is None
    assert exc.boxed_type_str == exc.src_type_str == 'AppError'
    assert 'AppError: bad value' in exc.tb_str
    assert " |_boxed_type='AppError'\n" in str(exc)
    assert not exc.is_inception()
    unwrapped = exc.unwrap()
    assert type(unwrapped) is RuntimeError
    assert unwrapped.args == (f'AppError: {exc.tb_str}',)


def test_registered_type_is_resolved(be_actor: BeActor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_exceptions, '_app_err_types', {})
    _exceptions.reg_err_types([AppError])
    exc = relay(AppError('bad value'), SRC, be_actor=be_actor)
    assert exc.boxed_type is exc.src_type is AppError
    assert type(exc.unwrap()) is AppError


def test_cancellation_keeps_its_canceller(be_actor: BeActor) -> None:
    local = ContextCancelled('cancelled by top', boxed_type=trio.Cancelled, canceller=TOP)
    first = relay(local, SRC, be_actor=be_actor)
    assert type(first) is ContextCancelled
    assert first.boxed_type is ContextCancelled
    assert first.canceller == TOP
    assert first.src_uid == SRC

    be_actor(MID)
    second = over_the_wire(pack_error(raised(first), cid='c'))
    assert type(second) is ContextCancelled
    assert second.canceller == TOP
    assert second.src_uid == MID
    assert second.relay_path == [SRC, MID]


def test_overrun_notice_and_its_relay(be_actor: BeActor) -> None:
    be_actor(SRC)
    local = StreamOverrun('too fast', sender=MID)
    assert local.sender == MID
    notice = over_the_wire(pack_from_raise(local, cid='c'))
    assert type(notice) is RemoteActorError
    assert notice.boxed_type is StreamOverrun
    assert notice.sender == MID
    assert notice.src_uid == SRC

    be_actor(MID)
    back = over_the_wire(pack_error(raised(notice), cid='c'))
    assert back.boxed_type is RemoteActorError
    assert back.src_type_str == 'StreamOverrun'
    assert back.relay_path == [SRC, MID]
    assert 'StreamOverrun' in back.tb_str
    assert back.tb_str == back.msgdata['tb_str']


@pytest.mark.parametrize(
    ('group', 'group_type'),
    [
        (ExceptionGroup('many', [ValueError('one'), KeyError('two')]), ExceptionGroup),
        (BaseExceptionGroup('many', [KeyboardInterrupt(), KeyError('two')]), BaseExceptionGroup),
    ],
)
def test_group_is_boxed_whole(
    group: BaseException, group_type: type[BaseException], be_actor: BeActor
) -> None:
    exc = relay(group, SRC, be_actor=be_actor)
    assert exc.boxed_type is group_type
    assert "KeyError: 'two'" in exc.tb_str
    assert type(exc.unwrap()) is RuntimeError


def test_causes_are_in_the_traceback() -> None:
    try:
        try:
            raise KeyError('inner')
        except KeyError as err:
            raise ValueError('outer') from err
    except ValueError as err:
        error = pack_error(err)
    assert "KeyError: 'inner'" in error.tb_str
    assert 'direct cause' in error.tb_str


def test_pack_arguments() -> None:
    error = pack_error(ValueError('x'), src_uid=TOP, tb_str='given tb', message='given text')
    assert error.src_uid == TOP
    assert error.tb_str == 'given tb'
    assert error.message == 'given text'
    tb = raised(KeyError()).__traceback__
    assert 'in raised' in pack_error(ValueError('x'), tb=tb).tb_str


def test_pack_without_a_runtime() -> None:
    error = pack_error(ValueError('x'))
    assert error.src_uid == ('<unknown>', '')
    assert error.relay_path == [('<unknown>', '')]
    assert over_the_wire(error).boxed_type is ValueError


def test_pack_from_raise_has_a_traceback() -> None:
    error = pack_from_raise(ValueError('x'), cid='c', src_uid=TOP)
    assert 'in pack_from_raise' in error.tb_str
    assert error.cid == 'c'
    assert error.src_uid == TOP


class Hostile(Exception):
    """Fails wherever code of an exception runs."""

    message: ClassVar[Any] = {'not': 'text'}

    def __str__(self) -> str:
        raise RuntimeError('no text')

    __repr__ = __str__


class StrSubclass(str):
    __slots__ = ()


@pytest.mark.parametrize(
    'exc',
    [
        Hostile(),
        ValueError('lone surrogate \ud800'),
        RemoteActorError(StrSubclass('subclass'), src_uid=[object(), object()]),
        RemoteActorError('odd', relay_path='text', canceller=5, sender=object(), tb_str=object()),
        RemoteActorError('odd', src_type_str='\ud800', src_uid=('a', 'b'), boxed_type_str='B'),
        MsgTypeError('bad dict', _bad_msg_as_dict={'x': object()}),
        MsgTypeError('bad keys', _bad_msg_as_dict={(1, (object(),)): 1}),
        MsgTypeError('bad raw', _bad_msg=types.Yield('c', Raw(b'\xc1'))),
        MsgTypeError('bad cid', _bad_msg=types.Yield(5, 1)),  # type: ignore[arg-type]
        MsgTypeError('no carrier', _bad_msg=types.Start('c', 'ns', 'f', {}, ('a', 'b'))),
        ValueError('huge' * 1_000_000),
    ],
)
def test_whatever_is_packed_can_be_sent(exc: BaseException) -> None:
    received = over_the_wire(pack_error(raised(exc), cid='c'))
    assert received.cid == 'c'
    assert received.relay_path == [('<unknown>', '')]
    assert received.tb_str
    assert repr(received)


def test_unencodable_message_is_dropped_from_the_error() -> None:
    bad = types.Return('c', object())
    exc = MsgTypeError.from_decode('invalid', bad_msg=bad)
    error = pack_error(raised(exc), cid='c')
    assert error._bad_msg is None
    assert exc.bad_msg is bad
    received = over_the_wire(error)
    assert type(received) is MsgTypeError
    assert received.bad_msg is None
    assert received.expected_msg_type is None
    assert received.cid == 'c'


def test_bad_message_is_encoded_as_its_sender_would() -> None:
    class Custom:
        pass

    exc = MsgTypeError.from_decode('invalid', bad_msg=types.Yield('c', Custom()))
    with apply_codec(mk_codec(enc_hook=lambda _: 'custom', ext_types=[Custom])):
        error = pack_error(raised(exc))
    received = over_the_wire(error)
    assert isinstance(received, MsgTypeError)
    assert received.bad_msg == types.Yield('c', 'custom')
    assert received.expected_msg_type is types.Yield


def test_minimal_error_when_all_else_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_errors, '_wire_bad_msg', lambda msg: msg)
    exc = MsgTypeError.from_decode('invalid', bad_msg=types.Return('c', object()))
    error = pack_error(raised(exc), cid='c')
    assert 'could not be encoded' in (error.message or '')
    received = over_the_wire(error)
    assert type(received) is MsgTypeError
    assert 'in raised' in received.tb_str


def test_unpack_other_messages() -> None:
    assert unpack_error(types.Stop('c'), None) is None
    assert unpack_error(None) is None


@pytest.mark.parametrize(
    'fields',
    [
        {'boxed_type_str': 'pack_error', 'src_type_str': '__doc__'},
        {'boxed_type_str': 'Any', 'src_type_str': 'print'},
        {'boxed_type_str': '', 'src_type_str': ''},
        {'relay_path': []},
        {'boxed_type_str': 'x' * 5_000_000, 'tb_str': '\n' * 100_000, 'message': '\n'},
        {'boxed_type_str': 'ContextCancelled', 'canceller': None},
        {'boxed_type_str': 'MsgTypeError', '_bad_msg_as_dict': {'msg_type': 'Unheard'}},
        {'boxed_type_str': 'MsgTypeError', '_bad_msg_as_dict': {'msg_type': [1], 5: 6}},
        {'boxed_type_str': 'MsgTypeError', '_bad_msg_as_dict': {'msg_type': 'Stop'}},
        {'boxed_type_str': None, 'src_type_str': 5, 'src_uid': None, 'relay_path': None},
        {'relay_path': [None, 5, ['only one'], {}], 'src_uid': 'text', 'tb_str': 5},
        {'boxed_type_str': ['list'], 'src_type_str': {}, 'cid': 5, 'message': 5},
    ],
)
@pytest.mark.parametrize('tb_str', ['', 'tb'])
def test_garbage_unpacks_to_a_usable_error(fields: dict[str, Any], tb_str: str) -> None:
    sane = {
        'src_uid': SRC,
        'src_type_str': 'ValueError',
        'boxed_type_str': 'ValueError',
        'relay_path': [SRC],
        'tb_str': tb_str,
    }
    exc = unpack_error(types.Error(**{**sane, **fields}))
    assert isinstance(exc, RemoteActorError)
    assert repr(exc)
    assert exc.reprol()
    assert str(exc) == exc.pformat(with_type_header=False)
    assert isinstance(exc.unwrap(), BaseException)
    assert exc.cid is None
    assert isinstance(getattr(exc, 'bad_msg', None), types.Stop | None)
    assert over_the_wire(pack_error(raised(exc), cid='c')).cid == 'c'


def test_unpack_formats_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError('formatted or resolved too early')

    for name in ('_pformat_box', '_pformat_message', 'get_err_type'):
        monkeypatch.setattr(_exceptions, name, fail)
    error = types.Error(SRC, 'ValueError', 'ValueError', [SRC], tb_str='tb')
    exc = unpack_error(error)
    assert exc is not None
    assert exc._ipc_msg is error
    with pytest.raises(AssertionError, match='too early'):
        str(exc)


def test_moved_names_are_those_of_the_message_layer() -> None:
    for name in ('pack_error', 'pack_from_raise', 'unpack_error', '_mk_send_mte', '_mk_recv_mte'):
        assert getattr(_exceptions, name) is getattr(_errors, name)
    with pytest.raises(AttributeError, match='unheard'):
        _exceptions.unheard  # noqa: B018
