"""
Transcripts of the wire protocol: reading them, and playing the peer's part of one against a real actor.

README.rst beside this file says how they are written. Nothing of the package is used here, so that what is compared
with its bytes does not come from it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trio

ROLES = ('client', 'server', 'parent')
KEYS = {'title', 'role', 'action', 'ends', 'exit'}
VERBS = {'dial': 1, 'accept': 1, 'use': 1, 'close': 0, 'closed': 0}
KINDS = ('str', 'int', 'any')
ANYTHING = '_'
HEADER = struct.Struct('<I')
# bytes of a frame; no transcript comes near it
MAX_FRAME = 1 << 20

_TOKEN = re.compile(
    r'(?P<hex>[0-9A-F]{2})'
    r'|"(?P<text>[ !#-~]*)"'
    r'|<(?P<len>len)>'
    rf'|<(?P<kind>{"|".join(KINDS)}) (?P<name>[a-z_][a-z_0-9]*)>'
)


class BadTranscript(ValueError):
    """A file which does not follow the format; the text begins with the place."""


class Mismatch(AssertionError):
    """The actor sent something else than the transcript says."""


@dataclass(frozen=True)
class Hole:
    """A value that varies: a msgpack object of a kind (`'len'` is the length of the frame)."""

    kind: str
    name: str = ''


@dataclass(frozen=True)
class Entry:
    """One line of a transcript with what belongs to it.

    Args:
        verb: `'>'`, `'<'` or one of `VERBS`.
        text: the comment of a frame, the argument of a verb.
        parts: of a frame: bytes and holes.
        line: where it begins.
    """

    verb: str
    text: str
    line: int
    parts: tuple[bytes | Hole, ...] = ()


@dataclass
class Transcript:
    """A whole file."""

    path: Path
    header: dict[str, str] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    @property
    def role(self) -> str:
        """What the peer is to the actor."""
        return self.header['role']


# --- reading


def load(path: Path) -> Transcript:
    """
    Read a transcript.

    Raises:
        BadTranscript: it does not follow the format.
    """
    transcript = Transcript(path)
    block: list[tuple[int, str]] = []
    for number, line in enumerate(path.read_text(encoding='ascii').splitlines(), 1):
        if line != line.rstrip():
            raise BadTranscript(f'{path.name}:{number}: there are blanks at the end')
        if line.startswith('#'):
            continue
        if line and not line.startswith(' ') and transcript.header:
            _add_entry(transcript, block)
            block = []
        if line:
            block.append((number, line))
        elif not transcript.header:
            transcript.header = _as_header(path, block)
            block = []
    _add_entry(transcript, block)
    _check(transcript)
    return transcript


def _as_header(path: Path, block: list[tuple[int, str]]) -> dict[str, str]:
    header: dict[str, str] = {}
    for number, line in block:
        key, separator, value = line.partition(': ')
        if not separator or not value or key not in KEYS or key in header:
            raise BadTranscript(f'{path.name}:{number}: no line of a header: {line}')
        header[key] = value
    if header.get('role') not in ROLES or 'title' not in header:
        raise BadTranscript(f'{path.name}:1: a title, and a role of {ROLES}, are needed')
    return header


def _add_entry(transcript: Transcript, block: list[tuple[int, str]]) -> None:
    if not block:
        return
    (number, head), *rest = block
    place = f'{transcript.path.name}:{number}'
    verb, _, text = head.partition(' ')
    if verb in VERBS:
        if rest or bool(text) != bool(VERBS[verb]):
            raise BadTranscript(f'{place}: {verb!r} takes {VERBS[verb]} name and no bytes')
        transcript.entries.append(Entry(verb, text, number))
        return
    if verb not in {'<', '>'} or not text:
        raise BadTranscript(
            f'{place}: neither a frame with a comment nor one of {[*VERBS]}: {head}'
        )
    parts: list[bytes | Hole] = []
    for line_number, line in rest:
        if not line.startswith('    ') or line.startswith('     '):
            raise BadTranscript(
                f'{transcript.path.name}:{line_number}: indent bytes by four blanks'
            )
        parts += _tokens(line, f'{transcript.path.name}:{line_number}')
    if not parts or any(part == Hole('len') for part in parts[1:]):
        raise BadTranscript(f'{place}: a frame has bytes, and its length only in front')
    transcript.entries.append(Entry(verb, text, number, tuple(_joined(parts))))


def _tokens(line: str, place: str) -> Iterator[bytes | Hole]:
    rest = line.strip(' ')
    while rest:
        found = _TOKEN.match(rest)
        after = rest[found.end() :] if found else ''
        if found is None or (after and not after.startswith(' ')) or after.startswith('  '):
            raise BadTranscript(f'{place}: not a byte, a text or a hole: {rest}')
        if found['hex']:
            yield bytes.fromhex(found['hex'])
        elif found['text'] is not None:
            yield found['text'].encode('ascii')
        elif found['len']:
            yield Hole('len')
        else:
            yield Hole(found['kind'], found['name'])
        rest = after[1:]


def _joined(parts: list[bytes | Hole]) -> Iterator[bytes | Hole]:
    run = b''
    for part in parts:
        if isinstance(part, bytes):
            run += part
            continue
        if run:
            yield run
        run = b''
        yield part
    if run:
        yield run


def _check(transcript: Transcript) -> None:
    """Every connection is made once and before it is used, and its end is told."""
    known: set[str] = set()
    current = ''
    ended: set[str] = set()
    for entry in transcript.entries:
        place = f'{transcript.path.name}:{entry.line}'
        if entry.verb in {'dial', 'accept'}:
            if entry.text in known or (entry.verb == 'dial') is not (transcript.role == 'client'):
                raise BadTranscript(f'{place}: only a client dials, others accept, each name once')
            known.add(entry.text)
        if entry.verb in {'dial', 'accept', 'use'}:
            current = entry.text
        if current not in known or current in ended:
            raise BadTranscript(f'{place}: there is no connection {current!r} here')
        if entry.verb in {'close', 'closed'}:
            ended.add(current)
    if not known or known != ended:
        raise BadTranscript(f'{transcript.path.name}: how do {sorted(known - ended)} end?')


# --- msgpack, as far as it takes to find the end of an object


_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8}
_FIXED |= {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_FIXED |= {0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_LISTS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def end_of_object(data: bytes, at: int) -> int:
    """
    Where the msgpack object that begins at a position ends.

    Raises:
        IndexError: the data end before it does.
        ValueError: it is none that the protocol uses.
    """
    kind = data[at]
    at += 1
    if kind < 0x80 or kind >= 0xE0:
        return at
    if kind < 0xA0:
        return _after_items(data, at, (kind & 0x0F) * (2 if kind < 0x90 else 1))
    if kind < 0xC0:
        at += kind & 0x1F
    elif kind in _FIXED:
        at += _FIXED[kind]
    elif kind in _SIZED:
        width = _SIZED[kind]
        at += width + int.from_bytes(data[at : at + width])
    elif kind in _LISTS:
        width, factor = _LISTS[kind]
        return _after_items(data, at + width, factor * int.from_bytes(data[at : at + width]))
    else:
        raise ValueError(f'{kind:02X} begins no object of the protocol')
    if at > len(data):
        raise IndexError('the object is cut off')
    return at


def _after_items(data: bytes, at: int, count: int) -> int:
    for _ in range(count):
        at = end_of_object(data, at)
    return at


def kind_of(data: bytes) -> str:
    """The kind of hole that an object fits into."""
    first = data[0]
    if 0xA0 <= first < 0xC0 or first in {0xD9, 0xDA, 0xDB}:
        return 'str'
    if first < 0x80 or first >= 0xE0 or 0xCC <= first <= 0xD3:
        return 'int'
    return 'other'


# --- playing


Bindings = dict[str, bytes]
"""The msgpack bytes of each hole, by its name."""


def filled(entry: Entry, bindings: Bindings) -> bytes:
    """The bytes of a frame to be sent."""
    body = b''.join(
        part if isinstance(part, bytes) else bindings[part.name]
        for part in entry.parts
        if part != Hole('len')
    )
    return HEADER.pack(len(body)) + body if entry.parts[0] == Hole('len') else body


def match(entry: Entry, frame: bytes, bindings: Bindings) -> None:
    """
    Compare a received frame, header and all, with what the transcript says; bind what it has for holes.

    Raises:
        Mismatch: they differ.
    """
    at = 0
    for part in entry.parts:
        if part == Hole('len'):
            at = HEADER.size
            continue
        if isinstance(part, bytes):
            expected, end = part, at + len(part)
        else:
            end = _end_or_none(frame, at)
            expected = _bound(part, frame[at:end], bindings)
        if frame[at:end] != expected:
            raise Mismatch(_describe(entry, at, expected, frame))
        at = end
    if at != len(frame):
        raise Mismatch(_describe(entry, at, b'', frame))


def _end_or_none(frame: bytes, at: int) -> int:
    try:
        return end_of_object(frame, at)
    except (IndexError, ValueError):
        return at


def _bound(hole: Hole, value: bytes, bindings: Bindings) -> bytes:
    """What must be in the hole: what was there before, or else any object of its kind."""
    if not value or hole.kind not in {'any', kind_of(value)}:
        return f'<{hole.kind} {hole.name}>'.encode()
    return value if hole.name == ANYTHING else bindings.setdefault(hole.name, value)


def _describe(entry: Entry, at: int, expected: bytes, frame: bytes) -> str:
    return (
        f'line {entry.line} ({entry.text}): at byte {at}\n'
        f'  expected {expected.hex(" ").upper()} {expected!r}\n'
        f'  but got  {frame[at : at + max(len(expected), 16)].hex(" ").upper()}\n'
        f'  in       {frame!r}'
    )


class End:
    """
    The peer's end of one connection.

    Args:
        stream: the connected stream.
        bytewise: write one byte at a time.
    """

    def __init__(self, stream: trio.abc.Stream, bytewise: bool) -> None:
        self.stream = stream
        self.bytewise = bytewise
        self.buffer = b''

    async def write(self, data: bytes) -> None:
        """Send bytes, in as many pieces as asked for; the actor may have closed the connection in the middle."""
        step = 1 if self.bytewise else len(data)
        try:
            for at in range(0, len(data), step):
                await self.stream.send_all(data[at : at + step])
        except trio.BrokenResourceError:
            # reading will tell whether that was expected
            await trio.lowlevel.checkpoint()

    async def read_frame(self) -> bytes:
        """The next frame with its header; what came before the end of the connection if that is not complete."""
        while not self._complete():
            try:
                data = await self.stream.receive_some(1 << 16)
            except trio.BrokenResourceError:
                data = b''
            if not data:
                break
            self.buffer += data
        end = HEADER.size + HEADER.unpack_from(self.buffer)[0] if self._complete() else None
        frame, self.buffer = self.buffer[:end], b'' if end is None else self.buffer[end:]
        return frame

    def _complete(self) -> bool:
        if len(self.buffer) < HEADER.size:
            return False
        (size,) = HEADER.unpack_from(self.buffer)
        if size > MAX_FRAME:
            raise Mismatch(f'a frame of {size} bytes: {self.buffer[:64]!r}')
        return len(self.buffer) >= HEADER.size + size


class Player:
    """
    Plays the peer's part of a transcript.

    Args:
        transcript: it.
        connect: makes the next connection, by dialling or accepting as the role demands.
        bindings: values of holes that are known beforehand.
        mode: how what is sent in a row is written: `'each'` frame by itself, `'joined'`, or `'bytewise'`.
    """

    def __init__(
        self,
        transcript: Transcript,
        connect: Callable[[], Awaitable[trio.abc.Stream]],
        bindings: Bindings,
        mode: str = 'each',
    ) -> None:
        self.transcript = transcript
        self.bindings = dict(bindings)
        self._connect = connect
        self._mode = mode
        self._ends: dict[str, End] = {}
        self._unsent = b''

    async def play(self) -> None:
        """
        Play it to its end; all connections are closed then.

        Raises:
            Mismatch: the actor sent something else.
        """
        current: End | None = None
        try:
            for entry in self.transcript.entries:
                if entry.verb == '>':
                    self._unsent += filled(entry, self.bindings)
                    if self._mode == 'joined':
                        continue
                if self._unsent:
                    assert current is not None
                    await current.write(self._unsent)
                    self._unsent = b''
                if entry.verb in {'dial', 'accept'}:
                    stream = await self._connect()
                    self._ends[entry.text] = End(stream, self._mode == 'bytewise')
                if entry.verb in {'dial', 'accept', 'use'}:
                    current = self._ends[entry.text]
                assert current is not None
                await self._take(entry, current)
        finally:
            with trio.CancelScope(shield=True):
                for end in self._ends.values():
                    await trio.aclose_forcefully(end.stream)

    async def _take(self, entry: Entry, end: End) -> None:
        if entry.verb == '<':
            match(entry, await end.read_frame(), self.bindings)
        elif entry.verb in {'close', 'closed'}:
            if entry.verb == 'close' and isinstance(end.stream, trio.abc.HalfCloseableStream):
                await end.stream.send_eof()
            # nothing was left unsaid, and the actor closes its end
            rest = await end.read_frame()
            if rest:
                raise Mismatch(f'line {entry.line}: more came before the end: {rest!r}')
            await end.stream.aclose()
