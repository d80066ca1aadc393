"""end to end: an actor dies, or is stopped, at a bad moment: the survivors are told, nothing stays.

Every combination of what happens, to whom and when. Whatever is waited for is a message, an exit
or an error; each within `WITHIN` seconds of the fault. See `faults_tree.py` for the actors.
"""

from __future__ import annotations

import os
import random
import secrets
import select
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor._code_load import load_module_from_path
from tractor._exceptions import ActorFailure
from tractor._testing import run_bounded

pytestmark = pytest.mark.spawns

WITHIN = 3.0

# under the name by which the actors import it
faults_tree = sys.modules.get('faults_tree') or load_module_from_path(
    Path(__file__).with_name('faults_tree.py')
)

SIGNALS = {'kill': signal.SIGKILL, 'term': signal.SIGTERM, 'stop': signal.SIGSTOP}
DEADLY = ('kill', 'term', 'exit', 'segv')
FAULTS = (*DEADLY, 'stop')
PHASES = ('boot', 'idle', 'run', 'context', 'stream', 'one_shot')
VICTIMS = ('child', 'grandchild', 'parent')
NAMED = (tractor.TransportClosed, ActorFailure, tractor.RemoteActorError)

SEED = int(os.environ.get('TRACTOR_FAULTS_SEED') or random.randrange(1 << 32))
REPETITIONS = 30

Options = dict[str, Any]


@pytest.fixture
def options(start_method: str, tpt_proto: str, reg_addr: Any) -> Options:
    """For `open_nursery()`."""
    return {
        'start_method': start_method,
        'enable_transports': [tpt_proto],
        'registry_addrs': [reg_addr],
        'loglevel': 'critical',
    }


# --- the other end of the actors' lines


class Peer:
    """One actor as the test sees it: what it has said, and whether its process is there."""

    def __init__(self, pid: int, stream: trio.SocketStream) -> None:
        self.pid = pid
        self.said: set[str] = set()
        self._stream = stream
        self._pidfd = os.pidfd_open(pid)

    def close(self) -> None:
        os.close(self._pidfd)

    async def order(self, text: str) -> None:
        await self._stream.send_all(f'{text}\n'.encode())

    async def suffer(self, fault: str) -> None:
        """Let the fault happen to it, now."""
        if (signum := SIGNALS.get(fault)) is not None:
            signal.pidfd_send_signal(self._pidfd, signum)
        else:
            await self.order(fault)

    @property
    def gone(self) -> bool:
        return bool(select.select([self._pidfd], [], [], 0)[0])

    async def wait_gone(self) -> None:
        await trio.lowlevel.wait_readable(self._pidfd)


class Control:
    """Where the actors of one test connect to."""

    def __init__(self) -> None:
        self.peers: dict[str, Peer] = {}
        self._news = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        peer: Peer | None = None
        text = b''
        while data := await self._receive(stream):
            *lines, text = (text + data).split(b'\n')
            for line in map(bytes.decode, lines):
                if line.startswith('hello '):
                    _, name, pid = line.split()
                    peer = self.peers[name] = Peer(int(pid), stream)
                else:
                    assert peer is not None
                    peer.said.add(line)
                self._tell()

    async def _receive(self, stream: trio.SocketStream) -> bytes:
        try:
            return bytes(await stream.receive_some())
        except trio.BrokenResourceError:
            return b''

    def _tell(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()

    async def until(self, ready: Callable[[], bool]) -> None:
        while not ready():
            await self._news.wait()

    async def peer(self, name: str, *words: str) -> Peer:
        """Wait until this actor has connected and said all of these words."""
        await self.until(lambda: name in self.peers and self.peers[name].said.issuperset(words))
        return self.peers[name]

    async def all_gone(self) -> None:
        for peer in self.peers.values():
            await peer.wait_gone()


@asynccontextmanager
async def open_control(token: str) -> AsyncIterator[Control]:
    path = faults_tree.control_path(token)
    control = Control()
    with trio.socket.socket(trio.socket.AF_UNIX) as sock:
        await sock.bind(path)
        sock.listen()
        async with trio.open_nursery() as tn:
            serve = partial(trio.serve_listeners, control.serve, [trio.SocketListener(sock)])
            await tn.start(serve)
            try:
                yield control
            finally:
                tn.cancel_scope.cancel()
                os.unlink(path)
                for peer in control.peers.values():
                    peer.close()


def victim_name(role: str, phase: str, token: str) -> str:
    return f'{"boot" if phase == "boot" else role}.{token}'


def said_in(phase: str, reporter: str, victim: str) -> tuple[str, tuple[str, ...]]:
    """Who says what when `be_in()` has come to this phase."""
    if phase == 'boot':
        return victim, ()
    return (reporter, ('idle',)) if phase == 'idle' else (victim, ('called',))


# --- the three victims


class Survivor:
    """The test's own actor as the root of the tree: what it has to go through, what it gets."""

    def __init__(self, control: Control, token: str, fault: str, phase: str) -> None:
        self.control = control
        self.token = token
        self.fault = fault
        self.phase = phase
        self.scope = trio.CancelScope()
        self.happened = trio.Event()
        self.idle = trio.Event()
        self.an: Any = None
        self.mid: Any = None

    async def wait_idle(self) -> None:
        self.idle.set()
        await self.happened.wait()

    async def inflict(self, victim: str, reporter: str = '', turns: int = 0) -> None:
        """Let it happen when the phase is reached; `turns` scheduler turns later."""
        if self.phase == 'idle' and not reporter:
            await self.idle.wait()
            peer = await self.control.peer(victim)
        else:
            who, words = said_in(self.phase, reporter, victim)
            await self.control.peer(who, *words)
            peer = await self.control.peer(victim)
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        self.scope.deadline = trio.current_time() + WITHIN
        await peer.suffer(self.fault)
        if self.fault == 'stop':
            await self.an.cancel()
        else:
            await peer.wait_gone()
        self.happened.set()
        if self.phase == 'idle' and self.mid is not None and self.fault != 'stop':
            await self.mid.run(faults_tree.poke)


async def lose_child(fault: str, phase: str, options: Options, turns: int = 0) -> None:
    """A child of the test's own actor."""
    token = secrets.token_hex(4)
    victim = victim_name('child', phase, token)
    error: BaseException | None = None
    async with open_control(token) as control, trio.open_nursery() as tn:
        root = Survivor(control, token, fault, phase)
        tn.start_soon(partial(root.inflict, victim, turns=turns))
        with root.scope:
            try:
                async with tractor.open_nursery(**options) as root.an:
                    await faults_tree.be_in(phase, root.an, victim, root.wait_idle)
            except NAMED as err:
                error = err
        assert not root.scope.cancelled_caught, 'the survivor was not told in time'
        assert control.peers[victim].gone
    if fault == 'stop' and phase == 'one_shot':
        assert error is None, 'it was cancelled before it had a result'
    else:
        check_names(error, victim)


async def lose_grandchild(fault: str, phase: str, options: Options, turns: int = 0) -> None:
    """A child of a child: both actors above it survive, the nearer one is told and tells the other."""
    token = secrets.token_hex(4)
    victim, mid = victim_name('grandchild', phase, token), f'mid.{token}'
    async with open_control(token) as control, trio.open_nursery() as tn:
        root = Survivor(control, token, fault, phase)
        tn.start_soon(root.inflict, victim, mid, turns)
        with root.scope, pytest.raises(tractor.RemoteActorError) as caught:
            async with tractor.open_nursery(**options) as root.an:
                root.mid = await root.an.start_actor(mid, enable_modules=['faults_tree'])
                await root.mid.run(faults_tree.drive, phase=phase, victim=victim)
        assert not root.scope.cancelled_caught, 'the survivor was not told in time'
        with trio.fail_after(WITHIN):
            await control.all_gone()
    if fault == 'stop':
        assert isinstance(caught.value, tractor.ContextCancelled)
        return
    assert caught.value.boxed_type in NAMED
    check_names(caught.value, victim)


def check_names(error: BaseException | None, name: str) -> None:
    assert isinstance(error, NAMED), error
    assert name in str(error), f'the lost actor is not named: {error}'


@asynccontextmanager
async def open_program(
    control: Control, token: str, phase: str, options: Options
) -> AsyncIterator[trio.Process]:
    """A process that is the root of its own tree, see `faults_tree.main()`."""
    proc = await trio.lowlevel.open_process(
        [
            sys.executable,
            '-c',
            'import faults_tree; faults_tree.run_program()',
            token,
            phase,
            repr(options),
        ],
        env={
            **os.environ,
            'PYTHONPATH': os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]),
        },
    )
    try:
        yield proc
    finally:
        proc.kill()
        with trio.CancelScope(shield=True):
            await proc.wait()


EXITS = {'kill': -9, 'term': -15, 'exit': faults_tree.EXIT_CODE, 'segv': -11}


async def lose_parent(fault: str, phase: str, options: Options, turns: int = 0) -> None:
    """The root of another program, with a child in the phase and an idle grandchild beside it."""
    token = secrets.token_hex(4)
    victim = victim_name('child', phase, token)
    async with (
        open_control(token) as control,
        open_program(control, token, phase, options) as proc,
    ):
        await control.peer(f'mid.{token}', 'idle')
        who, words = said_in(phase, f'root.{token}', victim)
        await control.peer(who, *words)
        await control.peer(victim)
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        root = control.peers[f'root.{token}']
        await root.suffer(fault)
        if fault == 'stop':
            await check_nothing_broke(control, proc, token, victim)
            return
        with trio.fail_after(WITHIN):
            assert await proc.wait() == EXITS[fault]
            await control.all_gone()


async def check_nothing_broke(
    control: Control, proc: trio.Process, token: str, victim: str
) -> None:
    """While the root is stopped its tree lives; continued it goes on as if nothing had been."""
    await trio.to_thread.run_sync(os.waitid, os.P_PID, proc.pid, os.WSTOPPED | os.WNOWAIT)
    for name in (victim, f'grandchild.{token}'):
        if name.startswith('boot.'):
            # it leaves its gate, and waits for the root to be registered
            await control.peers[name].order('go')
        await control.peers[name].order('ping')
        await control.peer(name, 'pong')
    proc.send_signal(signal.SIGCONT)
    with trio.fail_after(WITHIN):
        await control.peers[f'root.{token}'].order('go')
        await control.peer(f'root.{token}', 'alive')
        assert await proc.wait() == 0
        await control.all_gone()


# --- every combination


@pytest.mark.parametrize('phase', PHASES)
@pytest.mark.parametrize('fault', FAULTS)
def test_child(fault: str, phase: str, options: Options) -> None:
    run_bounded(lose_child, fault, phase, options)


@pytest.mark.parametrize('phase', ['boot', 'idle', 'context', 'one_shot'])
@pytest.mark.parametrize('fault', FAULTS)
def test_grandchild(fault: str, phase: str, options: Options) -> None:
    run_bounded(lose_grandchild, fault, phase, options)


@pytest.mark.parametrize('phase', ['boot', 'idle', 'stream'])
@pytest.mark.parametrize('fault', FAULTS)
def test_parent(fault: str, phase: str, options: Options) -> None:
    run_bounded(lose_parent, fault, phase, options)


LOSE = {'child': lose_child, 'grandchild': lose_grandchild, 'parent': lose_parent}


@pytest.mark.parametrize('repetition', range(REPETITIONS))
def test_random(repetition: int, options: Options) -> None:
    chosen = random.Random(f'{SEED}/{repetition}')
    fault, victim, phase = (chosen.choice(of) for of in (FAULTS, VICTIMS, PHASES))
    turns = chosen.randrange(100)
    try:
        run_bounded(LOSE[victim], fault, phase, options, turns)
    except BaseException as err:
        err.add_note(f'{fault} of a {victim} in {phase}: TRACTOR_FAULTS_SEED={SEED} repeats this')
        raise
