"""contract: the state of one dialog, message by message, without processes and without time."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tractor.msg.types import CancelAck, Error, Return, Start, StartAck, Started, Stop, Yield
from tractor.runtime import _dialog
from tractor.runtime._dialog import Dialog, Notice

CID = 'c'


def error(**fields: Any) -> Error:
    data = {'src_uid': ('a', '1'), 'src_type_str': 'X', 'boxed_type_str': 'X', 'relay_path': []}
    return Error(**{**data, 'cid': CID, **fields})


SAMPLES: dict[type, Any] = {
    Start: Start(cid=CID, ns='m', func='f', kwargs={}, uid=('a', '1')),
    StartAck: StartAck(cid=CID, functype='context'),
    Started: Started(cid=CID, pld=1),
    Yield: Yield(cid=CID, pld=1),
    Stop: Stop(cid=CID),
    Return: Return(cid=CID, pld=1),
    CancelAck: CancelAck(cid=CID, pld=True),
    Error: error(),
    Notice: error(boxed_type_str='StreamOverrun', sender=('b', '2')),
}
SIDES = {
    'requester': (_dialog.REQUESTER, True, False),
    'canceller': (_dialog.CANCELLER, True, True),
    'responder': (_dialog.RESPONDER, False, False),
}
PHASES = {
    'requester': ('syncing', 'acked', 'started', 'done'),
    'canceller': ('syncing', 'acked', 'done'),
    'responder': ('running', 'done'),
}

Row = tuple[str, str]
Documented = dict[str, dict[tuple[str, type], Row]]


def rows_of(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.startswith('|') and not line.startswith('|---'):
            yield [cell.strip() for cell in line.strip('|').split('|')]


def documented() -> Documented:
    """Read the tables in the module's docstring; what they call illegal is left out."""
    by_name = {kind.__name__: kind for kind in _dialog.MESSAGES}
    found: Documented = {}
    paragraphs = re.split(r'\n\n', _dialog.__doc__ or '')
    for intro, table in itertools.pairwise(paragraphs):
        side = next((name for name in SIDES if intro.startswith(f'The {name}')), None)
        if side is None:
            continue
        (_, *columns), *rows = rows_of(table)
        found[side] = {}
        for phase, *cells in rows:
            for column, cell in zip(columns, cells, strict=True):
                if cell != 'illegal':
                    action, _, after = cell.partition(' -> ')
                    found[side][phase, by_name[column]] = (after or phase, action)
    return found


DOCUMENTED = documented()


@pytest.mark.parametrize('side', SIDES)
def test_the_documented_tables_are_the_tables(side: str) -> None:
    assert DOCUMENTED[side] == SIDES[side][0]


@pytest.mark.parametrize('side', SIDES)
def test_the_tables_know_only_phases_and_messages(side: str) -> None:
    table = SIDES[side][0]
    phases = {phase for phase, _ in table} | {after for after, _ in table.values()}
    assert phases <= {*PHASES[side], 'done'}
    assert {kind for _, kind in table} <= set(_dialog.MESSAGES)


def in_phase(side: str, phase: str) -> Dialog:
    """A dialog that was brought to this phase by messages, or by its own end."""
    _, requester, cancels = SIDES[side]
    dialog = Dialog(requester, cancels)
    way = {
        ('requester', 'acked'): [StartAck],
        ('requester', 'started'): [StartAck, Started],
        ('requester', 'done'): [Error],
        ('canceller', 'acked'): [StartAck],
        ('canceller', 'done'): [StartAck, CancelAck],
    }.get((side, phase), [])
    for kind in way:
        dialog.feed(SAMPLES[kind])
    if side == 'responder' and phase == 'done':
        dialog.end()
    assert dialog.phase == phase
    return dialog


@pytest.mark.parametrize('kind', _dialog.MESSAGES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ('side', 'phase'), [(side, phase) for side, phases in PHASES.items() for phase in phases]
)
def test_every_message_in_every_phase(side: str, phase: str, kind: type) -> None:
    dialog = in_phase(side, phase)
    refused = (phase, 'late' if phase == 'done' else 'illegal')
    after, action = DOCUMENTED[side].get((phase, kind), refused)
    assert dialog.feed(SAMPLES[kind]) == action
    assert dialog.phase == after
    assert dialog.done is (after == 'done')
    assert after in repr(dialog)


@pytest.mark.parametrize(
    ('fields', 'kind'),
    [
        ({}, Error),
        ({'boxed_type_str': 'StreamOverrun', 'sender': ('b', '2')}, Notice),
        # relayed by the task that was told off: its outcome
        ({'boxed_type_str': 'RemoteActorError', 'src_type_str': 'StreamOverrun'}, Error),
        # raised by the application
        ({'boxed_type_str': 'StreamOverrun'}, Error),
    ],
)
def test_what_is_a_notice(fields: dict[str, Any], kind: type) -> None:
    assert _dialog.kind_of(error(**fields)) is kind


def test_unknown_objects_are_refused() -> None:
    dialog = Dialog(requester=True)
    assert dialog.feed(None) == dialog.feed(object()) == 'illegal'
    assert dialog.phase == 'syncing'


@given(st.sampled_from(sorted(SIDES)), st.lists(st.sampled_from(_dialog.MESSAGES), max_size=12))
def test_any_sequence_has_at_most_one_outcome(side: str, kinds: list[type]) -> None:
    _, requester, cancels = SIDES[side]
    dialog = Dialog(requester, cancels)
    phases = [dialog.phase]
    outcomes, handshakes = 0, 0
    for kind in kinds:
        was_done = dialog.done
        action = dialog.feed(SAMPLES[kind])
        assert (action == 'late') is was_done
        handshakes += action in ('ack', 'started')
        outcomes += dialog.done and not was_done
        phases.append(dialog.phase)
    assert outcomes <= 1
    assert handshakes <= 2
    order = PHASES[side]
    assert [order.index(phase) for phase in phases] == sorted(order.index(p) for p in phases)
