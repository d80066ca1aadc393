"""
The reader of frames, fed with any bytes in any pieces, against one that does it the slow way; and the writer.

Nothing but `FrameTooLarge` is ever raised, what is kept is bounded by what arrived and by the limit, and each body
comes out once, whole and in order.
"""

from __future__ import annotations

import struct
from typing import Any

from fuzz._choices import Choices
from fuzz._script import WAIT, framed, raw, steps
from tractor.ipc import _framing
from tractor.ipc._framing import (
    HEADER_SIZE,
    LARGE,
    MAX_FRAME_SIZE,
    FrameReader,
    FrameTooLarge,
    FrameWriter,
)

_LIMITS = (MAX_FRAME_SIZE, 0, 1, 100, LARGE - 1, LARGE, LARGE + 1, 1 << 17)
_SIZES = (0, 1, 3, 4, 5, 100, LARGE - 1, LARGE, LARGE + 1)


def one_input(data: bytes) -> None:
    """One byte chooses between reading and writing, the rest is what is read or done."""
    c = Choices(data)
    if c.byte() < 160:
        _read(c)
    else:
        _write(c)


def seeds() -> list[bytes]:
    """Small and large frames, an announcement that is too large, and writing with withdrawals."""
    large = bytes([12, 1, 0, 1, 0])
    return [
        bytes(3) + framed(b'abc') + framed(b'') + WAIT + raw(b'\x03\0\0\0a'),
        bytes(2) + bytes([1]) + large + large + framed(b'x'),
        bytes([0, 3, 0]) + framed(b'a') + raw(b'\xff\xff\xff\xff'),
        bytes([0, 6, 1]) + framed(b'a') + large + framed(b'b'),
        bytes([200, 0, 7, 2, 3, 0, 5, 1, 0, 2, 9, 0, 2, 255, 3]),
    ]


# --- reading


class _SlowReader:
    """Keeps everything it got and looks at it from the start, each time."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.refused = False
        self._rest = b''

    def feed(self, data: bytes) -> list[bytes]:
        self._rest += data
        bodies = []
        while len(self._rest) >= HEADER_SIZE:
            (size,) = struct.unpack_from('<I', self._rest)
            self.refused = size > self.limit
            if self.refused or len(self._rest) < HEADER_SIZE + size:
                break
            bodies.append(self._rest[HEADER_SIZE : HEADER_SIZE + size])
            self._rest = self._rest[HEADER_SIZE + size :]
        return bodies


class _Reading:
    """The reader under test and the slow one, side by side."""

    def __init__(self, limit: int, raised_to: int, through_holes: bool) -> None:
        self.reader, self.slow = FrameReader(limit), _SlowReader(limit)
        self.raised_to = raised_to
        self.through_holes = through_holes

    def take(self, data: bytes) -> bool:
        """Feed both; whether more may follow."""
        wanted = self.slow.feed(data)
        while True:
            got, error = self._feed(data)
            assert got == wanted[: len(got)], 'a body differs'
            wanted = wanted[len(got) :]
            self.check_memory()
            if error is not None:
                assert self.slow.refused, error
                assert not wanted
                assert error.size > error.limit
                return False
            if not self.reader.held:
                break
            # whoever takes what came before may raise the limit, as a handshake does
            assert self.slow.refused
            self.reader.max_size = self.slow.limit = max(self.raised_to, self.reader.max_size)
            wanted += self.slow.feed(b'')
            data = b''
        assert not wanted, 'a body is missing'
        assert not self.slow.refused
        return True

    def _feed(self, data: bytes) -> tuple[list[bytes], FrameTooLarge | None]:
        bodies: list[Any] = []
        try:
            while self.through_holes and data and (hole := self.reader.hole()) is not None:
                with hole:
                    count = min(len(hole), len(data))
                    assert count, 'no room'
                    hole[:count] = data[:count]
                data = data[count:]
                body = self.reader.filled(count)
                if body is not None:
                    bodies.append(body)
            if data or not bodies:
                bodies += self.reader.feed(data)
        except FrameTooLarge as err:
            return [bytes(body) for body in bodies], err
        return [bytes(body) for body in bodies], None

    def check_memory(self) -> None:
        reader, arrived = self.reader, len(self.slow._rest)
        kept = len(reader._tail) + len(reader._large or b'')
        assert kept <= max(2 * arrived, _framing._FIRST_GROWTH) + LARGE
        assert kept <= max(reader.max_size, arrived) + HEADER_SIZE
        assert reader.pending <= arrived or reader.held
        assert repr(reader)


def _read(c: Choices) -> None:
    reading = _Reading(c.pick(_LIMITS), c.pick(_LIMITS), c.below(2) == 1)
    pieces: list[bytes] = [b'']
    for piece in steps(c):
        if piece is None:
            pieces.append(b'')
        else:
            pieces[-1] += piece
    if all(map(reading.take, pieces)):
        assert reading.reader.feed(b'') == []


# --- writing


class _Writing:
    def __init__(self) -> None:
        self.writer = FrameWriter()
        # the end position and the bytes of every frame that was not taken back
        self.frames: dict[int, bytes] = {}
        self.out = bytearray()

    def push(self, body: bytes) -> None:
        end = self.writer.push(body)
        assert end == self.writer.pushed
        self.frames[end] = struct.pack('<I', len(body)) + body

    def withdraw(self, end: int) -> None:
        before = len(self.out)
        if self.writer.withdraw(end):
            self.frames.pop(end)
        assert len(self.out) == before

    def write(self, count: int) -> bool:
        block = self.writer.current()
        if block is None:
            return False
        assert len(block)
        count = min(count, len(block))
        self.out += block[:count]
        self.writer.wrote(count)
        return True

    def check(self) -> None:
        writer, whole = self.writer, b''.join(self.frames.values())
        assert whole.startswith(self.out)
        assert writer.unwritten == len(whole) - len(self.out)
        served = [frame for end, frame in self.frames.items() if end <= writer.written]
        assert len(b''.join(served)) <= len(self.out), 'served before it was written'
        assert repr(writer)


def _write(c: Choices) -> None:
    writing = _Writing()
    for number in range(64):
        if not c.left:
            break
        what = c.below(4)
        if what < 2:
            writing.push(bytes([number]) * c.pick(_SIZES))
        elif what == 2 and writing.frames:
            writing.withdraw(c.pick(list(writing.frames)))
        else:
            writing.write(c.number(1 + c.below(3)) + 1)
        writing.check()
    while writing.write(1 << 20):
        writing.check()
    assert writing.writer.written == writing.writer.pushed
    assert bytes(writing.out) == b''.join(writing.frames.values())
