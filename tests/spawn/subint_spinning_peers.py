"""A module which never finishes loading in a sub-interpreter that is told so, and then tells so."""

# not to be ended is the point
# ruff: noqa: BLE001, S112

import os
import sys

TOLD_VAR = 'SUBINT_SPINS_AND_TELLS'

told = getattr(sys, 'subint_spins_and_tells', None) or os.environ.get(TOLD_VAR)

# of the stock module that knows, which loads nothing else
interp_id = sys.modules['tractor.runtime._state'].current_interp_id()

if told and interp_id:
    os.write(int(told), b'.')
    while True:
        try:
            while True:
                pass
        except BaseException:
            continue
