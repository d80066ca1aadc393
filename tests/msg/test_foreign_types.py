"""end to end: values of foreign types as arguments, first values, stream messages and results, both ways."""

from __future__ import annotations

import datetime
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tractor
from tractor import MsgTypeError
from tractor._code_load import load_module_from_path
from tractor._testing import tractor_test
from tractor._testing.addr import get_rando_addr
from tractor.msg import NamespacePath, apply_codec, mk_codec

pytestmark = pytest.mark.spawns

# under the names by which the actors import them
far = sys.modules.get('foreign_peers') or load_module_from_path(
    Path(__file__).with_name('foreign_peers.py')
)
far_arrays = sys.modules.get('foreign_array_peers') or load_module_from_path(
    Path(__file__).with_name('foreign_array_peers.py')
)

NUMPY_IN_ACTOR = pytest.mark.skipon_spawn_backend(
    'subint', reason='the actor uses NumPy, which refuses to be imported in a sub-interpreter'
)

TWO_PATHS = (Path('/x'), Path('y/z'))
HERE = NamespacePath.from_ref(NamespacePath)


@pytest.fixture(params=['tcp', 'uds'])
def tpt_proto(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def reg_addr(tpt_proto: str) -> Any:
    return get_rando_addr(tpt_proto)


@asynccontextmanager
async def open_peer(*modules: str) -> AsyncIterator[tractor.Portal]:
    async with tractor.open_nursery() as an:
        yield await an.start_actor('peer', enable_modules=[far.NAME, *modules], loglevel='critical')
        await an.cancel()


def record() -> Any:
    return far.Record(Path('/p'), far.Money('1.10'), HERE, far.Tag('tag'))


def array_record() -> Any:
    array = np.arange(6, dtype='float32').reshape(2, 3)
    return far_arrays.ArrayRecord(
        Path('/p'), far.Money('1.10'), HERE, far.Tag('tag'), array=array, number=np.float64(0.1)
    )


# --- plain calls


@tractor_test
async def test_annotated_calls(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    order = far.Order(
        price=Decimal('12.30'),
        due=datetime.datetime.now(datetime.UTC),
        id=uuid.uuid4(),
        color=far.Color.BLUE,
    )
    shapes = [far.Circle(Decimal('0.5')), far.Square(1.0)]
    async with open_peer() as portal:
        price = await portal.run(far.total, prices=[Decimal('1.10'), Decimal('2.20')])
        assert (type(price), str(price)) == (Decimal, '3.30')
        copies = await portal.run(far.copy_order, order=order, shapes=shapes, pair=(1, {'a'}))
        # a result of no declared type comes as the builtins that msgpack knows
        assert copies[0]['price'] == '12.30'
        assert copies[0]['due'] == order.due
        assert copies[1] == [{'type': 'Circle', 'radius': '0.5'}, {'type': 'Square', 'side': 1.0}]
        assert copies[2] == [1, ['a']]
        assert await portal.run(far.paint, shape=shapes[0]) == far.Square(0.5)
        assert await portal.run(far.paint, shape=shapes[1]) == far.Circle(Decimal(1))


def assert_same_types(got: Any, sent: Any) -> None:
    assert got == sent
    for name in got.__struct_fields__:
        assert type(getattr(got, name)) is type(getattr(sent, name)), name


@tractor_test
async def test_hooked_calls(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    sent = record()
    async with open_peer() as portal:
        got = await portal.run(far.copy_record, record=sent)
        assert_same_types(got, sent)
        assert got.where.load_ref() is NamespacePath
        async with portal.open_stream_from(far.lines_of, path=Path('/top')) as stream:
            assert [each async for each in stream] == [Path('/top/a'), Path('/top/b')]
        async with portal.open_stream_from(far.one_way, path=Path('/top')) as stream:
            assert [each async for each in stream] == ['plain', '/top/x']
        assert await tractor.to_actor.run(far.copy_record, sent, portal=portal) == sent


@tractor_test
async def test_one_shot_actors(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    sent = record()
    async with tractor.open_nursery() as an:
        portal = await an.run_in_actor(far.copy_record, record=sent, loglevel='critical')
        assert await portal.wait_for_result() == sent


@tractor_test
async def test_calls_with_wrong_types(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    """Each fails alone, and says what is wrong and what to do about it."""
    async with open_peer() as portal:
        with pytest.raises(MsgTypeError) as caught:
            await portal.run(far.total, prices=['one'])
        text = caught.value.message
        assert 'invalid argument `prices` of foreign_peers:total()' in text
        assert "['one']" in text
        assert 'Invalid decimal string' in text
        assert caught.value.src_uid == portal.chan.aid.uid
        with pytest.raises(MsgTypeError, match=r'`kwargs\[.record.\]` is a builtins\.object'):
            await portal.run(far.copy_record, record=object())
        with pytest.raises(MsgTypeError, match='did not make encodable') as caught:
            await portal.run(far.misdeclared, kind='object')
        assert caught.value.src_uid == portal.chan.aid.uid
        with pytest.raises(MsgTypeError, match='invalid `Return` msg payload') as caught:
            await portal.run(far.misdeclared, kind='number')
        assert caught.value.expected_msg_type is tractor.msg.Return
        assert await portal.run(far.misdeclared, kind='path') == Path('/')


@tractor_test
async def test_calls_without_types(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with open_peer() as portal:
        for value in (Path('/'), far.Tag('t'), np.float64(1), HERE, far.Money('1')):
            with pytest.raises(MsgTypeError) as caught:
                await portal.run(far.untyped, value=value)
            kind = type(value)
            text = caught.value.message
            assert f"`kwargs['value']` is a {kind.__module__}.{kind.__qualname__}" in text
            assert 'enc_hook' in text
            assert isinstance(caught.value.__cause__, TypeError)
        with apply_codec(mk_codec(enc_hook=far_arrays.encode, ext_types=far_arrays.EXT)):
            assert await portal.run(far.untyped, value=Path('/')) == ['str', '/']
            assert await portal.run(far.untyped, value=np.float64(1)) == ['float', 1]
        assert await portal.run(far.untyped, value=Decimal('1.50')) == ['str', '1.50']
        assert await portal.run(far.untyped_result, name='decimal') == '1.50'
        for name, kind in (('path', 'pathlib'), ('tag', 'foreign_peers.Tag')):
            with pytest.raises(MsgTypeError, match='enc_hook') as caught:
                await portal.run(far.untyped_result, name=name)
            assert kind in caught.value.message
            assert type(caught.value) is MsgTypeError
            assert caught.value.src_uid == portal.chan.aid.uid


# --- dialogs


@tractor_test
async def test_records_in_a_dialog(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    sent = record()
    async with (
        open_peer() as portal,
        portal.open_context(far.echo_records, record=sent, root=Path('/')) as (ctx, first),
    ):
        assert first == sent
        meta = far.echo_records._tractor_context_meta
        assert meta['pld_spec'] is ctx._pld_rx.pld_dec.spec
        assert (meta['ext_types'], meta['enc_hook']) == (far.EXT, far.encode)
        async with ctx.open_stream() as stream:
            await stream.send(sent)
            assert await stream.receive() == sent
            await stream.send(None)
            assert await stream.receive() is None
        assert await ctx.wait_for_result() == sent


@tractor_test
async def test_other_dialogs(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with open_peer() as portal:
        async with (
            portal.open_context(far.echo_paths, first=TWO_PATHS[0]) as (paths, first),
            portal.open_context(far.echo_decimals) as (decimals, price),
            portal.open_context(far.echo_shapes) as (shapes, circle),
            paths.open_stream() as path_stream,
            decimals.open_stream() as decimal_stream,
            shapes.open_stream() as shape_stream,
        ):
            assert (first, circle) == (TWO_PATHS[0], far.Circle(Decimal('0.1')))
            assert (type(price), str(price)) == (Decimal, '1.50')
            # each encodes with its own hooks, whichever block is the innermost
            for path in TWO_PATHS:
                await path_stream.send(path)
                assert await path_stream.receive() == path
            await decimal_stream.send(Decimal('2.50'))
            assert str(await decimal_stream.receive()) == '2.50'
            await shape_stream.send(far.Square(3.0))
            assert await shape_stream.receive() == far.Square(3.0)
            with pytest.raises(MsgTypeError, match='enc_hook'):
                await decimal_stream.send(TWO_PATHS[0])
            with pytest.raises(MsgTypeError, match='did not make encodable'):
                await path_stream.send(object())
        assert paths.outcome == TWO_PATHS[0]
        assert shapes.outcome == far.Square(2.0)


@tractor_test
async def test_codec_and_limit(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    """Nothing is declared: each side says what it sends and what it takes."""
    codec = mk_codec(enc_hook=far.encode, ext_types=far.EXT)
    async with (
        open_peer() as portal,
        portal.open_context(far.by_codec) as (ctx, first),
        ctx.open_stream() as stream,
    ):
        assert first == '/first'
        with apply_codec(codec), tractor.msg.limit_plds(dec_hook=far.decode, ext_types=[Path]):
            await stream.send(Path('/a'))
            assert await stream.receive() == Path('/a/x')
        with pytest.raises(MsgTypeError, match='enc_hook'):
            await stream.send(Path('/a'))
        with apply_codec(codec):
            await stream.send(far.Tag('b'))
        assert await stream.receive() == 'b/x'


# --- arrays in the actors, too


@NUMPY_IN_ACTOR
@tractor_test
async def test_calls_with_arrays(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    sent = array_record()
    async with open_peer(far_arrays.NAME) as portal:
        got = await portal.run(far_arrays.copy_record, record=sent)
        assert_same_types(got, sent)
        assert got.array.dtype == sent.array.dtype
        assert await tractor.to_actor.run(far_arrays.copy_record, sent, portal=portal) == sent
    async with tractor.open_nursery() as an:
        portal = await an.run_in_actor(far_arrays.copy_record, record=sent, loglevel='critical')
        assert await portal.wait_for_result() == sent


@NUMPY_IN_ACTOR
@tractor_test
async def test_dialogs_with_arrays(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    """Each encodes with its own hooks, whichever block is the innermost."""
    sent = array_record()
    async with open_peer(far_arrays.NAME) as portal:
        async with (
            portal.open_context(far_arrays.echo_records, record=sent) as (records, first),
            portal.open_context(far_arrays.echo_arrays, start=None) as (arrays, zeros),
            portal.open_context(far.echo_decimals) as (decimals, _),
            records.open_stream() as record_stream,
            arrays.open_stream() as array_stream,
            decimals.open_stream() as decimal_stream,
        ):
            assert first == sent
            assert (zeros.shape, zeros.dtype) == ((2, 3), np.dtype('int16'))
            for value in (sent, None):
                await record_stream.send(value)
                assert await record_stream.receive() == value
            await array_stream.send(np.array([1, 2], dtype='uint8'))
            assert (await array_stream.receive()).tolist() == [2, 4]
            await decimal_stream.send(Decimal('2.50'))
            assert str(await decimal_stream.receive()) == '2.50'
            with pytest.raises(MsgTypeError, match='enc_hook'):
                await decimal_stream.send(np.zeros(1))
        assert records.outcome == sent
        assert arrays.outcome.shape == (2, 3)


# --- what goes wrong in a dialog


SENT = {
    # the error of the hook itself, with a note
    'started': ('NotImplementedError', 'did not make encodable'),
    'item': ('MsgTypeError', 'did not make encodable'),
    'result': ('MsgTypeError', 'did not make encodable'),
    'started off spec': ('MsgTypeError', 'invalid `Started` msg payload'),
}
RECEIVED = {'started unchecked': 'Started', 'item off spec': 'Yield', 'result off spec': 'Return'}


async def use(portal: tractor.Portal, how: str, held: list[tractor.Context]) -> Any:
    async with portal.open_context(far.misbehave, how=how) as (ctx, first):
        held.append(ctx)
        assert first == 0
        if not how.startswith('item'):
            return await ctx.wait_for_result()
        async with ctx.open_stream() as stream:
            return await stream.receive()


@tractor_test
async def test_only_one_dialog_fails(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with (
        open_peer() as portal,
        portal.open_context(far.numbers) as (other, _),
        other.open_stream() as stream,
    ):
        for how, (name, text) in SENT.items():
            with pytest.raises(tractor.RemoteActorError) as caught:
                await use(portal, how, [])
            error = caught.value
            assert type(error) is (
                MsgTypeError if name == 'MsgTypeError' else tractor.RemoteActorError
            )
            assert error.boxed_type_str == name
            assert text in repr(error)
            assert error.src_uid == portal.chan.aid.uid
            await stream.send(1)
            assert await stream.receive() == 2
        for how, name in RECEIVED.items():
            held: list[tractor.Context] = []
            with pytest.raises(MsgTypeError) as caught:
                await use(portal, how, held)
            mte = caught.value
            assert mte.expected_msg == name
            assert f'`{name}.pld: int`' in repr(mte)
            assert mte.tb_str
            for ctx in held:
                assert mte is ctx._remote_error is ctx.maybe_error is ctx.outcome
                assert mte.cid == ctx.cid
            await stream.send(2)
            assert await stream.receive() == 3
        with pytest.raises(MsgTypeError, match='no Money of'):
            async with (
                portal.open_context(far.bad_hook) as (ctx, _),
                ctx.open_stream() as items,
            ):
                await items.receive()
        await stream.send(3)
        assert await stream.receive() == 4
