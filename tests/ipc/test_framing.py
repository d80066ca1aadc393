"""contract: cutting a byte stream into frames, and what is left to write of it."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tractor.ipc import _framing
from tractor.ipc._framing import (
    HEADER_SIZE,
    LARGE,
    MAX_FRAME_SIZE,
    FrameReader,
    FrameTooLarge,
    FrameWriter,
)


def frame(body: bytes) -> bytes:
    return struct.pack('<I', len(body)) + body


def in_pieces(reader: FrameReader, data: bytes, sizes: list[int]) -> list[bytes]:
    """Feed `data` in pieces of these sizes, the rest at once."""
    bodies: list[Any] = []
    for size in sizes:
        bodies += reader.feed(data[:size])
        data = data[size:]
    bodies += reader.feed(data)
    return [bytes(body) for body in bodies]


def through_holes(reader: FrameReader, data: bytes, step: int) -> list[bytes]:
    """Deliver as a socket does: into the reader's own buffer where it offers one."""
    bodies: list[bytes] = []
    while data:
        hole = reader.hole()
        if hole is None:
            bodies += map(bytes, reader.feed(data[:step]))
            data = data[step:]
            continue
        with hole:
            count = min(len(hole), len(data), step)
            hole[:count] = data[:count]
        data = data[count:]
        body = reader.filled(count)
        if body is not None:
            bodies.append(bytes(body))
    return bodies


# --- reading


def test_header_is_32_bit_little_endian() -> None:
    assert FrameReader().feed(b'\x03\0\0\0abc') == [b'abc']
    assert struct.calcsize('<I') == HEADER_SIZE == 4


def test_byte_by_byte() -> None:
    bodies = [b'', b'a', b'bc' * 200, b'']
    data = b''.join(map(frame, bodies))
    reader = FrameReader()
    got = []
    for at in range(len(data)):
        got += reader.feed(data[at : at + 1])
        complete = sum(end <= at + 1 for end in ends(bodies))
        assert got == bodies[:complete]
    assert reader.pending == 0


def ends(bodies: list[bytes]) -> list[int]:
    found, at = [], 0
    for body in bodies:
        at += len(frame(body))
        found.append(at)
    return found


@settings(deadline=None)
@given(
    bodies=st.lists(st.binary(max_size=300), max_size=20),
    sizes=st.lists(st.integers(0, 700), max_size=20),
)
def test_splits_do_not_matter(bodies: list[bytes], sizes: list[int]) -> None:
    reader = FrameReader()
    assert in_pieces(reader, b''.join(map(frame, bodies)), sizes) == bodies
    assert reader.pending == 0


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(
        st.sampled_from([0, 1, 100, LARGE - 1, LARGE, LARGE + 1, 3 * LARGE]), max_size=5
    ),
    sizes=st.lists(st.integers(1, 2 * LARGE), max_size=8),
    step=st.integers(1000, 2 * LARGE),
)
def test_large_bodies_however_they_arrive(lengths: list[int], sizes: list[int], step: int) -> None:
    bodies = [bytes([at + 1]) * length for at, length in enumerate(lengths)]
    data = b''.join(map(frame, bodies))
    assert in_pieces(FrameReader(), data, sizes) == bodies
    assert through_holes(FrameReader(), data, step) == bodies


@pytest.mark.parametrize('size', [1 << 20, (1 << 20) + 1, (5 << 20) + 7])
def test_the_buffer_of_a_large_body_grows(size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b'x' * (size % 256)
    assert through_holes(FrameReader(), frame(body) + frame(b'next'), 64 * 1024) == [body, b'next']


def test_no_hole_for_small_bodies() -> None:
    reader = FrameReader()
    assert reader.hole() is None
    reader.feed(struct.pack('<I', LARGE - 1) + b'x' * 10)
    assert reader.hole() is None
    assert reader.pending == HEADER_SIZE + 10


def test_pending_of_a_large_body() -> None:
    reader = FrameReader()
    reader.feed(struct.pack('<I', 2 * LARGE) + b'x' * 10)
    assert reader.pending == 10
    assert 'pending=10' in repr(reader)
    assert reader.filled(5) is None
    assert reader.pending == 15


def test_a_mere_announcement_costs_no_memory() -> None:
    reader = FrameReader()
    header = struct.pack('<I', MAX_FRAME_SIZE)
    tracemalloc.start()
    try:
        assert reader.feed(header) == []
        hole = reader.hole()
        assert hole is not None
        with hole:
            hole[:10] = b'x' * 10
        assert reader.filled(10) is None
        used = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert used < 2 * _framing._FIRST_GROWTH


@pytest.mark.parametrize('announced', [101, 1 << 20, 0xFFFFFFFF])
def test_too_large_is_refused_by_its_header(announced: int) -> None:
    reader = FrameReader(max_size=100)
    header = struct.pack('<I', announced)
    assert reader.feed(header[:3]) == []
    tracemalloc.start()
    try:
        with pytest.raises(FrameTooLarge, match=rf'{announced} bytes.*100 accepted') as excinfo:
            reader.feed(header[3:])
        used = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (excinfo.value.size, excinfo.value.limit) == (announced, 100)
    assert isinstance(excinfo.value, ValueError)
    assert used < 100_000
    with pytest.raises(FrameTooLarge):
        reader.feed(b'more')


@pytest.mark.parametrize(
    ('text', 'size'), [('', 1 << 30), ('65536', 1 << 16), ('4294967295', 0xFFFFFFFF)]
)
def test_the_limit_may_be_set_in_the_environment(text: str, size: int) -> None:
    code = 'from tractor.ipc import _chan, _framing, _transport; print(_chan.MAX_FRAME_SIZE, _transport.MAX_FRAME_SIZE)'
    done = subprocess.run(
        [sys.executable, '-c', code],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={
            **os.environ,
            'PYTHONPATH': os.pathsep.join(filter(None, sys.path)),
            'TRACTOR_MAX_FRAME_SIZE': text,
        },
    )
    assert done.stdout.split() == [str(size)] * 2


@pytest.mark.parametrize('text', ['1 GiB', '-1', '65535', '4294967296', '1e9', '²'])
def test_a_limit_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match='TRACTOR_MAX_FRAME_SIZE is a number of bytes') as excinfo:
        _framing._chosen_max_frame_size(text)
    assert repr(text) in str(excinfo.value)


def test_the_limit_itself_is_accepted() -> None:
    assert FrameReader(max_size=100).feed(frame(b'x' * 100)) == [b'x' * 100]


@pytest.mark.parametrize('size', [101, 2 * LARGE])
def test_what_came_before_a_large_frame_is_delivered_and_may_raise_the_limit(size: int) -> None:
    data = frame(b'hello') + frame(b'x' * size) + frame(b'after')
    refusing, accepting = FrameReader(max_size=100), FrameReader(max_size=100)
    for reader in (refusing, accepting):
        assert reader.feed(data) == [b'hello']
        assert reader.held
    with pytest.raises(FrameTooLarge):
        refusing.feed(b'')
    accepting.max_size = MAX_FRAME_SIZE
    assert [bytes(body) for body in accepting.feed(b'')] == [b'x' * size, b'after']
    assert not accepting.held
    assert accepting.pending == 0


# --- writing


def written(writer: FrameWriter, step: int = 1 << 30) -> list[bytes]:
    """Take everything, at most `step` bytes at a time."""
    pieces = []
    while (data := writer.current()) is not None:
        pieces.append(bytes(data[:step]))
        writer.wrote(len(pieces[-1]))
    return pieces


def test_nothing_to_write() -> None:
    writer = FrameWriter()
    assert writer.current() is None
    assert (writer.pushed, writer.written, writer.unwritten) == (0, 0, 0)


def test_positions_and_the_count_of_bytes() -> None:
    writer = FrameWriter()
    assert writer.push(b'abc') == 7
    assert writer.push(b'') == 11
    assert (writer.pushed, writer.written, writer.unwritten) == (11, 0, 11)
    assert repr(writer) == '<FrameWriter unwritten=11>'
    block = writer.current()
    assert block is not None
    assert bytes(block) == frame(b'abc') + frame(b'')
    writer.wrote(5)
    # the two go together: none has been served before both are
    assert (writer.written, writer.unwritten) == (0, 6)
    assert bytes(writer.current() or b'') == (frame(b'abc') + frame(b''))[5:]
    writer.wrote(6)
    assert (writer.written, writer.unwritten) == (11, 0)
    assert writer.current() is None


def receive(reader: FrameReader, body: bytes, by_hole: bool) -> bytes | bytearray:
    """One large body, as a socket gives it, or a stream that cannot fill a buffer."""
    data = frame(body)
    bodies = reader.feed(data[:LARGE])
    at = LARGE
    while not bodies:
        part = data[at : at + LARGE]
        at += len(part)
        hole = reader.hole() if by_hole else None
        if hole is None:
            bodies = reader.feed(part)
            continue
        part, at = part[: len(hole)], at - len(part) + len(part[: len(hole)])
        with hole:
            hole[: len(part)] = part
        filled = reader.filled(len(part))
        bodies = [] if filled is None else [filled]
    (received,) = bodies
    return received


@pytest.mark.parametrize('by_hole', [True, False])
def test_buffers_of_large_bodies_are_used_again(by_hole: bool) -> None:
    reader = FrameReader()
    sizes = [20 * LARGE, 18 * LARGE, 20 * LARGE, 3 * LARGE, 17 * LARGE + 5] * 4
    seen = set()
    for at, size in enumerate(sizes):
        body = bytes([at]) * size
        received = receive(reader, body, by_hole)
        assert received == body
        seen.add(id(received))
        del received
    # the first is not kept: none may follow
    assert len(seen) <= 4
    # nor is any once a small body has come
    assert reader._used
    assert reader.feed(frame(b'small')) == [b'small']
    assert reader._used == []


def test_a_buffer_that_somebody_has_is_left_alone() -> None:
    reader = FrameReader()
    bodies = [bytes([at]) * (20 * LARGE + at) for at in range(12)]
    views: list[Any] = []
    for at, body in enumerate(bodies):
        received = receive(reader, body, by_hole=True)
        views.append(memoryview(received) if at % 2 else received)
        del received
    assert list(map(bytes, views)) == bodies


def test_what_is_kept_of_large_bodies_is_bounded() -> None:
    reader = FrameReader()
    assert len(receive(reader, bytes(20 * LARGE), by_hole=True)) == 20 * LARGE
    assert reader._used == []
    for _ in range(5):
        receive(reader, bytes(100 * LARGE), by_hole=True)
        assert reader._used == []
    kept = [receive(reader, bytes(20 * LARGE), by_hole=True) for _ in range(9)]
    assert len(kept) == 9
    assert len(reader._used) == 3


def test_small_frames_are_joined_and_not_without_limit() -> None:
    writer = FrameWriter()
    bodies = [bytes([at]) * 1000 for at in range(200)]
    for body in bodies:
        writer.push(body)
    pieces = written(writer)
    assert b''.join(pieces) == b''.join(map(frame, bodies))
    assert len(pieces) == 4
    assert max(map(len, pieces)) < LARGE + 2000


def test_a_large_body_is_not_copied() -> None:
    writer = FrameWriter()
    body = b'x' * (10 * LARGE)
    writer.push(b'before')
    end = writer.push(body)
    writer.push(b'after')
    head = writer.current()
    assert head is not None
    # its header goes with what was queued before and with its first bytes
    assert bytes(head).startswith(frame(b'before') + frame(body)[:100])
    assert len(head) <= LARGE + len(frame(b'before'))
    writer.wrote(len(head))
    assert writer.written < end
    rest = writer.current()
    assert rest is not None
    assert rest.obj is body
    writer.wrote(len(rest))
    assert writer.written == end
    assert written(writer) == [frame(b'after')]


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.sampled_from([0, 1, 50, 5000, LARGE - 1, LARGE, LARGE + 1]), max_size=8),
    step=st.integers(100, 2 * LARGE),
    taken=st.sets(st.integers(0, 7)),
)
def test_bytes_are_exact_whatever_is_withdrawn(
    lengths: list[int], step: int, taken: set[int]
) -> None:
    bodies = [bytes([at + 1]) * length for at, length in enumerate(lengths)]
    writer = FrameWriter()
    positions = [writer.push(body) for body in bodies]
    for at, end in enumerate(positions):
        assert at not in taken or writer.withdraw(end)
    kept = [body for at, body in enumerate(bodies) if at not in taken]
    assert writer.unwritten == sum(len(frame(body)) for body in kept)
    pieces = written(writer, step)
    assert b''.join(pieces) == b''.join(map(frame, kept))
    # whoever waits for the last position is served also if that frame was withdrawn
    assert writer.written == writer.pushed
    assert writer.unwritten == 0
    assert FrameReader().feed(b''.join(pieces)) == kept


def test_what_is_on_its_way_cannot_be_withdrawn() -> None:
    writer = FrameWriter()
    first, large = writer.push(b'first'), writer.push(b'x' * LARGE)
    last = writer.push(b'last')
    assert writer.current() is not None
    assert not writer.withdraw(first)
    assert not writer.withdraw(large)
    assert writer.withdraw(last)
    assert not writer.withdraw(last)
    assert b''.join(written(writer)) == frame(b'first') + frame(b'x' * LARGE)


@pytest.mark.parametrize('size', [10, 2 * LARGE])
def test_discarded_bytes_are_gone_and_nobody_is_served(size: int) -> None:
    writer = FrameWriter()
    end = writer.push(b'x' * size)
    assert writer.current() is not None
    writer.wrote(3)
    writer.discard()
    assert writer.unwritten == 0
    assert writer.written < end
