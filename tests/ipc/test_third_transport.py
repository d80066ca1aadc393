"""contract: a third transport is one module and one record: nothing else has to know of it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import trio
import trio.testing

import tractor
from tractor._testing import memory, run_bounded
from tractor._testing.memory import MemoryAddress, memory_transport
from tractor.discovery import _addr
from tractor.discovery._addr import wrap_address
from tractor.ipc import _types, transport_from_addr, transport_from_stream
from tractor.ipc._transport import MsgpackTransport
from tractor.ipc._types import Backend, register_backend, unregister_backend
from tractor.ipc._uds import UDSAddress

PACKAGE = Path(tractor.__file__).parent
HERE = __name__


def tables() -> list[Any]:
    """All that knows which transports there are."""
    return [
        dict(_addr._address_types),
        list(_addr._default_lo_addrs),
        list(_types._backends),
        list(_types._msg_transports),
        dict(_types._key_to_transport),
        dict(_types._addr_to_transport),
    ]


# --- the one in memory


def test_registering_is_all_and_is_undone() -> None:
    before = tables()
    with memory_transport() as key:
        added = [len(table) - len(old) for table, old in zip(tables(), before, strict=True)]
        assert added == [1] * len(added)
        assert key == 'mem'
        assert _addr.get_address_cls(key) is MemoryAddress
        assert transport_from_addr(MemoryAddress.get_root()) is memory.MsgpackMemoryStream
        assert transport_from_stream(memory.stream_pair()[0]) is memory.MsgpackMemoryStream
        assert wrap_address(['mem:', 'x']) == MemoryAddress('mem:', 'x')
        # the other forms are nobody else's
        assert wrap_address(('/tmp', 'mem:')) == UDSAddress('/tmp', 'mem:')
        with memory_transport() as again:
            assert again == key
        assert len(tables()[0]) == len(before[0]) + 1
    assert tables() == before
    assert wrap_address(('mem:', 'x')) == UDSAddress('mem:', 'x')
    with pytest.raises(NotImplementedError, match='no transport'):
        transport_from_addr(MemoryAddress.get_root())
    with pytest.raises(NotImplementedError, match='MemoryStream'):
        transport_from_stream(memory.stream_pair()[0])
    with pytest.raises(NotImplementedError, match="'mem'"):
        _addr.get_address_cls('mem')


def test_it_is_undone_after_an_error() -> None:
    before = tables()
    with pytest.raises(KeyError), memory_transport():
        raise KeyError
    assert tables() == before


def test_a_key_is_given_once() -> None:
    with memory_transport():
        before = tables()
        with pytest.raises(ValueError, match="a transport 'mem' already"):
            register_backend(memory.BACKEND)
        assert tables() == before
    with pytest.raises(ValueError, match=r'not in'):
        unregister_backend(memory.BACKEND)


def test_loading_the_module_registers_nothing() -> None:
    code = (
        'import tractor._testing.memory, tractor._testing.peer; '
        'from tractor.discovery._addr import _address_types; print(sorted(_address_types))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=PACKAGE.parent,
    )
    assert done.stdout.strip() == str(sorted(_addr._address_types))


def mentions(path: Path) -> Iterator[str]:
    """What a module says of the transport in memory, but for its texts."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        match node:
            case ast.Constant(value='mem' | 'mem:'):
                yield f'{path.name}:{node.lineno}: the key'
            case ast.ImportFrom(module='tractor._testing.memory') | ast.Name(id='MemoryAddress'):
                yield f'{path.name}:{node.lineno}: the module'


def test_the_package_does_not_know_it() -> None:
    modules = [path for path in PACKAGE.rglob('*.py') if path.parent.name != '_testing']
    assert len(modules) > 50
    assert not [mention for path in modules for mention in mentions(path)]
    assert list(mentions(PACKAGE / '_testing' / 'memory.py'))


# --- one more, with nothing but what `trio` offers


class PipeAddress(msgspec.Struct, frozen=True):
    number: int

    proto_key: ClassVar[str] = 'pipe'
    unwrapped_type: ClassVar[Any] = tuple[str, int]
    def_bindspace: ClassVar[str] = 'pipe'
    is_valid: ClassVar[bool] = True
    namespace: ClassVar[None] = None
    bindspace: ClassVar[str] = 'pipe'

    @classmethod
    def claims(cls, addr: Any) -> bool:
        return isinstance(addr, (list, tuple)) and addr[0] == 'pipe'

    @classmethod
    def from_addr(cls, addr: Any) -> PipeAddress:
        return cls(addr[1])

    @classmethod
    def get_random(cls, bindspace: str | None = None) -> PipeAddress:
        return cls(7)

    @classmethod
    def get_root(cls) -> PipeAddress:
        return cls(1)

    def unwrap(self) -> tuple[str, int]:
        return 'pipe', self.number


class PipeListener(trio.abc.Listener[trio.StapledStream]):
    def __init__(self) -> None:
        self.put, self.get = trio.open_memory_channel[trio.StapledStream](5)

    async def accept(self) -> trio.StapledStream:
        return await self.get.receive()

    async def aclose(self) -> None:
        await self.get.aclose()


_pipes: dict[PipeAddress, PipeListener] = {}


class MsgpackPipeStream(MsgpackTransport):
    address_type: ClassVar[type[PipeAddress]] = PipeAddress

    @classmethod
    def get_stream_addrs(cls, stream: Any) -> tuple[PipeAddress, PipeAddress]:
        return PipeAddress(0), PipeAddress(0)

    @classmethod
    async def connect_to(cls, addr: PipeAddress, **kwargs: Any) -> MsgpackPipeStream:
        if addr not in _pipes:
            raise ConnectionRefusedError
        ours, theirs = trio.testing.memory_stream_pair()
        await _pipes[addr].put.send(theirs)
        return cls(ours)


async def start_pipe(addr: PipeAddress) -> PipeListener:
    await trio.lowlevel.checkpoint()
    return _pipes.setdefault(addr, PipeListener())


def close_pipe(addr: PipeAddress, listener: PipeListener) -> None:
    _pipes.pop(addr, None)


PIPES = Backend(
    PipeAddress,
    MsgpackPipeStream,
    start_pipe,
    close_pipe,
    stream=trio.StapledStream,
    bound_addr=lambda addr, _listener: addr,
)


@contextmanager
def pipes() -> Iterator[str]:
    register_backend(PIPES)
    try:
        yield PIPES.proto_key
    finally:
        unregister_backend(PIPES)


async def double(number: int) -> int:
    return 2 * number


@tractor.context
async def count(ctx: tractor.Context, upto: int) -> str:
    await ctx.started()
    async with ctx.open_stream() as stream:
        for number in range(upto):
            await stream.send(number)
    return 'done'


@pytest.mark.parametrize('transport', [memory_transport, pipes])
def test_a_whole_runtime_runs_on_it(transport: Any) -> None:
    async def main(key: str) -> None:
        addr = _addr.get_address_cls(key).get_root()
        async with tractor.open_root_actor(
            enable_transports=[key],
            registry_addrs=[addr],
            enable_modules=[HERE],
            loglevel='critical',
        ) as root:
            assert root.accept_addrs == [addr.unwrap()]
            async with (
                tractor.find_actor('root', registry_addrs=[addr]) as portal,
                portal.open_context(count, upto=100) as (ctx, _),
            ):
                assert await portal.run(double, number=21) == 42
                async with ctx.open_stream() as stream:
                    assert [number async for number in stream] == list(range(100))
                assert await ctx.wait_for_result() == 'done'

    with transport() as key:
        run_bounded(main, key, timeout=10)
