"""
Encoders and decoders, and which of them a task uses.

Messages are decoded in two stages. The codec of a connection decodes envelopes only and
leaves each payload as `Raw` bytes; the context to which the message belongs then decodes the
payload with a `MsgDec` for its own type spec. So the spec of one dialog never touches
another, nor the runtime's own messages. A codec whose payload spec is not `Raw` decodes
eagerly and must not be applied to tasks that read from a channel.

The current codec is per task, see `apply_codec()`.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw
from msgspec.msgpack import Decoder, Encoder

from tractor.msg._exts import mk_union, union_members
from tractor.msg.pretty_struct import Struct
from tractor.msg.types import mk_msg_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    EncHook = Callable[[Any], Any]
    DecHook = Callable[[type, Any], Any]


class MsgDec(Struct, frozen=True):  # type: ignore[misc]
    """A decoder of payloads for one type spec; made by `mk_dec()`."""

    _dec: Decoder[Any]

    if TYPE_CHECKING:

        @property
        def dec(self) -> Decoder[Any]:
            """The one decoder."""

    @property
    def spec(self) -> Any:
        """The type, or union of types, that decoded values have."""
        return self._dec.type

    @property
    def pld_spec(self) -> Any:
        """Same as `spec`."""
        return self._dec.type

    @property
    def spec_str(self) -> str:
        """Names of the types, joined by `|`."""
        return '|'.join(map(_type_name, union_members(self.spec)))

    @property
    def pld_spec_str(self) -> str:
        """Same as `spec_str`."""
        return self.spec_str

    @property
    def hook(self) -> DecHook | None:
        """The decode hook, if there is one."""
        return self._dec.dec_hook

    def decode(self, raw: Any) -> Any:
        """
        Decode one value from a buffer.

        Raises:
          msgspec.ValidationError: it is not of the spec.
          msgspec.DecodeError: the buffer does not hold exactly one valid value.
        """
        return self._dec.decode(raw)


def mk_dec(
    spec: Any,
    dec_hook: DecHook | None = None,
    ext_types: list[Any] | None = None,
) -> MsgDec:
    """
    Make a decoder of payloads.

    Args:
      spec: type, or union of types, to decode to. `None` accepts nothing but nil.
      dec_hook: builds values of types unknown to msgpack, from the type and what was decoded.
      ext_types: the types, or unions of such, that `dec_hook` builds; they replace `spec`.

    Raises:
      TypeError: neither `spec` nor `ext_types` is given, a hook comes without types, or the
        codec library does not support such a union.
    """
    if spec is None and ext_types is None:
        raise TypeError('no spec given, pass `spec` or, with a `dec_hook`, `ext_types`')
    if dec_hook is None:
        return mk_hook_dec(spec, None)
    if ext_types is None:
        raise TypeError('`dec_hook` needs `ext_types`: the types which it can build')
    return mk_hook_dec(mk_union((Raw, *ext_types)), dec_hook)


def mk_hook_dec(spec: Any, dec_hook: DecHook | None) -> MsgDec:
    """
    Make a decoder of payloads to just `spec`, with the types that are unknown to msgpack wherever they are in it.

    Raises:
      TypeError: the codec library does not support such a spec.
    """
    try:
        return MsgDec(Decoder(spec, dec_hook=dec_hook))
    except TypeError as err:
        err.add_note(
            'A union cannot tell types apart which look alike on the wire: make each one a field of a '
            '`msgspec.Struct`, or a tagged Struct of its own, and let the spec be (a union of) those.'
        )
        raise


class MsgCodec(Struct):
    """
    An encoder and a decoder of whole messages, each one object used again for every message.

    Made by `mk_codec()`.
    """

    _enc: Encoder
    _dec: Decoder[Any]
    _pld_spec: Any
    lib: ModuleType = msgspec
    _buf: bytearray = msgspec.field(default_factory=bytearray)

    if TYPE_CHECKING:

        @property
        def enc(self) -> Encoder:
            """The one encoder."""

        @property
        def dec(self) -> Decoder[Any]:
            """The one decoder."""

    @property
    def pld_spec(self) -> Any:
        """The type, or union of types, that payloads are decoded to."""
        return self._pld_spec

    @property
    def pld_spec_str(self) -> str:
        """Names of the payload types, joined by `|`."""
        return '|'.join(map(_type_name, union_members(self._pld_spec)))

    @property
    def msg_spec(self) -> Any:
        """The union of all messages."""
        return self._dec.type

    @property
    def msg_spec_str(self) -> str:
        """Names of all messages, one a line."""
        return pformat_msgspec(self)

    def encode(
        self, obj: Any, use_buf: bool = False, as_ext_type: bool = False, hide_tb: bool = True
    ) -> bytes:
        """
        Encode a message or any other value.

        Args:
          obj: what to encode.
          use_buf: encode into the buffer of this codec, which then keeps its capacity for the
            next message.
          as_ext_type: give `obj` itself to the encode hook first, even if its type could be
            encoded without.
          hide_tb: hide this frame from test and debugger tracebacks.

        Raises:
          TypeError: a value cannot be encoded, or there is no hook for `as_ext_type`.
        """
        __tracebackhide__ = hide_tb
        if as_ext_type:
            if (enc_hook := self._enc.enc_hook) is None:
                raise TypeError('this codec has no `enc_hook`, which `as_ext_type` would call')
            obj = enc_hook(obj)
        if use_buf:
            self._enc.encode_into(obj, self._buf)
            return bytes(self._buf)
        return self._enc.encode(obj)

    def decode(self, msg: Any) -> Any:
        """
        Decode one message from a buffer.

        Raises:
          msgspec.ValidationError: it is none of the messages of this codec.
          msgspec.DecodeError: the buffer does not hold exactly one valid message.
        """
        return self._dec.decode(msg)


# Aliases of the slots themselves: read once or more per message, with no call between.
MsgDec.dec = MsgDec.__dict__['_dec']  # type: ignore[method-assign]
MsgCodec.enc = MsgCodec.__dict__['_enc']  # type: ignore[method-assign]
MsgCodec.dec = MsgCodec.__dict__['_dec']  # type: ignore[method-assign]


def mk_codec(
    ipc_pld_spec: Any = Raw,
    libname: str = 'msgspec',
    enc_hook: EncHook | None = None,
    ext_types: list[Any] | None = None,
    ext_dec: MsgDec | None = None,
) -> MsgCodec:
    """
    Make a codec of messages.

    Args:
      ipc_pld_spec: type, or union of types, that payloads are decoded to. Leave this at `Raw`
        for any codec that a channel uses.
      libname: name of the codec library, only `'msgspec'` is supported.
      enc_hook: turns values of types unknown to msgpack into values of known ones.
      ext_types: the types which `enc_hook` takes.
      ext_dec: adds its types and decode hook to those of payloads decoded eagerly.

    Raises:
      TypeError: a hook comes without types, or the library does not support such a union.
      ValueError: another library.
    """
    if libname != 'msgspec':
        raise ValueError(f"libname must be 'msgspec', not {libname!r}")
    if enc_hook is not None and ext_types is None:
        raise TypeError('`enc_hook` needs `ext_types`: the types which it can encode')
    dec_hook = None
    if ext_dec is not None:
        ipc_pld_spec, dec_hook = mk_union((ipc_pld_spec, ext_dec.spec)), ext_dec.hook
    msg_spec, _ = mk_msg_spec(payload_type_union=ipc_pld_spec)
    return MsgCodec(
        _enc=Encoder(enc_hook=enc_hook),
        _dec=Decoder(msg_spec, dec_hook=dec_hook),
        _pld_spec=ipc_pld_spec,
    )


_def_msgspec_codec: MsgCodec = mk_codec(ipc_pld_spec=Any)
_def_tractor_codec: MsgCodec = mk_codec(ipc_pld_spec=Raw)

_ctxvar_MsgCodec: ContextVar[MsgCodec] = ContextVar('msgspec_codec', default=_def_tractor_codec)


def current_codec() -> MsgCodec:
    """The codec of the calling task."""
    return _ctxvar_MsgCodec.get()


@contextmanager
def apply_codec(codec: MsgCodec) -> Iterator[MsgCodec]:
    """
    Encode what this task sends with another codec, for the length of a block.

    Tasks started inside inherit it. Siblings do not, nor does the task which reads from a
    channel: for decoding see `tractor.msg._ops.limit_plds()`.

    Raises:
      AssertionError: it is the current codec already.
    """
    if codec is current_codec():
        raise AssertionError('this codec is already the current one, apply it once')
    token = _ctxvar_MsgCodec.set(codec)
    try:
        yield codec
    finally:
        _ctxvar_MsgCodec.reset(token)


@contextmanager
def limit_msg_spec(
    payload_spec: Any, hide_tb: bool = True, **codec_kwargs: Any
) -> Iterator[MsgCodec]:
    """
    Apply a codec which decodes payloads eagerly, to `payload_spec`, for the length of a block.

    Contexts cannot be used inside, since they decode payloads themselves.
    """
    __tracebackhide__ = hide_tb
    with apply_codec(mk_codec(payload_spec, **codec_kwargs)) as codec:
        yield codec


def unpack_spec_types(spec: Any) -> set[Any]:
    """Members of a type union, or the one type given, as a set."""
    return set(union_members(spec))


def mk_msgspec_table(dec: Any, msg: Any = None) -> dict[Any, str]:
    """
    Map each type that a decoder knows to its name.

    Args:
      dec: a decoder of the codec library, or what has one as its `dec`.
      msg: limit the table to the type of this message.
    """
    spec = getattr(dec, 'dec', dec).type
    table = {member: _type_name(member) for member in union_members(spec)}
    if msg is None:
        return table
    name = type(msg).__name__
    return {member: text for member, text in table.items() if text == name}


def pformat_msgspec(codec: MsgCodec | MsgDec, msg: Any = None, join_char: str = '\n') -> str:
    """
    Name each type that a codec decodes to.

    Args:
      codec: whose spec.
      msg: limit the result to the type of this message.
      join_char: what to put between two names.
    """
    return join_char.join(mk_msgspec_table(codec, msg).values())


def _type_name(member: Any) -> str:
    return getattr(member, '__name__', None) or str(member)
