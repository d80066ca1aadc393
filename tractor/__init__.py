"""
tractor: structured-concurrent actors for Python.

An actor is one `trio.run()` in a process of its own, reached only through messages and supervised as strictly as
`trio` supervises tasks: start actors in a nursery, call and stream with them, and whatever happens every side
learns of it as a named exception and nothing is left running.
"""

import typing as _typing

from tractor import devx, log, msg, to_actor, trionics
from tractor._clustering import open_actor_cluster
from tractor._context import Context, context
from tractor._exceptions import (
    ContextCancelled,
    ModuleNotExposed,
    MsgTypeError,
    RemoteActorError,
    TransportClosed,
)
from tractor._root import open_root_actor, run_daemon
from tractor._streaming import MsgStream, stream
from tractor.discovery._api import find_actor, get_registry, query_actor, wait_for_actor
from tractor.discovery._registry import Arbiter, Registrar
from tractor.ipc import Channel
from tractor.runtime._portal import Portal
from tractor.runtime._runtime import Actor
from tractor.runtime._state import (
    RuntimeVars,
    current_actor,
    current_ipc_ctx,
    debug_mode,
    get_runtime_vars,
    is_root_process,
)
from tractor.runtime._supervise import ActorNursery, open_nursery

if _typing.TYPE_CHECKING:
    from tractor import to_asyncio as to_asyncio

__version__ = '0.1.0a1'

__all__ = [
    'Actor',
    'ActorNursery',
    'Arbiter',
    'Channel',
    'Context',
    'ContextCancelled',
    'ModuleNotExposed',
    'MsgStream',
    'MsgTypeError',
    'Portal',
    'Registrar',
    'RemoteActorError',
    'RuntimeVars',
    'TransportClosed',
    'context',
    'current_actor',
    'current_ipc_ctx',
    'debug_mode',
    'devx',
    'find_actor',
    'get_registry',
    'get_runtime_vars',
    'is_root_process',
    'log',
    'msg',
    'open_actor_cluster',
    'open_nursery',
    'open_root_actor',
    'query_actor',
    'run_daemon',
    'stream',
    'to_actor',
    'to_asyncio',
    'trionics',
    'wait_for_actor',
]


def __getattr__(name: str) -> _typing.Any:
    # it loads asyncio, which most programs do not need
    if name != 'to_asyncio':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    import importlib

    return importlib.import_module('tractor.to_asyncio')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
