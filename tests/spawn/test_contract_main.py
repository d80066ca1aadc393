"""contract: functions of the program's own `__main__` on every backend, whatever the program was started as.

Scripts, modules, packages, `-c` and standard input are in `test_main_scripts.py`; here is the prompt, and what a
program may do with its main module besides.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tractor._code_load import load_module_from_path

backend = load_module_from_path(Path(__file__).with_name('backend_peers.py'))
programs = load_module_from_path(Path(__file__).parents[1] / 'programs.py')

pytestmark = pytest.mark.spawns

each = pytest.mark.parametrize('method', [backend.param(method) for method in backend.METHODS])

HEAD = """
import os, sys
import trio, tractor
from tractor._testing.addr import get_rando_addr

METHOD = {method!r}

def options():
    return {{
        'start_method': METHOD, 'loglevel': 'critical', 'registry_addrs': [get_rando_addr('tcp')]
    }}
"""


@each
def test_the_prompt(tmp_path: Path, method: str) -> None:
    """Functions of modules can be run; those typed in cannot, and the error says why. The prompt goes on."""
    typed = (
        HEAD.format(method=method)
        + """

async def mine():
    return 1

async def main():
    async with tractor.open_nursery(**options()) as an:
        portal = await an.start_actor('kid', enable_modules=['trio'])
        print(await portal.run(trio.sleep, seconds=0))
        await portal.cancel_actor()
        try:
            await an.run_in_actor(mine)
        except TypeError as err:
            print('no file' in str(err), 'mine' in str(err))

trio.run(main)
trio.run(main)
print('prompt')
"""
    )
    out = programs.run('-i', '-q', cwd=tmp_path, stdin=typed, PYTHON_BASIC_REPL='1')
    assert out.splitlines() == ['None', 'True True', 'None', 'True True', 'prompt']


@each
def test_what_the_main_module_imports_and_holds(tmp_path: Path, method: str) -> None:
    """A neighbour, a class used as an argument type, a global changed under the guard, which children do not see."""
    (tmp_path / 'neighbour.py').write_text('import os\nNAME = __name__\n')
    (tmp_path / 'script.py').write_text(
        HEAD.format(method=method)
        + """
import msgspec
import neighbour

STATE = 'fresh'

class Point(msgspec.Struct):
    x: int

async def told() -> list:
    return [__name__, STATE, neighbour.NAME, Point(3).x, os.path.basename(sys.argv[0])]

async def main():
    async with tractor.open_nursery(**options()) as an:
        portal = await an.run_in_actor(told)
        print(*await portal.wait_for_result())
        print(*await tractor.to_actor.run(told, an=an))

if __name__ == '__main__':
    STATE = 'changed'
    trio.run(main)
"""
    )
    out = programs.run('script.py', cwd=tmp_path)
    first, second = out.splitlines()
    assert first == second
    name, *rest = first.split()
    assert name == '__mp_main__'
    assert rest[:3] == ['fresh', 'neighbour', '3']


@each
def test_a_script_without_a_guard(tmp_path: Path, method: str) -> None:
    """Its children run the program again, which is refused there; the caller is told what to do."""
    (tmp_path / 'script.py').write_text(
        HEAD.format(method=method)
        + """
async def mine():
    return 1

async def main():
    async with tractor.open_nursery(**options()) as an:
        portal = await an.run_in_actor(mine)
        await portal.wait_for_result()

trio.run(main)
"""
    )
    with programs.started('script.py', cwd=tmp_path) as proc:
        out, err = proc.communicate(timeout=programs.TIMEOUT)
    assert proc.returncode == 1
    assert out == ''
    assert "if __name__ == '__main__':" in err
    assert 'remaining subinterpreters' not in err


@each
def test_a_main_module_that_fails_to_load(tmp_path: Path, method: str) -> None:
    """The error of the child reaches the caller, who is left with nothing but it."""
    (tmp_path / 'script.py').write_text(
        HEAD.format(method=method)
        + """
if __name__ != '__main__':
    raise LookupError('only here')

async def mine():
    return 1

async def main():
    try:
        async with tractor.open_nursery(**options()) as an:
            await an.run_in_actor(mine)
    except tractor.RemoteActorError as err:
        print('remote', err.boxed_type.__name__, 'only here' in str(err))
    except BaseException as err:
        print(type(err).__name__, err)

trio.run(main)
print('end')
"""
    )
    out = programs.run('script.py', cwd=tmp_path)
    assert out.splitlines()[-1] == 'end'
    assert out.splitlines()[0] == 'remote LookupError True'
