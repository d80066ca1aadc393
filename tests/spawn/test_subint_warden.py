"""end to end: what an actor in a sub-interpreter finds different, and the warden which ends it past its connection."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor._code_load import load_module_from_path
from tractor._testing import run_bounded
from tractor.spawn import _life, _subint, _subint_shims, _subint_warden

backend = load_module_from_path(Path(__file__).with_name('backend_peers.py'))
peers = backend.load('subint_life_peers')
parent = backend.load('subint_parent_peers')
in_subint = backend.in_subint

pytestmark = backend.needs_subint

PEERS = 'subint_life_peers'


def call(options: dict[str, Any], fn: Any, **kwargs: Any) -> Any:
    """Call a function in an actor."""
    results = []

    async def main() -> None:
        async with tractor.open_nursery(**options) as an:
            portal = await an.start_actor('one', enable_modules=[PEERS])
            results.append(await portal.run(fn, **kwargs))
            await an.cancel()

    run_bounded(main, timeout=parent.PATIENCE)
    return results[0]


# --- the warden


def test_terminates_past_its_connection(
    in_subint: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The actor cannot be asked, and need not be killed, neither when it is up nor when it is just coming up."""
    handles = []

    async def cannot_ask(_: Any) -> bool:
        return False

    monkeypatch.setattr(_life, '_ask', cannot_ask)
    monkeypatch.setattr(_subint.SubintHandle, 'terminate_after', parent.PATIENCE)

    async def main() -> None:
        async with tractor.open_nursery(**in_subint) as an:
            for is_up in (True, False, True, False):
                portal = await an.start_actor('one', enable_modules=[PEERS])
                handles.append(parent.child_of(an, portal).proc)
                if is_up:
                    await portal.run(peers.nothing)
            await an.cancel()

    run_bounded(main, timeout=parent.PATIENCE)
    assert [handle.returncode for handle in handles] == [0] * 4
    assert [handle._driver.leak for handle in handles] == [''] * 4


def test_what_a_kill_spares() -> None:
    """Code which the scheduler runs is, what may be stuck is not."""
    spares = _subint_warden._Spared()

    async def task() -> None: ...

    def function() -> None: ...

    assert spares(trio.run.__code__)
    assert spares(trio.sleep_forever.__code__)
    assert spares(threading.Thread.run.__code__)
    assert spares(logging.Handler.handle.__code__)
    assert spares(_subint_warden.Warden.start.__code__)
    assert not spares(task.__code__)
    assert not spares(function.__code__)
    # of this package: the coroutines are not
    assert spares(tractor.Portal.__init__.__code__)
    assert not spares(tractor.Portal.run.__code__)
    assert not spares(pytest.main.__code__)


def test_quiet_without_the_lock_of_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is to be killed may hold it, in another thread."""
    monkeypatch.setattr(sys, 'unraisablehook', sys.unraisablehook)
    monkeypatch.setattr(threading, 'excepthook', threading.excepthook)
    logger = logging.getLogger('subint.warden')
    assert logger.isEnabledFor(logging.CRITICAL)
    quiet = threading.Thread(target=_subint_warden._be_quiet)
    try:
        with logging._lock:  # type: ignore[attr-defined]
            quiet.start()
            quiet.join(parent.PATIENCE)
            assert not quiet.is_alive()
        assert not logger.isEnabledFor(logging.CRITICAL)
    finally:
        logging.disable(logging.NOTSET)
    assert logger.isEnabledFor(logging.CRITICAL)


# --- what is different


def test_sleep_takes_what_the_stock_one_takes(in_subint: dict[str, Any]) -> None:
    said = call(in_subint, peers.sleep_with_bad_arguments)
    assert said == ['ValueError', 'TypeError', 'TypeError', 'ValueError']


@pytest.mark.parametrize(
    ('fn', 'error', 'text'),
    [
        ('chdir', 'RuntimeError', 'belongs to the whole process'),
        ('fork', 'RuntimeError', 'fork'),
        ('daemon_thread', 'RuntimeError', 'daemon threads'),
    ],
)
def test_refused(in_subint: dict[str, Any], fn: str, error: str, text: str) -> None:
    before = os.getcwd()
    kwargs = {'path': '/'} if fn == 'chdir' else {}
    with pytest.raises(tractor.RemoteActorError) as raised:
        call(in_subint, getattr(peers, fn), **kwargs)
    assert raised.value.boxed_type_str == error
    assert text in str(raised.value)
    assert os.getcwd() == before


def test_interrupting_main_is_that_of_the_actor(in_subint: dict[str, Any]) -> None:
    """It ends, and nothing else of the process does."""
    handler = signal.getsignal(signal.SIGINT)
    codes = []

    async def main() -> None:
        async with tractor.open_nursery(**in_subint) as an, trio.open_nursery() as tn:
            portal = await an.start_actor('one', enable_modules=[PEERS])
            handle = parent.child_of(an, portal).proc
            tn.start_soon(parent.Call(portal, peers.interrupt_main).make)
            codes.append(await handle.wait())

    run_bounded(main, timeout=parent.PATIENCE)
    assert codes == [0]
    assert signal.getsignal(signal.SIGINT) is handler


def test_worker_threads_and_exit_functions(in_subint: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / 'text'
    file.write_text('read')
    assert call(in_subint, peers.open_path, path=str(file)) == 'read'
    call(in_subint, peers.at_exit, path=str(file))
    assert file.read_text() == 'done'


def test_the_shims_are_not_for_the_main_interpreter() -> None:
    import time

    assert time.sleep is _subint_shims._real_sleep
    assert os.chdir.__module__ == 'posix'
