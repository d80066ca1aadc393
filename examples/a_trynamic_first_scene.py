"""Two actors, each in a process of its own, find each other by name and call each other."""

import trio

import tractor


async def introduce_yourself() -> str:
    return f'Hi my name is {tractor.current_actor().name}'


async def meet(peer: str) -> str:
    # both are started at the same time: wait until the other one has registered
    async with tractor.wait_for_actor(peer) as portal:
        return await portal.run(introduce_yourself)


async def main() -> None:
    async with tractor.open_nursery(loglevel='info') as nursery:
        print('the curtain rises')
        ada = await nursery.run_in_actor(meet, name='ada', peer='blaise')
        blaise = await nursery.run_in_actor(meet, name='blaise', peer='ada')
        print(await ada.wait_for_result())
        print(await blaise.wait_for_result())
    print('the curtain falls')


if __name__ == '__main__':
    trio.run(main)
