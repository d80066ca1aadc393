"""Payloads to send."""

from __future__ import annotations

import random


def generate_sample_messages(
    amount: int,
    rand_min: int = 0,
    rand_max: int = 0,
    silent: bool = False,
) -> tuple[list[bytes], int]:
    """Return `amount` numbered messages and their total size in bytes.

    Message ``i`` is ``b'[%08d]' % i``, followed by random bytes.

    Args:
        amount: how many.
        rand_min: least number of random bytes after each.
        rand_max: greatest number of them; with 0 there are none.
        silent: print no summary.
    """
    messages = []
    for index in range(amount):
        tail = random.randbytes(random.randint(rand_min, rand_max)) if rand_max > 0 else b''
        messages.append(b'[%08d]' % index + tail)
    size = sum(map(len, messages))
    if not silent:
        print(f'generated {amount} messages, {size} bytes in all')
    return messages, size
