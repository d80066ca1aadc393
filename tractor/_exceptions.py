"""
Every exception class of the runtime, and how an error that crossed processes is shown.

A received error is a `RemoteActorError` around the wire message that carried it. Types are
looked up and text is laid out the first time somebody asks, never when it is built.
The message type lives in a higher layer: it is only read here, field by field, and what must
build message structs is handed in by that layer through `set_msg_hooks()`.
"""

from __future__ import annotations

import builtins
import importlib
import sys
import textwrap
import traceback
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import trio

from tractor.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

log = get_logger()

Uid = tuple[str, str]


class RuntimeFailure(RuntimeError):
    """The runtime environment, or the way its API was used, is unsound."""


class ActorFailure(RuntimeFailure):
    """An actor failed in a way which its supervisor must hear about."""


class ActorTooSlowError(RuntimeFailure):
    """A peer did not acknowledge a cancel request in time; on purpose no `trio.TooSlowError`."""


class InternalError(RuntimeError):
    """An invariant of the runtime itself was broken: a bug, please report it."""


class NoRuntime(RuntimeError):
    """No actor runtime is up in this process."""


class NoResult(RuntimeError):
    """Stands for the result of an actor that has no main task."""


class DebugRequestError(RuntimeError):
    """The debugger's lock could not be requested from the root actor."""


class ModuleNotExposed(ModuleNotFoundError):
    """The requested module is not among the `enable_modules` of the called actor."""


class MessagingError(Exception):
    """A message arrived which does not fit the phase its dialog is in."""


class AsyncioCancelled(Exception):
    """The `asyncio` side of a linked task pair was cancelled."""


class AsyncioTaskExited(Exception):
    """The `asyncio` side of a linked task pair ended while the `trio` side still ran."""


class TrioTaskExited(Exception):
    """The `trio` side of a linked task pair ended while the `asyncio` side still ran."""


class TrioCancelled(TrioTaskExited):
    """The `trio` side of a linked task pair was cancelled, or failed."""


class TransportClosed(Exception):
    """
    The connection to a peer is gone; the only failure of communication upper layers handle.

    Args:
      message: what happened, for people.
      loglevel: name of the level at which `report_n_maybe_raise()` logs.
      src_exc: the error of the underlying stream; becomes the `__cause__` unless one is set.
      raise_on_report: whether `report_n_maybe_raise()` also raises.
    """

    def __init__(
        self,
        message: str,
        loglevel: str = 'transport',
        src_exc: BaseException | None = None,
        raise_on_report: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self._loglevel = loglevel
        self._src_exc = src_exc
        self._raise_on_report = raise_on_report
        if src_exc is not None and self.__cause__ is None:
            self.__cause__ = src_exc

    @property
    def src_exc(self) -> BaseException | None:
        """The stream's own error, if this closure had one."""
        return self.__cause__ or self._src_exc

    @classmethod
    def repr_src_exc(cls, src_exc: BaseException | None = None) -> str:
        """Show a source error in one line, `'<unknown>'` for `None`."""
        return '<unknown>' if src_exc is None else repr(src_exc)

    @classmethod
    def from_src_exc(
        cls, src_exc: BaseException | None, message: str, body: str = '', **init_kws: Any
    ) -> Self:
        """Build from a stream error whose repr, then `body`, is added below `message`."""
        head = message.removesuffix('\n')
        return cls(f'{head}\n{cls.repr_src_exc(src_exc)}\n{body}', src_exc=src_exc, **init_kws)

    def report_n_maybe_raise(self, message: str | None = None, hide_tb: bool = True) -> None:
        """
        Log this closure at its own level, below `message` if given.

        Raises:
          TransportClosed: self, from its source error, iff `raise_on_report` was given.
        """
        __tracebackhide__ = hide_tb
        cause = self.src_exc
        if log.at_least_level(self._loglevel):
            report = message or self.message
            if self.message not in report:
                report += f'\n{type(self).__name__}: {self.message}'
            if cause is not None:
                report += f'\n{"".join(traceback.format_tb(cause.__traceback__))}{cause!r}\n'
            getattr(log, self._loglevel)('%s', report)
        if self._raise_on_report:
            raise self from cause


class RemoteActorError(Exception):
    """
    An error raised by a task in another actor, boxed with where it came from.

    Args:
      message: the head line, for people.
      ipc_msg: the `Error` message which carried it, if it was received.
      boxed_type: type of the boxed error, where it is known locally.
      extra_msgdata: further `Error` fields, also set on `ipc_msg` if there is one.

    Attributes without an answer in either are `None` or empty.
    """

    reprol_fields: ClassVar[list[str]] = ['src_uid']
    extra_body_fields: ClassVar[list[str]] = ['cid', 'relay_uid', 'boxed_type']

    def __init__(
        self,
        message: str,
        ipc_msg: Any = None,
        boxed_type: type[BaseException] | None = None,
        **extra_msgdata: Any,
    ) -> None:
        super().__init__(message)
        self._message = message
        self._ipc_msg = ipc_msg
        self._boxed_type = boxed_type
        self._src_type: tuple[type[BaseException] | None] | None = None
        self._extra_msgdata = extra_msgdata
        if ipc_msg is not None and extra_msgdata:
            for name in extra_msgdata.keys() & set(ipc_msg.__struct_fields__):
                setattr(ipc_msg, name, extra_msgdata[name])

    def _field(self, name: str) -> Any:
        value = getattr(self._ipc_msg, name, None)
        value = self._extra_msgdata.get(name) if value is None else value
        return value if isinstance(value, _TYPES.get(name, object)) else None

    def _uid_field(self, name: str) -> Uid | None:
        return _as_uid(self._field(name))

    @property
    def message(self) -> str:
        """The head line."""
        return self._message

    @property
    def ipc_msg(self) -> Any:
        """A copy of the carrying `Error` that prints legibly, `None` if there was none."""
        return None if self._ipc_msg is None else _msg_hooks['prettify'](self._ipc_msg)

    @property
    def msgdata(self) -> dict[str, Any]:
        """All message fields and extra data; fields of a received message win."""
        fields = getattr(self._ipc_msg, '__struct_fields__', ())
        return self._extra_msgdata | {name: getattr(self._ipc_msg, name) for name in fields}

    @property
    def src_type_str(self) -> str | None:
        """Name of the type first raised, in the actor `src_uid`."""
        return self._field('src_type_str')

    @property
    def src_type(self) -> type[BaseException] | None:
        """The type first raised, `None` if its name means nothing here."""
        if self._src_type is None:
            name = self.src_type_str
            found = get_err_type(name)
            if found is None and name:
                hint = 'register it with `tractor._exceptions.reg_err_types()`'
                log.warning('No exception type named %r is known here, %s', name, hint)
            self._src_type = (found,)
        return self._src_type[0]

    @property
    def boxed_type_str(self) -> str:
        """Name of the type boxed by the last hop."""
        if self._boxed_type is not None:
            return self._boxed_type.__name__
        return self._field('boxed_type_str') or '<unknown>'

    @property
    def boxed_type(self) -> type[BaseException] | None:
        """The type boxed by the last hop, `None` if its name means nothing here."""
        if self._boxed_type is None:
            self._boxed_type = get_err_type(self._field('boxed_type_str'))
        return self._boxed_type

    @property
    def src_uid(self) -> Uid | None:
        """Uid of the actor in which the error was first raised."""
        return self._uid_field('src_uid')

    @property
    def relay_path(self) -> list[Uid]:
        """Uid of every actor that packed the error, the source first."""
        hops = self._field('relay_path') or ()
        return [uid for uid in map(_as_uid, hops) if uid is not None]

    @property
    def relay_uid(self) -> Uid | None:
        """Uid of the actor from which the error was received."""
        path = self.relay_path
        return path[-1] if path else self.src_uid

    @property
    def sender(self) -> Uid | None:
        """Uid of the actor that sent too fast, for overruns."""
        return self._uid_field('sender')

    @property
    def cid(self) -> str | None:
        """Id of the dialog which the error ended."""
        return self._field('cid')

    @property
    def tb_str(self) -> str:
        """Traceback text of the remote task, empty for errors which never crossed."""
        return str(self._field('tb_str') or '')

    def is_inception(self) -> bool:
        """Whether this boxes another box, i.e. the error was relayed."""
        return self.boxed_type is not self.src_type

    def unwrap(self) -> BaseException:
        """
        Rebuild the source error, with the remote traceback as its argument: an instance of
        `src_type`, or a `RuntimeError` naming it if that is unknown or takes no string.
        """
        src_type = self.src_type
        if src_type is not None:
            try:
                return src_type(self.tb_str)
            except Exception as err:  # noqa: BLE001  (any constructor may run here)
                log.debug('%r was not built from its traceback: %r', src_type, err)
        return RuntimeError(f'{self.src_type_str or self.boxed_type_str}: {self.tb_str}')

    def reprol(self) -> str:
        """One line: type, boxed type and the most telling field."""
        fields = ', '.join(f'{name}={value!r}' for name, value in self._show(self.reprol_fields))
        return f'{type(self).__name__}[{self.boxed_type_str}]({fields})'

    def _show(self, names: Iterable[str]) -> list[tuple[str, Any]]:
        """Pair each name with its value, where there is one to show."""
        # The `canceller` property would log where nobody is named.
        values = {
            n: self._uid_field(n) if n == 'canceller' else getattr(self, n, None) for n in names
        }
        if 'boxed_type' in values:
            values['boxed_type'] = self.boxed_type or self.boxed_type_str
        if not self.is_inception():
            values.pop('relay_uid', None)
        return [(name, value) for name, value in values.items() if value]

    def pformat(self, with_type_header: bool = True) -> str:
        """
        Lay out the message and, for a received error, its fields and boxed traceback.

        Args:
          with_type_header: put the message in `<Type( .. )>`; never done while this very
            error is being handled, where a traceback already names the type.
        """
        header = with_type_header and sys.exception() is not self
        head = _pformat_message(self.message, type(self).__name__ if header else None)
        if not (tb_str := self.tb_str):
            return head
        fields = self._show(dict.fromkeys((*_WIRE_FIELDS, *self.extra_body_fields)))
        return f'{head}\n{_pformat_box(tb_str, fields, self.relay_uid)}'

    def __repr__(self) -> str:
        return self.pformat()

    def __str__(self) -> str:
        return self.pformat(with_type_header=False)


class ContextCancelled(RemoteActorError):
    """The task at the other end of a context was cancelled."""

    reprol_fields: ClassVar[list[str]] = ['canceller']
    extra_body_fields: ClassVar[list[str]] = ['cid', 'canceller']

    @property
    def canceller(self) -> Uid | None:
        """Uid of the actor that requested the cancellation; a warning if nobody is named."""
        uid = self._uid_field('canceller')
        if uid is None:
            log.warning('%s does not say who requested the cancellation', type(self).__name__)
        return uid


class MsgTypeError(RemoteActorError):
    """A message, or its payload, does not fit the type spec of its dialog."""

    reprol_fields: ClassVar[list[str]] = ['expected_msg_type']
    extra_body_fields: ClassVar[list[str]] = ['cid', 'expected_msg']

    @classmethod
    def from_decode(
        cls,
        message: str,
        bad_msg: Any = None,
        bad_msg_as_dict: dict[str, Any] | None = None,
        **extra_msgdata: Any,
    ) -> Self:
        """
        Build from what failed to be encoded or decoded.

        Args:
          message: which rule was broken by which value.
          bad_msg: the offending `Started`, `Yield`, `Return` or `Start`.
          bad_msg_as_dict: its fields, where no struct could be built.
          extra_msgdata: as for `RemoteActorError`; also `boxed_type`.
        """
        bad = {'_bad_msg': bad_msg, '_bad_msg_as_dict': bad_msg_as_dict}
        given = {name: value for name, value in bad.items() if value is not None}
        return cls(message, **{'boxed_type': cls, **given, **extra_msgdata})

    @property
    def bad_msg_as_dict(self) -> dict[str, Any] | None:
        """Fields of the offending message, where only those are known."""
        return self._field('_bad_msg_as_dict')

    @property
    def bad_msg(self) -> Any:
        """The offending message, rebuilt from its fields if need be, else `None`."""
        if self._field('_bad_msg') is None and (fields := self.bad_msg_as_dict):
            self._extra_msgdata['_bad_msg'] = _msg_hooks['rebuild'](fields)
        return self._field('_bad_msg')

    @property
    def expected_msg_type(self) -> type | None:
        """Type of the offending message."""
        msg = self.bad_msg
        return None if msg is None else type(msg)

    @property
    def expected_msg(self) -> str | None:
        """Name of the type of the offending message."""
        msg_type = self.expected_msg_type
        return None if msg_type is None else msg_type.__name__

    @property
    def cid(self) -> str | None:
        """Id of the dialog, from the offending message if that has one."""
        cid = getattr(self.bad_msg, 'cid', None)
        return cid if isinstance(cid, str) else super().cid


class StreamOverrun(RemoteActorError, trio.TooSlowError):
    """This side of a stream is too slow: its buffer is full."""

    reprol_fields: ClassVar[list[str]] = ['sender']


# Wire fields that every body shows; the others are in the head line or in the box.
_WIRE_FIELDS = ('src_uid', 'sender', 'canceller')
# What else is sent in these is taken for absent.
_STR_FIELDS, _LISTS = ('cid', 'src_type_str', 'boxed_type_str'), (list, tuple)
_TYPES: Any = {**dict.fromkeys(_STR_FIELDS, str), '_bad_msg_as_dict': dict, 'relay_path': _LISTS}


def _as_uid(value: Any) -> Uid | None:
    """Normalise a decoded uid: peers may send anything in these fields."""
    return cast('Uid', tuple(map(str, value))) if isinstance(value, list | tuple) else None


def _pformat_message(message: str, type_name: str | None) -> str:
    text = message.strip('\n')
    if type_name is None:
        return text
    end = '\n)>' if '\n' in text else ' )>'
    return f'<{type_name}( {text}{end}'


def _pformat_box(tb_str: str, fields: list[tuple[str, Any]], header: Uid | None) -> str:
    title = '-' if header is None else repr(header)
    lines = [f' |_{name}={value!r}' for name, value in fields]
    body = textwrap.indent(tb_str.rstrip('\n'), '  ')
    lines += [' |', f'  ------ {title} ------', body, f'  ------ {title}- ------', ' _|']
    return '\n'.join(lines)


_app_err_types: dict[str, type[BaseException]] = {}


def reg_err_types(err_types: list[type[BaseException]]) -> None:
    """
    Let received errors resolve to these application types, in this process only.

    Args:
      err_types: exception classes, found by `__name__`. The last one registered under a name
        wins, except over builtin and runtime errors.

    Raises:
      TypeError: a member is not an exception class.
    """
    for err_type in err_types:
        if not _is_err_type(err_type):
            raise TypeError(f'can only register exception classes, got {err_type!r}')
        _app_err_types[err_type.__name__] = err_type


def get_err_type(name: str | None) -> type[BaseException] | None:
    """Find an exception type by its bare name, as sent by a peer: in builtins, this module,
    `trio`, `bdb` or among those given to `reg_err_types()`; `None` if there is none."""
    if not isinstance(name, str):
        return None
    for module in (builtins, sys.modules[__name__], trio):
        # The plain namespace: a module `__getattr__` must not run for names sent by peers.
        found = vars(module).get(name)
        if _is_err_type(found):
            return cast('type[BaseException]', found)
    if name == 'BdbQuit':
        return cast('type[BaseException]', importlib.import_module('bdb').BdbQuit)
    return _app_err_types.get(name)


def _is_err_type(obj: Any) -> bool:
    return isinstance(obj, type) and issubclass(obj, BaseException)


_msg_hooks: dict[str, Callable[[Any], Any]] = {}


def set_msg_hooks(
    *, rebuild: Callable[[dict[str, Any]], Any], prettify: Callable[[Any], Any]
) -> None:
    """
    Hand in what only the message layer can do; called once, when that is imported.

    Args:
      rebuild: make a message struct of its fields and tag, `None` if they do not fit one.
      prettify: copy a message struct into one which prints legibly.
    """
    _msg_hooks.update(rebuild=rebuild, prettify=prettify)


# Names which moved up: packing needs message structs and the current actor.
_MOVED = {
    'pack_error': 'tractor.msg._errors',
    'pack_from_raise': 'tractor.msg._errors',
    'unpack_error': 'tractor.msg._errors',
    '_mk_send_mte': 'tractor.msg._errors',
    '_mk_recv_mte': 'tractor.msg._errors',
    '_raise_from_unexpected_msg': 'tractor.msg._ops',
    'is_multi_cancelled': 'tractor.trionics',
}


def __getattr__(name: str) -> Any:
    if (module := _MOVED.get(name)) is None:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(module), name)
