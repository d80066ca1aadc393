"""
The messages that actors exchange: what a deployment of the existing protocol speaks.

Each is encoded as a msgpack map whose first key `msg_type` holds the name of the struct, then
every field in order of declaration, defaults included. A field may be added at the end if it
has a default; nothing else can change without losing peers.

A dialog is the set of messages with one `cid`. Payloads (`pld`) are left encoded when the
envelope is decoded, since each dialog has a type spec of its own for them.
"""

# ruff: noqa: UP046  (the type variable is public, and the codec library resolves it by name)
from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Raw

from tractor._exceptions import set_msg_hooks
from tractor.log import get_logger
from tractor.msg import pretty_struct
from tractor.msg._exts import mk_union

log = get_logger()

PayloadT = TypeVar('PayloadT')

Uid = tuple[str, str]
WireAddress = tuple[str, str | int]


class PayloadMsg(msgspec.Struct, Generic[PayloadT], tag=True, tag_field='msg_type'):
    """Base of what carries a value of the application; never sent itself."""

    cid: str
    pld: Raw


Msg = PayloadMsg


class Started(PayloadMsg[PayloadT], Generic[PayloadT]):
    """The first value of a context, which its parent waits for."""

    pld: PayloadT | Raw  # type: ignore[assignment]


class Yield(PayloadMsg[PayloadT], Generic[PayloadT]):
    """One value of a stream."""

    pld: PayloadT | Raw  # type: ignore[assignment]


class Return(PayloadMsg[PayloadT], Generic[PayloadT]):
    """The final value of a dialog."""

    pld: PayloadT | Raw  # type: ignore[assignment]


class CancelAck(PayloadMsg[PayloadT], Generic[PayloadT]):
    """Answer to a cancel request; decodable whatever the payload spec."""

    pld: bool  # type: ignore[assignment]


class Aid(pretty_struct.Struct, tag=True, tag_field='msg_type'):
    """
    Identity of an actor, exchanged as the first message on every connection.

    Two are equal, and hash so, if they have one `uuid`.
    """

    name: str
    uuid: str
    pid: int | None = None
    is_registrar: bool | None = None
    is_probe: bool = False

    @property
    def uid(self) -> Uid:
        """`(name, uuid)`, the key of an actor everywhere."""
        return self.name, self.uuid

    def reprol(self, sin_uuid: bool = True) -> str:
        """
        One line: `name@pid`.

        Args:
          sin_uuid: leave out the head of the uuid, otherwise `name[uuid]@pid`.
        """
        name = self.name if sin_uuid else f'{self.name}[{self.uuid[:6]}]'
        return f'{name}@{self.pid}'

    def __eq__(self, other: object) -> bool:
        return self.uuid == other.uuid if isinstance(other, Aid) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.uuid)


class SpawnSpec(pretty_struct.Struct, tag=True, tag_field='msg_type'):
    """What a spawned actor is to be; the first message its parent sends it."""

    _parent_main_data: dict[Any, Any]
    _runtime_vars: dict[str, Any]
    enable_modules: dict[str, str]
    reg_addrs: list[WireAddress]
    bind_addrs: list[WireAddress] | None


class Start(msgspec.Struct, tag=True, tag_field='msg_type'):
    """Request to run `ns:func` with `kwargs`; opens the dialog `cid`."""

    cid: str
    ns: str
    func: str
    kwargs: dict[str, Any]
    uid: Uid
    pld_spec: str = 'typing.Any'


class StartAck(msgspec.Struct, tag=True, tag_field='msg_type', gc=False):
    """The request was accepted, and this is how the dialog will go on."""

    cid: str
    functype: Literal['asyncfunc', 'asyncgen', 'context']


class Stop(msgspec.Struct, tag=True, tag_field='msg_type', gc=False):
    """The sender's direction of a stream has ended."""

    cid: str


class Error(msgspec.Struct, tag=True, tag_field='msg_type'):
    """
    An exception of the dialog `cid`; of the connection as a whole if there is none.

    `relay_path` lists the uid of each actor that packed it, the source first. `canceller` is
    set for cancellations, `sender` for overruns, the two last fields for type errors.
    """

    src_uid: Uid
    src_type_str: str
    boxed_type_str: str
    relay_path: list[Uid]
    message: str | None = None
    tb_str: str = ''
    canceller: Uid | None = None
    sender: Uid | None = None
    cid: str | None = None
    _bad_msg: Started | Yield | Return | None = None  # type: ignore[type-arg]
    _bad_msg_as_dict: dict[Any, Any] | None = None


_runtime_msgs: list[type[msgspec.Struct]] = [
    Aid,
    SpawnSpec,
    Start,
    StartAck,
    Stop,
    CancelAck,
    Error,
]
_payload_msgs: list[type[msgspec.Struct]] = [Started, Yield, Return]

__msg_types__: list[type[msgspec.Struct]] = [*_runtime_msgs, *_payload_msgs]

# the same types as above, spelled out for type checkers
MsgType = (
    Aid | SpawnSpec | Start | StartAck | Stop | CancelAck | Error | Started | Yield | Return  # type: ignore[type-arg]
)

_msg_table: dict[str, type[msgspec.Struct]] = {
    msg_type.__name__: msg_type for msg_type in __msg_types__
}


def from_dict_msg(
    dict_msg: dict[str, Any],
    msgT: type[msgspec.Struct] | None = None,
    tag_field: str = 'msg_type',
    use_pretty: bool = False,
) -> Any:
    """
    Build a message of its fields, which are not validated.

    Args:
      dict_msg: fields and tag; the tag is popped.
      msgT: type to build in place of the one that the tag names.
      tag_field: key of the tag.
      use_pretty: build a type of the same name and fields that prints legibly.

    Raises:
      KeyError: no type was given and the tag is absent or names none.
      TypeError: the fields are not those of the type.
    """
    tag = dict_msg.pop(tag_field, None)
    msg_type = _msg_table[tag] if msgT is None else msgT
    return (_pretty_type(msg_type) if use_pretty else msg_type)(**dict_msg)


def mk_msg_spec(
    payload_type_union: Any = Any,
    spec_build_method: Literal['indexed_generics'] = 'indexed_generics',
) -> tuple[Any, list[Any]]:
    """
    Make the union of all messages, for payloads of certain types.

    Args:
      payload_type_union: what `pld` of the payload messages is decoded to; `Raw` leaves it
        encoded.
      spec_build_method: only the default is supported.

    Returns:
      The union, and the list of its members: payload messages, then runtime messages.

    Raises:
      ValueError: another build method.
    """
    if spec_build_method != 'indexed_generics':
        raise ValueError(f"spec_build_method must be 'indexed_generics', not {spec_build_method!r}")
    indexed: list[Any] = [msg_type[payload_type_union] for msg_type in (Started, Yield, Return)]
    members = [*indexed, *_runtime_msgs]
    return mk_union(members), members


def _pretty_type(msg_type: type[msgspec.Struct]) -> type[msgspec.Struct]:
    bases = (msg_type, pretty_struct.Struct)
    return msgspec.defstruct(msg_type.__name__, [], bases=bases, module=msg_type.__module__)


def _rebuild(fields: dict[str, Any]) -> Any:
    try:
        return from_dict_msg(dict(fields))
    except (KeyError, TypeError):
        return None


def _prettify(msg: msgspec.Struct) -> msgspec.Struct:
    return _pretty_type(type(msg))(**msgspec.structs.asdict(msg))


set_msg_hooks(rebuild=_rebuild, prettify=_prettify)
