"""end to end: an HTTP server of asyncio in an infected actor, answered by trio actors, served and cancelled."""

from __future__ import annotations

import json
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import tractor
from tractor._code_load import load_module_from_path
from tractor._testing import examples_dir, tractor_test

pytestmark = pytest.mark.spawns

CLIENTS, REQUESTS, WORKERS = 50, 40, 2

# under the names by which the actors import them
http = sys.modules.get('infected_asyncio_http_server') or load_module_from_path(
    examples_dir() / 'infected_asyncio_http_server.py'
)
targets = sys.modules.get('aio_targets') or load_module_from_path(
    Path(__file__).with_name('aio_targets.py')
)


@asynccontextmanager
async def both() -> AsyncIterator[tuple[tractor.Portal, tractor.Portal]]:
    """The actors of the server and of the clients; nothing of asyncio may be left in them at the end."""
    async with tractor.open_nursery() as nursery:
        portals = [
            await nursery.start_actor(
                name,
                enable_modules=['infected_asyncio_http_server', 'aio_targets'],
                infect_asyncio=True,
            )
            for name in ('server', 'clients')
        ]
        yield portals[0], portals[1]
        for portal in portals:
            assert await portal.run(targets.tasks_left) == []
            await portal.cancel_actor()


@tractor_test(timeout=120)
async def test_two_thousand_requests(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with both() as (server, clients):
        async with server.open_context(http.serve, workers=WORKERS) as (serving, port):
            async with (
                clients.open_context(http.ask, port=port, clients=CLIENTS, requests=REQUESTS) as (
                    asking,
                    _,
                ),
                asking.open_stream() as answers,
            ):
                by = Counter([worker async for worker in answers])
            await serving.cancel()
        assert by.total() == CLIENTS * REQUESTS
        # in turns
        assert len(by) == WORKERS
        assert max(by.values()) - min(by.values()) <= CLIENTS


@pytest.mark.parametrize('who', ['server', 'clients', 'both'])
def test_cancelled_in_the_middle(
    who: str, start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    """With requests under way everywhere, whoever ends leaves no task, connection or worker behind."""

    async def ask(
        clients: tractor.Portal, port: int, served: trio.Event, scope: trio.CancelScope
    ) -> None:
        try:
            with scope:
                await ask_for_all(clients, port, served)
                raise AssertionError('all requests were answered')
        except tractor.RemoteActorError as err:
            # the server went away: the clients say what they saw
            assert who in ('server', 'both'), err
            assert err.boxed_type is not AssertionError

    @tractor_test(timeout=120)
    async def main(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
        served, asking = trio.Event(), trio.CancelScope()
        async with both() as (server, clients):
            async with server.open_context(http.serve, workers=WORKERS) as (serving, port):
                async with trio.open_nursery() as tn:
                    tn.start_soon(ask, clients, port, served, asking)
                    await served.wait()
                    if who in ('clients', 'both'):
                        asking.cancel()
                    if who != 'clients':
                        await serving.cancel()
                if who == 'clients':
                    # the server has not even noticed
                    assert await one_request(port) == 49
                    await serving.cancel()
            with socket.socket() as probe:
                assert probe.connect_ex(('127.0.0.1', port)) != 0

    main(start_method=start_method, tpt_proto=tpt_proto, reg_addr=reg_addr)


async def ask_for_all(clients: tractor.Portal, port: int, served: trio.Event) -> None:
    """Have everything asked for; tells when half of it is answered."""
    async with (
        clients.open_context(http.ask, port=port, clients=CLIENTS, requests=REQUESTS) as (ctx, _),
        ctx.open_stream() as answers,
    ):
        count = 0
        async for _ in answers:
            count += 1
            if count == CLIENTS * REQUESTS // 2:
                served.set()


async def one_request(port: int) -> int:
    """Ask for the square of 7 without any client library."""
    stream = await trio.open_tcp_stream('127.0.0.1', port)
    async with stream:
        await stream.send_all(b'GET /7 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
        received = b''.join([part async for part in stream])
    return int(json.loads(received.partition(b'\r\n\r\n')[2])['square'])
