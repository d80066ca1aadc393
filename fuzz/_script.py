"""What a peer sends, and in which pieces: a script made of decisions."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from fuzz._choices import Choices, packed
from fuzz._values import NAMES, encode, message

_HEADER = struct.Struct('<I')

# steps of one script; the rest of the input is not read
_MAX_STEPS = 64

# largest body that a single step makes: more than what is read without copies; and all steps of a script together
# (bytes): what one input takes for itself must not hide what a process loses
_MAX_BODY, _MAX_SCRIPT = 1 << 18, 1 << 20

_RAW, _FRAMED, _WAIT = 8, 9, 10
_KINDS = 14


def frame(body: bytes) -> bytes:
    """A body with the header that announces it."""
    return _HEADER.pack(len(body)) + body


def steps(c: Choices, names: tuple[str, ...] = NAMES) -> Iterator[bytes | None]:
    """
    The pieces that a peer writes one after the other; `None` where it first waits for the other side to settle.

    Args:
        c: where the decisions come from.
        names: the messages that are made by themselves.
    """
    total = 0
    for _ in range(_MAX_STEPS):
        if not c.left or total > _MAX_SCRIPT:
            return
        data = _step(c, c.below(_KINDS), names)
        if data is None:
            yield None
            continue
        total += len(data)
        split = c.byte()
        if split >= 200 and len(data) > 1:
            at = 1 + c.number(2) % (len(data) - 1)
            yield data[:at]
            yield None
            data = data[at:]
        yield data


def _step(c: Choices, kind: int, names: tuple[str, ...]) -> bytes | None:
    if kind < _RAW:
        return frame(message(c, names))
    if kind == _RAW:
        return c.blob()
    if kind == _FRAMED:
        return frame(c.blob())
    if kind == _WAIT:
        return None
    if kind == _WAIT + 1:
        return _HEADER.pack(c.number(4) >> c.below(32))
    if kind == _WAIT + 2:
        size = min(c.number(3), _MAX_BODY)
        return frame(encode({'msg_type': 'Yield', 'cid': 'c0', 'pld': 'x' * size}))
    depth = min(c.number(2), 1 << 15)
    return frame(
        b'\x83\xa8msg_type\xa5Yield\xa3cid\xa2c0\xa3pld' + c.pick((b'\x91', b'\x81\x01')) * depth
    )


# --- the other way round: inputs for what is known already


def raw(data: bytes) -> bytes:
    """The step that writes these bytes."""
    return bytes([_RAW]) + packed(data) + b'\0'


def framed(body: bytes) -> bytes:
    """The step that writes this body in a frame."""
    return bytes([_FRAMED]) + packed(body) + b'\0'


def sent(msg: Any) -> bytes:
    """The step that writes a message, given as a struct or a map."""
    return framed(encode(msg))


WAIT = bytes([_WAIT])
