"""
`python -m tractor.demo`: the command line of the demo.

Exit code: 0 if all went as it should, 1 if anything did not, 2 for wrong arguments, 130 after an interrupt.
"""

from __future__ import annotations

import argparse
import platform
import socket
import sys
import traceback
from functools import partial
from typing import Any, get_args

import trio

from tractor.demo import _leftovers
from tractor.demo._report import Outcome, Printer
from tractor.demo._tree import run_tree
from tractor.discovery._addr import get_address_cls
from tractor.spawn._spawn import SpawnMethodKey, check_method

BACKENDS: tuple[str, ...] = get_args(SpawnMethodKey)

INTERRUPTED = 130


def parse(args: list[str] | None = None) -> argparse.Namespace:
    """The arguments; the defaults run everything."""
    parser = argparse.ArgumentParser(
        prog='python -m tractor.demo',
        description='Boot a tree of actors on every backend of this Python and show what it does.',
    )
    parser.add_argument(
        '--backend',
        action='append',
        choices=BACKENDS,
        help='only this one; may be given several times',
    )
    parser.add_argument(
        '--transport',
        choices=('tcp', 'uds'),
        default='tcp',
        help='between the actors (%(default)s)',
    )
    parser.add_argument(
        '--no-color', action='store_true', help='plain text, as when NO_COLOR is set'
    )
    return parser.parse_args(args)


def main(args: list[str] | None = None) -> int:
    """Run the demo; the exit code."""
    options = parse(args)
    printer = Printer(colours=False if options.no_color else None)
    printer.line(
        f'tractor demo on Python {platform.python_version()}, transport {options.transport}'
    )
    outcomes: list[Outcome] = []
    try:
        for backend in dict.fromkeys(options.backend or BACKENDS):
            outcomes.append(Outcome(backend))
            run_backend(outcomes[-1], options.transport, printer)
    except KeyboardInterrupt:
        left = outcomes[-1].left_over
        printer.line()
        printer.line(f'interrupted: all actors are down, left-over processes: {len(left)}', 'bad')
        return 1 if left else INTERRUPTED
    printer.table(outcomes)
    return int(any(outcome.result == 'FAILED' for outcome in outcomes))


def run_backend(outcome: Outcome, transport: str, printer: Printer) -> None:
    """One tree on one backend, then a look at what is left of it."""
    printer.head(outcome.backend)
    try:
        check_method(outcome.backend)
    except RuntimeError as err:
        outcome.skipped = str(err)
        printer.step('skipped', outcome.skipped, 'dim')
        return
    before = _leftovers.scan()
    pids: set[int] = set()
    try:
        trio.run(partial(run_tree, outcome, transport, free_address(transport), printer, pids))
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is not None:
            # it struck while several actors were being started
            raise KeyboardInterrupt from group
        _unexpected(outcome, group, printer)
    except Exception as err:  # noqa: BLE001 - becomes the result of this backend
        _unexpected(outcome, err, printer)
    finally:
        outcome.left_over = _leftovers.settle(before, pids)
        printer.step('after', f'{len(outcome.left_over)} processes left over')
        printer.block('\n'.join(outcome.left_over), 'bad')


def _unexpected(outcome: Outcome, err: BaseException, printer: Printer) -> None:
    outcome.problems.append(repr(err))
    printer.step('PROBLEM', 'nothing should have been raised here', 'bad')
    printer.block(''.join(traceback.format_exception(err)), 'bad')


def free_address(transport: str) -> Any:
    """A registry address of our own, so that no other tree of this host is in the way."""
    if transport == 'uds':
        return get_address_cls(transport).get_random().unwrap()
    with socket.create_server(('127.0.0.1', 0)) as probe:
        host, port = probe.getsockname()
        return host, port


if __name__ == '__main__':
    sys.exit(main())
