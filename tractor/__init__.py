"""
tractor: structured-concurrent actors for Python.

An actor is one `trio.run()` in a process of its own, reached only through messages and supervised as strictly as
`trio` supervises tasks: start actors in a nursery, call and stream with them, and whatever happens every side
learns of it as a named exception and nothing is left running.
"""

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
    'trionics',
    'wait_for_actor',
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
