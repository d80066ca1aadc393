"""end to end: trees of actors with a key, with TLS, with both, and who else gets in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor._code_load import load_module_from_path
from tractor._testing import run_bounded
from tractor._testing.addr import get_rando_addr
from tractor.ipc import _auth, _tls
from tractor.ipc._access import AccessDenied, AuthenticationError, TLSHandshakeError
from tractor.ipc._uds import HAS_UDS
from tractor.msg.ptr import NamespacePath


def sibling(name: str) -> Any:
    path = Path(__file__).parent / f'{name}.py'
    return sys.modules.get(path.stem) or load_module_from_path(path)


certs, programs = sibling('ipc/certs'), sibling('programs')

pytestmark = pytest.mark.spawns

HERE = __name__
EXPOSED = 'test_access_actors'
"""What this module is called in the daemon."""

KEY, OTHER = 'the key of this tree', 'quite another key of a tree'
PROTOS = ['tcp', *(['uds'] if HAS_UDS else [])]


@pytest.fixture(params=PROTOS)
def proto(request: pytest.FixtureRequest) -> str:
    """Each transport, whichever the session uses."""
    chosen: str = request.param
    return chosen


@pytest.fixture
def no_env(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('TRACTOR_AUTHKEY', raising=False)


@pytest.fixture
def contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a function that makes TLS contexts, which this process can import; a child has to be told where."""
    path: str = certs.write_module(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    sys.modules.pop(path.partition(':')[0], None)


def options(proto: str, start_method: str | None, **more: Any) -> dict[str, Any]:
    return {
        'registry_addrs': [get_rando_addr(proto)],
        'enable_transports': [proto],
        'start_method': start_method,
        'loglevel': 'critical',
        **more,
    }


# --- what runs in the actors


def command_line() -> str:
    path = Path('/proc/self/cmdline')
    return path.read_text(errors='replace') if path.exists() else ''


def open_pipes() -> set[int]:
    """Descriptors of pipes, but for the standard streams."""
    found = set()
    for name in os.listdir('/proc/self/fd'):
        link = f'/proc/self/fd/{name}'
        if int(name) > 2 and os.path.islink(link) and os.readlink(link).startswith('pipe:'):
            found.add(int(name))
    return found


async def shown(of_grandchild: bool = False) -> dict[str, Any]:
    """Everything of this actor where a key might be seen; and whether it has one."""
    if of_grandchild:
        async with tractor.open_nursery() as an:
            portal = await an.start_actor('grandchild', enable_modules=[HERE])
            try:
                told: dict[str, Any] = await portal.run(shown)
            finally:
                await portal.cancel_actor()
        return told
    actor = tractor.current_actor()
    program = [sys.executable, '-c', 'import os; print(dict(os.environ))']
    done = await trio.run_process(program, capture_stdout=True)
    places = {
        'environ': repr(dict(os.environ)),
        'of a program': done.stdout.decode(),
        'command line': command_line(),
        'runtime vars': repr(tractor.get_runtime_vars()),
        'actor': f'{actor!r} {vars(actor)!r} {actor._spawn_spec!r}',
    }
    key = _auth.current.value
    return {'places': places, 'has_key': key is not None, 'tls': _tls.current.value is not None}


async def version_of_tls() -> str | None:
    chan = tractor.current_actor()._parent_chan
    assert chan is not None
    return getattr(getattr(chan.stream, 'ssl_stream', None), 'version', lambda: None)()


async def has_key() -> bool:
    return _auth.current.value is not None


async def ask_sibling(name: str) -> bool:
    """Find another actor by its name and call it: connections to registrar and sibling need the key too."""
    async with tractor.wait_for_actor(name) as portal:
        answer: bool = await portal.run(has_key)
    return answer


async def find_stranger(addr: Any) -> None:
    async with tractor.get_registry(tuple(addr)):
        pass


# --- a tree with a key


def check_hidden(told: dict[str, Any], shares_process: bool) -> None:
    """Nobody sees the key; but an actor which has no process of its own leaves the environment of its parent alone."""
    assert told['has_key']
    for place, text in told['places'].items():
        if shares_process and place in ('environ', 'of a program'):
            continue
        assert KEY not in text, place
        assert KEY.encode().hex() not in text, place


@pytest.mark.parametrize('by_env', [False, True])
def test_the_key_reaches_every_actor_and_nobody_else(
    by_env: bool,
    proto: str,
    start_method: str,
    no_env: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if by_env:
        monkeypatch.setenv('TRACTOR_AUTHKEY', KEY)

    async def main() -> None:
        given = {} if by_env else {'authkey': KEY}
        async with tractor.open_nursery(**options(proto, start_method, **given)) as an:
            child = await an.start_actor('child', enable_modules=[HERE])
            check_hidden(await child.run(shown), start_method == 'subint')
            check_hidden(await child.run(shown, of_grandchild=True), start_method == 'subint')
            other = await an.start_actor('other', enable_modules=[HERE])
            assert await other.run(ask_sibling, name='child')
            assert _auth.current.value == KEY.encode()
            await an.cancel()

    run_bounded(main, timeout=60)
    assert _auth.current.value is None
    assert os.environ.get('TRACTOR_AUTHKEY') == (KEY if by_env else None)


def test_one_shot_actors_contexts_and_errors(start_method: str, proto: str, no_env: None) -> None:
    async def main() -> None:
        async with tractor.open_nursery(**options(proto, start_method, authkey=KEY)) as an:
            portals = [await an.run_in_actor(has_key, name=f'shot{number}') for number in range(2)]
            for portal in portals:
                assert await portal.wait_for_result()
            await an.run_in_actor(find_stranger, name='lost', addr=get_rando_addr(proto))

    with pytest.raises(tractor.RemoteActorError) as excinfo:
        run_bounded(main)
    assert issubclass(excinfo.value.boxed_type, OSError)


@pytest.mark.parametrize('close_fds', [True, False])
def test_the_options_of_the_process_stay(close_fds: bool, proto: str, no_env: None) -> None:
    """The key comes through a descriptor; those of the user, and the environment, are as they were given."""

    async def pipes_of_child(fd: int, key: str | None) -> int:
        mine = {'pass_fds': (fd,)} if close_fds else {'close_fds': False}
        proc_kwargs = {'env': {**os.environ, 'MINE': 'x'}, **mine}
        async with tractor.open_nursery(**options(proto, 'trio', authkey=key)) as an:
            portal = await an.start_actor('child', enable_modules=[HERE], proc_kwargs=proc_kwargs)
            pipes, env, keyed = await portal.run(pipes_and_env)
            assert fd in pipes
            assert env == 'x'
            assert keyed is (key is not None)
            await an.cancel()
        return len(pipes)

    async def main() -> None:
        read_end, write_end = os.pipe()
        os.set_inheritable(read_end, True)
        try:
            with_key = await pipes_of_child(read_end, KEY)
            assert with_key == await pipes_of_child(read_end, None)
        finally:
            os.close(read_end)
            os.close(write_end)

    run_bounded(main)


async def pipes_and_env() -> tuple[list[int], str | None, bool]:
    return list(open_pipes()), os.environ.get('MINE'), _auth.current.value is not None


# --- strangers


DAEMON = """
import sys
import tractor

if __name__ == '__main__':
    proto, addr, start_method, key, tls = map(eval, sys.argv[1:])
    tractor.run_daemon(
        ['test_access_actors'], name='daemon', registry_addrs=[addr], enable_transports=[proto],
        start_method=start_method, loglevel='warning', authkey=key, tls=tls,
    )
"""


@contextmanager
def daemon(
    folder: Path, proto: str, addr: Any, start_method: str, key: Any, tls: Any = None
) -> Iterator[subprocess.Popen[str]]:
    """A registrar in a process of its own, with our module exposed."""
    script = folder / 'a_daemon.py'
    script.write_text(DAEMON)
    path = os.pathsep.join([str(Path(__file__).parent), str(folder)])
    # stands for what a user would set
    old = os.environ.get('PYTHONPATH', '')
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, (path, old)))
    args = [repr(arg) for arg in (proto, addr, start_method, key, tls)]
    try:
        with programs.started(str(script), *args, cwd=folder) as proc:
            yield proc
            if proc.poll() is None:
                proc.send_signal(signal.SIGINT)
                proc.communicate(timeout=20)
    finally:
        os.environ['PYTHONPATH'] = old
        if not old:
            del os.environ['PYTHONPATH']


def stderr_of(proc: subprocess.Popen[str], text: str | None) -> str:
    """What a daemon has written when it is ended, which happens once it has written `text`, or after a while."""
    late = threading.Timer(20, proc.kill)
    late.start()
    said = ''
    try:
        assert proc.stderr is not None
        while text is not None and text not in said and (line := proc.stderr.readline()):
            said += line
        proc.send_signal(signal.SIGINT)
        said += proc.communicate()[1]
    finally:
        late.cancel()
        late.join()
    return said


async def listening_at(addr: Any) -> None:
    """Wait until somebody does."""
    from tractor._testing.peer import connect_stream

    while True:
        try:
            stream = await connect_stream(addr)
        except OSError:
            await trio.lowlevel.checkpoint()
        else:
            await stream.aclose()
            return


@pytest.mark.parametrize(
    ('theirs', 'ours', 'told', 'said'),
    [
        (KEY, KEY, None, None),
        (KEY, None, 'it demands a key and this actor has none', 'it has no key, or is no actor'),
        (KEY, OTHER, 'it closed the connection when it saw our proof', 'it has another key'),
        (None, KEY, 'it has no key, or is no actor', 'it demands a key and this actor has none'),
    ],
)
def test_a_daemon_and_who_finds_it(
    theirs: str | None,
    ours: str | None,
    told: str | None,
    said: str | None,
    proto: str,
    start_method: str,
    tmp_path: Path,
    no_env: None,
) -> None:
    addr = get_rando_addr(proto)

    async def use() -> None:
        async with (
            tractor.open_root_actor(
                registry_addrs=[addr],
                enable_transports=[proto],
                tpt_bind_addrs=[get_rando_addr(proto)],
                authkey=ours,
                loglevel='critical',
            ) as root,
            tractor.find_actor('daemon') as portal,
        ):
            assert not root.is_registrar
            assert portal is not None
            assert (await portal.run_from_ns(EXPOSED, 'shown', of_grandchild=True))['has_key']

    with daemon(tmp_path, proto, addr, start_method, theirs) as proc:
        run_bounded(listening_at, addr)
        if told is None:
            run_bounded(use)
        else:
            with pytest.raises(AuthenticationError, match=told):
                run_bounded(use)
        stderr = stderr_of(proc, said)
    if said is None:
        assert 'no connection with' not in stderr
    else:
        assert said in stderr
    for key in (KEY, OTHER):
        assert key not in stderr


def test_a_child_cannot_reach_a_tree_with_another_key(
    start_method: str, proto: str, tmp_path: Path, no_env: None
) -> None:
    """The error keeps its name on its way through an actor."""
    addr = get_rando_addr(proto)

    async def main() -> None:
        async with tractor.open_nursery(**options(proto, start_method, authkey=KEY)) as an:
            portal = await an.start_actor('child', enable_modules=[HERE])
            with pytest.raises(tractor.RemoteActorError) as excinfo:
                await portal.run(find_stranger, addr=addr)
            assert excinfo.value.boxed_type is AuthenticationError
            assert 'when it saw our proof' in str(excinfo.value)
            # and that was the only harm
            assert await portal.run(has_key)
            await portal.cancel_actor()

    with daemon(tmp_path, proto, addr, start_method, OTHER):
        run_bounded(listening_at, addr)
        run_bounded(main)


# --- TLS


@pytest.mark.parametrize('key', [None, KEY])
def test_a_tree_under_tls(start_method: str, key: str | None, contexts: str, no_env: None) -> None:
    async def main() -> None:
        given = options('tcp', start_method, authkey=key, tls=NamespacePath(contexts).load_ref())
        async with tractor.open_nursery(**given) as an:
            child = await an.start_actor('child', enable_modules=[HERE])
            assert await child.run(version_of_tls) == 'TLSv1.3'
            told = await child.run(shown, of_grandchild=True)
            assert told['tls']
            assert told['has_key'] is (key is not None)
            other = await an.start_actor('other', enable_modules=[HERE])
            assert await other.run(ask_sibling, name='child') is (key is not None)
            await an.cancel()

    run_bounded(main, timeout=60)
    assert _tls.current.value is None


@pytest.mark.parametrize('ours', [True, False])
def test_a_daemon_under_tls(
    ours: bool, start_method: str, tmp_path: Path, contexts: str, no_env: None
) -> None:
    addr = get_rando_addr('tcp')

    async def use() -> None:
        async with (
            tractor.open_root_actor(
                registry_addrs=[addr],
                enable_transports=['tcp'],
                tpt_bind_addrs=[get_rando_addr('tcp')],
                tls=contexts if ours else None,
                loglevel='critical',
            ),
            tractor.find_actor('daemon') as portal,
        ):
            assert (await portal.run_from_ns(EXPOSED, 'shown'))['tls']

    with daemon(tmp_path, 'tcp', addr, start_method, None, contexts) as proc:
        run_bounded(listening_at, addr)
        if ours:
            run_bounded(use)
        else:
            with pytest.raises(TLSHandshakeError, match='it speaks TLS and this actor does not'):
                run_bounded(use)
        said = None if ours else 'it speaks no TLS and this actor demands it'
        stderr = stderr_of(proc, said)
    assert ('it speaks no TLS and this actor demands it' in stderr) is not ours


def test_a_pair_cannot_be_handed_to_a_child(start_method: str, no_env: None) -> None:
    """One error, before anything is started."""

    async def main() -> None:
        given = options('tcp', start_method, tls=certs.pair())
        async with tractor.open_nursery(**given) as an:
            await an.start_actor('child', enable_modules=[HERE])

    with pytest.raises(RuntimeError, match='cannot start children that use TCP'):
        run_bounded(main)


@pytest.mark.skipif(not HAS_UDS, reason='no UNIX sockets on this system')
def test_a_pair_does_not_matter_to_a_tree_over_unix_sockets(
    start_method: str, no_env: None
) -> None:
    async def main() -> None:
        given = options('uds', start_method, tls=certs.pair())
        async with tractor.open_nursery(**given) as an:
            child = await an.start_actor('child', enable_modules=[HERE])
            assert await child.run(version_of_tls) is None
            with pytest.raises(RuntimeError, match='cannot start children that use TCP'):
                await an.start_actor('other', bind_addrs=[('127.0.0.1', 0)])
            await an.cancel()

    run_bounded(main)


# --- a root that is not opened


@pytest.mark.parametrize(
    ('given', 'error'),
    [
        ({'authkey': 'short'}, ValueError),
        ({'authkey': 5}, TypeError),
        ({'tls': 5}, TypeError),
        ({'tls': 'certs'}, ValueError),
    ],
)
def test_what_a_root_refuses(
    given: dict[str, Any], error: type[Exception], tpt_proto: str, no_env: None
) -> None:
    """Before anything is bound, and nothing of it stays."""

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(error):
                async with tractor.open_root_actor(**options(tpt_proto, None, **given)):
                    pass
            assert _auth.current.value is None
            assert _tls.current.value is None

    run_bounded(main)


def test_the_key_of_a_failed_root_is_forgotten(tpt_proto: str, no_env: None) -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with tractor.open_root_actor(**options(tpt_proto, None, authkey=KEY)):
                raise ZeroDivisionError
        assert _auth.current.value is None

    run_bounded(main)
    assert issubclass(AuthenticationError, AccessDenied)
