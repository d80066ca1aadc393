"""The command ``tractor-reap``: remove what actors have left behind on this machine.

==========================  ========================================================================
phase                       what
==========================  ========================================================================
processes                   actors without a parent; with ``--parent`` all that is below that process
shared memory               ``--shm``, ``--shm-only``
socket files                ``--uds``, ``--uds-only``; those of registrars nobody listens at, too
==========================  ========================================================================

Exit status: 0; 1 when something had to be killed or could not be removed; 2 for a wrong call.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='tractor-reap',
        description='Remove what actors have left behind: processes without a parent and, on '
        'request, shared memory and socket files. Only what belongs to this user is touched.',
        epilog='Exit status: 0; 1 when something had to be killed or could not be removed; 2 for a '
        'wrong call.',
    )
    parser.add_argument(
        '-p',
        '--parent',
        type=_pid,
        metavar='PID',
        help='end all processes below this one instead, whatever they are',
    )
    parser.add_argument(
        '-g',
        '--grace',
        type=_seconds,
        default=3.0,
        metavar='SECS',
        help='how long processes may take to end before they are killed (default: %(default)s)',
    )
    parser.add_argument('-n', '--dry-run', action='store_true', help='only tell what would be done')
    for name, what in (
        ('shm', 'shared memory which no process has open or mapped'),
        ('uds', 'socket files of dead actors'),
    ):
        parser.add_argument(f'--{name}', action='store_true', help=f'also remove {what}')
        parser.add_argument(
            f'--{name}-only', action='store_true', help=f'remove {what}, and end no process'
        )
    return parser


def _pid(text: str) -> int:
    number = int(text)
    if number <= 1:
        raise argparse.ArgumentTypeError(f'{text} is not the pid of a process to reap below')
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < float('inf'):
        raise argparse.ArgumentTypeError(f'{text} is not a number of seconds')
    return number


def say(text: str) -> None:
    """Print one line of the command."""
    print(f'[tractor-reap] {text}', flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: its arguments; those of this process by default.

    Returns:
        The exit status, see the module.

    Raises:
        SystemExit: the arguments are wrong, or ask for help.
    """
    args = _parser().parse_args(argv)
    phases = []
    if not (args.shm_only or args.uds_only):
        phases.append(_reap_processes)
    if args.shm or args.shm_only:
        phases.append(_reap_shm)
    if args.uds or args.uds_only:
        phases.append(_reap_uds)
    clean = [phase(args) for phase in phases]
    return 0 if all(clean) else 1


def _reap_processes(args: argparse.Namespace) -> bool:
    from tractor._testing import _reap

    if args.parent is None:
        pids, what = _reap.find_orphans(), 'actors without a parent'
    else:
        pids, what = _reap.find_descendants(args.parent), f'processes below {args.parent}'
    if not pids:
        say(f'no {what}')
        return True
    if args.dry_run:
        for pid in pids:
            say(f'would end process {pid}: {_reap._read_cmdline(pid) or _reap._read_comm(pid)}')
        return True
    signalled, killed = _reap.reap(pids, grace=args.grace, log=say)
    say(f'{what}: {len(signalled)} interrupted, {len(killed)} of them killed')
    return not killed


def _reap_shm(args: argparse.Namespace) -> bool:
    from tractor._testing import _reap

    try:
        paths = _reap.find_orphaned_shm()
    except NotImplementedError as err:
        say(f'shared memory: {err}')
        return False
    if args.dry_run or not paths:
        return _tell_files('shared memory', paths)
    _unlinked, errors = _reap.reap_shm(paths, log=say)
    return not errors


def _reap_uds(args: argparse.Namespace) -> bool:
    from tractor._testing import _reap

    paths = _reap.find_orphaned_uds(include_registry_sentinel=True)
    if args.dry_run or not paths:
        return _tell_files('socket files of dead actors', paths)
    _unlinked, errors = _reap.reap_uds(paths, log=say)
    return not errors


def _tell_files(what: str, paths: list[Path]) -> bool:
    if not paths:
        say(f'no {what}')
    for path in paths:
        say(f'would unlink {path}')
    return True


if __name__ == '__main__':
    sys.exit(main())
