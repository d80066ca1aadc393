"""Fixtures of the whole suite: those of the plugin that the package ships."""

import signal

# also named in the project's pytest options; a run with other options needs it as much
pytest_plugins = ['tractor._testing.pytest']

# A shell makes what it starts in the background ignore interrupts, and programs inherit that: here they are sent.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
