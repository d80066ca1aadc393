"""end to end: wrong arguments: a clear error to whoever gave them, and everything else unharmed."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor._code_load import load_module_from_path
from tractor._exceptions import ActorFailure, ModuleNotExposed, MsgTypeError
from tractor._testing import run_bounded, tractor_test
from tractor.spawn import _spawn

pytestmark = pytest.mark.spawns

# under the name by which the actors import it
supervised = sys.modules.get('supervised') or load_module_from_path(
    Path(__file__).with_name('supervised.py')
)

HERE = ['supervised']
MODULE = 'bad_module_of_the_tests'


class Bystander:
    """A nursery with an actor which must not notice anything."""

    def __init__(self, an: tractor.ActorNursery, portal: tractor.Portal) -> None:
        self.an = an
        self._portal = portal

    async def check(self) -> None:
        assert await self._portal.run(supervised.give, value='fine') == 'fine'
        assert list(self.an._children) == [self._portal.chan.aid.uid]
        assert self.an.errors == {}
        assert not self.an.cancel_called
        assert not self.an._starting


@pytest.fixture
def with_bystander(start_method: str, tpt_proto: str, reg_addr: Any) -> Any:
    """Run an async function beside an actor that must stay unharmed."""

    def run(test: Any) -> None:
        async def main() -> None:
            async with tractor.open_nursery(
                start_method=start_method,
                enable_transports=[tpt_proto],
                registry_addrs=[reg_addr],
                loglevel='critical',
            ) as an:
                bystander = Bystander(an, await an.start_actor('by', enable_modules=HERE))
                await test(an)
                await bystander.check()
                await an.cancel()

        run_bounded(main)

    return run


# --- what is refused before anything is started


async def a_generator() -> AsyncIterator[int]:
    yield 1


@tractor.stream
async def a_stream(stream: Any) -> None: ...


def not_async() -> None: ...


async def outer() -> Any:
    async def inner() -> None: ...

    return inner


class Thing:
    async def method(self) -> None: ...


NO_TARGETS: dict[str, Any] = {
    'a function that is not async': not_async,
    'an async generator': a_generator,
    'a stream function': a_stream,
    'a partial': functools.partial(supervised.give, value=1),
    'a method': Thing().method,
    'a class': Thing,
    'a string': 'supervised:give',
    'None': None,
}


@pytest.mark.parametrize('fn', NO_TARGETS.values(), ids=NO_TARGETS.keys())
def test_no_function_to_run(with_bystander: Any, fn: Any) -> None:
    async def test(an: tractor.ActorNursery) -> None:
        with pytest.raises(TypeError) as caught:
            await an.run_in_actor(fn)
        assert repr(fn) in str(caught.value)

    with_bystander(test)


def test_a_local_function(with_bystander: Any) -> None:
    async def test(an: tractor.ActorNursery) -> None:
        with pytest.raises(TypeError, match='top level of a module'):
            await an.run_in_actor(await outer())

    with_bystander(test)


@pytest.mark.parametrize('call', ['start_actor', 'run_in_actor'])
def test_an_unknown_start_method(with_bystander: Any, call: str) -> None:
    async def test(an: tractor.ActorNursery) -> None:
        target = 'kid' if call == 'start_actor' else supervised.nothing
        with pytest.raises(ValueError) as caught:
            await getattr(an, call)(target, start_method='fork')
        assert "'fork'" in str(caught.value)
        for key in _spawn._methods:
            assert key in str(caught.value)

    with_bystander(test)


def test_unknown_start_method_of_the_process() -> None:
    before = _spawn._spawn_method, _spawn._ctx
    with pytest.raises(ValueError, match='mp_forkserver'):
        _spawn.try_set_start_method('thread')
    assert (_spawn._spawn_method, _spawn._ctx) == before


def test_a_string_of_modules(with_bystander: Any) -> None:
    async def test(an: tractor.ActorNursery) -> None:
        with pytest.raises(TypeError, match='supervised'):
            await an.start_actor('kid', enable_modules='supervised')  # type: ignore[arg-type]
        with pytest.raises(TypeError, match='supervised'):
            await an.run_in_actor(
                supervised.nothing,
                enable_modules='supervised',  # type: ignore[arg-type]
            )

    with_bystander(test)


@contextmanager
def module_file(folder: Path, text: str) -> Iterator[None]:
    """A module named `MODULE` which can be imported here."""
    (folder / f'{MODULE}.py').write_text(text)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(MODULE, None)


@pytest.mark.parametrize(
    ('text', 'error'),
    [
        (None, ModuleNotFoundError),
        ('import no.such.thing', ModuleNotFoundError),
        ('def broken(', SyntaxError),
        ('1 / 0', ZeroDivisionError),
    ],
)
def test_a_module_that_cannot_be_imported_here(
    with_bystander: Any, tmp_path: Path, text: str | None, error: type[Exception]
) -> None:
    async def test(an: tractor.ActorNursery) -> None:
        with pytest.raises(error):
            await an.start_actor('kid', enable_modules=[MODULE])

    if text is None:
        with_bystander(test)
        return
    with module_file(tmp_path, text):
        with_bystander(test)


# --- what the child finds out


@pytest.mark.parametrize(
    ('statement', 'error'),
    [
        ('import no.such.thing', ModuleNotFoundError),
        ('raise ValueError("not here")', ValueError),
    ],
)
def test_a_module_that_cannot_be_imported_there(
    with_bystander: Any, tmp_path: Path, statement: str, error: type[Exception]
) -> None:
    text = f"""
import tractor
if not tractor.is_root_process():
    {statement}
async def hello(): ...
"""

    async def test(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('kid', enable_modules=[MODULE])
        child = an._children[portal.chan.aid.uid]
        with pytest.raises(tractor.RemoteActorError) as caught:
            await portal.run_from_ns(MODULE, 'hello')
        assert caught.value.boxed_type is error
        await child.gone.wait()
        assert child.returncode == 1

    with module_file(tmp_path, text):
        with_bystander(test)


def test_an_address_that_is_taken(with_bystander: Any, tpt_proto: str) -> None:
    async def test(an: tractor.ActorNursery) -> None:
        taken = tractor.current_actor().accept_addr
        portal = await an.start_actor('kid', enable_modules=HERE, bind_addrs=[taken])
        child = an._children[portal.chan.aid.uid]
        with pytest.raises(tractor.RemoteActorError) as caught:
            await portal.run(supervised.nothing)
        assert issubclass(caught.value.boxed_type, OSError)
        await child.gone.wait()

    with_bystander(test)


def test_arguments_that_do_not_fit(with_bystander: Any) -> None:
    async def test(an: tractor.ActorNursery) -> None:
        with pytest.raises(tractor.RemoteActorError) as caught:
            await an.run_in_actor(supervised.give, no_such=1)
        assert caught.value.boxed_type is TypeError
        assert 'no_such' in caught.value.tb_str
        portal = await an.start_actor('kid', enable_modules=HERE)
        for kwargs in ({}, {'no_such': 1}, {'value': 1, 'more': 2}):
            with pytest.raises(tractor.RemoteActorError) as caught:
                await portal.run(supervised.give, **kwargs)
            assert caught.value.boxed_type is TypeError
        assert await portal.run(supervised.give, value=1) == 1
        await end(an, portal)

    with_bystander(test)


def test_arguments_that_cannot_be_sent(with_bystander: Any) -> None:
    async def test(an: tractor.ActorNursery) -> None:
        with pytest.raises(MsgTypeError):
            await an.run_in_actor(supervised.give, value=object())
        portal = await an.start_actor('kid', enable_modules=HERE)
        with pytest.raises(MsgTypeError):
            await portal.run(supervised.give, value=object())
        assert await portal.run(supervised.give, value=1) == 1
        await end(an, portal)

    with_bystander(test)


def test_functions_that_are_not_there(with_bystander: Any) -> None:
    async def test(an: tractor.ActorNursery) -> None:
        portal = await an.start_actor('bare')
        with pytest.raises(tractor.RemoteActorError) as caught:
            await portal.run(supervised.nothing)
        assert caught.value.boxed_type is ModuleNotExposed
        assert "enable_modules=['supervised']" in caught.value.tb_str
        await end(an, portal)

        portal = await an.start_actor('kid', enable_modules=HERE)
        with pytest.raises(tractor.RemoteActorError) as caught:
            await portal.run_from_ns('supervised', 'no_such_function')
        assert caught.value.boxed_type is AttributeError
        with pytest.raises(tractor.RemoteActorError) as caught:
            await portal.run_from_ns('supervised', '_left_behind')
        assert caught.value.boxed_type is TypeError
        assert await portal.run(supervised.give, value=1) == 1
        await end(an, portal)

    with_bystander(test)


async def end(an: tractor.ActorNursery, portal: tractor.Portal) -> None:
    child = an._children[portal.chan.aid.uid]
    assert await portal.cancel_actor()
    await child.gone.wait()


# --- children that are never up


def dies_of(tmp_path: Path, text: str) -> dict[str, Any]:
    """`proc_kwargs` under which a fresh interpreter runs `text` first."""
    (tmp_path / 'sitecustomize.py').write_text(text)
    return {'env': {**os.environ, 'PYTHONPATH': f'{tmp_path}:{os.environ.get("PYTHONPATH", "")}'}}


@pytest.mark.parametrize(
    ('text', 'how'),
    [
        ('import os; os._exit(7)', 'exited with code 7'),
        ('import os; os.kill(os.getpid(), 9)', 'was killed by SIGKILL'),
        ('import sys; sys.modules["trio"] = None', 'exited with code 1'),
    ],
)
def test_a_child_that_dies_before_it_connects(
    with_bystander: Any, tmp_path: Path, text: str, how: str
) -> None:
    proc_kwargs = dies_of(tmp_path, text) | {'stderr': subprocess.DEVNULL}

    async def test(an: tractor.ActorNursery) -> None:
        begin = trio.current_time()
        with pytest.raises(ActorFailure, match=how) as caught:
            await an.start_actor('kid', start_method='trio', proc_kwargs=proc_kwargs)
        assert trio.current_time() - begin < 3
        assert 'kid@' in str(caught.value)
        with pytest.raises(ActorFailure, match=how):
            await an.run_in_actor(supervised.nothing, start_method='trio', proc_kwargs=proc_kwargs)

    with_bystander(test)


def test_its_death_is_told_at_once(with_bystander: Any, tmp_path: Path) -> None:
    fifo = tmp_path / 'go'
    kwargs = dies_of(tmp_path, f'import os; open({str(fifo)!r}).read(); os._exit(7)')
    subprocess.run(['mkfifo', str(fifo)], check=True)

    async def test(an: tractor.ActorNursery) -> None:
        times = []

        async def start() -> None:
            with pytest.raises(ActorFailure, match='exited with code 7'):
                await an.start_actor('kid', start_method='trio', proc_kwargs=kwargs)
            times.append(trio.current_time())

        async with trio.open_nursery() as tn:
            tn.start_soon(start)
            # waits until the child has opened the other end
            fd = await trio.to_thread.run_sync(os.open, fifo, os.O_WRONLY)
            times.append(trio.current_time())
            os.close(fd)
        assert times[1] - times[0] < 1

    with_bystander(test)


def test_a_process_that_cannot_be_started(with_bystander: Any, tmp_path: Path) -> None:
    async def test(an: tractor.ActorNursery) -> None:
        for kwargs in ({'cwd': tmp_path / 'nowhere'}, {'executable': str(tmp_path / 'nothing')}):
            with pytest.raises(FileNotFoundError):
                await an.start_actor('kid', start_method='trio', proc_kwargs=kwargs)
        with pytest.raises(TypeError):
            await an.start_actor('kid', start_method='trio', proc_kwargs={'no_such': 1})

    with_bystander(test)


@tractor_test
async def test_the_registrar_is_unharmed_by_strangers(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    if tpt_proto != 'tcp':
        pytest.skip('speaks TCP')
    async with tractor.open_nursery() as an:
        with socket.create_connection(reg_addr) as stranger:
            stranger.sendall(b'GET / HTTP/1.0\r\n\r\n')
            portal = await an.run_in_actor(supervised.give, value=1)
            assert await portal.wait_for_result() == 1
