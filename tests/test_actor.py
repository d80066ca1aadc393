"""collaboration: the `Actor` by itself, and the life of a child whose parent and registrar are played by hand."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor._exceptions import ModuleNotExposed
from tractor._testing.peer import (
    Calling,
    RawPeer,
    play_with_peer,
    portal_to,
)
from tractor.discovery._addr import mk_uuid, wrap_address
from tractor.msg.types import Start, StartAck
from tractor.runtime import _state
from tractor.runtime._runtime import Actor, get_mod_nsps2fps

HERE = __name__

Addr = tuple[str, Any]


async def ping(n: int = 0) -> int:
    return n


@tractor.context
async def wait_context(ctx: tractor.Context) -> None:
    await ctx.started()
    await trio.sleep_forever()


# -- the description ------------------------------------------------------------------------------


def test_actor_is_made_without_any_runtime() -> None:
    actor = Actor('some name', 'some-uuid', loglevel='info', spawn_method='trio')
    assert actor.aid.uid == ('some name', 'some-uuid')
    assert actor.name == 'some name'
    assert actor.pid == actor.aid.pid
    assert actor.aid.is_registrar is False
    assert actor.loglevel == 'info'
    assert actor.spawn_method == 'trio'
    assert actor._ongoing_rpc_tasks.is_set()
    assert actor._contexts == actor._rpc_tasks == actor._actoruid2nursery == {}
    assert not actor.cancel_called
    assert actor.cancel_caller is None
    assert not actor.cancel_complete
    assert not actor.is_infected_aio()
    assert not actor.is_root
    assert actor.repr_state == 'described'
    assert Actor.msg_buffer_size == 64
    assert Actor.is_registrar is False


def test_actor_shows_itself() -> None:
    actor = Actor('shown', mk_uuid(), enable_modules=[HERE])
    assert repr(actor) == actor.pformat() == str(actor)
    for part in ('<Actor(', 'shown[', 'described', HERE):
        assert part in repr(actor)
    assert '_contexts' not in repr(actor)
    assert '_contexts' in actor.pformat(privates=True)
    assert all(line.startswith('    ') for line in actor.pformat(indent=4).splitlines())


def test_deprecated_names_of_an_actor() -> None:
    actor = Actor('old', 'uuid')
    with pytest.warns(DeprecationWarning, match=r'Actor\.uid'):
        assert actor.uid == ('old', 'uuid')
    with pytest.warns(DeprecationWarning, match='is_arbiter'):
        assert actor.is_arbiter is False
    with pytest.warns(DeprecationWarning, match='arbiter_addr'):
        actor = Actor('old', 'uuid', arbiter_addr=('127.0.0.1', 1700))
    assert actor.reg_addrs == [('127.0.0.1', 1700)]


def test_registry_addresses_of_an_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    actor = Actor('x', 'y', registry_addrs=[('127.0.0.1', 1700), wrap_address(('127.0.0.1', 1701))])
    expected = [('127.0.0.1', 1700), ('127.0.0.1', 1701)]
    assert actor.reg_addrs == expected
    assert actor.registry_addrs == [wrap_address(addr) for addr in expected]
    assert _state._runtime_vars['_registry_addrs'] == expected
    actor.reg_addrs = []
    assert actor.reg_addrs == expected
    actor.reg_addrs = [['127.0.0.1', 1702]]
    assert actor.reg_addrs == [('127.0.0.1', 1702)]


def test_lifetime_stacks_are_not_shared() -> None:
    assert Actor('x', 'y').lifetime_stack is not Actor('x', 'z').lifetime_stack


# -- the modules ----------------------------------------------------------------------------------


def test_exposed_modules_are_imported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'broken_module.py').write_text('def f(:\n', encoding='utf-8')
    with pytest.raises(ModuleNotFoundError):
        Actor('x', 'y', enable_modules=['no_such_module_anywhere'])
    with pytest.raises(SyntaxError):
        Actor('x', 'y', enable_modules=['broken_module'])
    with pytest.raises(TypeError, match='list of module paths'):
        Actor('x', 'y', enable_modules=HERE)  # type: ignore[arg-type]


def test_modules_are_mapped_to_their_files() -> None:
    files = get_mod_nsps2fps([HERE, 'sys'])
    assert files == {HERE: str(Path(__file__).absolute()), 'sys': ''}
    assert Actor('x', 'y', enable_modules=[HERE]).enable_modules == {HERE: files[HERE]}


def test_functions_are_found_in_loaded_modules_only() -> None:
    actor = Actor('x', 'y', enable_modules=[HERE])
    actor._parent_main_data = {}
    with pytest.raises(ModuleNotExposed, match='enable_modules'):
        actor._get_rpc_func(HERE, 'ping')
    actor.load_modules()
    assert actor._get_rpc_func(HERE, 'ping') is ping
    with pytest.raises(AttributeError):
        actor._get_rpc_func(HERE, 'no_such_function')
    with pytest.raises(ModuleNotExposed, match='enable_modules'):
        actor._get_rpc_func('os', 'getpid')


def test_main_module_has_two_names() -> None:
    actor = Actor('x', 'y')
    actor.enable_modules = {'__main__': ''}
    actor._parent_main_data = {}
    actor.load_modules()
    assert actor._mods == {
        '__main__': sys.modules['__main__'],
        '__mp_main__': sys.modules['__main__'],
    }


# -- dialogs --------------------------------------------------------------------------------------


@pytest.fixture
def play(tpt_proto: str, reg_addr: Any) -> Callable[..., None]:
    """Run `main(root, peer)` with a root that exposes this module and a peer connected to it."""
    return functools.partial(play_with_peer, module=HERE, reg_addr=reg_addr, tpt_proto=tpt_proto)


def test_context_is_made_once(play: Callable[..., None]) -> None:
    async def main(root: Actor, peer: RawPeer) -> None:
        chan = (await portal_to(root, peer)).chan
        ctx = root.get_context(chan, 'some-id', 'mod:func')
        assert ctx._rx_chan.max_buffer_size == 64
        assert not ctx._allow_overruns
        same = root.get_context(chan, 'some-id', 'mod:func', msg_buffer_size=3, allow_overruns=True)
        assert same is ctx
        assert ctx._rx_chan.max_buffer_size == 3
        assert ctx._allow_overruns
        assert list(root._contexts.values()) == [ctx]

    play(main)


def test_request_is_split_at_the_first_colon(play: Callable[..., None]) -> None:
    async def main(root: Actor, peer: RawPeer) -> None:
        chan = (await portal_to(root, peer)).chan
        async with trio.open_nursery() as tn:
            call = Calling(
                tn,
                functools.partial(
                    root.start_remote_task, chan, nsf='a.b:c:d', kwargs={'x': 1}, msg_buffer_size=5
                ),
            )
            start = await peer.recv()
            assert start == Start(
                cid=start.cid, ns='a.b', func='c:d', kwargs={'x': 1}, uid=root.aid.uid
            )
            await peer.send(StartAck(cid=start.cid, functype='context'))
            ctx = await call.outcome()
        assert ctx.cid == start.cid
        assert ctx._remote_func_type == 'context'
        assert ctx._rx_chan.max_buffer_size == 5
        assert list(root._contexts.values()) == [ctx]

    play(main)


def test_acceptance_that_does_not_come(play: Callable[..., None]) -> None:
    async def main(root: Actor, peer: RawPeer) -> None:
        portal = await portal_to(root, peer)
        with pytest.raises(trio.TooSlowError):
            await root.start_remote_task(
                portal.chan, nsf='a:b', kwargs={}, portal=portal, ack_timeout=0.02
            )
        start, cancel = await peer.recv(), await peer.recv()
        assert (cancel.ns, cancel.func, cancel.kwargs) == (
            'self',
            '_cancel_task',
            {'cid': start.cid},
        )
        assert root._contexts == {}

    play(main)


def test_refused_request_is_raised(play: Callable[..., None]) -> None:
    async def main(root: Actor, peer: RawPeer) -> None:
        chan = (await portal_to(root, peer)).chan
        async with trio.open_nursery() as tn:
            call = Calling(
                tn, functools.partial(root.start_remote_task, chan, nsf='a:b', kwargs={})
            )
            start = await peer.recv()
            await peer.send(peer.error(start.cid, 'ModuleNotExposed'))
            err = await call.outcome()
        assert err.boxed_type is ModuleNotExposed
        assert root._contexts == {}

    play(main)
