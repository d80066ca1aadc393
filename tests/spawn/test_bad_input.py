"""end to end: sub-interpreters where they cannot work, or can just work: old Pythons, no memory files, no descriptors."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tractor
from tractor._code_load import load_module_from_path
from tractor._testing import run_bounded
from tractor.spawn import _spawn, _subint, _subint_spares

backend = load_module_from_path(Path(__file__).with_name('backend_peers.py'))
peers = backend.load('rough_peers')
programs = load_module_from_path(Path(__file__).parents[1] / 'programs.py')

pytestmark = pytest.mark.spawns

HERE = ['rough_peers']
Run = Callable[..., tractor.ActorNursery]
Options = dict[str, Any]


# --- a Python that is too old


@pytest.fixture(params=[(3, 12, 11), (3, 13, 5)], ids=['3.12', '3.13'])
def old_python(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The version of a Python that is too old; so is this one, for the test."""
    version = (*request.param, 'final', 0)
    monkeypatch.setattr(_subint, 'sys', SimpleNamespace(version_info=version))
    # whoever starts one nevertheless fails
    monkeypatch.setattr(_subint, 'start', None)
    return '.'.join(map(str, request.param))


def check_refusal(err: BaseException, version: str) -> None:
    assert type(err) is RuntimeError
    assert "'subint' needs CPython 3.14 or newer" in str(err)
    assert f'this is {version}' in str(err)
    assert "use 'trio'" in str(err)


def test_choosing_it(old_python: str) -> None:
    before = _spawn._spawn_method, _spawn._ctx
    for choose in (_spawn.try_set_start_method, _spawn.check_method):
        with pytest.raises(RuntimeError) as info:
            choose('subint')
        check_refusal(info.value, old_python)
    assert (_spawn._spawn_method, _spawn._ctx) == before


@pytest.mark.parametrize('opener', [tractor.open_nursery, tractor.open_root_actor])
@pytest.mark.parametrize('how', ['argument', 'environment'])
def test_a_runtime_with_it(
    old_python: str, options: Options, opener: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options['start_method'] = 'trio' if how == 'environment' else 'subint'
    if how == 'environment':
        monkeypatch.setenv('TRACTOR_SPAWN_METHOD', 'subint')

    async def main() -> None:
        async with opener(**options):
            raise AssertionError('it was opened')

    with pytest.raises(RuntimeError) as info:
        run_bounded(main)
    check_refusal(info.value, old_python)
    assert tractor.current_actor(err_on_no_runtime=False) is None


def test_a_child_with_it(old_python: str, options: Options) -> None:
    """Nothing is started, and the nursery goes on."""
    options['start_method'] = 'trio'

    async def main() -> None:
        async with tractor.open_nursery(**options) as an:
            for start in (
                lambda: an.start_actor('kid', start_method='subint'),
                lambda: an.run_in_actor(peers.give, value=1, start_method='subint'),
                lambda: tractor.to_actor.run(peers.give, 1, an=an, start_method='subint'),
            ):
                check_refusal(await backend.failure_of(start), old_python)
                assert an._children == {}
            portal = await an.run_in_actor(peers.give, value=1)
            assert await portal.wait_for_result() == 1

    run_bounded(main)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason='for a real old Python')
def test_this_python_is_too_old() -> None:
    with pytest.raises(RuntimeError) as info:
        _spawn.try_set_start_method('subint')
    check_refusal(info.value, '.'.join(map(str, sys.version_info[:3])))


# --- no files in memory


def no_call(*_: Any) -> int:
    raise OSError(38, os.strerror(38))


@backend.on_subint
@pytest.mark.parametrize('how', ['refused', 'absent'])
def test_no_memory_files(
    options: Options, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files in the temporary directory do as well, and are gone as soon as they have been loaded."""
    if how == 'refused':
        monkeypatch.setattr(os, 'memfd_create', no_call)
    else:
        monkeypatch.delattr(os, 'memfd_create')
    made: list[Path] = []
    real = tempfile.mkstemp

    def mkstemp(*args: Any, **kwargs: Any) -> Any:
        fd, name = real(*args, dir=str(tmp_path), **kwargs)
        made.append(Path(name))
        return fd, name

    monkeypatch.setattr(tempfile, 'mkstemp', mkstemp)

    async def main() -> Any:
        async with tractor.open_nursery(**options) as an:
            portal = await an.start_actor('kid', enable_modules=HERE)
            assert await portal.run(peers.give, value=[1]) == [1]
            driver = an._children[portal.chan.aid.uid].proc._driver
            await an.cancel()
        return driver

    driver = run_bounded(main)
    assert made
    assert list(tmp_path.iterdir()) == []
    # the memory of the interpreter was given back as ever
    assert driver.leak == ''


@backend.on_subint
def test_no_room_for_a_temporary_file(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, 'memfd_create')
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'none'))

    async def main() -> None:
        async with tractor.open_nursery(**options) as an:
            err = await backend.failure_of(an.start_actor, 'kid')
            assert isinstance(err, OSError)
            assert str(tmp_path / 'none') in str(err)
            assert an._children == {}

    run_bounded(main)


# --- no file descriptors

FEW_DESCRIPTORS = """
import errno, os, resource, threading
import trio, tractor
import _interpreters
from tractor._testing.addr import get_rando_addr

SOFT, HARD = resource.getrlimit(resource.RLIMIT_NOFILE)

def counts():
    fds = [fd for fd in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{fd}')]
    return len(fds), threading.active_count(), len(_interpreters.list_all())

async def one(an):
    portal = await an.start_actor('kid')
    child = an._children[portal.chan.aid.uid]
    await portal.cancel_actor()
    await child.gone.wait()

async def main():
    failed = worked = 0
    async with tractor.open_nursery(
        start_method='subint', loglevel='critical', registry_addrs=[get_rando_addr('tcp')]
    ) as an:
        server = tractor.current_actor().ipc_server
        await one(an)
        await server.wait_for_no_more_peers()
        before = counts()
        for limit in range(before[0], before[0] + 100):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, HARD))
            try:
                with trio.fail_after(20):
                    await one(an)
            except OSError as err:
                assert err.errno == errno.EMFILE, err
                assert 'file descriptors' in str(err), err
                assert not worked, (limit, err)
                failed += 1
            else:
                worked += 1
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT, HARD))
            await server.wait_for_no_more_peers()
            assert an._children == {}
            assert counts() == before, (limit, counts(), before)
            if worked == 5:
                break
    assert failed > 5, failed
    assert worked == 5

if __name__ == '__main__':
    trio.run(main)
    print('end')
"""


@backend.on_subint
def test_no_file_descriptors(start_method: str, tmp_path: Path) -> None:
    """With whatever number is left: it starts, or there is one error about just that and nothing more is used up."""
    (tmp_path / 'program.py').write_text(FEW_DESCRIPTORS)
    out = programs.run('program.py', cwd=tmp_path, TRACTOR_SUBINT_SPARES='0')
    assert out == 'end\n'


# --- spares


@backend.on_subint
@pytest.mark.parametrize('value', ['many', '-1', '1.5', ''])
def test_a_bad_number_of_spares(
    options: Options, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before anything is started, whatever it is set to then."""
    numbers = backend.counts()

    async def main() -> None:
        async with tractor.open_nursery(**options) as an:
            monkeypatch.setenv(_subint_spares.COUNT_VAR, value)
            err = await backend.failure_of(an.start_actor, 'kid', enable_modules=HERE)
            assert type(err) is ValueError
            assert f'{_subint_spares.COUNT_VAR}={value!r}' in str(err)
            assert an._children == {}
            assert backend.counts()['interpreters'] == numbers['interpreters']
            monkeypatch.setenv(_subint_spares.COUNT_VAR, '0')
            portal = await an.start_actor('kid', enable_modules=HERE)
            assert await portal.run(peers.give, value=1) == 1
            await an.cancel()

    run_bounded(main)


@backend.on_subint
@pytest.mark.parametrize('count', [0, 1, 3])
def test_a_good_number_of_spares(
    options: Options, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are so many after a spawn, and none after the runtime."""
    monkeypatch.setenv(_subint_spares.COUNT_VAR, str(count))

    async def main() -> None:
        async with tractor.open_nursery(**options) as an:
            for _ in range(3):
                portal = await an.start_actor('kid', enable_modules=HERE)
                assert await portal.run(peers.give, value=1) == 1
                assert len(_subint_spares.drivers()) == count
                await portal.cancel_actor()

    run_bounded(main)
    assert backend.interpreters() == set()
