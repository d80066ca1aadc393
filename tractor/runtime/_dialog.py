"""
One dialog (one `cid`) as one side of it sees it: which message is legal now and where it goes.

Nothing here awaits or knows a connection: `Dialog.feed()` takes a message and answers with what to do about it.

The requester ('parent' side, it sent `Start`):

| phase | StartAck | Started | Yield | Stop | Return | Error | Notice |
|---|---|---|---|---|---|---|---|
| syncing | ack -> acked | illegal | illegal | illegal | illegal | error -> done | illegal |
| acked | illegal | started -> started | item | stop | result -> done | error -> done | error |
| started | illegal | illegal | item | stop | result -> done | error -> done | error |

The canceller (it sent the `Start` of a request for cancellation):

| phase | StartAck | CancelAck | Error |
|---|---|---|---|
| syncing | ack -> acked | illegal | error -> done |
| acked | illegal | result -> done | error -> done |

The responder ('child' side, it runs the function):

| phase | Yield | Stop | Error | Notice |
|---|---|---|---|---|
| running | item | stop | error | error |

What a table has no column for is illegal on that side, and once the phase is done everything is late. A `Notice` is
the `Error` by which a peer complains about too many stream messages: its task has not ended, an outcome follows.

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


class Notice:
    """Stands in the tables for an `Error` that tells of an overrun: it ends no task at the peer."""


Table = dict[tuple[str, type], tuple[str, str]]

REQUESTER: Final[Table] = {
    (SYNCING, StartAck): (ACKED, ACK),
    (SYNCING, Error): (DONE, ERROR),
    (ACKED, Started): (STARTED, FIRST),
    (ACKED, Yield): (ACKED, ITEM),
    (ACKED, Stop): (ACKED, STOP),
    (ACKED, Return): (DONE, RESULT),
    (ACKED, Error): (DONE, ERROR),
    (ACKED, Notice): (ACKED, ERROR),
    (STARTED, Yield): (STARTED, ITEM),
    (STARTED, Stop): (STARTED, STOP),
    (STARTED, Return): (DONE, RESULT),
    (STARTED, Error): (DONE, ERROR),
    (STARTED, Notice): (STARTED, ERROR),
}
CANCELLER: Final[Table] = {
    (SYNCING, StartAck): (ACKED, ACK),
    (SYNCING, Error): (DONE, ERROR),
    (ACKED, CancelAck): (DONE, RESULT),
    (ACKED, Error): (DONE, ERROR),
}
RESPONDER: Final[Table] = {
    (RUNNING, Yield): (RUNNING, ITEM),
    (RUNNING, Stop): (RUNNING, STOP),
    (RUNNING, Error): (RUNNING, ERROR),
    (RUNNING, Notice): (RUNNING, ERROR),
}
MESSAGES: Final = (Start, StartAck, Started, Yield, Stop, Return, CancelAck, Error, Notice)

# the requests that are answered with a `CancelAck`
CANCEL_REQUESTS: Final = frozenset({'self:cancel', 'self:_cancel_task'})


class Dialog:
    """
    The phase of one dialog.

    Args:
        requester: whether this side sent the `Start`.
        cancels: whether that was a request for cancellation.
    """

    __slots__ = ('_table', 'phase')

    def __init__(self, requester: bool, cancels: bool = False) -> None:
        if requester:
            self._table, self.phase = CANCELLER if cancels else REQUESTER, SYNCING
        else:
            self._table, self.phase = RESPONDER, RUNNING

    def __repr__(self) -> str:
        return f'<Dialog {self.phase}>'

    @property
    def done(self) -> bool:
        """Whether the outcome is known: whatever still comes is late."""
        return self.phase is DONE

    def feed(self, msg: Any) -> str:
        """Account for a message that arrived; what to do about it, as the tables say."""
        kind = type(msg)
        row = self._table.get((self.phase, kind_of(msg) if kind is Error else kind))
        if row is None:
            return LATE if self.phase is DONE else ILLEGAL
        self.phase, action = row
        return action

    def end(self) -> None:
        """This side is done with the dialog."""
        self.phase = DONE


def kind_of(msg: Any) -> type:
    """What the tables call a message: its type, or `Notice`."""
    kind = type(msg)
    if kind is Error and msg.sender is not None and msg.boxed_type_str == 'StreamOverrun':
        return Notice
    return kind
