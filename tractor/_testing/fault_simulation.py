"""Breaking the connection under a stream that is in use."""

from __future__ import annotations

from typing import Literal

from tractor._streaming import MsgStream

BreakMethod = Literal['socket_close', 'socket_eof']


async def break_ipc(
    stream: MsgStream,
    method: BreakMethod | None = None,
    pre_close: bool = False,
    def_method: BreakMethod = 'socket_close',
) -> None:
    """Break the connection that `stream` runs over, from this side and without any message.

    Args:
        stream: an open stream of a context.
        method: ``'socket_close'`` closes the socket, ``'socket_eof'`` ends only its sending
            half; `None` means `def_method`.
        pre_close: first close `stream` in the orderly way.
        def_method: see `method`.

    Raises:
        RuntimeError: `method` is none of the above, or there is no connection any more.
    """
    if pre_close:
        await stream.aclose()
    chosen = method or def_method
    print(f'#### breaking the IPC connection by {chosen!r} ####')
    transport = stream._ctx.chan.transport
    if transport is None:
        raise RuntimeError('the channel of this stream is not connected: there is nothing to break')
    match chosen:
        case 'socket_close':
            await transport.stream.aclose()
        case 'socket_eof':
            await transport.stream.send_eof()
        case _:
            raise RuntimeError(
                f"cannot break a connection by {chosen!r}: use 'socket_close' or 'socket_eof'"
            )
