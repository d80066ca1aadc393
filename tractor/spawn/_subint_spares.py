"""
Warm spares: interpreters which have loaded the runtime before anybody asked for them.

Nine tenths of the time which a new one takes are imports. So after a spawn the next interpreter is made ready in the
background; the next spawn then only has to tell it who it is.

| event | what happens |
|---|---|
| a spawn | takes a spare if there is one, ready or not, else starts an interpreter |
| the child is up, and no other spawn is under way | the spares are filled up |
| the runtime ends | they are dismissed, and waited for |

A spare never ran code of a user's, and an interpreter that did is never used again. An actor that is an interpreter
itself keeps none: its end would have to wait for one that is just loading.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tractor import log as _log
from tractor.runtime import _state

if TYPE_CHECKING:
    from tractor.spawn._subint_driver import Driver

log = _log.get_logger()

# how many are kept ready; 0 for none
COUNT_VAR: str = 'TRACTOR_SUBINT_SPARES'
DEFAULT_COUNT: int = 1

# seconds in which a dismissed one is given to end; one that is just loading needs that long
DISMISS_WITHIN: float = 3.0


def wanted() -> int:
    """
    How many spares this program wants.

    Raises:
        ValueError: the environment variable is no number, or negative.
    """
    text = os.environ.get(COUNT_VAR)
    if text is None:
        return DEFAULT_COUNT
    if not text.strip().isdecimal():
        raise ValueError(f'{COUNT_VAR}={text!r}: it must be a number of interpreters, 0 for none')
    return int(text)


class Spares:
    """The spares of one runtime."""

    def __init__(self) -> None:
        self._ready: list[Driver] = []
        self._starting = 0

    def take(self) -> Driver | None:
        """One of them, which then is the caller's."""
        self._starting += 1
        while self._ready:
            driver = self._ready.pop(0)
            if not driver.is_gone and not driver.error:
                return driver
            driver.dismiss()
        return None

    def settled(self, fill: bool) -> None:
        """
        A spawn is over, one way or the other.

        Args:
            fill: there may be more; prepare for them.
        """
        self._starting -= 1
        if not fill or self._starting or _state.current_interp_id() != 0:
            return
        from tractor.spawn._subint_driver import Driver

        while len(self._ready) < wanted():
            try:
                self._ready.append(Driver('tractor subint spare', in_background=True))
            except OSError as err:
                log.runtime('no spare interpreter is kept ready: %s', err)
                return

    def dismiss(self) -> None:
        """End them all; blocks until that is done."""
        drivers, self._ready = self._ready, []
        for driver in drivers:
            driver.dismiss()
        for driver in drivers:
            driver.thread.join(DISMISS_WITHIN)


# of the runtime in this interpreter, while there is one
_current: list[Spares] = []


def get() -> Spares:
    """The spares of the present runtime; they end with it."""
    if not _current:
        _current.append(Spares())
        _state.current_actor().lifetime_stack.callback(end)
    return _current[0]


def drivers() -> tuple[Driver, ...]:
    """
    What is kept as a spare now, ready or still loading; nothing where no runtime keeps any.

    Returns:
        The driver of each, the one that the next spawn takes first.
    """
    return tuple(driver for spares in _current for driver in spares._ready)


def end() -> None:
    """Dismiss those of the present runtime, if it has not done so itself."""
    while _current:
        _current.pop().dismiss()
