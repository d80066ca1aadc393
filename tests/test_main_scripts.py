"""end to end: functions of a user's main module run in children, however the program is started."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from tractor._code_load import load_module_from_path
from tractor.spawn import _spawn

pytestmark = pytest.mark.spawns

programs = load_module_from_path(Path(__file__).with_name('programs.py'))

METHODS = get_args(_spawn.SpawnMethodKey)

# prints where each level's function was found, and that the guard keeps children from running it
PROGRAM = """
import os, sys
import trio, tractor
from tractor._testing.addr import get_rando_addr
{imports}

STATE = 'set by the module itself'


class Box:
    value = 'of the class'


async def where(depth: int) -> list:
    here = [where.__module__, STATE, Box.value, getattr(sys.modules['__main__'], 'STATE', '-')]
    if not depth:
        return [here]
    async with tractor.open_nursery() as an:
        portal = await an.run_in_actor(where, depth=depth - 1)
        return [here, *await portal.wait_for_result()]


@tractor.context
async def echo(ctx: tractor.Context) -> None:
    await ctx.started(STATE)
    async with ctx.open_stream() as stream:
        async for item in stream:
            await stream.send(item)


async def main() -> None:
    async with tractor.open_nursery(
        start_method=sys.argv[1], loglevel='error', registry_addrs=[get_rando_addr('tcp')]
    ) as an:
        for line in await where(2):
            print(*line, sep='|')
        portal = await an.start_actor('kid', enable_modules=[__name__])
        async with portal.open_context(echo) as (ctx, first), ctx.open_stream() as stream:
            await stream.send(1)
            print(first, await stream.receive(), sep='|')
        await portal.cancel_actor()


if __name__ == '__main__':
    trio.run(main)
    print('end')
"""

EXPECTED = [
    '__main__|set by the module itself|of the class|set by the module itself',
    '__mp_main__|set by the module itself|of the class|set by the module itself',
    '__mp_main__|set by the module itself|of the class|set by the module itself',
    'set by the module itself|1',
    'end',
]


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    try:
        return str(_spawn.check_method(request.param))
    except RuntimeError as err:
        pytest.skip(str(err))


def program(imports: str = '') -> str:
    return PROGRAM.replace('{imports}', imports)


def test_a_script(tmp_path: Path, method: str) -> None:
    (tmp_path / 'script.py').write_text(program())
    assert programs.run('script.py', method, cwd=tmp_path).splitlines() == EXPECTED


def test_a_script_started_from_elsewhere(tmp_path: Path, method: str) -> None:
    """It imports a neighbour, which its children find too."""
    folder = tmp_path / 'a folder'
    folder.mkdir()
    (folder / 'neighbour.py').write_text('')
    (folder / 'script.py').write_text(program('import neighbour'))
    assert programs.run('a folder/script.py', method, cwd=tmp_path).splitlines() == EXPECTED


def test_a_script_that_changes_its_directory(tmp_path: Path, method: str) -> None:
    (tmp_path / 'script.py').write_text(program("os.chdir('/')"))
    assert programs.run('script.py', method, cwd=tmp_path).splitlines() == EXPECTED


def test_a_module_of_a_package(tmp_path: Path, method: str) -> None:
    package = tmp_path / 'pkg'
    package.mkdir()
    (package / '__init__.py').write_text('')
    (package / 'neighbour.py').write_text('')
    (package / 'mod.py').write_text(program('from . import neighbour'))
    assert programs.run('-m', 'pkg.mod', method, cwd=tmp_path).splitlines() == EXPECTED


def test_a_package_with_a_main_module(tmp_path: Path, method: str) -> None:
    """A `__main__.py` is not replayed; what it imports from its package works."""
    package = tmp_path / 'pkg'
    package.mkdir()
    (package / '__init__.py').write_text('')
    (package / 'app.py').write_text(program())
    (package / '__main__.py').write_text('import trio\nfrom pkg.app import main\ntrio.run(main)\n')
    assert programs.run('-m', 'pkg', method, cwd=tmp_path).splitlines() == [
        *['pkg.app|set by the module itself|of the class|-'] * 3,
        'set by the module itself|1',
    ]


def test_a_function_of_a_package_main_is_refused(tmp_path: Path, method: str) -> None:
    package = tmp_path / 'pkg'
    package.mkdir()
    (package / '__init__.py').write_text('')
    (package / '__main__.py').write_text(no_file(method))
    _, kind, *message = programs.run('-m', 'pkg', cwd=tmp_path).splitlines()
    assert kind == 'TypeError'
    assert '__main__.py' in '\n'.join(message)


# --- without a file


def no_file(method: str) -> str:
    """A program that says what its own function and an importable one come to."""
    return f"""
import trio, tractor
from tractor._testing.addr import get_rando_addr
async def mine(): return 1
async def main():
    async with tractor.open_nursery(
        start_method={method!r}, loglevel='critical', registry_addrs=[get_rando_addr('tcp')]
    ) as an:
        portal = await an.start_actor('kid', enable_modules=['trio'])
        print(await portal.run(trio.sleep, seconds=0))
        await portal.cancel_actor()
        try:
            await an.run_in_actor(mine)
        except BaseException as err:
            print(type(err).__name__)
            print(err)
trio.run(main)
"""


@pytest.mark.parametrize('how', ['-c', 'stdin'])
def test_a_program_without_a_file(tmp_path: Path, method: str, how: str) -> None:
    """Modules can be used; its own functions cannot, and the error says why."""
    text = no_file(method)
    if how == '-c':
        out = programs.run('-c', text, cwd=tmp_path)
    else:
        out = programs.run('-', cwd=tmp_path, stdin=text)
    done, kind, *message = out.splitlines()
    assert done == 'None'
    assert kind == 'TypeError'
    assert 'no file' in '\n'.join(message)
