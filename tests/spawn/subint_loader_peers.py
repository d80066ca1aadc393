"""What the tests of loading extensions run in actors."""

from __future__ import annotations

import builtins
import gc
import importlib
import sys
import types
import typing
from typing import Any

import msgspec

import tractor

LOADER = 'tractor.spawn._subint_loader'


class Point(msgspec.Struct, tag=True):
    x: int
    name: str | None = None


class Line(msgspec.Struct, tag=True):
    ends: list[Point]


def work(rounds: int) -> int:
    """Make codecs, encode and decode, all that touches what an extension keeps; how many bytes."""
    total = 0
    for n in range(rounds):
        encoder = msgspec.msgpack.Encoder()
        decoder = msgspec.msgpack.Decoder(Point | Line | int | None)
        line = Line([Point(n, str(n)), Point(-n)])
        data = encoder.encode(line)
        assert decoder.decode(data) == line
        total += len(data) + len(msgspec.json.encode({'n': [n] * 20}))
        try:
            msgspec.json.decode(b'{"x": "no number"}', type=Point)
        except msgspec.ValidationError:
            total += 1
    return total


async def encode_and_decode(rounds: int) -> int:
    return work(rounds)


async def import_it(name: str) -> None:
    importlib.import_module(name)


async def modules_of_msgspec() -> dict[str, Any]:
    loader = sys.modules[LOADER]
    return {
        'address': id(msgspec.Struct),
        'copies': [copy.name for copy in loader.loaded_copies()],
    }


async def union_types() -> dict[str, Any]:
    """Whether `types.UnionType` is what it was, and how many blocks unions cost."""
    work(20)
    before = sys.getallocatedblocks()
    for _ in range(500):
        msgspec.json.Decoder(int | str | None)
    return {
        'is_one': types.UnionType is typing.Union,
        'blocks': sys.getallocatedblocks() - before,
    }


def keep_other_dicts(real: Any, proxy: type) -> None:
    """From now on what a type says of itself is not what lies at its address."""

    def referents(*objects: object) -> list[Any]:
        return [{}] if isinstance(objects[0], proxy) else real(*objects)

    gc.get_referents = referents


async def raise_doubt(kind: str) -> None:
    """See to it that memory cannot be given back."""
    loader: Any = sys.modules[LOADER]
    keep: Any = builtins
    if kind == 'version':
        msgspec.__version__ = '99.0'
    elif kind == 'layout':
        keep_other_dicts(gc.get_referents, types.MappingProxyType)
    elif kind == 'object':
        keep.kept = msgspec.msgpack.Decoder(int)
    elif kind == 'subclass':
        keep.kept = Point
    elif kind == 'maps':
        loader.PrivateCopy.span = lambda _: (0, 0)
    else:
        raise AssertionError(kind)


async def nested(depth: int) -> list[str]:
    """Actors in actors, each with an extension of its own; why memory of those below was not given back."""
    work(50)
    if not depth:
        return []
    async with tractor.open_nursery() as an:
        portal = await an.start_actor('below', enable_modules=[__name__], start_method='subint')
        (child,) = an._children.values()
        leaks: list[str] = await portal.run(nested, depth=depth - 1)
        await portal.cancel_actor()
        await child.gone.wait()
    leak: str = child.proc._driver.leak
    return [*leaks, leak]
