"""The two ends of a dialog as puppets, for `test_dialog_model.py`: each does what it is told, and says how it went."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import trio

import tractor

# seconds for anything that is waited for here; a hang is what the test is looking for
WITHIN = 10

Reply = list[Any]


class Puppet:
    """
    One end of a dialog.

    Args:
        ctx: that end.
    """

    def __init__(self, ctx: tractor.Context) -> None:
        self.ctx = ctx
        self.stack = AsyncExitStack()
        self.stream: tractor.MsgStream | None = None
        self.orders, self.inbox = trio.open_memory_channel[tuple[str, Any, 'Slot']](0)

    async def tell(self, what: str, arg: Any = None) -> Reply:
        """Let the task of this end do something; how that went, or that it is not there to do it."""
        slot = Slot()
        with trio.move_on_after(WITHIN):
            await self.orders.send((what, arg, slot))
            await slot.event.wait()
        return slot.value

    async def obey(self, endings: dict[str, Callable[[Any], Any]]) -> Any:
        """Do what is told until told to end, in one of these ways."""
        async with self.stack:
            while True:
                what, arg, slot = await self.inbox.receive()
                if what in endings:
                    slot.set(['ok', None])
                    return endings[what](arg)
                try:
                    slot.set(['ok', await ACTS[what](self, arg)])
                except (Exception, trio.EndOfChannel) as err:
                    slot.set(['err', type(err).__name__])
                    if isinstance(err, tractor.RemoteActorError):
                        raise

    async def start(self, arg: Any) -> None:
        await self.ctx.started(arg)

    async def open(self, arg: Any) -> None:
        self.stream = await self.stack.enter_async_context(self.ctx.open_stream())

    async def close(self, arg: Any) -> None:
        assert self.stream is not None
        await self.stream.aclose()

    async def send(self, arg: Any) -> None:
        assert self.stream is not None
        await self.stream.send(arg)

    async def lose_transport(self, arg: Any) -> None:
        transport = self.ctx.chan.transport
        assert transport is not None
        await transport.stream.aclose()

    async def receive(self, arg: Any) -> Any:
        assert self.stream is not None
        return await self.stream.receive()


class Slot:
    """Where an answer is put, once."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.value: Reply = ['gone', None]

    def set(self, value: Reply) -> None:
        self.value = value
        self.event.set()


ACTS: dict[str, Callable[[Puppet, Any], Awaitable[Any]]] = {
    'start': Puppet.start,
    'open': Puppet.open,
    'close': Puppet.close,
    'send': Puppet.send,
    'receive': Puppet.receive,
    'lose_transport': Puppet.lose_transport,
}

_puppets: dict[str, Puppet] = {}
_arrivals: dict[str, trio.Event] = {}


def _fail(text: str) -> None:
    raise ValueError(text)


@tractor.context
async def child_end(ctx: tractor.Context, key: str) -> Any:
    """The child side: obeys `order()`."""
    puppet = _puppets[key] = Puppet(ctx)
    _arrivals.setdefault(key, trio.Event()).set()
    try:
        how = await puppet.obey(
            {'return': lambda arg: arg, 'raise': _fail, 'cancel': lambda _: ctx}
        )
        if how is ctx:
            await ctx.cancel()
            await trio.sleep_forever()
        return how
    finally:
        del _puppets[key], _arrivals[key]


async def order(key: str, what: str, arg: Any = None) -> Reply:
    """Let the child side of a dialog do something."""
    with trio.move_on_after(WITHIN):
        await _arrivals.setdefault(key, trio.Event()).wait()
        return await _puppets[key].tell(what, arg)
    return ['gone', None]


async def present() -> bool:
    """Say that this actor is up."""
    return True


async def cancel_other(name: str) -> list[str]:
    """Cancel another actor; the uid which it is told as the canceller's."""
    async with tractor.find_actor(name) as portal:
        assert portal is not None
        await portal.cancel_actor(timeout=WITHIN)
    return list(tractor.current_actor().aid.uid)
