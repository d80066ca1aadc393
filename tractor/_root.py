"""
The root of a tree: opening a runtime in this process, and closing it without a trace.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from tractor import log as _log
from tractor._exceptions import RuntimeFailure
from tractor.devx._breakpoint import maybe_block_bp
from tractor.discovery._addr import default_lo_addrs, get_address_cls, mk_uuid, wrap_address
from tractor.discovery._api import _probe_registry_addrs
from tractor.discovery._registry import Registrar
from tractor.ipc import _auth, _tls
from tractor.runtime import _state
from tractor.runtime._main import async_main
from tractor.runtime._runtime import Actor
from tractor.runtime._supervise import set_root_opener
from tractor.runtime._targets import module_paths
from tractor.spawn import _spawn
from tractor.trionics._beg import collapse_eg, is_multi_cancelled
from tractor.trionics._taskc import start_or_cancel

log = _log.get_logger()


@asynccontextmanager
async def open_root_actor(
    *,
    tpt_bind_addrs: list[Any] | None = None,
    registry_addrs: list[Any] | None = None,
    enable_transports: list[str] | None = None,
    name: str | None = 'root',
    start_method: str | None = None,
    debug_mode: bool = False,
    maybe_enable_greenback: bool = False,
    enable_stack_on_sig: bool = False,
    loglevel: str | None = None,
    enable_modules: list[str] | None = None,
    rpc_module_paths: list[str] | None = None,
    ensure_registry: bool = False,
    hide_tb: bool = True,
    debug_filter: Callable[[BaseException], bool] | None = None,
    authkey: bytes | str | None = None,
    tls: Any = None,
) -> AsyncIterator[Actor]:
    """
    Make this process the root of a tree of actors, for the block.

    Args:
        tpt_bind_addrs: where to listen: wrapped or unwrapped addresses or multiaddrs.
        registry_addrs: the registries to join; the host's own by default. If none answers, this actor becomes the
            registrar and listens there.
        enable_transports: the one transport of the tree, `['tcp']` or `['uds']`.
        name: this actor's name; `None` for `'registrar'` or `'anonymous'`.
        start_method: the backend for children, see `try_set_start_method()`.
        debug_mode, maybe_enable_greenback, enable_stack_on_sig, debug_filter: for the debugger, which this version
            does not have.
        loglevel: console level; `'ERROR'` by default.
        enable_modules: the modules whose functions may be called in this actor.
        rpc_module_paths: deprecated, use `enable_modules`.
        ensure_registry: fail rather than join a registry that exists already.
        hide_tb: kept for compatibility.
        authkey: a secret of 16 bytes at least, a text counts as UTF-8: whoever connects to an actor of this tree has
            to prove that it has the same, and so do those that its actors connect to. Children get it.
        tls: encrypts every TCP connection of the tree: a function of an importable module, or its name
            `'pkg.mod:func'`, which returns a pair of `ssl.SSLContext`, `(server side, client side)`; children call it
            too. Such a pair itself is for an actor without children, or one over UNIX sockets.

    Raises:
        RuntimeFailure: this process has an actor already.
        RuntimeError: not exactly one transport; a registry address is occupied by something else; a backend or
            feature that does not work here.
        ValueError: no such backend, or a registry address of another transport, or a key that is too short.
        TypeError: `enable_modules` is a string; `authkey` or `tls` are of another type.
        AccessDenied: what answers at a registry address refuses this actor, or is refused: the keys differ, or only
            one end has one, or TLS, or it belongs to another user.
        ModuleNotFoundError: one of them cannot be imported; so do other errors of importing.
        NotImplementedError: no such transport.
        OSError: an address cannot be bound.

    `TRACTOR_LOGLEVEL`, `TRACTOR_SPAWN_METHOD` and `TRACTOR_AUTHKEY` override the arguments. At the end everything below is down, and
    what is global to the process is as it was. An interrupt leaves the block as a bare `KeyboardInterrupt`.
    """
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError('an actor runtime runs on trio: start your program with `trio.run()`')
    running = _state.current_actor(err_on_no_runtime=False)
    if running is not None:
        raise RuntimeFailure(f'this process has an actor already: {running.aid.reprol()}')
    if debug_mode or enable_stack_on_sig or maybe_enable_greenback:
        raise RuntimeError(
            'the multi-process debugger is not part of this version: '
            'leave out debug_mode, maybe_enable_greenback and enable_stack_on_sig'
        )
    if rpc_module_paths is not None:
        warnings.warn(
            '`rpc_module_paths` is deprecated, use `enable_modules`',
            DeprecationWarning,
            stacklevel=3,
        )
    key, secure = _auth.choose(authkey), _tls.choose(tls)
    saved = _state.snapshot()
    saved_method = _spawn._spawn_method
    saved_log = _log.get_logger(name='tractor').logger.level
    actor: Actor | None = None
    try:
        with maybe_block_bp(), _auth.current.holding(key), _tls.current.holding(secure):
            actor, accept_addrs = await _make_root(
                tpt_bind_addrs,
                registry_addrs,
                enable_transports,
                name,
                start_method,
                loglevel,
                module_paths(enable_modules, rpc_module_paths),
                ensure_registry,
            )
            async with _run_root(actor, accept_addrs):
                yield actor
    finally:
        if _spawn._spawn_method != saved_method:
            _spawn.try_set_start_method(saved_method)
        _state.restore(saved)
        if actor is not None:
            _state.set_current_actor(None)
            log.info('Root actor terminated')
        _log.get_logger(name='tractor').logger.setLevel(saved_log)


async def _make_root(
    tpt_bind_addrs: list[Any] | None,
    registry_addrs: list[Any] | None,
    enable_transports: list[str] | None,
    name: str | None,
    start_method: str | None,
    loglevel: str | None,
    enable_modules: list[str],
    ensure_registry: bool,
) -> tuple[Actor, list[Any]]:
    """Everything that can be refused, before anything is bound: the actor, and where it shall listen."""
    transports = _check_transports(enable_transports)
    level = _set_loglevel(loglevel)
    _set_method(start_method)
    regs = [wrap_address(addr) for addr in registry_addrs or default_lo_addrs(transports)]
    _check_registry_addrs(regs)
    _check_registry_protos(regs, transports)
    _state._runtime_vars['_is_root'] = True
    _state._runtime_vars['_enable_tpts'] = transports

    found, occupied = await _probe_registry_addrs(regs)
    if occupied and not found:
        raise RuntimeError(
            f'registry address(es) occupied but did not answer as a registrar: {occupied}\n'
            'something else listens there: pass other `registry_addrs`'
        )
    if found and ensure_registry:
        raise RuntimeError(f'registry socket(s) already bound by another registrar: {found}')
    cls = Actor if found else Registrar
    actor = cls(
        name or ('anonymous' if found else 'registrar'),
        mk_uuid(),
        registry_addrs=found or regs,
        loglevel=level,
        enable_modules=enable_modules,
    )
    actor._infected_aio = bool(_state._runtime_vars['_is_infected_aio'])
    binds = [wrap_address(addr) for addr in tpt_bind_addrs or ()]
    if not found:
        return actor, list(dict.fromkeys([*binds, *regs]))
    return actor, binds or [
        get_address_cls(addr.proto_key).get_random(bindspace=addr.bindspace) for addr in found
    ]


def _check_transports(enable_transports: Iterable[str] | None) -> list[str]:
    if enable_transports is None:
        enable_transports = _state.current_ipc_protos()
    transports = list(enable_transports)
    if isinstance(enable_transports, str) or len(transports) != 1:
        raise RuntimeError(
            f'an actor tree has exactly one transport, got enable_transports={enable_transports!r}'
        )
    get_address_cls(transports[0])
    return transports


def _check_registry_addrs(regs: list[Any]) -> None:
    for addr in regs:
        if not addr.is_valid:
            raise ValueError(
                f'nobody could find a registry at {addr.unwrap()}: give a real address and port'
            )


def _check_registry_protos(regs: list[Any], transports: list[str]) -> None:
    wrong = sorted({addr.proto_key for addr in regs} - set(transports))
    if wrong:
        raise ValueError(
            f'registry_addrs of the transport(s) {wrong} cannot be reached with '
            f'enable_transports={transports}\nregistry_addrs: {regs}'
        )


def _set_loglevel(loglevel: str | None) -> str:
    env = os.environ.get('TRACTOR_LOGLEVEL')
    level = (env or loglevel or _log.get_loglevel()).upper()
    _log.get_console_log(level)
    if env and loglevel and env.upper() != loglevel.upper():
        log.info('TRACTOR_LOGLEVEL=%s overrides loglevel=%s', env, loglevel)
    return level


def _set_method(start_method: str | None) -> None:
    env = os.environ.get('TRACTOR_SPAWN_METHOD')
    if env and start_method and env != start_method:
        log.warning('TRACTOR_SPAWN_METHOD=%s overrides start_method=%s', env, start_method)
    method = env or start_method
    if method is not None:
        _spawn.try_set_start_method(method)


@asynccontextmanager
async def _run_root(actor: Actor, accept_addrs: list[Any]) -> AsyncIterator[None]:
    _state.set_current_actor(actor)
    async with collapse_eg(), trio.open_nursery() as root_tn:
        actor._root_tn = root_tn
        addrs, _ = await start_or_cancel(
            root_tn, partial(async_main, actor, accept_addrs=accept_addrs), name='async_main'
        )
        _state._runtime_vars['_root_addrs'] = list(addrs)
        _state._runtime_vars['_root_mailbox'] = addrs[0]
        try:
            yield
        except (Exception, BaseExceptionGroup) as err:
            if not is_multi_cancelled(err) and not _has_interrupt(err):
                log.exception('Root actor crashed')
            raise
        finally:
            with trio.CancelScope(shield=True):
                await actor.cancel(None)


def _has_interrupt(err: BaseException) -> bool:
    return isinstance(err, BaseExceptionGroup) and err.subgroup(KeyboardInterrupt) is not None


def run_daemon(
    enable_modules: list[str],
    name: str | None = 'root',
    registry_addrs: list[Any] | None = None,
    start_method: str | None = None,
    debug_mode: bool = False,
    **kwargs: Any,
) -> None:
    """
    Run a root actor in this process that does nothing but serve requests, until a signal ends it.

    Args:
        enable_modules: the modules whose functions may be called in it; imported first.
        kwargs: for `open_root_actor()`, like the others.
    """
    for path in enable_modules:
        importlib.import_module(path)

    async def serve() -> None:
        async with open_root_actor(
            enable_modules=enable_modules,
            name=name,
            registry_addrs=registry_addrs,
            start_method=start_method,
            debug_mode=debug_mode,
            **kwargs,
        ):
            await trio.sleep_forever()

    trio.run(serve)


set_root_opener(open_root_actor)
