"""Helpers for the tests of applications built on this package, and for its own.

Load the fixtures and options with ``pytest -p tractor._testing.pytest``. Nothing in the package
itself imports from here.
"""

from tractor._testing._ctxc import expect_ctxc
from tractor._testing._paths import examples_dir, mk_cmd, repodir
from tractor._testing._run import raised_by, run_bounded, tractor_test
from tractor._testing.fault_simulation import break_ipc

__all__ = [
    'break_ipc',
    'examples_dir',
    'expect_ctxc',
    'mk_cmd',
    'raised_by',
    'repodir',
    'run_bounded',
    'tractor_test',
]
