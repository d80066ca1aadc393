"""
TLS around TCP connections.

A tree that has it uses it for every TCP connection, and for no other. What an actor holds is either a pair of
contexts, which cannot be sent to another process, or the name of a function which makes such a pair: each actor then
calls it once, when it connects or accepts for the first time.

| given as `tls=` | in this actor | in its children |
|---|---|---|
| a pair `(server context, client context)` | used | none can be started that would use TCP |
| a function of an importable module, or its name `'pkg.mod:func'` | called | called |
| another function: of `__main__`, nested, or a lambda | called | none can be started that would use TCP |
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from tractor._exceptions import TransportClosed
from tractor.discovery._addr import wrap_address
from tractor.ipc._access import Held, TLSHandshakeError, closed_silently

if TYPE_CHECKING:
    import ssl

    Pair = tuple[ssl.SSLContext, ssl.SSLContext]

# the name of a factory, and the file of its module or ''
Travelling = tuple[str, str]

# fatal, `protocol_version`: what a peer that speaks no TLS gets, so that it can tell what it met
_ALERT = b'\x15\x03\x01\x00\x02\x02\x46'
_HANDSHAKE_RECORD = b'\x16'


class TLS:
    """
    The TLS contexts of one actor.

    Args:
        make: returns the pair, for the server side and for the client side.
        travelling: how a child finds `make`; `None` if it cannot.
    """

    def __init__(self, make: Callable[[], Any], travelling: Travelling | None = None) -> None:
        self._make = make
        self._pair: Pair | None = None
        self.travelling = travelling

    def __repr__(self) -> str:
        return f'<TLS {self.travelling[0] if self.travelling else "of this actor only"}>'

    def pair(self) -> Pair:
        """
        The contexts, made when they are asked for first.

        Raises:
            TypeError, ValueError: the factory returned something else.
            Exception: whatever the factory raises.
        """
        if self._pair is None:
            self._pair = _checked(self._make())
        return self._pair

    async def wrap(
        self, stream: trio.SocketStream, *, accepted: bool, host: str, who: str, timeout: float
    ) -> TLSStream:
        """
        Make the TLS handshake on a connected stream.

        Args:
            stream: nothing was sent or received on it.
            accepted: whether this is the listening end.
            host: the listener's address, which its certificate has to name if the client context says so.
            who: the other end, for errors.
            timeout: seconds for all of it.

        Raises:
            TLSHandshakeError: it failed; `stream` is of no use any more.
            TransportClosed: the other end went away.

        Cancelled: `stream` is of no use any more either.
        """
        try:
            server, client = self.pair()
        except Exception as err:
            raise _failed(who, f'the function given as tls= failed: {err!r}', err) from err
        try:
            with trio.fail_after(timeout):
                if accepted:
                    await _check_first_byte(stream, who)
                # Not the closing handshake of TLS, which would need the other end: a frame that was cut short
                # is noticed, and a connection that ends between two frames means the same with it or without.
                secure = trio.SSLStream(
                    stream,
                    server if accepted else client,
                    server_side=accepted,
                    server_hostname=None if accepted else host.partition('%')[0],
                    https_compatible=True,
                )
                await secure.do_handshake()
        except trio.TooSlowError as err:
            raise _failed(who, f'no TLS handshake within {timeout:.1f} s', err) from err
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as err:
            raise _why(who, err, accepted) from err
        return TLSStream(secure)


class TLSStream(trio.abc.Stream):
    """An encrypted stream which, like a plain one, has a `socket`."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self.ssl_stream = stream
        self.socket = stream.transport_stream.socket

    async def send_all(self, data: Any) -> None:
        """As `trio.SSLStream`."""
        await self.ssl_stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As `trio.SSLStream`."""
        await self.ssl_stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As `trio.SSLStream`."""
        return await self.ssl_stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        """Close the connection, without waiting for the other end."""
        await self.ssl_stream.aclose()


# -- what the actor has ---------------------------------------------------------------------------------------------

# the contexts of this actor, if its tree uses TLS
current: Held[TLS] = Held()


def choose(tls: Any) -> TLS | None:
    """
    What a root got as `tls=`; see the table at the top of this module.

    Raises:
        TypeError: it is nothing of that table, or gave no pair of contexts.
        ValueError: the pair is in the wrong order, or the name is no name.
        ImportError, AttributeError: there is no such function.
    """
    if tls is None:
        return None
    if isinstance(tls, str):
        made = _load(tls, '')
        module = sys.modules[tls.partition(':')[0]]
        chosen = TLS(made, (str(tls), getattr(module, '__file__', None) or ''))
    elif callable(tls):
        chosen = TLS(tls, _name_of(tls))
    else:
        pair = _checked(tls)
        chosen = TLS(lambda: pair)
    # here rather than in the middle of the first connection
    chosen.pair()
    return chosen


def from_travelling(travelling: Travelling | None) -> TLS | None:
    """What a child was told: the contexts, which it makes when it needs them first."""
    if travelling is None:
        return None
    name, file = travelling

    def make() -> Any:
        return _load(name, file)()

    return TLS(make, travelling)


def for_child(addrs: Iterable[Any]) -> Travelling | None:
    """
    What to tell a child of this actor about TLS.

    Args:
        addrs: where it will connect to and listen, wrapped or not.

    Raises:
        RuntimeError: it will use TCP, and could not get the contexts.
    """
    tls = current.value
    if tls is None or tls.travelling is not None:
        return None if tls is None else tls.travelling
    if any(wrap_address(addr).proto_key == 'tcp' for addr in addrs):
        raise RuntimeError(
            'this actor cannot start children that use TCP: its TLS contexts cannot be sent to them. '
            'Give tls= the name of a function that returns the pair (server context, client context), as '
            "'package.module:function', or such a function itself from a module that a child can import"
        )
    return None


def _name_of(function: Callable[..., Any]) -> Travelling | None:
    """How to find a function in another process; `None` for one that is not found by its name."""
    path, name = getattr(function, '__module__', None), getattr(function, '__qualname__', '')
    module = sys.modules.get(path or '')
    if module is None or path == '__main__' or getattr(module, name, None) is not function:
        return None
    return f'{path}:{name}', getattr(module, '__file__', None) or ''


def _load(name: str, file: str) -> Callable[[], Any]:
    from pkgutil import resolve_name

    if ':' not in name:
        raise ValueError(
            f"tls= takes the name of a function as 'package.module:function', not {name!r}"
        )
    try:
        loaded = resolve_name(name)
    except ModuleNotFoundError:
        if not file:
            raise
        # the parent found it next to its script, or the like
        module = name.partition(':')[0]
        levels = module.count('.') + (Path(file).stem == '__init__')
        sys.path.append(str(Path(file).parents[levels]))
        loaded = resolve_name(name)
    if not callable(loaded):
        raise TypeError(f'{name!r}, given as tls=, is no function')
    made: Callable[[], Any] = loaded
    return made


def _checked(pair: Any) -> Pair:
    import ssl

    match pair:
        case (ssl.SSLContext() as server, ssl.SSLContext() as client):
            pass
        case _:
            raise TypeError(
                'tls= is a pair of `ssl.SSLContext`, for the server side and for the client side, or a '
                f'function that returns one, not {type(pair).__name__}'
            )
    if server.protocol is ssl.PROTOCOL_TLS_CLIENT or client.protocol is ssl.PROTOCOL_TLS_SERVER:
        raise ValueError(
            'the contexts of tls= are in the wrong order: the one of the server side comes first'
        )
    return server, client


# -- the handshake --------------------------------------------------------------------------------------------------


async def _check_first_byte(stream: trio.SocketStream, who: str) -> None:
    """Look at how a peer begins, and leave it there; one that speaks no TLS is told so."""
    first = await stream.socket.recv(1, socket.MSG_PEEK)
    if not first:
        raise closed_silently(who)
    if first != _HANDSHAKE_RECORD:
        await stream.send_all(_ALERT)
        raise _failed(
            who, 'it speaks no TLS and this actor demands it: it has to pass the same tls='
        )


def _why(who: str, err: BaseException, accepted: bool) -> TransportClosed:
    import ssl

    cause = err.__cause__
    if not isinstance(cause, ssl.SSLError) or isinstance(cause, ssl.SSLEOFError):
        if not accepted:
            return closed_silently(who, err)
        why = 'it closed the connection in the TLS handshake: it may not trust our certificate'
    elif isinstance(cause, ssl.SSLCertVerificationError):
        why = f'its certificate is not accepted: {cause.verify_message}'
    elif cause.reason == 'WRONG_VERSION_NUMBER':
        why = 'it speaks no TLS: pass the same tls= there, or none here'
    else:
        why = f'the TLS handshake failed: {cause}'
    return _failed(who, why, err)


def _failed(who: str, why: str, err: BaseException | None = None) -> TLSHandshakeError:
    return TLSHandshakeError(f'no connection with {who}: {why}\n', src_exc=err)
