"""Run several measurements in one process, one after the other: the commands are a JSON list on standard input.

Prints a JSON list: the figures that each has printed, or null where it has failed. A quick run saves by this what
takes it longest, which is imports.
"""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run(script: str, *args: str) -> list[float] | None:
    """The figures that one command prints."""
    sys.argv = [script, *args]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_path(str(HERE / script), run_name='__main__')
    except (Exception, SystemExit):  # noqa: BLE001 - it is told, and the others go on
        traceback.print_exc()
        return None
    return [float(figure) for figure in said.getvalue().split()]


if __name__ == '__main__':
    print(json.dumps([run(*command) for command in json.load(sys.stdin)]))
