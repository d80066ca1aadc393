"""A ring buffer: bytes from one actor to another through shared memory."""

import trio

import tractor
from tractor.ipc._ringbuf import RingBuffReceiver, RingBuffSender, open_ringbuf

CHUNK = 1 << 16
TOTAL = 64 << 20


@tractor.context
async def produce(ctx: tractor.Context, token: dict, total: int) -> None:
    async with RingBuffSender(token) as sender:
        await ctx.started()
        for i in range(total // CHUNK):
            await sender.send_all(bytes([i % 256]) * CHUNK)


async def main() -> None:
    async with tractor.open_nursery() as nursery:
        with open_ringbuf('tractor_example_ring', buf_size=16 * CHUNK) as token:
            portal = await nursery.start_actor(
                'producer',
                enable_modules=[__name__],
                # a process of its own, with the two descriptors by which the sides wake each other
                start_method='trio',
                proc_kwargs={'pass_fds': (token.write_eventfd, token.wrap_eventfd)},
            )
            async with (
                portal.open_context(produce, token=token.as_msg(), total=TOTAL),
                RingBuffReceiver(token) as receiver,
            ):
                received = 0
                views = 0
                # the stream does not tell its end: we know how much there is
                while received < TOTAL:
                    received += len(await receiver.receive_some())
                    views += 1
            print(f'received {received >> 20} MiB')
            print(f'in views of {received // views >> 10} KiB on average, without a copy')
            await portal.cancel_actor()


if __name__ == '__main__':
    trio.run(main)
