"""Addresses for tests: each call gives one that nobody else uses."""

from __future__ import annotations

import os
import random
import socket

from tractor.discovery._addr import UnwrappedAddress, default_lo_addrs, get_address_cls
from tractor.ipc._tcp import TCPAddress
from tractor.ipc._uds import UDSAddress
from tractor.runtime import _state

_FIRST_PORT: int = 1024
_PORTS: int = 9000

_given_ports: set[int] = set()


def get_rando_addr(tpt_proto: str) -> UnwrappedAddress:
    """
    A fresh address of a transport, unwrapped; never the default one of a registrar.

    Args:
        tpt_proto: key of the transport.

    Returns:
        For TCP the default host and a port in 1024..10023 which is free at the moment; for UNIX
        sockets a path in the default directory; for others what their address type offers.

    Raises:
        NotImplementedError: there is no such transport on this system.
        RuntimeError: no port is left.
    """
    cls = get_address_cls(tpt_proto)
    if cls is UDSAddress:
        return _rando_uds()
    if cls is TCPAddress:
        return TCPAddress.def_bindspace, _rando_port()
    addr: UnwrappedAddress = cls.get_random().unwrap()
    return addr


def _rando_uds() -> tuple[str, str]:
    addr = UDSAddress.get_random()
    if _state.current_actor(err_on_no_runtime=False) is None:
        return addr.unwrap()
    # within a runtime the above is always the same
    name = f'test.{os.urandom(4).hex()}'
    filename = UDSAddress.get_sockname(name, os.getpid(), addr.bindspace)
    return str(addr.bindspace), str(filename)


def _rando_port() -> int:
    taken = {port for _, port in default_lo_addrs(['tcp'])} | _given_ports
    # salted by the pid: several test sessions with the same random seed must not meet
    start = random.randint(0, _PORTS - 1) + os.getpid()
    for step in range(_PORTS):
        port = _FIRST_PORT + (start + step) % _PORTS
        if port not in taken and _is_free(port):
            _given_ports.add(port)
            return port
    raise RuntimeError(f'All {_PORTS} ports for tests are in use or were given out.')


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if os.name == 'posix':
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((TCPAddress.def_bindspace, port))
        except OSError:
            return False
    return True
