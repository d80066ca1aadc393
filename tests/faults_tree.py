"""The actors which `test_faults.py` lets die, and a whole program of them.

Every actor whose name is `<role>.<token>` connects to the test when it imports this module, says
`hello <name> <pid> <interpreter>`, and from then on does what it is told, by a thread, however busy
the actor is. One in the role `boot` does so in the import itself: it comes up when it is told `go`.

| order | what happens | in a sub-interpreter |
|---|---|---|
| `exit` | `os._exit(3)` | its connections break, its event loop fails, its tasks stay where they are |
| `exit_as_failed` | `os._exit(1)`, the code of an actor which told its peers what went wrong | the same |
| `segv` | a read from address 0 | its event loop fails, its tasks stay where they are |
| `ping` | answers `pong` | the same |
| `go` | an actor at its gate goes on; the program finishes in an orderly way | the same |

Those to whom no signal can be sent are told `kill`, `term` and `stop` as well: to be killed as by
their handle, to cancel themselves, to block their event loop.
"""

from __future__ import annotations

import ast
import ctypes
import os
import resource
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import trio

import tractor
from tractor._testing import deaths

EXIT_CODE = 3


def control_path(token: str, folder: str | None = None) -> str:
    """Where the test with this token listens; `folder` is the runtime directory of the actors."""
    return os.path.join(folder or os.environ['XDG_RUNTIME_DIR'], f'ctl-{token}.sock')


class Line:
    """The connection of this process to the test."""

    def __init__(self, name: str) -> None:
        token = name.rpartition('.')[2]
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(control_path(token))
        self._orders = self._sock.makefile()
        pid, interp_id = deaths.where_am_i()
        self.say(f'hello {name} {pid} {interp_id}')

    def say(self, text: str) -> None:
        self._sock.sendall(f'{text}\n'.encode())

    def obey(self, on_go: Callable[[], None] | None = None) -> bool:
        """Follow orders until `go`, or until the test has gone, or something has happened to this actor."""
        for order in map(str.strip, self._orders):
            match order:
                case 'ping':
                    self.say('pong')
                    continue
                case 'go':
                    if on_go is not None:
                        on_go()
                case _:
                    FAULTS[order]()
                    return False
            return True
        return False

    def obey_in_background(self, on_go: Callable[[], None] | None = None) -> None:
        in_process = deaths.is_in_process()
        threading.Thread(target=self.obey, args=(on_go,), daemon=not in_process).start()
        if in_process:
            # it would wait for this thread
            trio.lowlevel.spawn_system_task(self._hang_up_at_the_end)

    async def _hang_up_at_the_end(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)


# --- faults


def crash() -> None:
    """End this process by a segmentation fault, without a core file."""
    if deaths.is_in_process():
        deaths.fail_event_loop()
        return
    import faulthandler

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.disable()
    ctypes.string_at(0)


def in_event_loop(fn: Callable[[], object]) -> None:
    token = tractor.current_actor()._trio_token
    assert token is not None
    token.run_sync_soon(fn)


def stop() -> None:
    """Do nothing any more, and answer to nothing."""
    say('stopped')
    while True:
        pass


def stop_event_loop() -> None:
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        in_event_loop(stop)
    else:
        stop()


FAULTS: dict[str, Callable[[], object]] = {
    'exit': partial(deaths.exit_now, EXIT_CODE),
    'exit_as_failed': partial(deaths.exit_now, 1),
    'segv': crash,
    'kill': deaths.get_killed,
    'term': lambda: in_event_loop(tractor.current_actor().cancel_soon),
    'stop': stop_event_loop,
}


line: Line | None = None


def say(text: str) -> None:
    """Tell the test something; the test's own process has nobody to tell."""
    if line is not None:
        line.say(text)


# --- what is called in the actors


async def ping() -> str:
    return 'pong'


async def park() -> None:
    """Wait for ever, at a checkpoint."""
    say('called')
    await trio.sleep_forever()


async def spin() -> None:
    """Stuck on purpose: nothing but the end of the process stops this."""
    say('called')
    while True:
        pass


@tractor.context
async def parked(ctx: tractor.Context) -> None:
    await ctx.started()
    await park()


@tractor.context
async def streaming(ctx: tractor.Context) -> None:
    await ctx.started()
    async with ctx.open_stream() as stream:
        await stream.send(0)
        await park()


# --- dialogs with a victim


async def be_in(
    phase: str,
    an: tractor.ActorNursery,
    victim: str,
    report: Callable[[str], None],
    resume: trio.Event,
) -> None:
    """
    Start the actor `victim` and be in `phase` with it until that fails.

    Args:
        phase: what this task is doing when something happens.
        an: the nursery of the actor.
        victim: its name.
        report: told `'submitted'` when a one-shot actor has its task, `'idle'` when nothing is going on.
        resume: after `'idle'`, lets the actor be called again.
    """
    if phase == 'one_shot':
        await an.run_in_actor(park, name=victim)
        report('submitted')
        return
    portal = await an.start_actor(victim, enable_modules=[__name__])
    match phase:
        case 'idle':
            await portal.run(ping)
            report('idle')
            await resume.wait()
            await portal.run(ping)
        case 'boot' | 'run':
            await portal.run(park)
        case 'spin':
            await portal.run(spin)
        case 'context':
            async with portal.open_context(parked):
                await trio.sleep_forever()
        case 'stream':
            async with portal.open_context(streaming) as (ctx, _), ctx.open_stream() as stream:
                async for _ in stream:
                    pass


poked = trio.Event()


async def poke() -> None:
    """Let this actor's `drive()` go on."""
    poked.set()


async def drive(phase: str, victim: str) -> None:
    """Be in `phase` with a child of this actor; called again after `poke()` when that was `'idle'`."""
    async with tractor.open_nursery() as an:
        await be_in(phase, an, victim, say, poked)
        if phase == 'idle':
            # all went well; a one-shot actor ends the block by itself
            await an.cancel()


# --- a program of its own


async def main(token: str, phase: str, options: dict[str, Any]) -> None:
    """Root, mid with an idle grandchild, and a child to be in `phase` with; `go` ends it."""
    finish, never = trio.Event(), trio.Event()
    here = trio.lowlevel.current_trio_token()
    program = Line(f'root.{token}')
    program.obey_in_background(lambda: here.run_sync_soon(finish.set))
    role = 'boot' if phase == 'boot' else 'child'

    async with tractor.open_nursery(**options) as an:
        mid = await an.start_actor(f'mid.{token}', enable_modules=[__name__])
        held = trio.Event()

        async def hold_grandchild() -> None:
            await mid.run(drive, phase='idle', victim=f'grandchild.{token}')
            held.set()

        async with trio.open_nursery() as tn:
            tn.start_soon(hold_grandchild)
            tn.start_soon(be_in, phase, an, f'{role}.{token}', program.say, never)
            await finish.wait()
            await mid.run(poke)
            await held.wait()
            program.say('alive')
            tn.cancel_scope.cancel()
        await an.cancel()


def run_program() -> None:
    """The program's entry: its arguments are those of `main()`, as text."""
    token, phase, options = sys.argv[1:]
    trio.run(main, token, phase, ast.literal_eval(options))


actor = tractor.current_actor(err_on_no_runtime=False)
if actor is not None and '.' in actor.name:
    line = Line(actor.name)
    if not actor.name.startswith('boot.') or line.obey():
        line.obey_in_background()
