"""Functions whose arguments and results are of types which msgpack does not know; and one such hook for each."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import uuid
import warnings
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import trio

import tractor
from tractor.msg import NamespacePath, apply_codec, limit_plds, mk_codec, typed

NAME = __name__


# --- types


class Color(enum.Enum):
    RED = 'red'
    BLUE = 'blue'


@dataclasses.dataclass
class Order:
    price: Decimal
    due: datetime.datetime
    id: uuid.UUID
    color: Color


class Circle(msgspec.Struct, tag=True):
    radius: Decimal


class Square(msgspec.Struct, tag=True):
    side: float


Shape = Circle | Square


class Tag(str):
    """A subclass of `str`, which the codec library refuses to take for one."""


class Money:
    """A class of the application."""

    def __init__(self, amount: str) -> None:
        self.amount = Decimal(amount)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.amount == self.amount

    def __hash__(self) -> int:
        return hash(self.amount)


class Record(msgspec.Struct):
    """Several foreign types in one value, each a field of its own."""

    path: Path
    money: Money
    where: NamespacePath
    tag: Tag = Tag('t')


# --- hooks


def encode(value: Any) -> Any:
    match value:
        case Path() | Tag() | NamespacePath():
            return str.__str__(value) if isinstance(value, str) else str(value)
        case Money():
            return str(value.amount)
    raise NotImplementedError(f'no {type(value)} here')


def decode(kind: type, value: Any) -> Any:
    return kind(value)


HOOKS: dict[str, Any] = {'enc_hook': encode, 'dec_hook': decode}
EXT = [Path, Tag, NamespacePath, Money]


# --- plain functions


@typed
async def total(prices: list[Decimal], tax: Decimal = Decimal(0)) -> Decimal:
    assert all(type(each) is Decimal for each in prices)
    return sum(prices, tax)


@typed
async def copy_order(order: Order, shapes: list[Shape], pair: tuple[int, set[str]]) -> list[Any]:
    assert type(order) is Order
    assert {type(each) for each in shapes} <= {Circle, Square}
    assert type(pair[1]) is set
    return [order, shapes, pair]


@typed
async def paint(shape: Shape) -> Shape:
    return Square(float(shape.radius)) if isinstance(shape, Circle) else Circle(Decimal(shape.side))


@typed(**HOOKS, ext_types=EXT)
async def copy_record(record: Record, note: str = '') -> Record:
    assert type(record.path) is type(Path())
    assert type(record.money) is Money
    assert type(record.where) is NamespacePath
    assert type(record.tag) is Tag
    return record


@typed(**HOOKS)
async def lines_of(path: Path) -> AsyncIterator[Path]:
    for name in ('a', 'b'):
        yield path / name


@typed(**HOOKS)
@tractor.stream
async def one_way(stream: tractor.Context, path: Path) -> None:
    assert isinstance(path, Path)
    await stream.chan.send(tractor.msg.Yield(cid=stream.cid, pld='plain'))
    async with trio.open_nursery() as tn:
        tn.start_soon(_send_yield, stream, path)


async def _send_yield(stream: tractor.Context, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        await stream.send_yield(path / 'x')


@typed(**HOOKS)
async def misdeclared(kind: str) -> Path:
    return {'object': object(), 'number': 5, 'path': Path('/')}[kind]  # type: ignore[return-value]


async def untyped(value: Any) -> Any:
    return [type(value).__name__, value]


async def untyped_result(name: str) -> Any:
    return {'path': Path('/'), 'tag': Tag('t'), 'decimal': Decimal('1.50')}[name]


# --- dialogs


async def echo(ctx: tractor.Context, first: Any, result: Any) -> Any:
    await ctx.started(first)
    async with ctx.open_stream() as stream:
        async for value in stream:
            await stream.send(value)
    return result


@tractor.context(pld_spec=Record | None, ext_types=EXT, **HOOKS)
async def echo_records(ctx: tractor.Context, record: Record, root: Path) -> Any:
    assert type(record) is Record
    assert type(root) is type(Path())
    return await echo(ctx, record, record)


@tractor.context(ext_types=[Path | None], **HOOKS)
async def echo_paths(ctx: tractor.Context, first: Path) -> Path:
    return await echo(ctx, first, first)


@tractor.context(pld_spec=Decimal | None)
async def echo_decimals(ctx: tractor.Context) -> Any:
    return await echo(ctx, Decimal('1.50'), None)


@tractor.context(pld_spec=Shape)
async def echo_shapes(ctx: tractor.Context) -> Any:
    return await echo(ctx, Circle(Decimal('0.1')), Square(2.0))


@tractor.context
async def by_codec(ctx: tractor.Context) -> Any:
    """The same without anything declared: a codec for what it sends, a limit for what it gets."""
    with (
        apply_codec(mk_codec(enc_hook=encode, ext_types=EXT)),
        limit_plds(dec_hook=decode, ext_types=[Path]) as dec,
    ):
        assert ctx.pld_rx.pld_dec is dec
        await ctx.started(Path('/first'), validate_pld_spec=False)
        async with ctx.open_stream() as stream:
            async for value in stream:
                assert isinstance(value, Path)
                await stream.send(value / 'x')
    return 'done'


@tractor.context(pld_spec=int, enc_hook=encode)
async def misbehave(ctx: tractor.Context, how: str) -> Any:
    """A child which sends something wrong, each in its way."""
    match how:
        case 'started':
            await ctx.started(object())
        case 'started off spec':
            await ctx.started('no number')
        case 'started unchecked':
            await ctx.started('no number', validate_pld_spec=False)
    await ctx.started(0)
    if how == 'result':
        return object()
    if how == 'result off spec':
        return 'no number'
    async with ctx.open_stream() as stream:
        if how == 'item':
            await stream.send(object())
        if how == 'item off spec':
            await stream.send('no number')
        await trio.sleep_forever()
    return 1


def explode(kind: type, value: Any) -> Any:
    raise KeyError(f'no {kind.__name__} of {value!r}')


@tractor.context(pld_spec=Money | None, enc_hook=encode, dec_hook=explode)
async def bad_hook(ctx: tractor.Context) -> None:
    await ctx.started(None)
    async with ctx.open_stream() as stream:
        await stream.send(Money('1'))
        await trio.sleep_forever()


@tractor.context
async def numbers(ctx: tractor.Context) -> int:
    await ctx.started(0)
    async with ctx.open_stream() as stream:
        async for value in stream:
            await stream.send(value + 1)
    return 1
