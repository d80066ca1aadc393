"""
Taking the messages of a dialog one by one, whatever their kind.

A context keeps what arrives apart by kind; here it is put back into the order in which a peer that follows the
protocol sent it: the first value, stream messages, the end of the stream, the outcome.
"""

from __future__ import annotations

from typing import Any

import trio

from tractor.msg.pretty_struct import Struct
from tractor.msg.types import CancelAck, Error, Return, Started, Stop

_OUTCOMES = (Return, Error, CancelAck)


class Receiving(Struct):
    """The part of a `tractor.msg._ops.PldRx` that takes messages."""

    _stop_taken: bool = False

    def decode_pld(
        self,
        msg: Any,
        ipc: Any,
        expect_msg: Any,
        raise_error: bool = True,
        hide_tb: bool = True,
        is_started_send_side: bool = False,
    ) -> Any:
        """What a message means, see `tractor.msg._ops.PldRx`."""
        raise NotImplementedError(f'{type(self).__name__} does not decode')

    def recv_msg_nowait(
        self,
        ipc: Any,
        ipc_msg: Any = None,
        expect_msg: Any = None,
        hide_tb: bool = False,
        **dec_kwargs: Any,
    ) -> tuple[Any, Any]:
        """
        Take the next message that is here.

        Args:
          ipc: context, or stream of it, to take it from.
          ipc_msg: a message taken before, to be interpreted in its place.
          expect_msg: type waited for, named in errors; only with `Started` the first value is taken again.
          hide_tb, dec_kwargs: as for `decode_pld()`.

        Returns:
          The message, and what `decode_pld()` makes of it: `None` for a `Stop`.

        Raises:
          trio.WouldBlock: there is none now.
          RemoteActorError: the message is an `Error`, or its payload is not of the spec.
          TransportClosed: the connection was lost, and everything that came before has been taken.
        """
        __tracebackhide__ = hide_tb
        msg = self._take(context_of(ipc), expect_msg) if ipc_msg is None else ipc_msg
        if msg is None:
            raise trio.WouldBlock
        return self._interpreted(msg, ipc, expect_msg, True, dec_kwargs)

    async def recv_msg(
        self,
        ipc: Any,
        expect_msg: Any,
        passthrough_non_pld_msgs: bool = True,
        hide_tb: bool = True,
        **dec_kwargs: Any,
    ) -> tuple[Any, Any]:
        """
        Wait for the next message; arguments and result as of `recv_msg_nowait()`.

        Args:
          passthrough_non_pld_msgs: return a `Stop` with `None`; else it is what `decode_pld()` says.

        Cancelled, it has taken nothing; if a remote error is why, that is raised.
        """
        __tracebackhide__ = hide_tb
        ctx = context_of(ipc)
        msg = self._take(ctx, expect_msg)
        if msg is None:
            msg = await self._wait(ctx, expect_msg)
        else:
            await trio.lowlevel.checkpoint()
        return self._interpreted(msg, ipc, expect_msg, passthrough_non_pld_msgs, dec_kwargs)

    async def recv_pld(
        self,
        ipc: Any,
        ipc_msg: Any = None,
        expect_msg: Any = None,
        hide_tb: bool = True,
        **dec_kwargs: Any,
    ) -> Any:
        """Wait for the next message, or take `ipc_msg`; what `decode_pld()` makes of it."""
        __tracebackhide__ = hide_tb
        if ipc_msg is not None:
            return self._interpreted(ipc_msg, ipc, expect_msg, False, dec_kwargs)[1]
        return (await self.recv_msg(ipc, expect_msg, False, hide_tb, **dec_kwargs))[1]

    def _interpreted(
        self, msg: Any, ipc: Any, expect_msg: Any, pass_stop: bool, dec_kwargs: dict[str, Any]
    ) -> tuple[Any, Any]:
        ctx = context_of(ipc)
        if isinstance(msg, Stop) and pass_stop:
            return msg, None
        # decoded on arrival, once: what that came to is what everybody gets
        if msg is ctx._outcome_msg and isinstance(msg, Return):
            ctx._decode_result()
            if ctx._remote_error is not None:
                raise ctx._remote_error
            return msg, ctx._result
        return msg, self.decode_pld(msg, ipc, expect_msg, **dec_kwargs)

    def _take(self, ctx: Any, expect_msg: Any) -> Any:
        """The next message; `None` if there is none yet."""
        if expect_msg is Started and ctx._started_msg is not None:
            return ctx._started_msg
        if len(ctx._rx_chan):
            return ctx._rx_chan.get_nowait()
        if ctx._peer_stopped and not self._stop_taken:
            self._stop_taken = True
            return Stop(cid=ctx.cid)
        if isinstance(ctx._outcome_msg, _OUTCOMES):
            return ctx._outcome_msg
        if ctx._remote_error is not None:
            raise ctx._remote_error
        return None

    async def _wait(self, ctx: Any, expect_msg: Any) -> Any:
        while True:
            try:
                if expect_msg is Started:
                    await ctx._wait(_has_started)
                elif ctx._rx_chan.ended:
                    await ctx._wait(_is_over)
                else:
                    return await ctx._rx_chan.get()
            except (trio.EndOfChannel, trio.ClosedResourceError):
                await trio.lowlevel.checkpoint()
            except trio.Cancelled:
                if ctx._remote_error is None:
                    raise
            msg = self._take(ctx, expect_msg)
            if msg is not None:
                return msg


def context_of(ipc: Any) -> Any:
    """The context of a stream; a context is its own."""
    return getattr(ipc, '_ctx', ipc)


def _has_started(ctx: Any) -> bool:
    return ctx._started_msg is not None or ctx._dialog.done


def _is_over(ctx: Any) -> bool:
    return bool(ctx._dialog.done)
