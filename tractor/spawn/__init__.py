"""
Starting actors: where the `trio.run()` of a child lives is decided here and nowhere else.

    _spawn          the core: the list of backends, the choice of one, and the one life cycle of a
                    child, from its start to its end, that all backends share
    _trio           `trio`: a fresh OS process, through trio's own subprocess support (the default)
    _mp             `mp_spawn`, `mp_forkserver`: processes of `multiprocessing`
    _subint         `subint`: a sub-interpreter with its own GIL on a thread of its own
    _entry          what a child runs first, on every backend
    _mp_fixup_main  running the main module of the parent again in a child
    _reap           clean-up after the end of a child

To add a backend, write one module with one coroutine that has the signature of
`_spawn.new_proc()`, and add one entry each to `_spawn.SpawnMethodKey` and `_spawn._methods`. All it
contributes is how to start a child: from a frozen description it makes a handle that can be polled
and waited for, terminated, killed, and described. Supervision works on the handle and never asks
which backend made it.

Nothing is imported here, so that a child loads the backend it needs only.
"""
