"""
The proof of the key, between two ends that both have it, through somebody in the middle who changes what he likes.

An end passes if and only if what reached it is what the other end really said; nothing but `Mismatch` is raised.
"""

from __future__ import annotations

from fuzz._choices import Choices
from fuzz._harness import watched
from tractor.ipc._auth import NONCE_SIZE, KeyExchange, Mismatch

_KEYS = (b'k' * 32, b'k' * 31 + b'l', b'k' * 64)


def one_input(data: bytes) -> None:
    """Two bytes of options, then what becomes of each piece on its way."""
    c = Choices(data)
    keys = c.pick(_KEYS), c.pick(_KEYS)
    same_nonce = c.byte() >= 240
    with watched(everything=True):
        connector, listener = (
            _End(KeyExchange(key, accepted=bool(at), nonce=bytes([same_nonce or at]) * NONCE_SIZE))
            for at, key in enumerate(keys)
        )
        ways = (connector, listener), (listener, connector)
        for _ in range(40):
            if not c.left or not any(_pass_on(c, *way) for way in ways):
                break
        if not c.left:
            # past the end of the input everything is passed on as it is
            while sum(_pass_on(c, *way) for way in ways):
                pass
        for end, other in ways:
            end.check(other, keys[0] == keys[1])


def seeds() -> list[bytes]:
    """By the book, with other keys, with a changed byte, cut off."""
    return [
        bytes(40),
        bytes(3) + b'\1\x05' * 30,
        b'\0\1\0' + bytes(40),
        b'\0\2\0' + bytes(40),
        b'\0\0\xff' + bytes(40),
        bytes(3) + b'\xe1\x01\x02' * 20,
        bytes(3) + b'\xf1' * 20,
    ]


class _End:
    def __init__(self, exchange: KeyExchange) -> None:
        self.exchange = exchange
        self.said = exchange.hello
        self.sent = 0
        self.got = b''
        self.failed = False

    def take(self, data: bytes) -> None:
        """As a transport does: never more than is missing."""
        while data and (missing := self.exchange.missing) and not self.failed:
            part, data = data[:missing], data[missing:]
            self.got += part
            try:
                self.said += self.exchange.feed(part)
            except Mismatch as err:
                assert str(err)
                assert self.exchange.state == 'failed'
                self.failed = True

    def check(self, other: _End, same_key: bool) -> None:
        exchange = self.exchange
        assert repr(exchange)
        assert (exchange.state == 'failed') is self.failed
        assert (exchange.missing > 0) is (exchange.state in {'hello', 'proof'})
        if exchange.state == 'passed':
            assert same_key
            assert self.got == other.said[: len(self.got)]
            assert other.got[: len(other.exchange.hello)] == self.said[: len(other.exchange.hello)]
        if not self.failed:
            assert str(exchange.lost())
            assert repr(exchange).endswith('failed>')


def _pass_on(c: Choices, sender: _End, receiver: _End) -> bool:
    """Bring some of what one end said to the other; whether there was any."""
    how = c.byte()
    size = 1 + c.below(64) if how % 2 else 1 << 10
    data = bytearray(sender.said[sender.sent : sender.sent + size])
    sender.sent += len(data)
    if how >= 240:
        # back to where it came from
        sender.take(bytes(data))
        return bool(data)
    if how >= 224 and data:
        data[c.below(len(data))] ^= 1 + c.below(255)
    elif how >= 216:
        data = bytearray(c.blob())
    receiver.take(bytes(data))
    return bool(data)
