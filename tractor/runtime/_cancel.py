"""
How an actor is cancelled, as a whole or one task at a time.

| cancellation of the actor, in order | why there |
|---|---|
| 1. remember who asked first | later requests change nothing |
| 2. cancel every RPC task, wait for all | their outcomes are sent before the request is acknowledged |
| 3. stop listening, wait until that is done | nobody new gets in |
| 4. break the shield of the parent's message loop | it would outlive everything else |
| 5. cancel the service nursery | connections and background tasks end |
| 6. `_cancel_complete` | the acknowledgement goes out |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from tractor import log as _log
from tractor._exceptions import ContextCancelled
from tractor.runtime._calls import CallTable

if TYPE_CHECKING:
    from tractor._context import Context
    from tractor.ipc import Channel, IPCServer
    from tractor.msg.types import Aid

log = _log.get_logger()


class Cancellable(CallTable):
    """
    The part of an `Actor` which cancels it.

    Args:
        aid: who the actor is.
    """

    def __init__(self, aid: Aid) -> None:
        super().__init__(aid)
        self._root_tn: trio.Nursery | None = None
        self._service_tn: trio.Nursery | None = None
        self._ipc_server: IPCServer | None = None
        self._parent_chan_cs: trio.CancelScope | None = None
        self._cancel_called = False
        self._cancel_called_by: Aid | None = None
        self._cancel_complete = trio.Event()
        self._cancelling = False

    @property
    def cancel_called(self) -> bool:
        """Whether anybody asked for its cancellation."""
        return self._cancel_called_by is not None

    @property
    def cancel_caller(self) -> Aid | None:
        """Who did, first."""
        return self._cancel_called_by

    @property
    def cancel_complete(self) -> bool:
        """Whether everything below it is down."""
        return self._cancel_complete.is_set()

    # -- the whole actor ----------------------------------------------------------------------------------------

    async def cancel(self, req_chan: Channel | None) -> bool:
        """
        Cancel everything this actor runs: tasks, the sub-tree, listeners, connections.

        Args:
            req_chan: the connection the request came through; `None` for our own.

        Returns:
            `True`, when all of it is down. A later call waits for the first one.

        Shielded, and as long as the tasks take: who asks bounds the waiting. Called by an RPC task it waits for
        nothing: that task is among those which are cancelled.
        """
        if self._cancel_called_by is None:
            asker = req_chan.aid if req_chan is not None else None
            self._cancel_called_by = asker or self._aid
        self._cancel_called = True
        if self._calls_around_us():
            if not self._cancelling:
                assert self._root_tn is not None
                self._root_tn.start_soon(self.cancel, req_chan)
            await trio.lowlevel.checkpoint()
            return True
        with trio.CancelScope(shield=True):
            if self._cancelling:
                await self._cancel_complete.wait()
                return True
            self._cancelling = True
            try:
                await self.cancel_rpc_tasks(self._cancel_called_by, None)
                await self._stop_serving()
            finally:
                self._cancel_complete.set()
        return True

    def _takes_requests(self) -> bool:
        """Whether a task can be started for a peer: not once the nursery of these tasks is coming down."""
        tn = self._service_tn
        return not (self._cancel_called or tn is None or tn.cancel_scope.cancel_called)

    def going_down(self) -> ContextCancelled:
        """What a request gets that comes too late."""
        asker = self._cancel_called_by or self._aid
        return ContextCancelled(
            f'{self._aid.name!r} is going down and takes no further requests\n',
            boxed_type=trio.Cancelled,
            canceller=asker.uid,
        )

    async def _stop_serving(self) -> None:
        server = self._ipc_server
        if server is not None:
            server.stop_listening()
            if server._shutdown is not None:
                await server._shutdown.wait()
        if self._parent_chan_cs is not None:
            self._parent_chan_cs.cancel()
        if self._service_tn is not None:
            self._service_tn.cancel_scope.cancel()

    def cancel_soon(self) -> None:
        """Cancel this actor from synchronous code of its own thread; in a root that ends the main task too."""
        log.cancel('`Actor.cancel_soon()` was called!')
        root_tn = self._root_tn
        assert root_tn is not None
        root_tn.start_soon(self._cancel_all)

    async def _cancel_all(self) -> None:
        await self.cancel(None)
        assert self._root_tn is not None
        self._root_tn.cancel_scope.cancel()

    # -- its tasks ----------------------------------------------------------------------------------------------

    async def _cancel_task(
        self,
        cid: str,
        parent_chan: Channel,
        requesting_aid: Aid | None = None,
        ipc_msg: Any = None,
    ) -> bool:
        """
        Cancel one RPC task and wait for its end; a request for an unknown or finished one is answered with `True`.

        Args:
            cid: its dialog.
            parent_chan: the connection that started it; no other can cancel it.
            requesting_aid: who asks.
            ipc_msg: the request itself.
        """
        entry = self._rpc_tasks.get((parent_chan, cid))
        if entry is None:
            log.runtime('no task %s to cancel for %s', cid, requesting_aid)
            return True
        ctx, _, done = entry
        ctx._cancel_msg = ipc_msg or ctx._cancel_msg
        _cancel_call(ctx, requesting_aid)
        await done.wait()
        return True

    async def cancel_rpc_tasks(self, req_aid: Aid | None, parent_chan: Channel | None) -> None:
        """
        Cancel RPC tasks, all at once, and wait for them.

        Args:
            req_aid: who asks.
            parent_chan: only those of this connection; `None` for all.

        An RPC task that calls this does not wait for itself.
        """
        chosen = [
            (ctx, done)
            for (chan, _), (ctx, _, done) in self._rpc_tasks.items()
            if parent_chan is None or chan is parent_chan
        ]
        around_us = self._calls_around_us()
        for ctx, _ in chosen:
            _cancel_call(ctx, req_aid)
        for ctx, done in chosen:
            if ctx not in around_us:
                await done.wait()

    def _calls_around_us(self) -> list[Context]:
        """The calls whose task is the current one or, through its nurseries, a parent of it."""
        by_task = {ctx._task: ctx for ctx, _, _ in self._rpc_tasks.values()}
        found: list[Context] = []
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        while task is not None:
            if task in by_task:
                found.append(by_task[task])
            nursery = task.parent_nursery
            task = nursery.parent_task if nursery is not None else None
        return found


def _cancel_call(ctx: Context, asker: Aid | None) -> None:
    if asker is not None and ctx._canceller is None:
        ctx._canceller = asker.uid
    if ctx._scope is not None:
        ctx._scope.cancel()
