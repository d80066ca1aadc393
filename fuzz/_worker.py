"""
One process of the fuzzer: one target, its modules instrumented, until libFuzzer ends it.

Run by `fuzz/run.py`; the arguments are the name of a target and those of libFuzzer.
"""

from __future__ import annotations

import importlib
import sys
import warnings


def main(name: str, args: list[str]) -> None:
    """Fuzz a target; does not return."""
    import atheris  # type: ignore[import-untyped]

    with atheris.instrument_imports(include=['tractor', 'multiaddr']):
        from fuzz import targets

        # loaded by the package when it is first needed
        importlib.import_module('multiaddr')
        module = targets.load(name)
    # the literal parser warns about escapes in what it reads
    warnings.simplefilter('ignore', SyntaxWarning)
    atheris.Setup([name, *args], module.one_input)
    atheris.Fuzz()


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2:])
