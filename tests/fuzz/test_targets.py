"""contract: every target of the fuzzer on its seeds, on the inputs that once failed, and on new ones; a few seconds.

The same inputs each time: new ones are for `fuzz/run.py`, which runs for as long as it is told.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import targets
from fuzz._choices import packed
from fuzz._script import WAIT, framed, raw
from fuzz._values import CIDS, ERR_NAMES, KEYS
from tractor.msg.types import _msg_table

INPUTS = Path(__file__).with_name('inputs')

# new inputs a target: about a second's worth of each
EXAMPLES = {
    'framing': 1000,
    'envelope': 300,
    'dialog': 250,
    'handshake': 300,
    'auth': 1000,
    'errors': 400,
    'addresses': 1000,
}

# what an input begins with, before the script of a peer
HEADS = {'envelope': 3, 'handshake': 2, 'dialog': 2}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The literal parser warns about escapes in what it reads."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', SyntaxWarning)
        yield


def steadily(examples: int) -> Any:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def test_each_target_has_its_share() -> None:
    assert set(EXAMPLES) == set(targets.NAMES)
    assert all(targets.load(name).seeds() for name in targets.NAMES)


@pytest.mark.parametrize('name', targets.NAMES)
def test_seeds(name: str) -> None:
    module = targets.load(name)
    for seed in module.seeds():
        module.one_input(seed)


@pytest.mark.parametrize(
    'path', sorted(INPUTS.glob('*/*')), ids=lambda path: '-'.join(path.parts[-2:])
)
def test_inputs_that_once_failed(path: Path) -> None:
    targets.load(path.parent.name).one_input(path.read_bytes())


@pytest.mark.parametrize('name', targets.NAMES)
def test_any_bytes(name: str) -> None:
    module = targets.load(name)

    @steadily(EXAMPLES[name])
    @given(data=st.binary(max_size=400))
    def check(data: bytes) -> None:
        module.one_input(data)

    check()


@pytest.mark.parametrize('name', targets.NAMES)
def test_changed_seeds(name: str) -> None:
    module = targets.load(name)
    seeds = module.seeds()

    @steadily(EXAMPLES[name])
    @given(
        seed=st.sampled_from(seeds),
        other=st.sampled_from(seeds),
        cut=st.integers(0, 200),
        patch=st.binary(max_size=8),
    )
    def check(seed: bytes, other: bytes, cut: int, patch: bytes) -> None:
        module.one_input(seed[:cut] + patch + seed[cut + len(patch) :] + other)

    check()


# --- messages with wrong fields, in any order

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.sampled_from([*CIDS, *ERR_NAMES]),
    st.sampled_from([['peer', '2'], ['me', '1'], ['x']]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=8,
)


def _map_of(name: str) -> st.SearchStrategy[dict[str, Any]]:
    fields = _msg_table[name].__struct_fields__
    good = {
        'cid': st.sampled_from(CIDS),
        'uid': st.just(['peer', '2']),
        'src_uid': st.just(['peer', '2']),
        'relay_path': st.lists(st.just(['peer', '2']), max_size=3),
        'kwargs': st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=2),
        'ns': st.sampled_from(['fuzz._served', 'self']),
        'func': st.sampled_from(['echo', 'talk', 'numbers', '_cancel_task', '_stream_room']),
        'functype': st.sampled_from(['asyncfunc', 'asyncgen', 'context']),
    }
    texts = {field: st.text(max_size=10) for field in fields if field.endswith('str')}
    choices = {field: {**texts, **good}.get(field, VALUES) for field in fields}
    made = st.fixed_dictionaries(choices)
    changed = st.builds(lambda fields, wrong: {**fields, **wrong}, made, _some(fields))
    return (made | changed).map(lambda fields: {'msg_type': name, **fields})


def _some(fields: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(fields), VALUES, max_size=2)


MESSAGES = st.sampled_from(sorted(_msg_table)).flatmap(_map_of).map(msgspec.msgpack.encode)
STEPS = st.one_of(MESSAGES.map(framed), MESSAGES.map(framed), st.just(WAIT), st.binary().map(raw))


@pytest.mark.parametrize('name', HEADS)
def test_messages_with_wrong_fields(name: str) -> None:
    module = targets.load(name)
    size = HEADS[name]

    @steadily(EXAMPLES[name] // 2)
    @given(head=st.binary(min_size=size, max_size=size), script=st.lists(STEPS, max_size=8))
    def check(head: bytes, script: list[bytes]) -> None:
        module.one_input(head + b''.join(script))

    check()


@steadily(EXAMPLES['errors'] // 2)
@given(relays=st.integers(0, 5), fields=_map_of('Error'))
def test_errors_with_wrong_fields(relays: int, fields: dict[str, Any]) -> None:
    body = msgspec.msgpack.encode(fields)
    targets.load('errors').one_input(bytes([100, relays]) + packed(body))


@steadily(200)
@given(text=st.text(max_size=60), head=st.sampled_from(['', '/unix/', '/ip4/127.0.0.1/tcp/', '(']))
def test_texts_as_addresses(text: str, head: str) -> None:
    written = packed((head + text).encode('utf-8', 'surrogateescape'))
    for kind in (0, 3):
        targets.load('addresses').one_input(bytes([kind, 0]) + written)
