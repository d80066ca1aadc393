"""contract: publishers by topic, called directly and subscribed to from other actors."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

import tractor
from tractor import RemoteActorError, TransportClosed
from tractor._code_load import load_module_from_path
from tractor._testing import run_bounded, tractor_test
from tractor.experimental import msgpub
from tractor.experimental._pubsub import Publisher

pytestmark = pytest.mark.spawns

# under the name by which the actors import it
peers = sys.modules.get('legacy_peers') or load_module_from_path(
    Path(__file__).with_name('legacy_peers.py')
)

Topics = Callable[[], tuple[str, ...]]


class Subscriber:
    """Stands for the dialog with a peer: keeps what is sent to it."""

    def __init__(self, cid: str = 'c', error: Exception | None = None) -> None:
        self.cid = cid
        self.error = error
        self.got: list[Any] = []
        self.chan = SimpleNamespace(aid=cid, send=self._send)

    async def _send(self, msg: Any) -> None:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        self.got.append(msg.pld)


# --- the decorator


async def no_generator(get_topics: Topics) -> None:
    """Nothing."""


async def no_topics() -> Any:
    yield {}


async def fine(get_topics: Topics) -> Any:
    yield dict.fromkeys(get_topics(), 'x')


def test_what_can_be_a_publisher() -> None:
    with pytest.raises(TypeError, match='must be an async generator function'):
        msgpub(no_generator)
    with pytest.raises(TypeError, match='must define a `get_topics`'):
        msgpub(no_topics)
    with pytest.raises(TypeError, match='must define a `get_topics`'):
        msgpub(tasks={'x'})(no_topics)


def test_how_it_looks_from_outside() -> None:
    publisher = msgpub(fine)
    assert inspect.isasyncgenfunction(publisher)
    assert publisher._tractor_stream_function is True
    assert (publisher.__name__, publisher.__module__) == ('fine', __name__)
    call = publisher(Subscriber(), ['a'])
    assert inspect.iscoroutine(call)
    call.close()


@pytest.mark.parametrize('kwargs', [{}, {'ctx': None}, {'topics': ['a']}])
def test_required_arguments(kwargs: Any) -> None:
    with pytest.raises(TypeError, match=r'required|missing'):
        msgpub(fine)(**kwargs)


def test_task_names() -> None:
    async def main() -> None:
        publisher = msgpub(tasks={'one', 'two'})(fine)
        for kwargs in ({}, {'task_name': 'three'}):
            with pytest.raises(TypeError, match='task_name'):
                await publisher(Subscriber(), ['a'], **kwargs)
        subscriber = Subscriber()
        await publisher(subscriber, ['a', 'b'], task_name='two')
        assert subscriber.got == [{'a': 'x'}, {'b': 'x'}]

    run_bounded(main, timeout=5)


def test_packets() -> None:
    async def main() -> None:
        subscriber = Subscriber()
        await msgpub(fine)(subscriber, ['a'], packetizer=lambda topic, data: [topic, data])
        assert subscriber.got == [['a', 'x']]

    run_bounded(main, timeout=5)


def test_importing_it_is_cheap() -> None:
    code = 'import sys, tractor.experimental; assert "wrapt" not in sys.modules'
    subprocess.run([sys.executable, '-c', code], check=True, timeout=60)


# --- feeding


async def numbers(get_topics: Topics, count: int) -> Any:
    for number in range(count):
        yield dict.fromkeys(get_topics(), number) | {'unwanted': number}


def test_one_task_feeds_all_and_the_next_takes_over() -> None:
    """The generator's end is that of the task which ran it; the next subscriber starts a fresh one."""

    async def main() -> None:
        publisher = msgpub(numbers)
        first, second = Subscriber('1'), Subscriber('2')

        async def subscribe(who: Subscriber, topics: list[str], count: int) -> None:
            await publisher(who, topics, task_name='t', count=count)
            ended.append(who)

        ended: list[Subscriber] = []
        async with trio.open_nursery() as tn:
            tn.start_soon(subscribe, first, ['a', 'b'], 2)
            await trio.lowlevel.checkpoint()
            tn.start_soon(subscribe, second, ['b'], 3)
        assert ended == [first, second]
        assert first.got == [{'a': 0}, {'b': 0}, {'a': 1}, {'b': 1}]
        # the tail of the first run, and a run of its own
        assert second.got[-3:] == [{'b': 0}, {'b': 1}, {'b': 2}]
        assert [item['b'] for item in second.got[:-3]] in ([0, 1], [1])

    run_bounded(main, timeout=5)


def test_topics_come_and_go() -> None:
    async def main() -> None:
        seen: list[tuple[str, ...]] = []

        async def watch(get_topics: Topics) -> Any:
            while True:
                seen.append(tuple(sorted(get_topics())))
                yield {}
                await trio.lowlevel.checkpoint()

        publisher = Publisher(watch, frozenset())
        scopes = {name: trio.CancelScope() for name in 'ab'}

        async def subscribe(name: str) -> None:
            with scopes[name]:
                await publisher.serve(Subscriber(name), [name, 'both'], task_name='t')

        async with trio.open_nursery() as tn:
            tn.start_soon(subscribe, 'a')
            await wait_for(lambda: seen[-1:] == [('a', 'both')])
            tn.start_soon(subscribe, 'b')
            await wait_for(lambda: seen[-1:] == [('a', 'b', 'both')])
            # who runs the generator goes, the other one goes on with it
            scopes['a'].cancel()
            await wait_for(lambda: seen[-1:] == [('b', 'both')])
            scopes['b'].cancel()
        assert publisher.feeds == {}

    run_bounded(main, timeout=5)


async def wait_for(ready: Callable[[], bool]) -> None:
    while not ready():
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    'error',
    [TransportClosed('gone\n'), trio.ClosedResourceError(), ConnectionResetError()],
    ids=lambda error: type(error).__name__,
)
def test_a_dead_subscriber_disturbs_nobody(error: Exception) -> None:
    async def main() -> None:
        publisher = msgpub(numbers)
        dead, alive = Subscriber('dead', error), Subscriber('alive')
        async with trio.open_nursery() as tn:
            tn.start_soon(lambda: publisher(alive, ['a'], task_name='t', count=5))
            tn.start_soon(lambda: publisher(dead, ['a'], task_name='t', count=0))
        assert dead.got == []
        assert [item['a'] for item in alive.got][:5] == [0, 1, 2, 3, 4]

    run_bounded(main, timeout=5)


def test_the_last_subscriber_ends_the_generator() -> None:
    async def main() -> None:
        subscriber = Subscriber(error=TransportClosed('gone\n'))
        await msgpub(numbers)(subscriber, ['a'], count=10**9)

    run_bounded(main, timeout=5)


def test_a_broken_generator_is_restarted() -> None:
    async def main() -> None:
        subscriber = Subscriber()
        await peers.break_once(subscriber, ['a'])
        assert subscriber.got == [{'a': 1}, {'a': 2}, {'a': 3}]
        peers.noted.clear()

    run_bounded(main, timeout=5)


# --- from other actors


@tractor_test
async def test_subscribers_over_one_portal(
    start_method: str, tpt_proto: str, reg_addr: Any
) -> None:
    """Two runs of the generator: at most 15 items of each of two topics wait unread for either of them."""
    got: dict[str, list[Any]] = {'even': [], 'odd': []}

    async def read(portal: tractor.Portal, topic: str) -> None:
        async with portal.open_stream_from(
            peers.publish_all, topics=[topic, 'all'], count=15
        ) as stream:
            got[topic] = [item async for item in stream]

    async with peers.open_peer() as portal, trio.open_nursery() as tn:
        for topic in got:
            tn.start_soon(read, portal, topic)
    for topic, items in got.items():
        assert {key for item in items for key in item} == {topic, 'all'}
        for key in (topic, 'all'):
            values = [item[key] for item in items if key in item]
            assert values[-15:] == list(range(15))
            assert values[:-15] == list(range(15))[30 - len(values) :]


@tractor_test
async def test_arguments_over_there(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    async with peers.open_peer() as portal:
        for kwargs in ({}, {'ctx': None}, {'topics': ['a'], 'nonsense': 1}):
            with pytest.raises(RemoteActorError) as caught:
                async with portal.open_stream_from(peers.publish_twice, **kwargs) as stream:
                    await stream.receive()
            assert caught.value.boxed_type is TypeError
        # a context that is sent is replaced by the real one
        async with portal.open_stream_from(
            peers.publish_twice, topics=['a'], task_name='one', ctx=None
        ) as stream:
            assert [item async for item in stream] == [{'a': 0}]


@tractor_test
async def test_topics_over_there(start_method: str, tpt_proto: str, reg_addr: Any) -> None:
    """A subscriber that leaves takes its topics along, even if it was the one whose task published."""
    async with (
        peers.open_peer() as portal,
        portal.open_stream_from(peers.publish_topics, topics=['a']) as first,
    ):
        assert await first.receive() == {'a': ['a']}
        async with portal.open_stream_from(peers.publish_topics, topics=['b']) as second:
            assert await first.receive() == {'a': ['a', 'b']}
            assert await second.receive() == {'b': ['a', 'b']}
            await first.aclose()
            assert await second.receive() == {'b': ['b']}
