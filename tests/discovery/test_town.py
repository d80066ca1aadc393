"""end to end: independent programs on one host find and call each other while their registrar is killed and restarted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tractor._code_load import load_module_from_path
from tractor._testing import run_bounded
from tractor._testing.addr import get_rando_addr
from tractor.discovery import mk_maddr
from tractor.discovery._addr import wrap_address

programs = sys.modules.get('programs') or load_module_from_path(
    Path(__file__).parents[1] / 'programs.py'
)

PROGRAM = Path(__file__).with_name('townspeople.py')
NAMES = ['anna', 'bert', 'carla', 'dora', 'emil']

# seconds after the return of the registrar within which everybody is registered again
BACK_WITHIN = 2.0

RESTARTS = 2


class Program:
    """One running program, spoken to line by line."""

    def __init__(self, name: str, proc: trio.Process) -> None:
        self.name = name
        self.proc = proc
        self._text = b''

    async def read(self) -> str:
        while b'\n' not in self._text:
            assert self.proc.stdout is not None
            data = await self.proc.stdout.receive_some()
            if not data:
                raise EOFError(f'{self.name} ended')
            self._text += data
        line, _, self._text = self._text.partition(b'\n')
        return line.decode()

    async def tell(self, *words: str) -> str:
        """Say something; its answer."""
        assert self.proc.stdin is not None
        await self.proc.stdin.send_all(' '.join(words).encode() + b'\n')
        return await self.read()

    async def kill(self) -> None:
        self.proc.kill()
        await self.proc.wait()
        await self.close()

    async def end(self) -> int:
        assert self.proc.stdin is not None
        await self.proc.stdin.aclose()
        code = await self.proc.wait()
        await self.close()
        return code

    async def close(self) -> None:
        for stream in (self.proc.stdin, self.proc.stdout):
            assert stream is not None
            await stream.aclose()


class Town:
    """
    A registrar and its neighbours.

    Args:
        transport: of all of them.
    """

    def __init__(self, transport: str, stderr: Any) -> None:
        self.transport = transport
        self.stderr = stderr
        # as text, which is one more form of an address that programs take
        self.address = str(mk_maddr(wrap_address(get_rando_addr(transport))))
        self.running: list[Program] = []

    async def start(self, role: str, name: str) -> Program:
        proc = await trio.lowlevel.open_process(
            [sys.executable, str(PROGRAM), role, name, self.transport, self.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            env=programs.environ(EXPECTED=' '.join(NAMES)),
        )
        program = Program(name, proc)
        self.running.append(program)
        assert await program.read() == 'ready'
        return program

    async def end(self) -> None:
        for program in self.running:
            if program.proc.returncode is None:
                await program.kill()


def text_of(log: Path) -> str:
    return log.read_text(errors='replace')


@asynccontextmanager
async def open_town(transport: str, log: Path) -> AsyncIterator[Town]:
    with log.open('wb') as stderr:
        town = Town(transport, stderr)
        try:
            yield town
        except BaseException as err:
            err.add_note(f'what the programs said:\n{text_of(log)}')
            raise
        finally:
            with trio.CancelScope(shield=True):
                await town.end()


async def everybody(neighbours: list[Program], what: str) -> set[str]:
    """Tell all of them at once to do something with all the others; their answers."""
    answers: set[str] = set()

    async def one(program: Program) -> None:
        others = [name for name in NAMES if name != program.name]
        answers.add(await program.tell(what, *others))

    async with trio.open_nursery() as tn:
        for program in neighbours:
            tn.start_soon(one, program)
    return answers


async def live_through_restarts(town: Town) -> None:
    registrar = await town.start('registrar', 'registrar')
    neighbours = [await town.start('neighbour', name) for name in NAMES]
    assert (await registrar.read()).startswith('complete ')
    assert await everybody(neighbours, 'hold') == {'held'}
    assert await everybody(neighbours, 'visit') == {'visited'}
    for _ in range(RESTARTS):
        await registrar.kill()
        # who is connected does not need it; who asks for it is told that it is away
        assert await everybody(neighbours, 'call') == {'called'}
        assert {answer.split()[0] for answer in await everybody(neighbours, 'miss')} == {'missed'}
        registrar = await town.start('registrar', 'registrar')
        with trio.fail_after(2 * BACK_WITHIN):
            word, seconds = (await registrar.read()).split()
        assert word == 'complete'
        assert float(seconds) < BACK_WITHIN
        assert json.loads(await registrar.tell('list')) == sorted(['registrar', *NAMES])
        assert await everybody(neighbours, 'visit') == {'visited'}
    # one leaves, another comes instead
    assert await neighbours.pop().end() == 0
    assert json.loads(await registrar.tell('list')) == sorted(['registrar', *NAMES[:-1]])
    neighbours.append(await town.start('neighbour', NAMES[-1]))
    assert await everybody(neighbours, 'visit') == {'visited'}
    for program in neighbours:
        assert await program.end() == 0
    assert json.loads(await registrar.tell('list')) == ['registrar']
    assert await registrar.end() == 0


@pytest.mark.parametrize('transport', ['tcp', 'uds'])
def test_town(transport: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with open_town(transport, tmp_path / 'stderr') as town:
            await live_through_restarts(town)

    run_bounded(main, timeout=60)
