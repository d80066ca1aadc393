"""contract: the format of transcripts: what is refused, and what counts as equal."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tractor._code_load import load_module_from_path

HERE = Path(__file__).parent
wire = sys.modules.get('transcript') or load_module_from_path(HERE / 'transcript.py')
README = (HERE / 'README.rst').read_text(encoding='utf-8')

HEAD = 'title: t\nrole: client\n\ndial a\n\n'
END = '\n\nclose\n'


def loaded(tmp_path: Path, text: str) -> Any:
    path = tmp_path / 'it.wire'
    path.write_text(text, encoding='ascii')
    return wire.load(path)


def entry(tmp_path: Path, body: str, verb: str = '<') -> Any:
    return loaded(tmp_path, f'{HEAD}{verb} it\n    {body}{END}').entries[1]


# --- the files


def test_every_transcript_is_in_the_readme() -> None:
    names = [path.stem for path in sorted((HERE / 'transcripts').iterdir())]
    assert len(names) >= 20
    assert sorted(re.findall(r'^``(\w+)\.wire``', README, re.MULTILINE)) == names


@pytest.mark.parametrize('path', sorted((HERE / 'transcripts').iterdir()), ids=lambda p: p.stem)
def test_what_is_sent_is_framed(path: Path) -> None:
    """The lengths that are written out are those of their frames, but where the point is that they are not."""
    off = [
        each.text
        for each in wire.load(path).entries
        if each.parts and isinstance(each.parts[0], bytes) and len(each.parts) == 1
        if struct.unpack('<I', each.parts[0][:4])[0] != len(each.parts[0]) - 4
    ]
    assert len(off) == (path.stem == 'http_greeting'), off


# --- the parser


def test_an_entry(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        'title: t\nrole: client\nends: actor\n\n# why\n\ndial a\n\n> it\n    01 "a b"\n    <any x> FF\n# so\n\nclose\n',
    )
    assert found.header == {'title': 't', 'role': 'client', 'ends': 'actor'}
    assert [(each.verb, each.text, each.line) for each in found.entries] == [
        ('dial', 'a', 7),
        ('>', 'it', 9),
        ('close', '', 14),
    ]
    assert found.entries[1].parts == (b'\x01a b', wire.Hole('any', 'x'), b'\xff')


@pytest.mark.parametrize(
    'text',
    [
        '',
        'role: client\n\ndial a\n\nclose\n',
        'title: t\nrole: other\n\ndial a\n\nclose\n',
        'title: t\nrole: client\nrole: client\n\ndial a\n\nclose\n',
        'title: t\nrole: client\nnotes: x\n\ndial a\n\nclose\n',
        'title: t\nrole: client\n\nclose\n',
        'title: t\nrole: client\n\ndial a\n',
        'title: t\nrole: server\n\ndial a\n\nclose\n',
        'title: t\nrole: client\n\naccept a\n\nclose\n',
        'title: t\nrole: client\n\ndial a\n\ndial a\n\nclose\n',
        'title: t\nrole: client\n\ndial a\n\nuse b\n\nclose\n',
        'title: t\nrole: client\n\ndial a\n\nclose\n\n> it\n    01\n',
        'title: t\nrole: client\n\ndial a\n    01\n\nclose\n',
        'title: t\nrole: client\n\ndial\n\nclose\n',
        'title: t\nrole: client\n\ndial a\n\nclose a\n',
        f'{HEAD}> it{END}',
        f'{HEAD}>\n    01{END}',
        f'{HEAD}= it\n    01{END}',
        f'{HEAD}> it\n  01{END}',
        f'{HEAD}> it\n     01{END}',
        f'{HEAD}> it\n    01 {END}',
        f'{HEAD}> it\n    01  02{END}',
        f'{HEAD}> it\n    0102{END}',
        f'{HEAD}> it\n    0a{END}',
        f'{HEAD}> it\n    1{END}',
        f'{HEAD}> it\n    "a{END}',
        f'{HEAD}> it\n    "a"01{END}',
        f'{HEAD}> it\n    <str>{END}',
        f'{HEAD}> it\n    <map x>{END}',
        f'{HEAD}> it\n    <str X>{END}',
        f'{HEAD}> it\n    01 <len>{END}',
        f'{HEAD}> it\n    <len> <len>{END}',
    ],
)
def test_anything_else_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(wire.BadTranscript, match=r'^it\.wire:'):
        loaded(tmp_path, text)


# --- comparing


def framed(body: bytes) -> bytes:
    return struct.pack('<I', len(body)) + body


def test_holes_are_bound_and_compared(tmp_path: Path) -> None:
    bindings: dict[str, bytes] = {}
    first = entry(tmp_path, '<len> 92 <str name> <int number>')
    wire.match(first, framed(b'\x92\xa1x\xcd\x01\x00'), bindings)
    assert bindings == {'name': b'\xa1x', 'number': b'\xcd\x01\x00'}
    wire.match(first, framed(b'\x92\xa1x\xcd\x01\x00'), bindings)
    with pytest.raises(wire.Mismatch, match='at byte 5'):
        wire.match(first, framed(b'\x92\xa1y\xcd\x01\x00'), bindings)
    sent = entry(tmp_path, '<len> 91 <str name>', '>')
    assert wire.filled(sent, bindings) == framed(b'\x91\xa1x')
    assert wire.filled(entry(tmp_path, '01 "a"', '>'), bindings) == b'\x01a'


def test_the_nameless_hole(tmp_path: Path) -> None:
    anything = entry(tmp_path, '<len> <any _>')
    bindings: dict[str, bytes] = {}
    for value in (None, [1, {'a': [2.5]}], 'x' * 300, b'\x00' * 70_000, {'k': None}, 2**40, -1):
        wire.match(anything, framed(msgspec.msgpack.encode(value)), bindings)
    assert bindings == {}


@pytest.mark.parametrize(
    ('body', 'frame'),
    [
        ('<len> 91 01', framed(b'\x91\x02')),
        ('<len> 91 01', framed(b'\x91\x01\x01')),
        ('<len> 91 01', framed(b'\x91')),
        ('02 00 00 00 91 01', framed(b'\x91\x01\x00')),
        ('<len> <str _>', framed(b'\x01')),
        ('<len> <int _>', framed(b'\xa1x')),
        ('<len> <str _>', framed(b'\xa2x')),
        ('<len> <any _>', framed(b'\xc1')),
        ('<len> <any _>', framed(b'\x92\x01')),
        ('<len> <any _>', framed(b'')),
        ('<len> 01', b''),
    ],
)
def test_what_differs(tmp_path: Path, body: str, frame: bytes) -> None:
    with pytest.raises(wire.Mismatch, match=r'line 6 \(it\): at byte'):
        wire.match(entry(tmp_path, body), frame, {})
