"""A tree whose actors talk through UNIX domain sockets: files of this user, no ports."""

import os

import trio

import tractor


async def where_do_you_listen() -> str:
    proto, path = 'uds', tractor.current_actor().accept_addr
    return f'{proto}:{"/".join(map(str, path))}'


async def main() -> None:
    async with tractor.open_nursery(enable_transports=['uds']) as nursery:
        portal = await nursery.start_actor('child', enable_modules=[__name__])
        raddr = portal.chan.raddr
        assert raddr.proto_key == 'uds'
        print(f'connected through {raddr.sockpath}')
        # the kernel says who is at the other end
        print(f'peer process: {raddr.maybe_pid}, this one: {os.getpid()}')
        print(f'the child itself listens at {await portal.run(where_do_you_listen)}')
        await portal.cancel_actor()


if __name__ == '__main__':
    trio.run(main)
