"""contract: what may be given for TLS, and what of it reaches a child."""

from __future__ import annotations

import ssl
import sys
from pathlib import Path
from typing import Any

import pytest

from tractor._code_load import load_module_from_path
from tractor.ipc import _connect_chan, _tls
from tractor.ipc._access import TLSHandshakeError
from tractor.ipc._tcp import TCPAddress
from tractor.ipc._tls import TLS
from tractor.ipc._uds import HAS_UDS
from tractor.msg.ptr import NamespacePath


def sibling(name: str) -> Any:
    return sys.modules.get(name) or load_module_from_path(Path(__file__).with_name(f'{name}.py'))


wires, certs = sibling('wires'), sibling('certs')
actor, logged, run, serving, tls = wires.actor, wires.logged, wires.run, wires.serving, certs.tls


def test_a_pair_is_of_this_actor_only() -> None:
    pair = certs.pair()
    chosen = _tls.choose(pair)
    assert chosen is not None
    assert chosen.pair() == pair
    assert chosen.travelling is None
    assert repr(chosen) == '<TLS of this actor only>'
    assert _tls.choose(None) is None


@pytest.mark.parametrize('as_path', [False, True])
def test_a_function_travels(as_path: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = certs.write_module(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    function = NamespacePath(path).load_ref()
    chosen = _tls.choose(NamespacePath.from_ref(function) if as_path else function)
    assert chosen is not None
    assert chosen.travelling == (path, sys.modules[path.partition(':')[0]].__file__)
    assert type(chosen.travelling[0]) is str
    assert chosen.pair() is chosen.pair()
    assert path in repr(chosen)
    arrived = _tls.from_travelling(chosen.travelling)
    assert arrived is not None
    assert arrived.travelling == chosen.travelling
    assert isinstance(arrived.pair()[0], ssl.SSLContext)
    assert _tls.from_travelling(None) is None
    del sys.modules[path.partition(':')[0]]


def test_a_module_that_is_found_next_to_a_script_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent has it on its path; the child is told the file."""
    package = tmp_path / 'some_app'
    package.mkdir()
    for name in ('__init__', 'security'):
        (package / f'{name}.py').write_text('def contexts():\n    return None\n')
    monkeypatch.setattr(sys, 'path', [*sys.path])
    with pytest.raises(ModuleNotFoundError, match='some_app'):
        _tls.choose('some_app.security:contexts')
    for module, file in (('some_app.security', 'security.py'), ('some_app', '__init__.py')):
        arrived = _tls.from_travelling((f'{module}:contexts', str(package / file)))
        assert arrived is not None
        with pytest.raises(TypeError, match='not NoneType'):
            arrived.pair()
        assert sys.path[-1] == str(tmp_path)
        sys.path.pop()
        for loaded in ('some_app.security', 'some_app'):
            sys.modules.pop(loaded, None)


def test_functions_that_do_not_travel() -> None:
    def nested() -> Any:
        return certs.pair()

    for function in (nested, lambda: certs.pair('good', 'good'), certs.pair.__wrapped__):
        chosen = _tls.choose(function)
        assert chosen is not None
        assert chosen.travelling is None


@pytest.mark.parametrize(
    ('given', 'error', 'text'),
    [
        (1, TypeError, 'not int'),
        ((1, 2), TypeError, 'a pair of `ssl.SSLContext`, for the server side and for the client'),
        (lambda: None, TypeError, 'not NoneType'),
        ('certs', ValueError, 'the name of a function as'),
        ('certs:missing', AttributeError, 'missing'),
        ('certs:MODULE', TypeError, 'is no function'),
        ('nowhere.at.all:f', ModuleNotFoundError, 'nowhere'),
        ('certs:nothing', TypeError, 'not NoneType'),
        ('certs:broken', FileNotFoundError, 'no such certificate'),
    ],
)
def test_what_is_refused(given: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        _tls.choose(given)


def test_contexts_in_the_wrong_order() -> None:
    server, client = certs.pair()
    with pytest.raises(ValueError, match='the one of the server side comes first'):
        _tls.choose((client, server))


def test_a_function_that_fails_later(actor: Any, tls: Any, logged: Any) -> None:
    """In a child, which calls it when it connects or accepts first: no reason for an actor to fail."""
    tls.var.set(_tls.choose(certs.pair()))

    async def main() -> None:
        async with serving() as server:
            tls.var.set(_tls.from_travelling(('certs:broken', '')))
            with pytest.raises(TLSHandshakeError, match='given as tls= failed: FileNotFoundError'):
                async with _connect_chan(server.addrs[0]) as chan:
                    await chan._do_handshake(aid=wires.PEER, timeout=5)

    run(main)


@pytest.mark.parametrize('addr', [('127.0.0.1', 5), TCPAddress('127.0.0.1', 5)])
def test_children_over_tcp_need_a_function(addr: Any, tls: Any) -> None:
    addrs = [('/tmp', 'x.sock'), addr] if HAS_UDS else [addr]
    assert _tls.for_child(addrs) is None
    tls.var.set(_tls.choose(certs.pair()))
    with pytest.raises(RuntimeError, match=r'cannot start children that use TCP.*package.module'):
        _tls.for_child(addrs)
    assert _tls.for_child(addrs[:-1]) is None
    tls.var.set(TLS(certs.pair, ('certs:pair', 'file')))
    assert _tls.for_child(addrs) == ('certs:pair', 'file')
