"""The same with NumPy's arrays and numbers, in a module of its own: NumPy refuses to be in a sub-interpreter."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import tractor
from tractor._code_load import load_module_from_path
from tractor.msg import typed

# under the name by which the actors import it
peers = sys.modules.get('foreign_peers') or load_module_from_path(
    Path(__file__).with_name('foreign_peers.py')
)

NAME = __name__


class ArrayRecord(peers.Record, kw_only=True):
    """Foreign types of an application and of a library in one value."""

    array: np.ndarray
    number: np.float64

    def __eq__(self, other: object) -> bool:
        mine, theirs = msgspec.structs.asdict(self), msgspec.structs.asdict(other)
        return np.array_equal(mine.pop('array'), theirs.pop('array')) and mine == theirs

    __hash__ = None  # type: ignore[assignment]


def encode(value: Any) -> Any:
    match value:
        case np.ndarray():
            return [value.dtype.str, list(value.shape), value.tobytes()]
        case np.generic():
            return value.item()
    return peers.encode(value)


def decode(kind: type, value: Any) -> Any:
    if kind is np.ndarray:
        dtype, shape, data = value
        return np.frombuffer(data, dtype).reshape(shape)
    return peers.decode(kind, value)


HOOKS: dict[str, Any] = {'enc_hook': encode, 'dec_hook': decode}
EXT = [*peers.EXT, np.ndarray, np.generic]


@typed(**HOOKS, ext_types=EXT)
async def copy_record(record: ArrayRecord, note: str = '') -> ArrayRecord:
    assert type(record.array) is np.ndarray
    assert type(record.number) is np.float64
    assert type(record.money) is peers.Money
    return record


@tractor.context(pld_spec=ArrayRecord | None, ext_types=EXT, **HOOKS)
async def echo_records(ctx: tractor.Context, record: ArrayRecord) -> Any:
    assert type(record) is ArrayRecord
    return await peers.echo(ctx, record, record)


@tractor.context(pld_spec=np.ndarray, **HOOKS)
async def echo_arrays(ctx: tractor.Context, start: Any) -> Any:
    array = np.zeros((2, 3), dtype='int16')
    await ctx.started(array, strict_pld_parity=True)
    async with ctx.open_stream() as stream:
        async for value in stream:
            assert isinstance(value, np.ndarray)
            await stream.send(value * 2)
    return array
