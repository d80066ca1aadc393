"""
Messages, their types, and how they are encoded.

`tractor.msg.types` defines what goes over a connection, `tractor.msg._codec` how. What needs
the state of the runtime (`tractor.msg._errors`, `tractor.msg._ops`) is not loaded from here,
so that this package stays usable by the modules which hold that state: `typed` and `limit_plds`
are looked up there when they are asked for.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from tractor.msg._codec import MsgCodec as MsgCodec
from tractor.msg._codec import MsgDec as MsgDec
from tractor.msg._codec import _ctxvar_MsgCodec as _ctxvar_MsgCodec
from tractor.msg._codec import _def_msgspec_codec as _def_msgspec_codec
from tractor.msg._codec import apply_codec as apply_codec
from tractor.msg._codec import current_codec as current_codec
from tractor.msg._codec import mk_codec as mk_codec
from tractor.msg._codec import mk_dec as mk_dec
from tractor.msg.pretty_struct import Struct as Struct
from tractor.msg.ptr import NamespacePath as NamespacePath
from tractor.msg.types import Aid as Aid
from tractor.msg.types import CancelAck as CancelAck
from tractor.msg.types import Error as Error
from tractor.msg.types import Msg as Msg
from tractor.msg.types import MsgType as MsgType
from tractor.msg.types import PayloadMsg as PayloadMsg
from tractor.msg.types import PayloadT as PayloadT
from tractor.msg.types import Return as Return
from tractor.msg.types import SpawnSpec as SpawnSpec
from tractor.msg.types import Start as Start
from tractor.msg.types import StartAck as StartAck
from tractor.msg.types import Started as Started
from tractor.msg.types import Stop as Stop
from tractor.msg.types import Yield as Yield
from tractor.msg.types import __msg_types__ as __msg_types__

if _TYPE_CHECKING:
    from tractor.msg._ops import limit_plds as limit_plds
    from tractor.msg._typed import typed as typed

__msg_spec__ = MsgType

_LAZY = {'limit_plds': 'tractor.msg._ops', 'typed': 'tractor.msg._typed'}


def __getattr__(name: str) -> _Any:
    if (module := _LAZY.get(name)) is None:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module

    return getattr(import_module(module), name)
