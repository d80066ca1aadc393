"""end to end: every example as a user runs it, each with a registry of its own."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tractor._testing import examples_dir
from tractor._testing.addr import get_rando_addr

EXAMPLES = examples_dir()

LIMIT_S = 60

NOT_RUN_HERE = {'debugging', 'integration', 'advanced_faults', 'trio', 'multihost'}
"""Directories whose scripts need a terminal, arguments, or more hosts."""

EXPECTED: dict[str, list[str]] = {
    'a_trynamic_first_scene': [
        'the curtain rises',
        'Hi my name is blaise',
        'Hi my name is ada',
        'the curtain falls',
    ],
    'actor_spawning_and_causality': ['computed by worker'],
    'actor_spawning_and_causality_with_daemon': ['^42$', '^42$'],
    'asynchronous_generators': ['^0$', '^50$', '^stream terminated$'],
    'full_fledged_streaming_service': [
        'the aggregator is up',
        'FINISHED ITERATING',
        'FINISHED ITERATING',
        'AGGREGATOR COMPLETE!',
        '1000 values after',
    ],
    'multiple_streams_one_portal': [],
    'rpc_bidir_streaming': [],
    'streaming_broadcast_fanout': [r'sub_\d: rx \d', *[r'stream ended, got \[0, 1, 2, 3, 4\]'] * 3],
    'foreign_types': [
        r"^Decimal\('11\.9000'\)$",
        r'archive/0\.pdf',
        r'archive/1\.pdf',
        '^refused: invalid argument `total` of ',
    ],
    'typed_payloads': ['refused: MsgTypeError', *[r'^Point\('] * 3],
    'nested_actor_tree': [
        'root spawned supervisor',
        'supervisor spawned leaf_0, leaf_1',
        'leaf_0 squares 1',
        'leaf_1 squares 2',
        'leaf_0 squares 3',
        'leaf_1 squares 4',
        'supervisor cancelled leaf_0',
        'supervisor cancelled leaf_1',
        r'aggregate result \[1, 4, 9, 16\]',
        'root cancelled supervisor',
    ],
    'remote_error_propagation': ["caught a ValueError of 'fail'"],
    'service_discovery': ['the registrar, through', 'some_service is found'],
    'service_daemon_discovery': [
        'no_such_service is None',
        "greeter is at 'greeter'",
        'service: called by client',
        "client: got 'good day, client'",
        'root: the client is done',
        'root: the service is down',
    ],
    'quick_cluster': [
        *[r'worker_\d [0-9a-f-]{36}$'] * (os.cpu_count() or 1),
        '^trio cancelled by KBI$',
    ],
    'infected_asyncio_echo_server': [
        '^asyncio is up$',
        r'^mean round-trip rate: \d+ messages per second$',
    ],
    'infected_asyncio_http_server': [
        '^200 requests were answered by 2 workers$',
        '^the server is down$',
    ],
    'uds_transport_actor_tree': [
        r'connected through .*\.sock',
        'peer process: ',
        'listens at uds:',
    ],
    'shared_memory': [
        '^500,000 rows are in use$',
        r'the last one: \(499999, 249999.5\)',
        '^their sum: 62,499,875,000.0$',
    ],
    'ring_buffer': ['^received 64 MiB$', 'without a copy'],
    'parallelism/single_func': [r'^Collected subproc \d+$'],
    'parallelism/we_are_processes': [
        *[r'^worker_\d runs in process \d+$'] * (os.cpu_count() or 1),
        'Zombies Contained',
    ],
    'parallelism/concurrent_actors_primes': ['is prime: '] * 7,
    'parallelism/concurrent_futures_primes': ['is prime: '] * 7,
}
"""What each prints on standard output: patterns, each found in a line after that of the one before."""


def scripts():
    for path in sorted(EXAMPLES.rglob('*.py')):
        parts = path.relative_to(EXAMPLES).with_suffix('').parts
        if not NOT_RUN_HERE & {*parts} and not parts[-1].startswith('_') and '__' not in parts[-1]:
            yield '/'.join(parts)


# interpreters are told the address, and this package is not yet to be loaded in them
PATCH = """
import threading
if threading.current_thread() is threading.main_thread():
    import tractor.ipc._tcp as tcp
    tcp.TCPAddress.get_root = classmethod(lambda cls: cls({host!r}, {port}))
"""


@pytest.fixture
def private_registry(tmp_path):
    """The environment for scripts that use the default registry: theirs is another one."""
    host, port = get_rando_addr('tcp')
    (tmp_path / 'sitecustomize.py').write_text(PATCH.format(host=host, port=port))
    root = str(EXAMPLES.parent)
    path = os.pathsep.join([str(tmp_path), root, os.environ.get('PYTHONPATH', '')])
    return {**os.environ, 'PYTHONPATH': path.rstrip(os.pathsep)}


def run(script, env, cwd):
    """Run an example in a process group of its own; `(exit code, stdout, stderr)`."""
    example = subprocess.Popen(
        [sys.executable, str(EXAMPLES / f'{script}.py')],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        cwd=cwd,
        start_new_session=True,
    )
    late = ''
    try:
        out, err = example.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(example.pid, signal.SIGKILL)
        out, err = example.communicate()
        late = f'killed after {LIMIT_S} s\n'
    return example.returncode, out.decode(errors='replace'), late + err.decode(errors='replace')


def missing(patterns, out):
    """The patterns that are not found in the lines of `out`, in that order."""
    lines = iter(out.splitlines())
    return [p for p in patterns if not any(re.search(p, line) for line in lines)]


@pytest.mark.spawns
@pytest.mark.parametrize('script', list(scripts()))
def test_example(script, start_method, private_registry, tmp_path):
    env = {**private_registry, 'TRACTOR_SPAWN_METHOD': start_method}
    code, out, err = run(script, env, tmp_path)
    report = f'{script} ended with {code}\n--- stdout\n{out}\n--- stderr\n{err}'
    assert code == 0, report
    last = next((line for line in reversed(err.splitlines()) if line.strip()), '')
    assert 'Error' not in last, report
    assert not missing(EXPECTED[script], out), report


def test_every_example_is_expected_to_print_something():
    assert {*scripts()} == {*EXPECTED}


def test_every_example_is_described():
    text = Path(EXAMPLES, 'README.rst').read_text()
    assert {*re.findall(r'``([a-z_/]+)\.py``', text)} - {'tests/test_examples'} == {*EXPECTED}


@pytest.mark.parametrize('script', list(scripts()))
def test_an_example_is_guarded_and_explained(script):
    lines = Path(EXAMPLES, f'{script}.py').read_text().splitlines()
    assert lines[0].startswith('"""')
    assert "if __name__ == '__main__':" in lines


def test_lines_are_looked_for_in_order():
    assert missing(['a', 'b'], 'a\nb\n') == []
    assert missing(['b', 'a'], 'a\nb\n') == ['a']
    assert missing(['a', 'a'], 'a\n') == ['a']
