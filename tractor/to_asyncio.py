"""
asyncio code in an actor, under trio's rules.

An *infected* actor runs trio as a guest of asyncio: both take turns in one thread. It is started with
`infect_asyncio=True`; a root program is run by `run_as_asyncio_guest()`. An asyncio task is always linked with the
trio task that started it:

- `run_task()` waits for the result of one;
- `open_channel_from()` is a block with a channel to one.

Neither outlives the other. What each side sees of the other's end:

| exception | raised in | meaning |
|---|---|---|
| the error itself | trio | the asyncio task failed |
| `AsyncioCancelled` | trio | the asyncio task was cancelled, not by the trio side |
| `AsyncioTaskExited` | trio | the asyncio task returned while trio still wanted values |
| `TrioTaskExited` | asyncio | the trio side left its block |
| `TrioCancelled` | asyncio | the trio side was cancelled or failed; a kind of `TrioTaskExited` |

The last two are raised where the asyncio task waits, in place of a `CancelledError`. Inside of asyncio's own locks and
task groups they are a `CancelledError` besides, so that these let go of what they hold.

The state of such a pair, and what leaves the block in which case: `_aio/_link.py`.
"""

from __future__ import annotations

from tractor._aio._channel import LinkedTaskChannel as LinkedTaskChannel
from tractor._aio._guest import (
    AsyncioRuntimeTranslationError as AsyncioRuntimeTranslationError,
)
from tractor._aio._guest import run_as_asyncio_guest as run_as_asyncio_guest
from tractor._aio._guest import run_trio_task_in_future as run_trio_task_in_future
from tractor._aio._pair import open_channel_from as open_channel_from
from tractor._aio._pair import run_task as run_task
from tractor._aio._pair import translate_aio_errors as translate_aio_errors
from tractor._aio._queue import QueueShutDown as QueueShutDown
from tractor._exceptions import AsyncioCancelled as AsyncioCancelled
from tractor._exceptions import AsyncioTaskExited as AsyncioTaskExited
from tractor._exceptions import TrioCancelled as TrioCancelled
from tractor._exceptions import TrioTaskExited as TrioTaskExited

__all__ = ['run_task', 'run_as_asyncio_guest']  # noqa: RUF022 - the order others rely on
