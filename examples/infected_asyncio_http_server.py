"""
An HTTP server of asyncio in an actor, its requests answered by trio actors. Needs `aiohttp`.

    clients (asyncio)  --HTTP-->  server (asyncio and trio)  --messages-->  workers (trio)

Cancelling the context of the server ends all of it: the requests that are under way, the connections, the workers.
"""

import asyncio
import itertools
from typing import Any

import trio

import tractor
from tractor import to_asyncio

CLIENTS = 10
REQUESTS = 20
WORKERS = 2


# --- workers


async def square(number: int) -> dict[str, Any]:
    """What a request is answered with."""
    await trio.lowlevel.checkpoint()
    return {'square': number * number, 'worker': tractor.current_actor().name}


# --- the server


async def serve_http(chan: to_asyncio.LinkedTaskChannel) -> None:
    """The asyncio side: every request goes to trio, with a future for its answer."""
    from aiohttp import web

    waiting: set[asyncio.Future[Any]] = set()

    async def handle(request: web.Request) -> web.Response:
        answer = asyncio.get_running_loop().create_future()
        try:
            chan.send_nowait((int(request.match_info['number']), answer))
        except (trio.WouldBlock, trio.BrokenResourceError):
            # trio has too many of them, or has just left
            raise web.HTTPServiceUnavailable from None
        waiting.add(answer)
        try:
            return web.json_response(await answer)
        finally:
            waiting.discard(answer)

    app = web.Application()
    app.router.add_get('/{number:[0-9]+}', handle)
    # requests that are under way when it ends are not waited for
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    try:
        await web.TCPSite(runner, '127.0.0.1', 0).start()
        _host, port = runner.addresses[0]
        chan.started_nowait(port)
        # until trio leaves
        await chan.get()
    finally:
        # nobody answers them any more, and aiohttp leaves those alone whose client has gone
        for answer in waiting:
            answer.cancel()
        await runner.cleanup()


async def answer_one(worker: tractor.Portal, number: int, answer: 'asyncio.Future[Any]') -> None:
    result = await worker.run(square, number=number)
    # its client may be gone
    if not answer.done():
        answer.set_result(result)


@tractor.context
async def serve(ctx: tractor.Context, workers: int) -> None:
    """The trio side: start the workers, and hand each request to the next one."""
    async with tractor.open_nursery(start_method=tractor.current_actor().spawn_method) as nursery:
        portals = [
            await nursery.start_actor(f'worker_{n}', enable_modules=[__name__])
            for n in range(workers)
        ]
        async with (
            to_asyncio.open_channel_from(serve_http) as (chan, port),
            trio.open_nursery() as requests,
        ):
            await ctx.started(port)
            turns = itertools.cycle(portals)
            async for number, answer in chan:
                requests.start_soon(answer_one, next(turns), number, answer)


# --- the clients


async def tell(chan: to_asyncio.LinkedTaskChannel, value: Any) -> None:
    """Send to trio, which may be busy: then wait until there is room."""
    while True:
        try:
            chan.send_nowait(value)
        except trio.WouldBlock:
            await asyncio.sleep(0.01)
        else:
            return


async def ask_many(
    chan: to_asyncio.LinkedTaskChannel, port: int, clients: int, requests: int
) -> None:
    """The asyncio side: so many clients, each with so many requests; tells each answer."""
    import aiohttp

    async def client(session: aiohttp.ClientSession, first: int) -> None:
        for number in range(first, first + requests):
            async with session.get(f'http://127.0.0.1:{port}/{number}') as response:
                response.raise_for_status()
                answer = await response.json()
            assert answer['square'] == number * number
            await tell(chan, answer['worker'])

    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        chan.started_nowait()
        for n in range(clients):
            group.create_task(client(session, n * requests))


@tractor.context
async def ask(ctx: tractor.Context, port: int, clients: int, requests: int) -> None:
    """The trio side: report who has answered."""
    async with to_asyncio.open_channel_from(
        ask_many, port=port, clients=clients, requests=requests
    ) as (chan, _):
        await ctx.started()
        async with ctx.open_stream(backpressure=True) as stream:
            async for worker in chan:
                await stream.send(worker)


# --- the program


async def main() -> None:
    async with tractor.open_nursery() as nursery:
        server, clients = [
            await nursery.start_actor(name, enable_modules=[__name__], infect_asyncio=True)
            for name in ('server', 'clients')
        ]
        async with server.open_context(serve, workers=WORKERS) as (serving, port):
            async with (
                clients.open_context(ask, port=port, clients=CLIENTS, requests=REQUESTS) as (
                    asking,
                    _,
                ),
                asking.open_stream() as answers,
            ):
                by = [worker async for worker in answers]
            print(f'{len(by)} requests were answered by {len(set(by))} workers')
            await serving.cancel()
        print('the server is down')
        await nursery.cancel()


if __name__ == '__main__':
    trio.run(main)
