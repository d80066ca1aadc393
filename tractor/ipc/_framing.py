"""
Frames: a 4 byte little-endian body length, then the body. Nothing here awaits.

`FrameReader` is fed with whatever bytes arrived and answers with every body that is complete; `FrameWriter`
holds what is still to be written, byte exact, so that a write that was cut short (cancellation, a full socket)
continues where it stopped. Both are plain state objects: transports drive them.

Large bodies get a buffer of their own (`LARGE`): the kernel fills it directly through `FrameReader.hole()`, the
decoder reads from it, and no other copy is made. That buffer grows with what really arrived, never with what a
header merely announces.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from sys import getrefcount

HEADER = struct.Struct('<I')
HEADER_SIZE: int = HEADER.size

# bodies of at least this many bytes are not copied on their way, but for their first bytes (bytes)
LARGE: int = 64 * 1024

# what a frame may announce before a peer has said who it is: an `Aid` takes about 200 bytes, a name may be long (bytes)
MAX_GREETING_SIZE: int = 64 * 1024

# the same afterwards, in bytes, unless the environment says otherwise, which children inherit
_DEFAULT_MAX_FRAME_SIZE: int = 1 << 30
_ENV_MAX_FRAME_SIZE = 'TRACTOR_MAX_FRAME_SIZE'


def _chosen_max_frame_size(text: str) -> int:
    if not text:
        return _DEFAULT_MAX_FRAME_SIZE
    if text.isascii() and text.isdecimal() and MAX_GREETING_SIZE <= int(text) < 1 << 32:
        return int(text)
    raise ValueError(
        f'{_ENV_MAX_FRAME_SIZE} is a number of bytes from {MAX_GREETING_SIZE} to {(1 << 32) - 1}, not {text!r}'
    )


MAX_FRAME_SIZE: int = _chosen_max_frame_size(os.environ.get(_ENV_MAX_FRAME_SIZE, ''))

# first allocation for a large body; it then doubles with every filling (bytes)
_FIRST_GROWTH: int = 1 << 20

# While large bodies follow each other, so many of their buffers, of so many bytes in total, are there to be used again
# once nobody has them: to get and clear a new one costs as much as to read into it.
_KEPT: int = 3
_KEPT_SIZE: int = 6 << 20

# how much of a large body travels with its header, so that the two need not be written one by one (bytes): as much as
# the other side takes in one read before it knows that the body is large
_HEAD_SIZE: int = 64 * 1024 - HEADER_SIZE


class FrameTooLarge(ValueError):
    """
    A header announced more bytes than this side accepts.

    """

    def __init__(self, size: int, limit: int) -> None:
        self.size, self.limit = size, limit
        super().__init__(
            f'incoming frame announces {size} bytes, more than the {limit} accepted here'
        )


class FrameReader:
    """
    Cuts a byte stream into frame bodies.

    Args:
        max_size: largest accepted body, in bytes.
    """

    __slots__ = (
        '_filled',
        '_in_a_row',
        '_large',
        '_large_size',
        '_tail',
        '_used',
        'held',
        'max_size',
    )

    def __init__(self, max_size: int = MAX_FRAME_SIZE) -> None:
        self.max_size = max_size
        # a header above the limit lies here; whoever takes what came before it may still raise the limit
        self.held = False
        self._tail = b''
        self._large: bytearray | None = None
        self._large_size = 0
        self._filled = 0
        # large bodies since the last small one, and the buffers of some of them
        self._in_a_row = 0
        self._used: list[bytearray] = []

    def __repr__(self) -> str:
        return f'<FrameReader pending={self.pending} max_size={self.max_size}>'

    @property
    def pending(self) -> int:
        """Bytes received that belong to a body which is not complete yet."""
        return len(self._tail) + self._filled

    def feed(self, data: bytes) -> list[bytes | bytearray]:
        """
        Take what arrived, return all bodies that are complete by now, in order.

        A header that announces more than `max_size` ends the list and sets `held`; if there is nothing before it,
        or at the next call, feeding no more bytes being enough, it is refused.

        Raises:
            FrameTooLarge: a header announces more than `max_size`. The stream cannot be followed any further.
        """
        self.held = False
        bodies: list[bytes | bytearray] = []
        if self._large is not None:
            data = self._feed_large(data, bodies)
            if not data:
                return bodies
        large = len(bodies)
        if self._tail:
            data = self._tail + data
            self._tail = b''
        at, end = 0, len(data)
        while end - at >= HEADER_SIZE:
            (size,) = HEADER.unpack_from(data, at)
            if size > self.max_size:
                self._hold(data[at:], size, is_first=not bodies)
                return bodies
            start = at + HEADER_SIZE
            at = start + size
            if at > end:
                if size >= LARGE:
                    self._begin_large(size, data[start:])
                    return bodies
                at = start - HEADER_SIZE
                break
            bodies.append(data[start:at])
        if len(bodies) > large and self._in_a_row:
            self._in_a_row = 0
            self._used.clear()
        if at < end:
            self._tail = data[at:]
        return bodies

    def _hold(self, rest: bytes, size: int, is_first: bool) -> None:
        self._tail = rest
        if is_first:
            raise FrameTooLarge(size, self.max_size)
        self.held = True

    def hole(self) -> memoryview | None:
        """
        Where the kernel may write the next bytes of a large body; `None` while no such body is under way.

        After writing `n` bytes there, call `filled(n)`.
        """
        if self._large is None:
            return None
        if self._filled == len(self._large):
            self._grow()
        return memoryview(self._large)[self._filled :]

    def filled(self, count: int) -> bytearray | None:
        """Account for `count` bytes written into the `hole()`; the body, if that completed it."""
        self._filled += count
        if self._large is None or self._filled < self._large_size:
            return None
        body, self._large, self._filled = self._large, None, 0
        self._in_a_row += 1
        if self._in_a_row > 1 and self._large_size <= _KEPT_SIZE // _KEPT:
            self._used = [*self._used[1 - _KEPT :], body]
        return body

    def _begin_large(self, size: int, first: bytes) -> None:
        self._large_size = size
        self._filled = len(first)
        self._large = self._buffer(min(size, max(_FIRST_GROWTH, len(first))))
        self._large[: len(first)] = first

    def _buffer(self, size: int) -> bytearray:
        """One that was used and that nobody has any more, if there is one, or a new one."""
        for at, used in enumerate(self._used):
            if len(used) >= size and getrefcount(used) == _ALONE:
                del self._used[at]
                del used[size:]
                return used
        return bytearray(size)

    def _grow(self) -> None:
        assert self._large is not None
        self._large.extend(bytes(min(self._large_size - self._filled, self._filled)))

    def _feed_large(self, data: bytes, bodies: list[bytes | bytearray]) -> bytes:
        while data:
            hole = self.hole()
            if hole is None:
                return data
            count = min(len(hole), len(data))
            hole[:count] = data[:count]
            hole.release()
            data = data[count:]
            body = self.filled(count)
            if body is not None:
                bodies.append(body)
        return data


def _references() -> int:
    used = [bytearray()]
    for _, one in enumerate(used):
        return getrefcount(one)
    raise AssertionError


# what is counted for a buffer which only `FrameReader._used` has, asked as `_buffer()` does
_ALONE: int = _references()


class FrameWriter:
    """
    The bytes still to be written on one stream, and how far the stream has come.

    Positions are counts of bytes since the stream began: whoever pushed a frame has been served once `written`
    reaches the position which `push()` returned. What was pushed together is written together, so `written`
    advances by several frames at a time.
    """

    __slots__ = ('_block', '_block_end', '_frames', '_rest', 'pushed', 'unwritten', 'written')

    def __init__(self) -> None:
        # the end position, the bytes to be joined with others and, of a large frame, the rest
        self._frames: deque[tuple[int, bytes, memoryview | None]] = deque()
        self._rest: memoryview | None = None
        self._block: memoryview | None = None
        self._block_end = 0
        self.pushed = 0
        self.written = 0
        # bytes which the stream has not taken yet
        self.unwritten = 0

    def __repr__(self) -> str:
        return f'<FrameWriter unwritten={self.unwritten}>'

    def push(self, body: bytes) -> int:
        """Queue one frame; returns the position at which it will have been written."""
        size = len(body)
        total = HEADER_SIZE + size
        self.unwritten += total
        self.pushed = end = self.pushed + total
        if size < LARGE:
            self._frames.append((end, HEADER.pack(size) + body, None))
        else:
            head = HEADER.pack(size) + body[:_HEAD_SIZE]
            self._frames.append((end, head, memoryview(body)[_HEAD_SIZE:]))
        return end

    def withdraw(self, end: int) -> bool:
        """Take the frame back that ends at a position; `False` if it is on its way already, or gone."""
        frame = next((frame for frame in self._frames if frame[0] == end), None)
        if frame is None:
            return False
        self._frames.remove(frame)
        _, head, rest = frame
        self.unwritten -= len(head) + (0 if rest is None else len(rest))
        return True

    def current(self) -> memoryview | None:
        """What to write next: small frames joined, a large body by itself; `None` when all is written."""
        if self._block is not None:
            return self._block
        if self._rest is not None:
            self._block, self._rest = self._rest, None
            return self._block
        frames = self._frames
        if not frames:
            self.written = self.pushed
            return None
        self._block_end, head, self._rest = frames.popleft()
        if frames and self._rest is None:
            head = self._joined(head)
        self._block = memoryview(head)
        return self._block

    def _joined(self, head: bytes) -> bytes:
        frames, parts, total = self._frames, [head], len(head)
        while frames and total < LARGE and self._rest is None:
            self._block_end, head, self._rest = frames.popleft()
            total += len(head)
            parts.append(head)
        return b''.join(parts)

    def wrote(self, count: int) -> None:
        """The stream took `count` bytes of `current()`."""
        block = self._block
        assert block is not None
        self.unwritten -= count
        if count < len(block):
            self._block = block[count:]
            return
        self._block = None
        if self._rest is None:
            self.written = self._block_end

    def discard(self) -> None:
        """Forget everything unwritten: the stream is gone, nobody else will be served."""
        self._frames.clear()
        self._block = self._rest = None
        self.unwritten = 0
