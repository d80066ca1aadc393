"""Logging for actors: extra levels, records that name the actor and task, per sub-package loggers.

Every module takes its logger with `log = get_logger()`, which names it after the package it is in,
so one level set on `tractor.ipc` rules every module of that package. Nothing is printed until
`get_console_log()` or `apply_logspec()` adds a handler, as is proper for a library.

A caller that must build an expensive message asks `log.at_least_level(...)` first; any other passes
lazy `%s` arguments.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, TextIO

import trio

from ._log_console import DATE_FORMAT, LOG_FORMAT, ConsoleFormatter
from ._logspec import LogSpec, level_value, parse_logspec

__all__ = [
    'BOLD_PALETTE',
    'CUSTOM_LEVELS',
    'DATE_FORMAT',
    'LOG_FORMAT',
    'STD_PALETTE',
    'ActorContextInfo',
    'LogSpec',
    'StackLevelAdapter',
    'add_log_level',
    'apply_logspec',
    'at_least_level',
    'get_console_log',
    'get_logger',
    'get_loglevel',
    'parse_logspec',
    'pformat_task_uid',
    'set_actor_source',
]

_PKG_NAME = 'tractor'

# What `get_loglevel()` reports while no root actor has chosen a level.
_default_loglevel: str = 'ERROR'

# Filled by `add_log_level()` only.
CUSTOM_LEVELS: dict[str, int] = {}
STD_PALETTE: dict[str, str] = {
    'CRITICAL': 'red',
    'ERROR': 'red',
    'WARNING': 'yellow',
    'INFO': 'green',
    'DEBUG': 'white',
}
BOLD_PALETTE: dict[str, dict[str, str]] = {
    'bold': {level: f'bold_{color}' for level, color in STD_PALETTE.items()},
}

# ------ the context of a record ------


def _no_actor() -> None:
    """Stand in for the actor source until the runtime hands over its own."""


_sources: dict[str, Callable[[], Any]] = {'actor': _no_actor}


def set_actor_source(source: Callable[[], Any]) -> None:
    """Tell the log records how to find the current actor.

    Args:
        source: called once per field of an emitted record; returns an object with `aid.name` and
            `aid.uuid`, or `None` (or raises `RuntimeError`) when no actor runs.
    """
    _sources['actor'] = source


def pformat_task_uid(id_part: str = 'tail') -> str:
    """Name the current trio task with six digits of its `id()`: `'main[104528]'`.

    Args:
        id_part: `'tail'` for the last six digits, `'head'` for the first six.

    Raises:
        RuntimeError: when not called from a trio task.
        ValueError: for any other `id_part`.
    """
    task = trio.lowlevel.current_task()
    digits = str(id(task))
    match id_part:
        case 'tail':
            digits = digits[-6:]
        case 'head':
            digits = digits[:6]
        case _:
            raise ValueError(f"`id_part` must be 'tail' or 'head', not {id_part!r}")

    return f'{task.name}[{digits}]'


def _find_actor() -> Any:
    try:
        return _sources['actor']()
    except RuntimeError:
        return None


def _find_aid() -> Any:
    if (actor := _find_actor()) is None:
        raise RuntimeError('no actor is running')

    return actor.aid


def _find_uid() -> str:
    """The head of the actor's uuid; `.i<id>` follows if it runs in a sub-interpreter, as in socket file names."""
    head: str = _find_aid().uuid[:6]
    interp_id = getattr(_find_actor(), 'interp_id', None)
    return f'{head}.i{interp_id}' if interp_id else head


_CONTEXT_FIELDS: dict[str, Callable[[], Any]] = {
    'task': pformat_task_uid,
    'actor': _find_actor,
    'actor_name': lambda: _find_aid().name,
    'actor_uid': _find_uid,
}


class ActorContextInfo(Mapping[str, Any]):
    """The fields `task`, `actor`, `actor_name` and `actor_uid`, looked up whenever they are read.

    Outside a task or an actor a field reads `'no <field> context'`; `actor` reads `None`.
    """

    def __getitem__(self, key: str) -> Any:
        find = _CONTEXT_FIELDS[key]
        try:
            return find()
        except RuntimeError:
            return f'no {key} context'

    def __iter__(self) -> Iterator[str]:
        return iter(_CONTEXT_FIELDS)

    def __len__(self) -> int:
        return len(_CONTEXT_FIELDS)


_context_info = ActorContextInfo()


# ------ levels and the adapter ------


def at_least_level(log: logging.Logger | StackLevelAdapter, level: str | int) -> bool:
    """Tell whether `log` would emit a record of `level`: the guard before an expensive message.

    Honours the logger's level, `Logger.disabled` and `logging.disable()`.

    Raises:
        ValueError: for an unknown level name.
    """
    return log.isEnabledFor(level_value(level))


class StackLevelAdapter(logging.LoggerAdapter[logging.Logger]):
    """A logger with one method per custom level, whose records carry the actor and the task.

    `add_log_level()` adds the level methods; like the standard ones they take the message, lazy
    `%` arguments and the keywords of `Logger.log()`, and report the caller's file and line.
    """

    if TYPE_CHECKING:

        def transport(self, msg: object, *args: object, **kwargs: Any) -> None: ...
        def runtime(self, msg: object, *args: object, **kwargs: Any) -> None: ...
        def devx(self, msg: object, *args: object, **kwargs: Any) -> None: ...
        def io(self, msg: object, *args: object, **kwargs: Any) -> None: ...
        def cancel(self, msg: object, *args: object, **kwargs: Any) -> None: ...
        def pdb(self, msg: object, *args: object, **kwargs: Any) -> None: ...

    @property
    def level(self) -> str:
        """The name of the effective level, in lower case."""
        return logging.getLevelName(self.getEffectiveLevel()).lower()

    def at_least_level(self, level: str | int) -> bool:
        """Tell whether a record of `level` would be emitted; see the function of that name."""
        return at_least_level(self, level)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the context fields to the caller's own `extra`, if any."""
        extra = kwargs.get('extra')
        kwargs['extra'] = _context_info if extra is None else {**_context_info, **extra}
        return msg, kwargs


def _mk_level_method(name: str) -> Callable[..., None]:
    """Make the adapter method that emits at whatever value level `name` has by then."""

    def emit(self: StackLevelAdapter, msg: object, *args: object, **kwargs: Any) -> None:
        value = CUSTOM_LEVELS[name]
        if self.isEnabledFor(value):
            # `logging` skips its own frames only, so this one counts.
            kwargs['stacklevel'] = kwargs.get('stacklevel', 1) + 1
            self.log(value, msg, *args, **kwargs)

    emit.__name__ = name.lower()
    emit.__qualname__ = f'{StackLevelAdapter.__qualname__}.{name.lower()}'
    emit.__doc__ = f'Log at level {name}.'
    emit.__dict__['level_name'] = name
    return emit


def add_log_level(name: str, value: int, color: str = 'white') -> None:
    """Register a level: its number, its colour and its method on `StackLevelAdapter`.

    Registering a level again changes its value and colour.

    Args:
        name: the level's name, kept in upper case; the method is its lower case.
        value: the level's number, between those of `logging`.
        color: a colorlog colour name.

    Raises:
        ValueError: if the method would replace something else that the adapter has.
    """
    name = name.upper()
    method = name.lower()
    existing = getattr(StackLevelAdapter, method, None)
    if existing is None:
        setattr(StackLevelAdapter, method, _mk_level_method(name))
    elif getattr(existing, 'level_name', None) != name:
        raise ValueError(
            f'A level cannot be named {name!r}: loggers already have `.{method}`; pick another name'
        )
    CUSTOM_LEVELS[name] = value
    STD_PALETTE[name] = color
    BOLD_PALETTE['bold'][name] = f'bold_{color}'
    logging.addLevelName(value, name)


add_log_level('TRANSPORT', 5, 'cyan')
add_log_level('RUNTIME', 15, 'white')
add_log_level('DEVX', 17, 'cyan')
add_log_level('IO', 21, 'purple')
add_log_level('CANCEL', 22, 'yellow')
add_log_level('PDB', 500, 'white')


def _bind_level_methods() -> None:
    """Give a method to levels which were put into `CUSTOM_LEVELS` by hand."""
    for name, value in list(CUSTOM_LEVELS.items()):
        if not hasattr(StackLevelAdapter, name.lower()):
            add_log_level(name, value, STD_PALETTE.get(name, 'white'))


# ------ loggers by package ------


def _strip_pkg(path: str, pkg_name: str) -> str:
    """Make a dotted `path` relative to `pkg_name`; whole tokens only, other paths are kept."""
    return '' if path == pkg_name else path.removeprefix(f'{pkg_name}.')


def _sublogger_path(
    name: str, pkg_name: str, caller: Mapping[str, Any], *, warn_always: bool
) -> str:
    """Return the path under `pkg_name` for an explicit logger `name`.

    The caller's own module is dropped from the end, so that `get_logger(__name__)` groups by
    package as `get_logger()` does.
    """
    path = _strip_pkg(name, pkg_name)
    module = caller.get('__name__') or ''
    if path != name and path and (warn_always or name != module):
        _adapt(logging.getLogger(pkg_name)).warning(
            'Logger names are relative to %r: use name=%r instead of %r', pkg_name, path, name
        )

    leaf = '' if '__path__' in caller else module.rpartition('.')[2]
    if '.' in name and leaf == path.rpartition('.')[2]:
        path = path.rpartition('.')[0]

    return path


def _adapt(logger: logging.Logger) -> StackLevelAdapter:
    return StackLevelAdapter(logger, _context_info)


def _resolve_logger(
    caller: Mapping[str, Any],
    name: str | None = None,
    pkg_name: str = _PKG_NAME,
    _root_name: str | None = None,
    logger: logging.Logger | StackLevelAdapter | None = None,
    subsys_spec: str | None = None,
    mk_sublog: bool = True,
    _strict_debug: bool = False,
) -> StackLevelAdapter:
    """Do the work of `get_logger()` for the module whose globals are `caller`."""
    _bind_level_methods()
    if _root_name is not None:
        warnings.warn(
            '`_root_name` is deprecated, pass `pkg_name` instead', DeprecationWarning, stacklevel=3
        )
        pkg_name = _root_name

    if isinstance(logger, StackLevelAdapter):
        logger = logger.logger
    root = logging.getLogger(pkg_name) if logger is None else logger

    if not mk_sublog:
        path = ''
    elif name is not None:
        path = _sublogger_path(name, pkg_name, caller, warn_always=_strict_debug)
    elif subsys_spec is not None:
        path = _strip_pkg(subsys_spec, pkg_name)
    elif logger is not None:
        path = ''
    else:
        # A script has no package, hence the package's root logger.
        path = _strip_pkg(caller.get('__package__') or '', pkg_name)

    return _adapt(root.getChild(path) if path else root)


def get_logger(
    name: str | None = None,
    pkg_name: str = _PKG_NAME,
    _root_name: str | None = None,
    logger: logging.Logger | StackLevelAdapter | None = None,
    subsys_spec: str | None = None,
    mk_sublog: bool = True,
    _strict_debug: bool = False,
) -> StackLevelAdapter:
    """Return the logger of a package, by default of the package that the calling module is in.

    Args:
        name: dotted path under `pkg_name`. A leading `pkg_name` is removed, with a warning unless
            it is the caller's `__name__`; of a dotted name the last token is dropped if it is the
            calling module. Without a name the caller's package is taken.
        pkg_name: the package whose logger is the root.
        _root_name: deprecated alias of `pkg_name`.
        logger: use this one as the root; without a name it is returned itself.
        subsys_spec: path of a sub-package, taken as it stands, if there is no `name`.
        mk_sublog: return the root itself if false.
        _strict_debug: warn about every redundant `pkg_name` in `name`.

    Returns:
        A new adapter; the logger below it is shared and inherits its level until one is set.
    """
    return _resolve_logger(
        sys._getframe(1).f_globals,
        name,
        pkg_name,
        _root_name,
        logger,
        subsys_spec,
        mk_sublog,
        _strict_debug,
    )


# ------ console output ------


def _mk_formatter(stream: TextIO) -> logging.Formatter:
    # for records which come from a bare `logging.Logger` below ours
    defaults = {key: f'no {key} context' for key in _CONTEXT_FIELDS}
    return ConsoleFormatter(stream, STD_PALETTE, BOLD_PALETTE, defaults)


def _add_console_handler(logger: logging.Logger) -> None:
    """Let `logger` print to the current `sys.stderr`, once."""
    for handler in list(logger.handlers):
        if type(handler) is logging.StreamHandler:
            if handler.stream is sys.stderr:
                return
            # A replaced stderr which was closed since can only give errors.
            if getattr(handler.stream, 'closed', False):
                logger.removeHandler(handler)

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_mk_formatter(sys.stderr))
    logger.addHandler(handler)


def get_console_log(
    level: str | int | None = None,
    logger: logging.Logger | StackLevelAdapter | None = None,
    **get_logger_kwargs: Any,
) -> StackLevelAdapter:
    """Return a logger that prints to stderr from `level` on.

    Args:
        level: name in any case, or number; if falsy the logger is returned as it is.
        logger: an adapter is used itself, a plain logger as in `get_logger()`.
        get_logger_kwargs: passed to `get_logger()`.

    Raises:
        ValueError: for an unknown level name.
    """
    if isinstance(logger, StackLevelAdapter):
        log = logger
    else:
        log = _resolve_logger(sys._getframe(1).f_globals, logger=logger, **get_logger_kwargs)

    if level:
        log.setLevel(level_value(level))
        _add_console_handler(log.logger)

    return log


def get_loglevel() -> str:
    """Return the default level name, which holds where nothing else is asked for."""
    return _default_loglevel


# ------ logging specs ------


def apply_logspec(
    logspec: LogSpec,
    default_level: str | None = None,
    pkg_name: str = _PKG_NAME,
) -> tuple[str | None, dict[str, StackLevelAdapter]]:
    """Print the loggers that a spec names, each from its own level on.

    The loggers of sub-packages no longer pass their records on, so that no line is printed twice.

    Args:
        logspec: see `parse_logspec()`, as for the other arguments.

    Returns:
        The level for the package itself (its entry in the spec, else `default_level`), and the
        adapters by full logger name.

    Raises:
        ValueError: see `parse_logspec()`; then nothing was changed.
    """
    levels = parse_logspec(logspec, default_level, pkg_name)
    adapters: dict[str, StackLevelAdapter] = {}
    for subpkg, level in levels.items():
        full_name = pkg_name if subpkg is None else f'{pkg_name}.{subpkg}'
        log = get_console_log(level, logger=logging.getLogger(full_name))
        if subpkg is not None:
            log.logger.propagate = False
        adapters[full_name] = log

    return levels.get(None, default_level), adapters


logging.getLogger(_PKG_NAME).addHandler(logging.NullHandler())
