"""How a log record looks on a console: colorlog's colours, where the console can show them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import cached_property
from typing import TextIO

# The colour fields are colorlog's; they stay empty when colours are off.
LOG_FORMAT = (
    '{log_color}{asctime}{reset}'
    ' {bold_white}({thin_white}{actor_name}[{actor_uid}], {process}, {task}{bold_white}){reset}'
    ' {bold_log_color}[{levelname}]{reset}'
    ' {log_color}{name}{reset}'
    ' {thin_white}{filename}:{lineno}{reset}'
    ' {log_color}{message}'
)
DATE_FORMAT = '%b %d %H:%M:%S'


class ConsoleFormatter(logging.Formatter):
    """
    Formats records for a stream.

    Many actors never print a log line, and colorlog takes time to load: it is when there is something to print.

    Args:
        stream: where the lines go.
        colours: name of a colour by level name.
        secondary: further such tables, by their name in the format.
        defaults: what stands for the fields that a record lacks.
    """

    def __init__(
        self,
        stream: TextIO,
        colours: Mapping[str, str],
        secondary: Mapping[str, Mapping[str, str]],
        defaults: Mapping[str, str],
    ) -> None:
        super().__init__()
        self._stream = stream
        self._colours = colours
        self._secondary = secondary
        self._defaults = defaults

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, or more with a traceback."""
        return self._formatter.format(record)

    @cached_property
    def _formatter(self) -> logging.Formatter:
        from colorlog import ColoredFormatter

        stream = self._stream

        class Formatter(ColoredFormatter):
            # Decided once per stream; colorlog would ask the terminal again for every record, and let
            # FORCE_COLOR win over an opt-out.
            colours = wants_colours(stream)

            def _colorize(self) -> bool:
                return self.colours

        return Formatter(
            fmt=LOG_FORMAT,
            datefmt=DATE_FORMAT,
            style='{',
            log_colors=self._colours,
            secondary_log_colors=self._secondary,
            defaults=self._defaults,
        )


def wants_colours(stream: TextIO) -> bool:
    """Tell whether to colour `stream`: a capable terminal, and the user did not opt out."""
    env = os.environ
    if env.get('PYTHON_COLORS') == '0' or env.get('NO_COLOR') or env.get('TERM') == 'dumb':
        return False

    return stream.isatty()
