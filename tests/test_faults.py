"""end to end: an actor dies, or is stopped, at a bad moment: the survivors are told, nothing stays.

Every combination of what happens, to whom and when. Whatever is waited for is a message, an exit
or an error; each within `WITHIN` seconds of the fault. See `faults_tree.py` for the actors.
"""

from __future__ import annotations

import os
import random
import secrets
import select
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor._code_load import load_module_from_path
from tractor._exceptions import ActorFailure
from tractor._testing import deaths, run_bounded
from tractor.runtime import _loss

pytestmark = pytest.mark.spawns

WITHIN = 3.0

# under the name by which the actors import it
faults_tree = sys.modules.get('faults_tree') or load_module_from_path(
    Path(__file__).with_name('faults_tree.py')
)

SIGNALS = {'kill': signal.SIGKILL, 'term': signal.SIGTERM, 'stop': signal.SIGSTOP}
DEADLY = ('kill', 'term', 'exit', 'segv')
# after these the victim is still there: the survivor loses patience and cancels
LASTING = ('stop', 'nothing')
FAULTS = (*DEADLY, 'stop')
PHASES = ('boot', 'idle', 'run', 'context', 'stream', 'one_shot')
VICTIMS = ('child', 'grandchild', 'parent')
NAMED = (tractor.TransportClosed, ActorFailure, tractor.RemoteActorError)

SEED = int(os.environ.get('TRACTOR_FAULTS_SEED') or random.randrange(1 << 32))
REPETITIONS = 30

ROOT = 'root'

Options = dict[str, Any]


# --- the other end of the actors' lines


class Peer:
    """One actor: a process, or an interpreter in one."""

    def __init__(self, place: deaths.Place, stream: trio.SocketStream) -> None:
        pid, interp_id = self.place = place
        self._stream = stream
        self.is_process = interp_id == 0
        # of an interpreter in another process only the end of that process can be seen
        self._has_pidfd = self.is_process or pid != os.getpid()
        self._pidfd = os.pidfd_open(pid)

    def close(self) -> None:
        os.close(self._pidfd)

    async def order(self, text: str) -> None:
        await self._stream.send_all(f'{text}\n'.encode())

    async def suffer(self, fault: str) -> None:
        """Let the fault happen to it, now."""
        if fault == 'nothing':
            return
        if self.is_process and (signum := SIGNALS.get(fault)) is not None:
            signal.pidfd_send_signal(self._pidfd, signum)
        else:
            await self.order(fault)

    def exits_as_failed(self, fault: str) -> bool:
        """Whether its exit code after the fault is 1."""
        return fault == 'exit_as_failed' or (not self.is_process and fault in ('exit', 'segv'))

    @property
    def gone(self) -> bool:
        if not self._has_pidfd:
            return not deaths.is_there(self.place)
        return bool(select.select([self._pidfd], [], [], 0)[0])

    async def wait_gone(self) -> None:
        if self._has_pidfd:
            await trio.lowlevel.wait_readable(self._pidfd)
        while not self.gone:
            await trio.lowlevel.checkpoint()


class Control:
    """Where the actors of one test connect to, and what each has said."""

    def __init__(self) -> None:
        self.peers: dict[str, Peer] = {}
        self.said: set[tuple[str, str]] = set()
        self._news = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        name = text = b''
        while data := await self._receive(stream):
            *lines, text = (text + data).split(b'\n')
            for line in lines:
                word, *rest = line.split()
                if word == b'hello':
                    name, pid, interp_id = rest
                    self.peers[name.decode()] = Peer((int(pid), int(interp_id)), stream)
                self.note(name.decode(), word.decode())

    async def _receive(self, stream: trio.SocketStream) -> bytes:
        try:
            return bytes(await stream.receive_some())
        except trio.BrokenResourceError:
            return b''

    def note(self, name: str, word: str) -> None:
        self.said.add((name, word))
        news, self._news = self._news, trio.Event()
        news.set()

    async def heard(self, name: str, word: str) -> None:
        """Wait until this actor has said this word, now or before."""
        while (name, word) not in self.said:
            await self._news.wait()

    async def peer(self, name: str) -> Peer:
        """Wait until this actor has said hello; its process."""
        await self.heard(name, 'hello')
        return self.peers[name]

    async def all_gone(self) -> None:
        for peer in self.peers.values():
            await peer.wait_gone()


@asynccontextmanager
async def open_control(token: str, folder: str | None = None) -> AsyncIterator[Control]:
    path = faults_tree.control_path(token, folder)
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


async def reached(control: Control, phase: str, reporter: str, victim: str) -> Peer:
    """Wait until an actor and its parent are in this phase; the actor."""
    if phase in ('idle', 'one_shot'):
        await control.heard(reporter, 'idle' if phase == 'idle' else 'submitted')
    if phase not in ('idle', 'boot'):
        await control.heard(victim, 'called')
    return await control.peer(victim)


# --- the three victims


class Survivor:
    """The test's own actor as the root of the tree: lets it happen, and must be told in time."""

    def __init__(self, control: Control, fault: str, phase: str) -> None:
        self.control = control
        self.fault = fault
        self.phase = phase
        self.scope = trio.CancelScope()
        self.happened = trio.Event()
        self.an: Any = None
        self.mid: Any = None

    def report(self, word: str) -> None:
        self.control.note(ROOT, word)

    async def inflict(self, reporter: str, victim: str, turns: int) -> None:
        """Let it happen when the phase is reached; `turns` scheduler turns later."""
        peer = await reached(self.control, self.phase, reporter, victim)
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        # the code of an interpreter that failed is that of an actor which told why: no haste to end its contexts
        grace = (
            _loss.LOSS_GRACE if self.phase == 'context' and peer.exits_as_failed(self.fault) else 0
        )
        self.scope.deadline = trio.current_time() + WITHIN + grace
        await peer.suffer(self.fault)
        if self.fault == 'stop' and not peer.is_process:
            # a process is stopped by then; this one is about to
            await self.control.heard(victim, 'stopped')
        if self.fault in LASTING:
            await self.an.cancel()
        else:
            await peer.wait_gone()
            if self.phase == 'idle' and self.mid is not None:
                await self.mid.run(faults_tree.poke)
        self.happened.set()


async def lose_child(fault: str, phase: str, options: Options, turns: int = 0) -> None:
    """A child of the test's own actor."""
    token = secrets.token_hex(4)
    victim = victim_name('child', phase, token)
    error: BaseException | None = None
    async with open_control(token) as control, trio.open_nursery() as tn:
        root = Survivor(control, fault, phase)
        tn.start_soon(root.inflict, ROOT, victim, turns)
        with root.scope:
            try:
                async with tractor.open_nursery(**options) as root.an:
                    await faults_tree.be_in(phase, root.an, victim, root.report, root.happened)
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
        root = Survivor(control, fault, phase)
        tn.start_soon(root.inflict, mid, victim, turns)
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
    assert issubclass(caught.value.boxed_type, NAMED)
    check_names(caught.value, victim)


def check_names(error: BaseException | None, name: str) -> None:
    assert isinstance(error, NAMED), error
    assert name in str(error), f'the lost actor is not named: {error}'


@contextmanager
def private_folder(token: str, options: Options) -> Iterator[tuple[str, Options]]:
    """A runtime directory for one program, which may be killed and then removes nothing; its options."""
    folder = Path(os.environ['XDG_RUNTIME_DIR'], token)
    sockets = folder / 'tractor'
    sockets.mkdir(0o700, parents=True)
    folder.chmod(0o700)
    addrs = options['registry_addrs']
    if options['enable_transports'] == ['uds']:
        addrs = [(str(sockets), name) for _, name in addrs]
    try:
        yield str(folder), {**options, 'registry_addrs': addrs}
    finally:
        shutil.rmtree(folder)


@asynccontextmanager
async def open_program(
    token: str, phase: str, options: Options, folder: str
) -> AsyncIterator[trio.Process]:
    """A process that is the root of its own tree, see `faults_tree.main()`."""
    code = 'import faults_tree; faults_tree.run_program()'
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    proc = await trio.lowlevel.open_process(
        [sys.executable, '-c', code, token, phase, repr(options)],
        env={**os.environ, 'PYTHONPATH': path, 'XDG_RUNTIME_DIR': folder},
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
    with private_folder(token, options) as (folder, own):
        await lose_program(fault, phase, own, folder, turns)


async def lose_program(fault: str, phase: str, options: Options, folder: str, turns: int) -> None:
    token = os.path.basename(folder)
    victim = victim_name('child', phase, token)
    async with (
        open_control(token, folder) as control,
        open_program(token, phase, options, folder) as proc,
    ):
        await control.heard(f'mid.{token}', 'idle')
        await reached(control, phase, f'root.{token}', victim)
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
        peer = control.peers[name]
        if name.startswith('boot.'):
            # it leaves its gate, and waits for the root to be registered
            await peer.order('go')
        if peer.place[0] != proc.pid:
            await peer.order('ping')
            await control.heard(name, 'pong')
    proc.send_signal(signal.SIGCONT)
    with trio.fail_after(WITHIN):
        await control.peers[f'root.{token}'].order('go')
        await control.heard(f'root.{token}', 'alive')
        assert await proc.wait() == 0
        await control.all_gone()


# --- every combination of fault, victim and phase


@pytest.mark.parametrize('phase', PHASES)
@pytest.mark.parametrize('fault', FAULTS)
def test_child(fault: str, phase: str, options: Options) -> None:
    run_bounded(lose_child, fault, phase, options)


@pytest.mark.parametrize('phase', ['run', 'stream'])
def test_a_child_whose_exit_looks_orderly(phase: str, options: Options) -> None:
    run_bounded(lose_child, 'exit_as_failed', phase, options)


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


# --- what is stuck, or not there yet


def test_a_spinning_child_is_cancelled(options: Options) -> None:
    run_bounded(lose_child, 'nothing', 'spin', options)


@pytest.mark.parametrize('fault', DEADLY)
def test_an_orphan_that_never_yields(fault: str, options: Options) -> None:
    run_bounded(lose_parent, fault, 'spin', options)


async def lose_mid(fault: str, options: Options, token: str) -> None:
    mid, stuck, idle = (f'{role}.{token}' for role in ('mid', 'stuck', 'idle'))
    # an interpreter does not just end when it is asked to: it tells why
    asked = fault == 'term' and options['start_method'] == 'subint'
    lost = tractor.ContextCancelled if asked else tractor.TransportClosed

    async def hold(portal: tractor.Portal, phase: str, name: str) -> None:
        with pytest.raises(lost, match=mid):
            await portal.run(faults_tree.drive, phase=phase, victim=name)

    async with open_control(token) as control, tractor.open_nursery(**options) as an:
        portal = await an.start_actor(mid, enable_modules=['faults_tree'])
        async with trio.open_nursery() as tn:
            tn.start_soon(hold, portal, 'idle', idle)
            tn.start_soon(hold, portal, 'spin', stuck)
            await control.heard(mid, 'idle')
            await control.heard(stuck, 'called')
            await control.peers[mid].suffer(fault)
            with trio.fail_after(WITHIN):
                await control.all_gone()


@pytest.mark.parametrize('fault', DEADLY)
def test_the_tree_below_a_lost_actor_goes_with_it(fault: str, options: Options) -> None:
    token = secrets.token_hex(4)
    run_bounded(lose_mid, fault, options, token)
    # the stuck one had to be killed, and nobody was left to remove its socket file
    for path in Path(os.environ['XDG_RUNTIME_DIR'], 'tractor').glob(f'stuck.{token}@*.sock'):
        path.unlink()


SITE = """
import os, socket
sock = socket.socket(socket.AF_UNIX)
sock.connect({path!r})
sock.sendall(b'hello early %d 0\\n' % os.getpid())
sock.recv(1)
"""


async def lose_early(fault: str, options: Options, folder: Path) -> None:
    token = secrets.token_hex(4)
    site = SITE.format(path=faults_tree.control_path(token))
    (folder / 'sitecustomize.py').write_text(site)
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    proc_kwargs = {'env': {**os.environ, 'PYTHONPATH': path}}

    async def inflict() -> None:
        peer = await control.peer('early')
        await peer.suffer(fault)

    async with open_control(token) as control, trio.open_nursery() as tn:
        tn.start_soon(inflict)
        with pytest.raises(ActorFailure, match=f'early.*{SIGNALS[fault].name}'):
            async with tractor.open_nursery(**options) as an:
                await an.start_actor('early', proc_kwargs=proc_kwargs)


@pytest.mark.skipon_spawn_backend(
    'mp_spawn',
    'mp_forkserver',
    'subint',
    reason='the environment of one child is an option of `trio` only',
)
@pytest.mark.parametrize('fault', ['kill', 'term'])
def test_a_child_that_has_not_connected_yet(fault: str, options: Options, tmp_path: Path) -> None:
    run_bounded(lose_early, fault, options, tmp_path)
