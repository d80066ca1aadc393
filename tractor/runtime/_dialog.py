"""
One dialog (one `cid`) as one side of it sees it: which message is legal now and where it goes.

Nothing here awaits or knows a connection: `Dialog.feed()` takes a message and answers with what to do about it.

The requester ('parent' side, it sent `Start`):

| phase | StartAck | Started | Yield | Stop | Return, CancelAck | Error |
|---|---|---|---|---|---|---|
| syncing | ack -> acked | illegal | illegal | illegal | illegal | error -> done |
| acked | illegal | started -> started | item | stop | result -> done | error -> done |
| started | illegal | illegal | item | stop | result -> done | error -> done |
| done | late | late | late | late | late | late |

The responder ('child' side, it runs the function):

| phase | Yield | Stop | Error | everything else |
|---|---|---|---|---|
| running | item | stop | error | illegal |
| done | late | late | late | late |

`item` goes to the bounded stream queue, `ack` and `started` fill the handshake slots, `result` and `error` the
write-once outcome. No value of one kind can be read as another, whatever order a peer sends them in.
"""

from __future__ import annotations

from typing import Any, Final

from tractor.msg.types import CancelAck, Error, Return, Start, StartAck, Started, Stop, Yield

SYNCING: Final = 'syncing'
ACKED: Final = 'acked'
STARTED: Final = 'started'
RUNNING: Final = 'running'
DONE: Final = 'done'

ACK: Final = 'ack'
FIRST: Final = 'started'
ITEM: Final = 'item'
STOP: Final = 'stop'
RESULT: Final = 'result'
ERROR: Final = 'error'
LATE: Final = 'late'
ILLEGAL: Final = 'illegal'

Table = dict[tuple[str, type], tuple[str, str]]

REQUESTER: Final[Table] = {
    (SYNCING, StartAck): (ACKED, ACK),
    (SYNCING, Error): (DONE, ERROR),
    (ACKED, Started): (STARTED, FIRST),
    (ACKED, Yield): (ACKED, ITEM),
    (ACKED, Stop): (ACKED, STOP),
    (ACKED, Return): (DONE, RESULT),
    (ACKED, CancelAck): (DONE, RESULT),
    (ACKED, Error): (DONE, ERROR),
    (STARTED, Yield): (STARTED, ITEM),
    (STARTED, Stop): (STARTED, STOP),
    (STARTED, Return): (DONE, RESULT),
    (STARTED, CancelAck): (DONE, RESULT),
    (STARTED, Error): (DONE, ERROR),
}
RESPONDER: Final[Table] = {
    (RUNNING, Yield): (RUNNING, ITEM),
    (RUNNING, Stop): (RUNNING, STOP),
    (RUNNING, Error): (RUNNING, ERROR),
}
MESSAGES: Final = (Start, StartAck, Started, Yield, Stop, Return, CancelAck, Error)


class Dialog:
    """
    The phase of one dialog.

    Args:
        requester: whether this side sent the `Start`.
    """

    __slots__ = ('_table', 'phase')

    def __init__(self, requester: bool) -> None:
        self._table = REQUESTER if requester else RESPONDER
        self.phase = SYNCING if requester else RUNNING

    def __repr__(self) -> str:
        return f'<Dialog {self.phase}>'

    @property
    def done(self) -> bool:
        """Whether the outcome is known: whatever still comes is late."""
        return self.phase is DONE

    def feed(self, msg: Any) -> str:
        """Account for a message that arrived; what to do about it, as the tables say."""
        row = self._table.get((self.phase, type(msg)))
        if row is None:
            return LATE if self.phase is DONE else ILLEGAL
        self.phase, action = row
        return action

    def end(self) -> None:
        """This side is done with the dialog."""
        self.phase = DONE
