"""A box that a context manager yields, to hand out the exception its body may end with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(slots=True, repr=False)
class BoxedMaybeException:
    """The exception a body ended with, if any, and whether its context manager re-raises it.

    Args:
        value: the exception, `None` as long as there is none.
        raise_on_exit: `True` to re-raise, `False` to swallow, or the exact types to re-raise. The
            body may assign it; it is read at exit.
    """

    value: BaseException | None = None
    raise_on_exit: bool | Sequence[type[BaseException]] = True

    @classmethod
    def from_exc(
        cls,
        exc: BaseException,
        raise_on_exit: bool | Sequence[type[BaseException]] = True,
    ) -> Self:
        """Return a box that holds `exc`."""
        return cls(value=exc, raise_on_exit=raise_on_exit)

    def reraises(self, exc: BaseException) -> bool:
        """Tell whether `raise_on_exit` asks for `exc` to be raised at exit."""
        if isinstance(self.raise_on_exit, bool):
            return self.raise_on_exit

        return type(exc) in self.raise_on_exit

    def pformat(self) -> str:
        """Return the text that `repr()` gives."""
        if self.value is None:
            return f'<{type(self).__name__}( .value=None )>'

        return f'<{type(self.value).__name__}(\n |_.value = {self.value}\n)>\n'

    __repr__ = pformat
