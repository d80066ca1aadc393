"""contract: the exception classes, what they tell and how they print."""

import copy
import logging
import pickle
import subprocess
import sys
import traceback
from bdb import BdbQuit
from typing import Any

import pytest
import trio

import tractor.msg.types
from tractor import _exceptions as exc
from tractor._exceptions import (
    ContextCancelled,
    MsgTypeError,
    RemoteActorError,
    StreamOverrun,
    TransportClosed,
    get_err_type,
    reg_err_types,
)
from tractor.msg.types import Error, Start, Yield

UID, PEER = ('sub', 'u1'), ('peer', 'u2')


def error_msg(**fields: Any) -> Error:
    sane = {
        'src_uid': UID,
        'src_type_str': 'ValueError',
        'boxed_type_str': 'ValueError',
        'relay_path': [UID],
        'tb_str': 'Traceback:\n  line\nValueError: bad\n',
        'cid': 'c',
    }
    return Error(**{**sane, **fields})


def received(cls: type[RemoteActorError] = RemoteActorError, **fields: Any) -> Any:
    msg = error_msg(**fields)
    return cls(f'remote task raised a {msg.boxed_type_str!r}\n', ipc_msg=msg)


@pytest.mark.parametrize(
    ('name', 'bases'),
    [
        ('RuntimeFailure', {RuntimeError}),
        ('ActorFailure', {exc.RuntimeFailure}),
        ('ActorTooSlowError', {exc.RuntimeFailure}),
        ('InternalError', {RuntimeError}),
        ('NoRuntime', {RuntimeError}),
        ('NoResult', {RuntimeError}),
        ('DebugRequestError', {RuntimeError}),
        ('ModuleNotExposed', {ModuleNotFoundError}),
        ('MessagingError', {Exception}),
        ('AsyncioCancelled', {Exception}),
        ('AsyncioTaskExited', {Exception}),
        ('TrioCancelled', {exc.TrioTaskExited}),
        ('TrioTaskExited', {Exception}),
        ('TransportClosed', {Exception}),
        ('RemoteActorError', {Exception}),
        ('ContextCancelled', {RemoteActorError}),
        ('MsgTypeError', {RemoteActorError}),
        ('StreamOverrun', {RemoteActorError, trio.TooSlowError}),
    ],
)
def test_hierarchy(name: str, bases: set[type]) -> None:
    err_type = getattr(exc, name)
    assert set(err_type.__bases__) == bases
    assert err_type.__doc__
    assert get_err_type(name) is err_type


def test_import_is_light() -> None:
    code = 'import sys, tractor._exceptions as e; print(*sys.modules)'
    run = [sys.executable, '-c', code]
    out = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60).stdout
    loaded = set(out.split())
    assert 'tractor._exceptions' in loaded
    assert not {'asyncio', 'pdbp', 'bdb', 'colorlog'} & loaded


# --- lookup of types by name


@pytest.mark.parametrize(
    ('name', 'found'),
    [
        ('ValueError', ValueError),
        ('KeyboardInterrupt', KeyboardInterrupt),
        ('BaseExceptionGroup', BaseExceptionGroup),
        ('Cancelled', trio.Cancelled),
        ('BdbQuit', BdbQuit),
        ('Unheard', None),
        ('print', None),
        ('Nursery', None),
        ('pack_error', None),
        ('', None),
        (None, None),
        (['ValueError'], None),
    ],
)
def test_get_err_type(name: Any, found: type | None) -> None:
    assert get_err_type(name) is found


def test_reg_err_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exc, '_app_err_types', {})

    class Custom(Exception):
        pass

    first = Custom
    reg_err_types([Custom])
    assert get_err_type('Custom') is first
    assert not hasattr(exc, 'Custom')

    class Custom(Exception):  # type: ignore[no-redef]
        pass

    reg_err_types([Custom])
    assert get_err_type('Custom') is Custom is not first

    impostor = type('ValueError', (Exception,), {})
    reg_err_types([impostor])
    assert get_err_type('ValueError') is ValueError


@pytest.mark.parametrize('bad', [int, 'ValueError', ValueError('instance')])
def test_reg_err_types_refuses_what_is_no_exception_class(bad: Any) -> None:
    with pytest.raises(TypeError, match='exception classes'):
        reg_err_types([bad])


# --- attributes


def test_error_without_a_message() -> None:
    err = RemoteActorError('text')
    assert err.message == err._message == str(err) == 'text'
    assert repr(err) == '<RemoteActorError( text )>'
    assert err.boxed_type_str == '<unknown>'
    assert err.relay_path == []
    for name in ('src_uid', 'src_type_str', 'src_type', 'boxed_type', 'sender', 'cid', 'ipc_msg'):
        assert getattr(err, name) is None
    assert err.relay_uid is None
    assert err.tb_str == ''
    assert err.msgdata == {}
    assert not err.is_inception()
    assert str(err.unwrap()) == '<unknown>: '


def test_extra_data_stands_in_for_a_message() -> None:
    err = StreamOverrun('text', sender=['peer', 'u2'], cid='c', own=1)
    assert err.sender == PEER
    assert err.cid == 'c'
    assert err.msgdata == {'sender': ['peer', 'u2'], 'cid': 'c', 'own': 1}
    assert err.reprol() == "StreamOverrun[<unknown>](sender=('peer', 'u2'))"


def test_extra_data_is_set_on_the_message() -> None:
    msg = error_msg()
    err = RemoteActorError('text', ipc_msg=msg, cid='other', own=1)
    assert msg.cid == err.cid == 'other'
    assert err.msgdata['own'] == 1
    assert err.msgdata['cid'] == 'other'
    assert err.msgdata['src_uid'] == UID


def test_ipc_msg_is_a_fresh_copy() -> None:
    err = received()
    first, second = err.ipc_msg, err.ipc_msg
    assert first != second
    assert type(first) is not type(second)
    assert isinstance(first, Error)
    assert repr(first).startswith("Error(\n  src_uid: tuple[str, str] = ('sub', 'u1'),\n")
    assert err._ipc_msg == error_msg()


def test_explicit_boxed_type() -> None:
    err = RemoteActorError('text', boxed_type=KeyError)
    assert err.boxed_type is KeyError
    assert err.boxed_type_str == 'KeyError'


def test_unresolvable_type_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    err = received(src_type_str='Custom', boxed_type_str='Custom')
    with caplog.at_level(logging.WARNING, logger='tractor'):
        assert err.src_type is None
        assert err.src_type is None
        assert err.boxed_type is None
    assert [record.getMessage().count("'Custom'") for record in caplog.records] == [1]
    assert err.boxed_type_str == 'Custom'


def test_canceller(caplog: pytest.LogCaptureFixture) -> None:
    local = ContextCancelled('text', boxed_type=trio.Cancelled, canceller=UID)
    assert local.canceller == UID
    assert local.boxed_type is trio.Cancelled
    assert received(ContextCancelled, canceller=UID).canceller == UID
    assert not caplog.records
    with caplog.at_level(logging.WARNING, logger='tractor'):
        nobody = ContextCancelled('text')
        assert repr(nobody)
        assert not caplog.records
        assert nobody.canceller is None
    assert len(caplog.records) == 1


def test_type_error_attributes() -> None:
    bad = Yield('c', 1)
    mte = MsgTypeError.from_decode('text', bad_msg=bad, own=1)
    assert mte.bad_msg is bad
    assert mte.expected_msg_type is Yield
    assert mte.cid == 'c'
    assert mte.boxed_type is MsgTypeError
    assert mte.msgdata == {'_bad_msg': bad, 'own': 1}

    fields = {'msg_type': 'Start', 'cid': 'd', 'ns': 'n', 'func': 'f', 'kwargs': 1, 'uid': 2}
    rebuilt = MsgTypeError.from_decode('text', bad_msg_as_dict=fields, boxed_type=KeyError)
    assert rebuilt.bad_msg == Start('d', 'n', 'f', 1, 2)  # type: ignore[arg-type]
    assert rebuilt.bad_msg_as_dict is fields
    assert fields['msg_type'] == 'Start'
    assert rebuilt.boxed_type is KeyError
    assert rebuilt.cid == 'd'

    nothing = MsgTypeError('text')
    assert nothing.bad_msg is nothing.bad_msg_as_dict is nothing.expected_msg_type is None
    assert nothing.cid is None
    assert MsgTypeError('text', cid='e').cid == 'e'


@pytest.mark.parametrize(
    'err',
    [
        RemoteActorError('text', cid='c'),
        received(),
        received(ContextCancelled, canceller=UID),
        MsgTypeError.from_decode('text', bad_msg=Yield('c', 1)),
        StreamOverrun('text', sender=UID),
        TransportClosed('text', loglevel='error', raise_on_report=True),
    ],
)
@pytest.mark.parametrize('clone', [copy.copy, lambda err: pickle.loads(pickle.dumps(err))])
def test_copies_tell_the_same(err: Any, clone: Any) -> None:
    assert str(err)
    other = clone(err)
    assert type(other) is type(err)
    assert other.args == err.args
    assert repr(other) == repr(err) or type(err) is TransportClosed
    assert getattr(other, 'msgdata', None) == getattr(err, 'msgdata', None)


# --- rendering

BODY = """\
 |_src_uid=('sub', 'u1')
 |_cid='c'
 |_boxed_type=<class 'ValueError'>
 |
  ------ ('sub', 'u1') ------
  Traceback:
    line
  ValueError: bad
  ------ ('sub', 'u1')- ------
 _|"""


def test_rendering() -> None:
    err = received()
    assert repr(err) == f"<RemoteActorError( remote task raised a 'ValueError' )>\n{BODY}"
    assert str(err) == f"remote task raised a 'ValueError'\n{BODY}"
    assert err.pformat() == repr(err)
    assert err.reprol() == "RemoteActorError[ValueError](src_uid=('sub', 'u1'))"


def test_header_is_left_out_while_handled() -> None:
    err = received()
    with pytest.raises(RemoteActorError):
        raise err
    try:
        raise err
    except RemoteActorError:
        assert repr(err) == str(err)
        assert repr(received()).startswith('<RemoteActorError( ')
    assert repr(err).startswith('<RemoteActorError( ')


def test_interpreter_traceback_line() -> None:
    lines = traceback.format_exception_only(received())
    assert ''.join(lines).startswith(
        "tractor._exceptions.RemoteActorError: remote task raised a 'ValueError'\n |_src_uid="
    )


def test_rendering_of_a_relay() -> None:
    err = received(boxed_type_str='RemoteActorError', relay_path=[UID, PEER])
    assert err.is_inception()
    assert f' |_relay_uid={PEER!r}\n' in repr(err)
    assert f' |_boxed_type={RemoteActorError!r}\n' in repr(err)
    assert f'  ------ {PEER!r} ------\n' in repr(err)


def test_rendering_of_a_cancellation() -> None:
    err = received(
        ContextCancelled,
        src_type_str='ContextCancelled',
        boxed_type_str='ContextCancelled',
        canceller=PEER,
    )
    assert repr(err).startswith(
        "<ContextCancelled( remote task raised a 'ContextCancelled' )>\n"
        " |_src_uid=('sub', 'u1')\n |_canceller=('peer', 'u2')\n |_cid='c'\n |\n"
    )
    assert err.reprol() == "ContextCancelled[ContextCancelled](canceller=('peer', 'u2'))"


def test_rendering_of_an_overrun_notice() -> None:
    err = received(src_type_str='StreamOverrun', boxed_type_str='StreamOverrun', sender=PEER)
    assert " |_sender=('peer', 'u2')\n" in str(err)


def test_no_box_without_a_traceback() -> None:
    mte = MsgTypeError.from_decode('first\n\n  second\nthird\n', bad_msg=Yield('c', 1))
    assert repr(mte) == '<MsgTypeError( first\n\n  second\nthird\n)>'
    assert str(mte) == 'first\n\n  second\nthird'
    assert [line for line in mte.message.splitlines() if line not in repr(mte)] == []


# --- closed transports


def test_transport_closed_attributes() -> None:
    plain = TransportClosed('text')
    assert plain.message == str(plain) == 'text'
    assert plain.src_exc is plain.__cause__ is None
    assert (plain._loglevel, plain._raise_on_report) == ('transport', False)

    cause = trio.ClosedResourceError('gone')
    closed = TransportClosed('text', src_exc=cause)
    assert closed.src_exc is closed.__cause__ is cause
    assert closed._src_exc is cause

    other = KeyError()
    with pytest.raises(TransportClosed) as caught:
        raise closed from other
    assert caught.value.src_exc is other

    built = TransportClosed.from_src_exc(cause, 'head\n', body='tail', loglevel='error')
    assert built.message == "head\nClosedResourceError('gone')\ntail"
    assert built.src_exc is cause
    assert built._loglevel == 'error'
    assert TransportClosed.repr_src_exc() == '<unknown>'
    assert TransportClosed.repr_src_exc(cause) == "ClosedResourceError('gone')"


def test_report(caplog: pytest.LogCaptureFixture) -> None:
    closed = TransportClosed('stream gone', loglevel='warning')
    with caplog.at_level(logging.WARNING, logger='tractor'):
        closed.report_n_maybe_raise()
        closed.report_n_maybe_raise('peer closed abruptly?\n')
    assert [record.levelname for record in caplog.records] == ['WARNING', 'WARNING']
    first, second = (record.getMessage() for record in caplog.records)
    assert first == 'stream gone'
    assert second == 'peer closed abruptly?\n\nTransportClosed: stream gone'


def test_report_raises_from_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(trio.ClosedResourceError) as source:
        raise trio.ClosedResourceError('another task closed this fd')
    closed = TransportClosed(
        'stream gone', loglevel='error', src_exc=source.value, raise_on_report=True
    )
    with (
        caplog.at_level(logging.ERROR, logger='tractor'),
        pytest.raises(TransportClosed) as caught,
    ):
        closed.report_n_maybe_raise()
    assert caught.value is closed
    assert closed.__cause__ is source.value
    (record,) = caplog.records
    assert "ClosedResourceError('another task closed this fd')" in record.getMessage()
    assert 'in test_report_raises_from_its_cause' in record.getMessage()


def test_report_below_the_level_formats_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Fragile(Exception):
        def __repr__(self) -> str:
            raise AssertionError('formatted')

    closed = TransportClosed('gone', src_exc=Fragile())
    with caplog.at_level(logging.WARNING, logger='tractor'):
        closed.report_n_maybe_raise()
    assert not caplog.records


def test_names_of_higher_layers_resolve() -> None:
    assert exc.is_multi_cancelled.__name__ == 'is_multi_cancelled'
    assert exc.pack_error(ValueError()).boxed_type_str == 'ValueError'
    assert tractor.msg.types.log is not None
