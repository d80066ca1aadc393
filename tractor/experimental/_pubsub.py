"""
Publishing by topic: one async generator in an actor feeds every peer that streams from it.

| who | does |
|---|---|
| a subscriber's task | enters its topics, waits for its turn, then runs the generator and feeds all subscribers |
| the others, waiting | are fed; the first of them takes its turn when the running task ends |
| a subscriber that leaves or is lost | is gone from its topics; a topic without any is gone from `get_topics()` |
| the generator | ends the stream of the task that runs it when it returns, and when no topics are left |
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from tractor import log as _log
from tractor._exceptions import TransportClosed
from tractor.msg.types import Yield

if TYPE_CHECKING:
    from tractor._context import Context

log = _log.get_logger()

Packetizer = Callable[[str, Any], Any]

# what sending to a peer that has gone away may raise
_GONE = (TransportClosed, trio.BrokenResourceError, trio.ClosedResourceError, ConnectionError)


def pub(wrapped: Callable[..., Any] | None = None, *, tasks: Collection[str] = frozenset()) -> Any:
    """
    Make an async generator function a publisher, to be subscribed to with `Portal.open_stream_from()`.

    Args:
        wrapped: the function; called with `get_topics=`, a function that returns the tuple of all topics which
            have a subscriber at that moment. It yields `{topic: data}`.
        tasks: names of which each subscriber must pass one as `task_name`; each name has a generator of its own.
            Without this there is one for all, or one for each `task_name` that is passed.

    Returns:
        A function of `topics`, `task_name=None` and `packetizer=None`; other arguments go to the generator.
        Every subscriber of a topic receives `{topic: data}`, or `packetizer(topic, data)`.

    Raises:
        TypeError: `wrapped` is no async generator function or has no parameter `get_topics`; when called, that
            `topics` is missing or that `task_name` is none of `tasks`.
    """
    if wrapped is None:
        return partial(pub, tasks=tasks)
    if not inspect.isasyncgenfunction(wrapped):
        raise TypeError(f'{wrapped!r} must be an async generator function')
    if 'get_topics' not in inspect.signature(wrapped).parameters:
        raise TypeError(f'{wrapped!r} must define a `get_topics` argument')
    import wrapt

    publisher = Publisher(wrapped, frozenset(tasks))

    def call(_fn: Any, _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return publisher.serve(*args, **kwargs)

    wrapped._tractor_stream_function = True  # type: ignore[attr-defined]
    return wrapt.FunctionWrapper(wrapped, call)


class Feed:
    """The subscribers of one generator; whoever holds `turn` runs it."""

    def __init__(self) -> None:
        self.turn = trio.StrictFIFOLock()
        self.topics: dict[str, dict[Context, Packetizer | None]] = {}

    def get_topics(self) -> tuple[str, ...]:
        """The topics which have subscribers now."""
        return tuple(self.topics)

    def add(self, ctx: Context, topics: Iterable[str], packetizer: Packetizer | None) -> None:
        """Enter a subscriber."""
        for topic in topics:
            self.topics.setdefault(topic, {})[ctx] = packetizer

    def remove(self, ctx: Context) -> None:
        """Take a subscriber out; harmless if it is out already."""
        for topic, subscribers in list(self.topics.items()):
            subscribers.pop(ctx, None)
            if not subscribers:
                del self.topics[topic]

    async def publish_all(self, agen: AsyncGenerator[dict[str, Any]]) -> None:
        """Feed the subscribers until the generator ends or nobody is left."""
        async for items in agen:
            await self.publish(items)
            if not self.topics:
                return

    async def publish(self, items: dict[str, Any]) -> None:
        """Send one yield of the generator to all who subscribed to any of its topics."""
        for topic, data in items.items():
            for ctx, packetizer in list(self.topics.get(topic, {}).items()):
                packet = {topic: data} if packetizer is None else packetizer(topic, data)
                try:
                    await ctx.chan.send(Yield(cid=ctx.cid, pld=packet))
                except _GONE as err:
                    log.warning('%s is gone and gets no more of %r: %s', ctx.chan.aid, topic, err)
                    self.remove(ctx)


class Publisher:
    """
    Serves the subscribers of one decorated function.

    Args:
        agen: the function.
        tasks: allowed task names; any if empty.
    """

    def __init__(
        self, agen: Callable[..., AsyncGenerator[dict[str, Any]]], tasks: frozenset[str]
    ) -> None:
        self.agen = agen
        self.tasks = tasks
        self.feeds: dict[str, Feed] = {}

    async def serve(
        self,
        ctx: Context,
        topics: Iterable[str],
        *args: Any,
        task_name: str | None = None,
        packetizer: Packetizer | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Feed one subscriber until it leaves or the generator, run by this very task, ends.

        Args:
            ctx: its dialog.
            topics: what it wants.
            task_name: which generator; named after the current task by default.
            packetizer: makes of topic and data what is sent.
            args, kwargs: for the generator, should this task come to run it.
        """
        name = task_name or trio.lowlevel.current_task().name
        if self.tasks and name not in self.tasks:
            raise TypeError(
                f'{self.agen!r} must be called with a `task_name` out of {sorted(self.tasks)}, not {name!r}'
            )
        feed = self.feeds.setdefault(name, Feed())
        feed.add(ctx, topics, packetizer)
        try:
            async with feed.turn:
                await self._run(feed, args, kwargs)
        finally:
            feed.remove(ctx)
            if not feed.topics and not feed.turn.locked():
                self.feeds.pop(name, None)

    async def _run(self, feed: Feed, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        while True:
            agen = self.agen(*args, get_topics=feed.get_topics, **kwargs)
            try:
                async with aclosing(agen):
                    return await feed.publish_all(agen)
            except trio.BrokenResourceError as err:
                log.warning('%r is restarted: %s', self.agen, err)
                await trio.lowlevel.checkpoint()
