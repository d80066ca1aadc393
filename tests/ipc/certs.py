"""Certificates for the tests of TLS, a stand-in for what an actor holds, and a module as an application has it."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tractor.ipc import _tls

if TYPE_CHECKING:
    import trustme

Pair = tuple[ssl.SSLContext, ssl.SSLContext]


@cache
def _authority(name: str) -> trustme.CA:
    # not for the actors that import this: they have no use for it, and some interpreters cannot load it
    import trustme

    return trustme.CA(organization_name=name)


def authority(name: str = 'good') -> trustme.CA:
    """The authority of a name, the same one for every call."""
    return _authority(name)


@cache
def pair(issued_by: str = 'good', trusts: str = 'good', *names: str) -> Pair:
    """
    Contexts of the server side and of the client side.

    Args:
        issued_by: the authority which issues the certificate of the server side.
        trusts: the authority which the client side trusts.
        names: what the certificate is for; the loopback addresses by default.
    """
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority(issued_by).issue_cert(*names or ('127.0.0.1', '::1')).configure_cert(server)
    client = ssl.create_default_context()
    authority(trusts).configure_trust(client)
    return server, client


def broken() -> Pair:
    raise FileNotFoundError(2, 'no such certificate')


def nothing() -> None:
    pass


class TLSOfTask:
    """Stands for what an actor holds, so that both ends can be in one process: each task tree has its own."""

    def __init__(self) -> None:
        self.var: ContextVar[_tls.TLS | None] = ContextVar('tls', default=None)

    @property
    def value(self) -> _tls.TLS | None:
        return self.var.get()

    @contextmanager
    def of_client(self, pair: Any) -> Iterator[None]:
        """Have these contexts, or none, for the block."""
        token = self.var.set(_tls.choose(pair))
        try:
            yield
        finally:
            self.var.reset(token)


@pytest.fixture
def tls(monkeypatch: pytest.MonkeyPatch) -> TLSOfTask:
    held = TLSOfTask()
    monkeypatch.setattr(_tls, 'current', held)
    return held


MODULE = """
import ssl

def contexts():
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain({folder!r} + '/cert.pem')
    return server, ssl.create_default_context(cafile={folder!r} + '/ca.pem')
"""


def write_module(folder: Path) -> str:
    """Write certificates and a module that makes contexts of them; the name of the function, `'module:function'`."""
    authority().cert_pem.write_to_path(str(folder / 'ca.pem'))
    cert = authority().issue_cert('127.0.0.1', '::1')
    cert.private_key_and_cert_chain_pem.write_to_path(str(folder / 'cert.pem'))
    # not one that is loaded already
    name = f'contexts_{secrets.token_hex(4)}'
    (folder / f'{name}.py').write_text(MODULE.format(folder=str(folder)))
    return f'{name}:contexts'
