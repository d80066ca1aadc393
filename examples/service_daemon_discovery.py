"""A client finds a service by name, calls it, and leaves; the root decides when the service ends."""

import trio

import tractor


async def greet(name: str) -> str:
    print(f'service: called by {name}', flush=True)
    return f'good day, {name}'


async def use_service() -> None:
    async with tractor.find_actor('no_such_service') as portal:
        print(f'client: no_such_service is {portal}', flush=True)
    async with tractor.wait_for_actor('greeter') as portal:
        print(f'client: greeter is at {portal.chan.aid.name!r}', flush=True)
        print('client: got', repr(await portal.run(greet, name='client')), flush=True)


async def main() -> None:
    async with tractor.open_nursery() as nursery:
        service = await nursery.start_actor('greeter', enable_modules=[__name__])
        client = await nursery.run_in_actor(use_service, name='client')
        await client.wait_for_result()
        print('root: the client is done')
        await service.cancel_actor()
        print('root: the service is down')


if __name__ == '__main__':
    trio.run(main)
