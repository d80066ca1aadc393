"""contract: the pre-shared key and the exchange that proves it, without any input or output."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterator

import pytest

from tractor.ipc import _auth
from tractor.ipc._access import KEY_MAGIC, Held
from tractor.ipc._auth import HELLO_SIZE, PROOF_SIZE, KeyExchange, Mismatch
from tractor.ipc._framing import HEADER, MAX_FRAME_SIZE

KEY, OTHER = b'k' * 32, b'o' * 32


def pair(connects: bytes = KEY, listens: bytes = KEY) -> tuple[KeyExchange, KeyExchange]:
    return KeyExchange(connects, accepted=False), KeyExchange(listens, accepted=True)


def exchanged(one: KeyExchange, two: KeyExchange) -> list[bytes]:
    """Run an exchange to its end; what the connecting end said, then what the listening end said."""
    assert two.feed(one.hello) == b''
    proof = one.feed(two.hello)
    answer = two.feed(proof)
    assert one.feed(answer) == b''
    return [one.hello, proof, two.hello, answer]


# --- an exchange


def test_both_pass() -> None:
    one, two = pair()
    assert (one.missing, two.missing) == (HELLO_SIZE, HELLO_SIZE)
    said = exchanged(one, two)
    assert [len(part) for part in said] == [HELLO_SIZE, PROOF_SIZE] * 2
    assert (one.state, two.state) == ('passed', 'passed')
    assert (one.missing, two.missing) == (0, 0)


def test_what_is_on_the_wire() -> None:
    one = KeyExchange(KEY, accepted=False, nonce=b'1' * 32)
    two = KeyExchange(KEY, accepted=True, nonce=b'2' * 32)
    signed = b'\x01' + b'1' * 32 + b'2' * 32
    assert exchanged(one, two) == [
        b'AuTr\x01' + b'1' * 32,
        hmac.digest(KEY, b'tractor connects' + signed, 'sha256'),
        b'AuTr\x01' + b'2' * 32,
        hmac.digest(KEY, b'tractor accepts ' + signed, 'sha256'),
    ]


def test_nothing_depends_on_the_key_before_the_other_end_has_proved_it() -> None:
    listener = KeyExchange(KEY, accepted=True)
    stranger = KeyExchange(OTHER, accepted=False)
    assert listener.feed(stranger.hello) == b''
    with pytest.raises(Mismatch, match='another key'):
        listener.feed(stranger.feed(listener.hello))


def test_every_exchange_has_random_bytes_of_its_own() -> None:
    hellos = {KeyExchange(KEY, accepted=accepted).hello for accepted in (True, False) * 50}
    assert len(hellos) == 100


@pytest.mark.parametrize('step', [1, 3, 32])
def test_bytes_may_come_in_pieces(step: int) -> None:
    one, two = pair()

    def fed(exchange: KeyExchange, data: bytes) -> bytes:
        answers = [exchange.feed(data[at : at + step]) for at in range(0, len(data), step)]
        assert not any(answers[:-1])
        return answers[-1]

    assert fed(two, one.hello) == b''
    assert fed(one, fed(two, fed(one, two.hello))) == b''
    assert (one.state, two.state) == ('passed', 'passed')


def test_no_byte_too_many() -> None:
    one, two = pair()
    with pytest.raises(RuntimeError, match='takes 37 bytes, not 38'):
        one.feed(two.hello + b'x')
    exchanged(one, two)
    with pytest.raises(RuntimeError, match='takes 0 bytes'):
        one.feed(b'x')


# --- who does not pass


@pytest.mark.parametrize('accepted', [False, True])
def test_another_key(accepted: bool) -> None:
    mine, other = pair(OTHER, KEY)[:: -1 if accepted else 1]
    answer = mine.feed(other.hello)
    with pytest.raises(Mismatch, match=r'another key.*authkey= or TRACTOR_AUTHKEY'):
        mine.feed(os.urandom(PROOF_SIZE))
    assert mine.state == 'failed'
    assert mine.missing == 0
    assert len(answer) == (0 if accepted else PROOF_SIZE)


@pytest.mark.parametrize('by_listener', [False, True])
@pytest.mark.parametrize('bit', range(8))
def test_a_changed_bit(bit: int, by_listener: bool) -> None:
    """Whatever bit of whatever message is not what was sent, somebody notices; before the listener proves, if it can."""

    def changed(data: bytes, said_by_listener: bool, at: int) -> bytes:
        if said_by_listener is not by_listener or not 0 <= at < len(data):
            return data
        return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]

    for at in range(HELLO_SIZE + PROOF_SIZE):
        one, two = pair()
        with pytest.raises(Mismatch):
            two.feed(changed(one.hello, False, at))
            proof = one.feed(changed(two.hello, True, at))
            answer = two.feed(changed(proof, False, at - HELLO_SIZE))
            assert by_listener
            assert at >= HELLO_SIZE
            one.feed(changed(answer, True, at - HELLO_SIZE))
        assert 'failed' in (one.state, two.state)


def test_replay_to_a_listener() -> None:
    hello, proof, _, _ = exchanged(*pair())
    listener = KeyExchange(KEY, accepted=True)
    listener.feed(hello)
    with pytest.raises(Mismatch, match='another key'):
        listener.feed(proof)


def test_replay_to_a_connector() -> None:
    _, _, hello, answer = exchanged(*pair())
    connector = KeyExchange(KEY, accepted=False)
    connector.feed(hello)
    with pytest.raises(Mismatch, match='another key'):
        connector.feed(answer)


@pytest.mark.parametrize('accepted', [False, True])
def test_a_mirror(accepted: bool) -> None:
    exchange = KeyExchange(KEY, accepted=accepted)
    with pytest.raises(Mismatch, match='sent back what we sent'):
        exchange.feed(exchange.hello)


def test_a_connector_is_not_made_to_prove_for_its_attacker() -> None:
    """Who accepts a connection cannot use its proof where it connects itself, nor the other way round."""
    connector, listener = pair()
    # the attacker answers with the random bytes of a listener, and mirrors the proof that it gets
    proof = connector.feed(listener.hello)
    with pytest.raises(Mismatch, match='another key'):
        connector.feed(proof)
    # two connections to one listener: neither proves anything for the other
    first, second = KeyExchange(KEY, accepted=True), KeyExchange(KEY, accepted=True)
    first.feed(second.hello)
    second.feed(first.hello)
    assert first.state == second.state == 'proof'
    with pytest.raises(Mismatch, match='another key'):
        first.feed(bytes(PROOF_SIZE))


@pytest.mark.parametrize(
    ('said', 'reason'),
    [
        (b'GET / HTTP/1.1', 'it has no key, or is no actor'),
        (HEADER.pack(120) + b'\x83', 'it has no key, or is no actor'),
        (b'\0', 'it has no key, or is no actor'),
        (b'AuTR', 'it has no key, or is no actor'),
        (KEY_MAGIC + b'\x02', 'version 2 of the key exchange, we speak 1'),
        (b'\x16\x03\x01\x02\0', 'it speaks TLS and this actor does not: pass tls='),
        (b'\x15\x03\x01\0\x02', 'it speaks TLS and this actor does not: pass tls='),
    ],
)
def test_no_exchange_at_all(said: bytes, reason: str) -> None:
    """It takes no more bytes than needed to see that; the others would have to be waited for."""
    for accepted in (False, True):
        exchange = KeyExchange(KEY, accepted=accepted)
        with pytest.raises(Mismatch, match=reason):
            exchange.feed(said)
        assert exchange.state == 'failed'


def test_the_end_of_the_stream() -> None:
    connector, listener = pair()
    assert not connector.heard
    assert 'before it proved to have the key' in str(KeyExchange(KEY, accepted=False).lost())
    listener.feed(connector.hello)
    connector.feed(listener.hello)
    assert connector.heard
    assert 'when it saw our proof' in str(connector.lost())
    assert 'before it proved to have the key' in str(listener.lost())
    assert connector.state == listener.state == 'failed'


def test_an_actor_without_a_key_refuses_a_hello_by_its_first_bytes() -> None:
    assert HEADER.unpack(KEY_MAGIC)[0] > MAX_FRAME_SIZE


# --- the key


def test_keys() -> None:
    assert _auth.as_key(b'x' * 16) == b'x' * 16
    assert _auth.as_key('é' * 8) == 'é'.encode() * 8
    long = os.urandom(1000)
    short = _auth.as_key(long)
    assert len(short) == 32
    # the same proofs: HMAC does that, too
    assert hmac.digest(short, b'x', 'sha256') == hmac.digest(long, b'x', 'sha256')
    assert _auth.as_key(long[:64]) == long[:64]
    assert short == hashlib.sha256(long).digest()


@pytest.mark.parametrize('key', [b'', b'x' * 15, '', 'short'])
def test_short_keys(key: bytes | str) -> None:
    with pytest.raises(ValueError, match=r'authkey must have at least 16 bytes, not \d+: make one'):
        _auth.choose(key)


@pytest.mark.parametrize('key', [1, bytearray(32), ['x' * 20]])
def test_what_is_no_key(key: object) -> None:
    with pytest.raises(TypeError, match='authkey must be bytes or str, not'):
        _auth.choose(key)  # type: ignore[arg-type]


@pytest.fixture
def no_env(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv('TRACTOR_AUTHKEY', raising=False)
    yield


def test_the_environment_overrides_the_argument(
    no_env: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level('WARNING', logger='tractor.ipc')
    assert _auth.choose(None) is None
    assert _auth.choose(KEY) == KEY
    monkeypatch.setenv('TRACTOR_AUTHKEY', '')
    assert _auth.choose(KEY) == KEY
    monkeypatch.setenv('TRACTOR_AUTHKEY', OTHER.decode())
    assert _auth.choose(None) == OTHER
    assert _auth.choose(OTHER) == OTHER
    assert caplog.records == []
    assert _auth.choose(KEY) == OTHER
    assert 'TRACTOR_AUTHKEY overrides authkey=' in caplog.text
    assert KEY.decode() not in caplog.text
    assert OTHER.decode() not in caplog.text
    _auth.forget_env()
    assert 'TRACTOR_AUTHKEY' not in os.environ
    _auth.forget_env()
    assert _auth.choose(None) is None


def test_a_short_key_in_the_environment(no_env: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TRACTOR_AUTHKEY', 'secret word')
    with pytest.raises(ValueError, match='TRACTOR_AUTHKEY must have at least') as excinfo:
        _auth.choose(KEY)
    assert 'secret word' not in str(excinfo.value)


def test_nobody_shows_the_key() -> None:
    held: Held[bytes] = Held()
    with held.holding(KEY):
        assert held.value == KEY
        for shown in (repr(held), repr(KeyExchange(KEY, accepted=True))):
            assert 'kkk' not in shown
        with pytest.raises(ZeroDivisionError), held.holding(None):
            assert held.value is None
            raise ZeroDivisionError
        assert held.value == KEY
    assert held.value is None
