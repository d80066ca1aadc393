"""
Connections between actors: transports, framing, channels and the server that accepts them.
"""

from tractor.ipc._access import AccessDenied as AccessDenied
from tractor.ipc._access import AuthenticationError as AuthenticationError
from tractor.ipc._access import ForeignUser as ForeignUser
from tractor.ipc._access import TLSHandshakeError as TLSHandshakeError
from tractor.ipc._chan import Channel as Channel
from tractor.ipc._chan import _connect_chan as _connect_chan
from tractor.ipc._server import Endpoint as Endpoint
from tractor.ipc._server import IPCServer as IPCServer
from tractor.ipc._server import Server as Server
from tractor.ipc._server import open_ipc_server as open_ipc_server
from tractor.ipc._transport import MsgTransport as MsgTransport
from tractor.ipc._transport import MsgTransportKey as MsgTransportKey
from tractor.ipc._types import transport_from_addr as transport_from_addr
from tractor.ipc._types import transport_from_stream as transport_from_stream

__all__ = [
    'AccessDenied',
    'AuthenticationError',
    'Channel',
    'Endpoint',
    'ForeignUser',
    'IPCServer',
    'MsgTransport',
    'MsgTransportKey',
    'Server',
    'TLSHandshakeError',
    'open_ipc_server',
    'transport_from_addr',
    'transport_from_stream',
]
