"""What the tests of handles, wardens and spares run in actors."""

# blocking is what is tested
# ruff: noqa: ASYNC251

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import trio

import tractor
from tractor.runtime import _state

LONG = 1000.0


async def nothing() -> None:
    """Return at once."""


async def whoami() -> dict[str, Any]:
    return {
        'interp_id': _state.current_interp_id(),
        'pid': os.getpid(),
        'argv': list(sys.argv),
        'environ': os.environ.get('SUBINT_LIFE_PEERS'),
        'seen': getattr(sys, 'subint_life_peers_was_here', None),
    }


async def leave_a_mark() -> None:
    """Change what lives as long as the interpreter."""
    sys.subint_life_peers_was_here = True  # type: ignore[attr-defined]


async def forever() -> None:
    await trio.sleep_forever()


async def crash() -> NoReturn:
    """End the runtime by an error of its own."""
    trio.lowlevel.spawn_system_task(_raise)
    await trio.sleep_forever()


async def _raise() -> NoReturn:
    raise ValueError('as asked')


async def sleep_with_bad_arguments() -> list[str]:
    """What `time.sleep()` says, which is not the stock one here."""  # stuck on purpose
    said = []
    for value in (-1, 'x', None, float('nan')):
        try:
            time.sleep(value)  # type: ignore[arg-type]
        except (ValueError, TypeError) as err:
            said.append(type(err).__name__)
    time.sleep(0)  # stuck on purpose
    return said


async def chdir(path: str) -> None:
    os.chdir(path)


async def fork() -> None:
    os.fork()


async def daemon_thread() -> None:
    threading.Thread(target=time.sleep, args=(0,), daemon=True).start()


async def interrupt_main() -> None:
    import _thread

    _thread.interrupt_main()
    await trio.sleep_forever()


async def open_path(path: str) -> str:
    """By trio's worker threads."""
    return await trio.Path(path).read_text()


async def at_exit(path: str) -> None:
    import atexit

    atexit.register(Path(path).write_text, 'done')


async def start_one(method: str) -> dict[str, Any]:
    """An actor below this one, which starts its own spares, or none."""
    from tractor.spawn import _subint_spares

    async with tractor.open_nursery() as an:
        portal = await an.start_actor('below', enable_modules=[__name__], start_method=method)
        facts: dict[str, Any] = await portal.run(whoami)
        facts['spares'] = len(_subint_spares.drivers())
        await portal.cancel_actor()
    return facts
