"""An input as a sequence of decisions, so that a mutated byte is another decision and not just noise."""

from __future__ import annotations

from collections.abc import Sequence


class Choices:
    """
    Reads decisions off an input.

    Args:
        data: the input. Past its end every decision is the first one there is, so that each input is complete.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def byte(self) -> int:
        """The next byte."""
        at, self._at = self._at, min(self._at + 1, len(self._data))
        return self._data[at] if at < len(self._data) else 0

    def below(self, count: int) -> int:
        """A number below `count`, which is at most 256."""
        return self.byte() % count

    def pick[T](self, options: Sequence[T]) -> T:
        """One of at most 256 options."""
        return options[self.below(len(options))]

    def number(self, size: int) -> int:
        """An unsigned number of `size` bytes, little-endian."""
        return int.from_bytes(self.take(size).ljust(size, b'\0'), 'little')

    def take(self, count: int) -> bytes:
        """The next bytes, fewer than `count` at the end."""
        at = self._at
        self._at = min(at + count, len(self._data))
        return self._data[at : self._at]

    def blob(self) -> bytes:
        """Bytes whose length stands in the two bytes before them; `packed()` makes them."""
        return self.take(self.number(2))

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.left)


def packed(blob: bytes) -> bytes:
    """What `Choices.blob()` reads as these bytes (below 64 KiB)."""
    return len(blob).to_bytes(2, 'little') + blob
