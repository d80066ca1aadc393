"""Values of types that msgpack does not know, as arguments, in a stream, and as results."""

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import msgspec
import trio

import tractor


class Invoice(msgspec.Struct):
    total: Decimal
    scan: PurePosixPath


def encode(value: Any) -> Any:
    if isinstance(value, PurePosixPath):
        return str(value)
    raise NotImplementedError(f'{type(value)} cannot be sent')


def decode(kind: type, value: Any) -> Any:
    return kind(value)


HOOKS = {'enc_hook': encode, 'dec_hook': decode}


@tractor.msg.typed
async def add_tax(total: Decimal, rate: Decimal) -> Decimal:
    return total * (1 + rate)


@tractor.msg.typed(**HOOKS)
async def scans_in(folder: PurePosixPath) -> AsyncIterator[PurePosixPath]:
    for number in range(2):
        yield folder / f'{number}.pdf'


@tractor.context(pld_spec=Invoice | None, **HOOKS)
async def archive(ctx: tractor.Context, folder: PurePosixPath) -> None:
    await ctx.started(None)
    async with ctx.open_stream() as stream:
        async for invoice in stream:
            invoice.scan = folder / invoice.scan.name
            await stream.send(invoice)


async def main() -> None:
    async with tractor.open_nursery() as nursery:
        portal = await nursery.start_actor('office', enable_modules=[__name__])
        print(repr(await portal.run(add_tax, total=Decimal('10.00'), rate=Decimal('0.19'))))

        folder = PurePosixPath('inbox')
        async with portal.open_stream_from(scans_in, folder=folder) as scans:
            invoices = [Invoice(Decimal('1.50'), scan) async for scan in scans]

        async with (
            portal.open_context(archive, folder=PurePosixPath('archive')) as (ctx, _),
            ctx.open_stream() as stream,
        ):
            for invoice in invoices:
                await stream.send(invoice)
                print(await stream.receive())
        try:
            await portal.run(add_tax, total='ten', rate=Decimal(0))
        except tractor.MsgTypeError as err:
            print(f'refused: {err.message.splitlines()[1]}')
        await portal.cancel_actor()


if __name__ == '__main__':
    trio.run(main)
