"""
How the payloads of one function's dialogs are typed, on both sides of the connection.

Without any of this values travel as msgpack and arrive as the builtins that it knows. A function can say more: its
decorator then applies to whoever calls it as well as to whoever runs it, since both have the function.

| declared by | arguments | first value, stream messages | result |
|---|---|---|---|
| nothing | builtins | builtins | builtins |
| `@tractor.context(pld_spec=..)` | builtins | of `pld_spec` | of `pld_spec` |
| the same with `dec_hook` | as annotated | of `pld_spec`, or of `ext_types` | of `pld_spec`, or of `ext_types` |
| `@tractor.msg.typed` | as annotated | as the items are annotated | as annotated |

An `enc_hook` encodes all of them, before any codec which the sending task has applied is asked.
"""

from __future__ import annotations

import typing
from collections import abc
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

import msgspec
from msgspec import Raw

from tractor._exceptions import MsgTypeError
from tractor.log import get_logger
from tractor.msg import _codec
from tractor.msg._codec import MsgCodec, MsgDec, mk_codec, mk_dec, mk_hook_dec
from tractor.msg._errors import _mk_send_mte, _safe_repr

if TYPE_CHECKING:
    from collections.abc import Callable

    from tractor.msg._codec import DecHook, EncHook
    from tractor.msg.types import Start

log = get_logger()

F = TypeVar('F', bound='Callable[..., Any]')

# where a decorated function keeps its types
ATTRIBUTE = '_tractor_payload_types'

_ITERATORS = (abc.AsyncIterator, abc.AsyncIterable, abc.AsyncGenerator)


class PayloadTypes:
    """
    What one function says about the payloads of its dialogs.

    Args:
      func: the function.
      spec: type, or union of types, of every payload it sends and receives.
      enc_hook: turns values of types unknown to msgpack into values of known ones.
      dec_hook: builds values of such types, from the type and what was decoded.
      ext_types: the types, or unions of such, which the hooks handle. They are the spec if none is given.
      by_annotation: the spec is what the function is annotated to return; so are its arguments.

    Nothing is looked at before the first dialog: by then the names in annotations exist.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        spec: Any = Any,
        enc_hook: EncHook | None = None,
        dec_hook: DecHook | None = None,
        ext_types: list[Any] | None = None,
        by_annotation: bool = False,
    ) -> None:
        self._func = func
        self._spec = spec
        self._enc_hook = enc_hook
        self._dec_hook = dec_hook
        self._ext_types = ext_types
        self._by_annotation = by_annotation

    def __repr__(self) -> str:
        return f'<PayloadTypes of {self._name}: {self._spec}>'

    @property
    def _name(self) -> str:
        return f'{self._func.__module__}:{self._func.__qualname__}'

    @cached_property
    def codec(self) -> MsgCodec | None:
        """What encodes the payloads sent in a dialog; `None` if that is left to the sending task."""
        if self._enc_hook is None:
            return None
        return mk_codec(enc_hook=self._enc_hook, ext_types=self._ext_types or [])

    @cached_property
    def dec(self) -> MsgDec | None:
        """
        What decodes the payloads received in a dialog; `None` if any will do.

        Raises:
          TypeError: the codec library does not support such a spec.
        """
        spec, hook = self._spec, self._dec_hook
        if self._by_annotation:
            spec = self._returned
        if spec is not Any:
            return mk_hook_dec(spec, hook)
        return mk_dec(None, hook, self._ext_types) if hook and self._ext_types else None

    @property
    def _returned(self) -> Any:
        if getattr(self._func, '_tractor_stream_function', False):
            # its items are what it sends, not what it returns
            return Any
        hint = self._hints.get('return', Any)
        return get_args(hint)[0] if get_origin(hint) in _ITERATORS and get_args(hint) else hint

    @cached_property
    def _hints(self) -> dict[str, Any]:
        if not self._by_annotation and self._dec_hook is None:
            return {}
        try:
            return typing.get_type_hints(self._func)
        except Exception as err:
            if self._by_annotation:
                raise TypeError(
                    f'the annotations of {self._name}() cannot be evaluated, which typing its arguments and '
                    f'its result takes: {type(err).__name__}: {err}'
                ) from err
            log.warning(
                'the annotations of %s() cannot be evaluated: its arguments arrive as builtins: %s',
                self._name,
                err,
            )
            return {}

    def convert_args(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """
        The arguments of a request, each converted to what its parameter is annotated with.

        Raises:
          MsgTypeError: one of them cannot be.
        """
        hints = self._hints
        return {
            name: self._convert(name, value, hints[name]) if name in hints else value
            for name, value in kwargs.items()
        }

    def _convert(self, name: str, value: Any, hint: Any) -> Any:
        try:
            return msgspec.convert(value, hint, dec_hook=self._dec_hook)
        except Exception as err:
            raise MsgTypeError.from_decode(
                f'invalid argument `{name}` of {self._name}()\n\n{_safe_repr(value)}\n\n'
                f'has type {type(value)!r}\n\nand does not match type-spec `{name}: {_shown(hint)}`\n\n'
                f'{type(err).__name__}: {err}\n'
            ) from err


def _shown(hint: Any) -> str:
    return str(getattr(hint, '__name__', hint)) if isinstance(hint, type) else str(hint)


def types_of(func: Any) -> PayloadTypes | None:
    """What a function says about its payloads, if anything."""
    return getattr(func, ATTRIBUTE, None)


def encode_payload(codec: MsgCodec | None, msg_type: Any, cid: str, value: Any) -> Any:
    """
    The message that carries a value in a dialog, encoded already if the dialog has a codec of its own.

    A value which that cannot encode is left to the codec of the task, if it has applied one.

    Raises:
      MsgTypeError: it cannot be encoded.
    """
    msg = msg_type(cid=cid, pld=value)
    if codec is None:
        return msg
    try:
        msg.pld = Raw(codec.enc.encode(value))
    except Exception as err:
        if _codec.current_codec() is _codec._def_tractor_codec:
            raise _mk_send_mte(msg=msg, codec=codec, src_type_error=err) from err
    return msg


def encode_args(codec: MsgCodec | None, start: Start) -> None:
    """
    Encode the arguments of a request before it is sent, if the dialog has a codec of its own.

    Arguments which that cannot encode are left to the codec of the task, if it has applied one.

    Raises:
      MsgTypeError: they cannot be encoded.
    """
    if codec is None:
        return
    encode = codec.enc.encode
    try:
        start.kwargs = {name: Raw(encode(value)) for name, value in start.kwargs.items()}
    except Exception as err:
        if _codec.current_codec() is _codec._def_tractor_codec:
            raise _mk_send_mte(msg=start, codec=codec, src_type_error=err) from err


@typing.overload
def typed(func: F) -> F: ...


@typing.overload
def typed(
    func: None = ...,
    *,
    enc_hook: EncHook | None = ...,
    dec_hook: DecHook | None = ...,
    ext_types: list[Any] | None = ...,
) -> Callable[[F], F]: ...


def typed(
    func: F | None = None,
    *,
    enc_hook: EncHook | None = None,
    dec_hook: DecHook | None = None,
    ext_types: list[Any] | None = None,
) -> F | Callable[[F], F]:
    """
    Let the arguments and the result of a remotely called function have the types it is annotated with.

    For what `Portal.run()`, `run_in_actor()`, `tractor.to_actor.run()` and `Portal.open_stream_from()` call; a
    context takes the same hooks in `@tractor.context(..)`. Usable with and without parentheses.

    Args:
      func: the async function, or async generator whose items are then typed; what a `@tractor.stream` function
        sends has no type.
      enc_hook: turns values of types unknown to msgpack into values of known ones; used on both sides.
      dec_hook: builds values of such types, from the type and what was decoded; used on both sides.
      ext_types: the types which the hooks handle, for people; the annotations say where they are.

    Raises:
      TypeError: it is a `@tractor.context` function. When called: its annotations cannot be evaluated.

    The call raises a `MsgTypeError` for an argument or a result which is not of its type. A parameter without an
    annotation takes what arrives.
    """

    def mark(wrapped: F) -> F:
        if hasattr(wrapped, '_tractor_context_meta'):
            raise TypeError(
                f'{wrapped!r} is a context: give the hooks, and a `pld_spec`, to `@tractor.context(..)`'
            )
        types = PayloadTypes(wrapped, Any, enc_hook, dec_hook, ext_types, by_annotation=True)
        setattr(wrapped, ATTRIBUTE, types)
        return wrapped

    return mark if func is None else mark(func)
