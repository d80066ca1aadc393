"""
The pre-shared key of a tree: where it is held, and how two actors prove to each other that they have it.

Both ends send a hello at once, then the connecting end proves first: one that only connects learns nothing that
depends on the key. All messages are raw and of fixed size, and nothing else is read or decoded before both passed:

| message | bytes |
|---|---|
| hello | `AuTr`, 1 byte version, 32 random bytes |
| proof | 32 bytes: HMAC-SHA256, with the key, of role, version, the connecting end's and the listening end's random bytes |

| exchange is in | takes | if right, answers | and is in | if not |
|---|---|---|---|---|
| hello, connecting | hello | its proof | proof | failed |
| hello, listening | hello | - | proof | failed |
| proof, connecting | the listener's proof | - | passed | failed |
| proof, listening | the connector's proof | its proof | passed | failed |

A proof names the role it was made in, so that it cannot be reflected, and the random bytes of both ends, so that it
cannot be replayed. A stream that ends, or is silent for too long, fails in whatever state it is. One that ends without a single
byte is no failed attempt, but a peer that went away, or somebody who looks for open ports.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, Literal

import trio

from tractor import log as _log
from tractor._exceptions import TransportClosed
from tractor.ipc._access import (
    KEY_MAGIC,
    NEED_TLS,
    AuthenticationError,
    Held,
    closed_silently,
    what_it_speaks,
)

log = _log.get_logger()

ENV_VAR = 'TRACTOR_AUTHKEY'

VERSION = 1
NONCE_SIZE = 32
PROOF_SIZE = 32
HELLO_SIZE = len(KEY_MAGIC) + 1 + NONCE_SIZE

# bytes; what is shorter can be guessed
MIN_KEY_SIZE = 16

# of SHA-256, in bytes: HMAC itself replaces a longer key by its hash
_BLOCK_SIZE = 64

# of equal length, so that what is signed can be read in one way only
_CONNECTS = b'tractor connects'
_LISTENS = b'tractor accepts '

_SAME_KEY = 'give both ends the same key, with authkey= or TRACTOR_AUTHKEY'


# -- the key --------------------------------------------------------------------------------------------------------

# the key of this actor's tree, if it has one
current: Held[bytes] = Held()


def as_key(value: bytes | str, what: str = 'authkey') -> bytes:
    """
    Check a key as it is given by a user.

    Args:
        value: 16 bytes at least; a text counts as UTF-8.
        what: where it comes from, for the error.

    Returns:
        A key of 64 bytes at most, which gives the same proofs.

    Raises:
        TypeError: it is neither bytes nor text.
        ValueError: it is too short.
    """
    if not isinstance(value, bytes | str):
        raise TypeError(f'{what} must be bytes or str, not {type(value).__name__}')
    key = value.encode('utf-8', 'surrogateescape') if isinstance(value, str) else value
    if len(key) < MIN_KEY_SIZE:
        raise ValueError(
            f'{what} must have at least {MIN_KEY_SIZE} bytes, not {len(key)}: '
            'make one with `python -c "import secrets; print(secrets.token_hex())"`'
        )
    if len(key) <= _BLOCK_SIZE:
        return key
    import hashlib

    return hashlib.sha256(key).digest()


def choose(authkey: bytes | str | None) -> bytes | None:
    """
    The key of a root: the environment overrides the argument, as for its other options.

    Raises:
        TypeError, ValueError: as `as_key()`.
    """
    given = None if authkey is None else as_key(authkey)
    env = os.environ.get(ENV_VAR)
    if not env:
        return given
    key = as_key(env, ENV_VAR)
    if given is not None and given != key:
        log.warning('%s overrides authkey=', ENV_VAR)
    return key


def forget_env() -> None:
    """Take the key out of the environment: a child has it already, and what the user starts from there needs none."""
    os.environ.pop(ENV_VAR, None)


# -- the exchange ---------------------------------------------------------------------------------------------------


class Mismatch(ValueError):
    """The other end does not follow the exchange, or has another key."""


class KeyExchange:
    """
    One end of an exchange, without any input or output; see the tables at the top of this module.

    Args:
        key: the key.
        accepted: whether this is the listening end.
        nonce: 32 bytes that were never used before; random ones by default.

    `hello` is to be sent first.
    """

    def __init__(self, key: bytes, *, accepted: bool, nonce: bytes | None = None) -> None:
        self._key = key
        self._accepted = accepted
        self._nonce = os.urandom(NONCE_SIZE) if nonce is None else nonce
        self._other = b''
        self._got = b''
        self.state: Literal['hello', 'proof', 'passed', 'failed'] = 'hello'
        self.hello: bytes = KEY_MAGIC + bytes([VERSION]) + self._nonce

    def __repr__(self) -> str:
        role = 'listening' if self._accepted else 'connecting'
        return f'<KeyExchange {role} {self.state}>'

    @property
    def missing(self) -> int:
        """How many more bytes of the other end are needed for the next step; 0 once it is over."""
        sizes = {'hello': HELLO_SIZE, 'proof': PROOF_SIZE}
        return max(sizes.get(self.state, 0) - len(self._got), 0)

    def feed(self, data: bytes) -> bytes:
        """
        Take bytes of the other end, `missing` at most; returns what to answer, maybe nothing.

        Raises:
            Mismatch: the other end is not to be talked to.
        """
        if len(data) > self.missing:
            raise RuntimeError(f'{self!r} takes {self.missing} bytes, not {len(data)}')
        self._got += data
        try:
            if self.state == 'hello':
                return self._take_hello()
            return self._take_proof()
        except Mismatch:
            self.state = 'failed'
            raise

    @property
    def heard(self) -> bool:
        """Whether anything came from the other end."""
        return bool(self._got or self._other)

    def lost(self) -> Mismatch:
        """The reason, when nothing more comes from the other end."""
        state, self.state = self.state, 'failed'
        if state == 'proof' and not self._accepted:
            return Mismatch(f'it closed the connection when it saw our proof: {_SAME_KEY}')
        return Mismatch(f'it closed the connection before it proved to have the key: {_SAME_KEY}')

    def _take_hello(self) -> bytes:
        if not KEY_MAGIC.startswith(self._got[: len(KEY_MAGIC)]):
            if what_it_speaks(self._got) is not None:
                raise Mismatch(NEED_TLS)
            raise Mismatch(f'it has no key, or is no actor: {_SAME_KEY}')
        if len(self._got) > len(KEY_MAGIC) and self._got[len(KEY_MAGIC)] != VERSION:
            raise Mismatch(
                f'it speaks version {self._got[len(KEY_MAGIC)]} of the key exchange, we speak {VERSION}: '
                'use the same release of this package at both ends'
            )
        if self.missing:
            return b''
        self._other, self._got = self._got[-NONCE_SIZE:], b''
        if self._other == self._nonce:
            raise Mismatch('it sent back what we sent')
        self.state = 'proof'
        return b'' if self._accepted else self._proof(_CONNECTS)

    def _take_proof(self) -> bytes:
        import hmac

        if self.missing:
            return b''
        expected = self._proof(_CONNECTS if self._accepted else _LISTENS)
        if not hmac.compare_digest(self._got, expected):
            raise Mismatch(f'it has another key: {_SAME_KEY}')
        self.state = 'passed'
        return self._proof(_LISTENS) if self._accepted else b''

    def _proof(self, role: bytes) -> bytes:
        import hmac

        ours, theirs = self._nonce, self._other
        nonces = theirs + ours if self._accepted else ours + theirs
        return hmac.digest(self._key, role + bytes([VERSION]) + nonces, 'sha256')


async def authenticate(
    stream: Any, key: bytes, *, accepted: bool, who: str, timeout: float
) -> None:
    """
    Make sure that the other end of a stream has the key, and show it that we have.

    Args:
        stream: any byte stream; exactly the bytes of the exchange are taken from it.
        key: the key.
        accepted: whether this is the listening end.
        who: the other end, for errors.
        timeout: seconds for all of it.

    Raises:
        AuthenticationError: it has not, or does not say so in time. The stream is of no use any more.
        TransportClosed: it went away without a word.

    Cancelled: the stream is of no use any more either.
    """
    exchange = KeyExchange(key, accepted=accepted)
    try:
        with trio.fail_after(timeout):
            # one that is gone already may have said why: that is still to be read
            with suppress(trio.BrokenResourceError):
                await stream.send_all(exchange.hello)
            while exchange.missing:
                data = await stream.receive_some(exchange.missing)
                if not data:
                    raise _gone(exchange, who)
                answer = exchange.feed(bytes(data))
                if answer:
                    await stream.send_all(answer)
    except trio.TooSlowError as err:
        reason = Mismatch(f'it did not prove to have the key within {timeout:.1f} s')
        raise _refused(who, reason, err) from err
    except (trio.BrokenResourceError, trio.ClosedResourceError) as err:
        raise _gone(exchange, who, err) from err
    except Mismatch as err:
        raise _refused(who, err, err) from err


def _refused(who: str, reason: Mismatch, cause: BaseException | None) -> AuthenticationError:
    return AuthenticationError(f'no connection with {who}: {reason}\n', src_exc=cause)


def _gone(exchange: KeyExchange, who: str, cause: BaseException | None = None) -> TransportClosed:
    heard, reason = exchange.heard, exchange.lost()
    return _refused(who, reason, cause) if heard else closed_silently(who, cause)
