"""Structured-concurrency helpers for trio, usable without any actor."""

from ._beg import (
    collapse_eg,
    collapse_exception_group,
    get_collapsed_eg,
    is_multi_cancelled,
)
from ._boxed import BoxedMaybeException
from ._broadcast import AsyncReceiver, BroadcastReceiver, Lagged, broadcast_receiver
from ._mngrs import gather_contexts, maybe_open_context, maybe_open_nursery
from ._subproc import supervise_run_process
from ._taskc import maybe_raise_from_masking_exc, start_or_cancel

__all__ = [
    'AsyncReceiver',
    'BoxedMaybeException',
    'BroadcastReceiver',
    'Lagged',
    'broadcast_receiver',
    'collapse_eg',
    'collapse_exception_group',
    'gather_contexts',
    'get_collapsed_eg',
    'is_multi_cancelled',
    'maybe_open_context',
    'maybe_open_nursery',
    'maybe_raise_from_masking_exc',
    'start_or_cancel',
    'supervise_run_process',
]
