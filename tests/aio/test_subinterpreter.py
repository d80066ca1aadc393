"""collaboration: guest mode in a sub-interpreter with its own GIL: no signals there, and no daemon threads."""

import sys
import threading
from pathlib import Path

import pytest

import tractor

PACKAGE = Path(tractor.__file__).parent

# interpreters are created and closed one after the other
ONE_AT_A_TIME = threading.Lock()

# The runtime needs extension modules which must be loaded in a special way there; what guest mode itself imports of
# it does not: the package is there without its surface, and the variables of the runtime are a stand-in.
PREPARE = """
import sys, threading, types

class Plain(threading.Thread):
    def __init__(self, *args, daemon=None, **kwargs):
        super().__init__(*args, daemon=False, **kwargs)

from trio._core import _thread_cache
_thread_cache.Thread = Plain
_thread_cache.IDLE_TIMEOUT = 0.01

for name in ('tractor', 'tractor.runtime'):
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = [str(PACKAGE) if name == 'tractor' else str(PACKAGE) + '/runtime']
state = sys.modules['tractor.runtime._state'] = types.ModuleType('tractor.runtime._state')
state._runtime_vars = {'_is_infected_aio': False}
state.current_actor = lambda err_on_no_runtime=True: None
state.is_debug_mode = lambda: False
sys.modules['tractor.runtime']._state = state
"""

PROGRAM = """
import asyncio
import trio
from tractor import to_asyncio

async def echo(chan):
    chan.started_nowait('up')
    try:
        while True:
            chan.send_nowait(await chan.get())
    except to_asyncio.TrioTaskExited:
        ended.append('asyncio')
        raise

async def fail():
    raise KeyError('of asyncio')

async def main():
    async with to_asyncio.open_channel_from(echo) as (chan, first):
        assert first == 'up'
        for n in range(200):
            await chan.send(n)
            assert await chan.receive() == n
        # nothing can run: trio waits in its thread
        await trio.sleep(PAUSE)
    try:
        await to_asyncio.run_task(fail)
    except KeyError:
        ended.append('failed')
    assert len(asyncio.all_tasks()) == 1
    return 'result'

ended = []
PAUSE = 0.01
result = to_asyncio.run_as_asyncio_guest(main)
assert result == 'result', result
assert ended == ['asyncio', 'failed'], ended
"""


def run_in_interpreter(code, errors):
    from concurrent import interpreters

    with ONE_AT_A_TIME:
        interp = interpreters.create()
    try:
        interp.prepare_main(PATH=tuple(sys.path), PACKAGE=str(PACKAGE))
        interp.exec('import sys; sys.path[:] = PATH')
        interp.exec(code)
    except BaseException as err:  # noqa: BLE001 - raised by the test, in its own thread
        errors.append(err)
    finally:
        with ONE_AT_A_TIME:
            interp.close()


@pytest.mark.skipif(sys.version_info < (3, 14), reason='isolated interpreters: Python 3.14')
@pytest.mark.parametrize('where', ['main thread', 'other threads'])
def test_guest_mode_in_a_subinterpreter(where):
    errors = []
    args = (PREPARE + PROGRAM, errors)
    if where == 'main thread':
        run_in_interpreter(*args)
    else:
        threads = [threading.Thread(target=run_in_interpreter, args=args) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
    assert not errors
