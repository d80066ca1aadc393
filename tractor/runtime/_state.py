"""
The one owner of what is global to the process (to the interpreter, to be exact: each
sub-interpreter has its own copy of this module, hence each actor its own state).

Other modules reach it as an attribute, `_state.current_actor()`, and never bind its functions or
variables, so that everybody sees a replacement. The current actor is written by
`set_current_actor()` only, the runtime variables in place only: the identity of `_runtime_vars`
never changes.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import msgspec

from tractor import log as _log
from tractor._exceptions import InternalError, NoRuntime
from tractor.runtime import _rtdir
from tractor.trionics import _cache

if TYPE_CHECKING:
    import trio

    from tractor._context import Context
    from tractor.runtime._runtime import Actor

# transport of a tree for which none was chosen; read at call time, the test plugin replaces it
_def_tpt_proto: str = 'tcp'

# whose runtime directory `get_rt_dir()` gives by default
_OURS: str = 'tractor'

# Where that was found to be, and the environment's wish at that time, among the runtime variables: children find it
# without a search, for which much would have to be imported.
_RT_DIR_VAR: str = '_rt_dir'

# `$TMPDIR` on macOS is so long that the path of a socket in it would exceed the limit of 104 bytes
_DARWIN_TMPDIR: Path = Path('/tmp')

_current_actor: Actor | None = None
_last_actor_terminated: Actor | None = None

_RUNTIME_VARS_DEFAULTS: dict[str, Any] = {
    # this process is the root of its tree
    '_is_root': False,
    # first address of the root
    '_root_mailbox': (None, None),
    # all addresses of the root, unwrapped
    '_root_addrs': [],
    # keys of the transports, inherited by the whole tree
    '_enable_tpts': [_def_tpt_proto],
    # registry addresses, unwrapped
    '_registry_addrs': [],
    # the multi-process debugger is enabled
    '_debug_mode': False,
    # what wraps a REPL session, see `tractor.devx.debug`
    'repl_fixture': False,
    # optional tooling in use
    'use_greenback': False,
    'use_stackscope': False,
    # trio runs as a guest of asyncio in this process
    '_is_infected_aio': False,
}


def _copied(value: Any) -> Any:
    """A copy with containers of its own, down to values that are shared."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value


_runtime_vars: dict[str, Any] = _copied(_RUNTIME_VARS_DEFAULTS)

_ctxvar_Context: ContextVar[Context | None] = ContextVar('ipc_context', default=None)


class RuntimeVars(msgspec.Struct):
    """The runtime variables of an actor as a struct; `_RUNTIME_VARS_DEFAULTS` explains each."""

    _is_root: bool = False
    _root_mailbox: tuple[Any, Any] = (None, None)
    _root_addrs: list[Any] = []
    _enable_tpts: list[str] = msgspec.field(default_factory=lambda: [_def_tpt_proto])
    _registry_addrs: list[Any] = []
    _debug_mode: bool = False
    repl_fixture: Any = False
    use_greenback: bool = False
    use_stackscope: bool = False
    _is_infected_aio: bool = False

    def update(self, from_dict: Mapping[str, Any]) -> None:
        """
        Set the fields that `from_dict` names.

        Raises:
            AttributeError: a key is not a field; nothing was set.
        """
        unknown = sorted(set(from_dict) - set(self.__struct_fields__))
        if unknown:
            raise AttributeError(
                f'{type(self).__name__} has no field {", ".join(map(repr, unknown))}; '
                f'its fields are {", ".join(self.__struct_fields__)}.'
            )
        for name, value in from_dict.items():
            setattr(self, name, value)


@overload
def get_runtime_vars(
    as_dict: Literal[True] = True, clear_values: bool = False
) -> dict[str, Any]: ...
@overload
def get_runtime_vars(as_dict: Literal[False], clear_values: bool = False) -> RuntimeVars: ...
@overload
def get_runtime_vars(as_dict: bool, clear_values: bool = False) -> dict[str, Any] | RuntimeVars: ...
def get_runtime_vars(
    as_dict: bool = True,
    clear_values: bool = False,
) -> dict[str, Any] | RuntimeVars:
    """
    A copy of the runtime variables.

    Args:
        as_dict: return a `dict`, else a `RuntimeVars` (which has no room for keys of applications).
        clear_values: the defaults instead of the present values.
    """
    rtvars: dict[str, Any] = _copied(_RUNTIME_VARS_DEFAULTS if clear_values else _runtime_vars)
    if as_dict:
        return rtvars
    fields = RuntimeVars.__struct_fields__
    return RuntimeVars(**{name: value for name, value in rtvars.items() if name in fields})


def set_runtime_vars(rtvars: Mapping[str, Any] | RuntimeVars) -> None:
    """Replace the contents of the runtime variables, in place, by a copy of `rtvars`."""
    if isinstance(rtvars, RuntimeVars):
        rtvars = msgspec.structs.asdict(rtvars)
    fresh = _copied(dict(rtvars))
    _runtime_vars.clear()
    _runtime_vars.update(fresh)


def snapshot() -> dict[str, Any]:
    """A copy of the runtime variables for `restore()`."""
    snap: dict[str, Any] = _copied(_runtime_vars)
    return snap


def restore(snap: Mapping[str, Any]) -> None:
    """Bring the runtime variables back, in place, to what they were at `snapshot()`."""
    set_runtime_vars(snap)


def set_current_actor(actor: Actor | None) -> None:
    """
    Make `actor` the actor of this process; `None` says that the present one has terminated.

    The terminated one stays available through `last_actor()`.
    """
    global _current_actor, _last_actor_terminated
    if actor is None and _current_actor is not None:
        _last_actor_terminated = _current_actor
    _current_actor = actor


@overload
def current_actor(err_on_no_runtime: Literal[True] = True) -> Actor: ...
@overload
def current_actor(err_on_no_runtime: bool) -> Actor | None: ...
def current_actor(err_on_no_runtime: bool = True) -> Actor | None:
    """
    The actor of this process.

    Args:
        err_on_no_runtime: raise when there is none; otherwise `None` is returned.

    Raises:
        NoRuntime: no actor runs in this process.
    """
    if _current_actor is None and err_on_no_runtime:
        hint = 'Call this from within `tractor.open_root_actor()` or `tractor.open_nursery()`.'
        if (last := last_actor()) is not None:
            hint = f'The last actor of this process, {last!r}, has terminated. {hint}'
        raise NoRuntime(f'No actor runs in this process. {hint}')
    return _current_actor


def last_actor() -> Actor | None:
    """The actor of this process that terminated last, if any."""
    return _last_actor_terminated


def is_root_process() -> bool:
    """Whether this process is the root of its actor tree."""
    return bool(_runtime_vars.get('_is_root', False))


def is_main_process() -> bool:
    """Whether `multiprocessing` considers this its main process: not the same as being the root."""
    import multiprocessing

    return multiprocessing.current_process().name == 'MainProcess'


def is_debug_mode() -> bool:
    """Whether the multi-process debugger is enabled in this tree."""
    return bool(_runtime_vars.get('_debug_mode', False))


debug_mode = is_debug_mode


def current_ipc_ctx(error_on_not_set: bool = False) -> Context | None:
    """
    The IPC context which the calling task serves or has opened last.

    Args:
        error_on_not_set: raise when there is none; otherwise `None` is returned.

    Raises:
        InternalError: the task has no context.
    """
    ctx = _ctxvar_Context.get()
    if ctx is None and error_on_not_set:
        raise InternalError(
            'The calling task has no IPC context. Only a task that runs a `@tractor.context` '
            'function, or the block of a `Portal.open_context()`, has one.'
        )
    return ctx


def current_ipc_protos() -> list[str]:
    """Keys of the transports that this tree uses; the live list."""
    protos: list[str] = _runtime_vars['_enable_tpts']
    return protos


@cache
def current_interp_id() -> int:
    """
    Id of the interpreter which this code runs in.

    0 is the main interpreter, and the only one below Python 3.14.
    """
    if sys.version_info < (3, 14):
        return 0
    if (public := sys.modules.get('concurrent.interpreters')) is not None:
        return int(public.get_current().id)
    # The public module takes 3 to 14 ms to import, which each child that binds a socket file would
    # pay for; the extension under it is built in.
    import _interpreters

    return int(_interpreters.get_current()[0])


def get_rt_dir(
    subdir: str | os.PathLike[str] | None = None,
    appname: str = _OURS,
) -> Path:
    """
    The directory of an application for socket files and the like, created where absent.

    Args:
        subdir: relative path of a directory below it.
        appname: whose directory.

    Returns:
        An existing directory; on POSIX it is ours and has mode 0700.

    Raises:
        ValueError: `subdir` is absolute or contains `..`.
        PermissionError: a level is a symbolic link, no directory, or another user's.
    """
    subdirs = _rtdir.split_subdir(subdir)
    darwin = sys.platform == 'darwin'
    base = _DARWIN_TMPDIR / f'{appname}-{os.getuid()}' if darwin else _user_runtime_dir(appname)

    if os.name != 'posix':
        path = base.joinpath(*subdirs)
        path.mkdir(parents=True, exist_ok=True)
        return path
    return _rtdir.ensure_private_dir(
        base,
        subdirs,
        make_parents=not darwin,
        system='Darwin' if darwin else 'POSIX',
    )


def _user_runtime_dir(appname: str) -> Path:
    if appname != _OURS:
        return _search_runtime_dir(appname)
    asked_for = os.environ.get('XDG_RUNTIME_DIR', '')
    match _runtime_vars.get(_RT_DIR_VAR):
        case [told, path] if told == asked_for:
            return Path(path)
    found = _search_runtime_dir(appname)
    _runtime_vars[_RT_DIR_VAR] = [asked_for, str(found)]
    return found


def _search_runtime_dir(appname: str) -> Path:
    import platformdirs

    if 'XDG_RUNTIME_DIR' in os.environ:
        return Path(platformdirs.user_runtime_dir(appname=appname))
    with warnings.catch_warnings():
        # The package warns about its fallback below `/tmp`. What it warns of, somebody else's
        # directory, is checked for here.
        warnings.simplefilter('ignore')
        return Path(platformdirs.user_runtime_dir(appname=appname))


def _actor_for_log() -> Actor | None:
    return _current_actor


_log.set_actor_source(_actor_for_log)


def _service_nursery() -> trio.Nursery | None:
    return current_actor()._service_tn


_cache.set_service_nursery_source(_service_nursery)
