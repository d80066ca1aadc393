"""
Shared memory: large data on one host, without sending it.

One actor *opens* a list or an array, which creates a segment of shared memory, and sends its key or
token to others, which *attach* to it. The opener owns the segment: it is removed with that actor.
Attaching owns nothing. `tractor.ipc._shm_list` has the lists, `tractor.ipc._shm_array` the arrays
(they need NumPy, nothing else here does); everything is importable from this module.

How a segment ends. The *ledger* is the owner's list of what it holds, copied to its *watcher*: a
process of its own (`tractor.ipc._shm_watch`) which reads from a pipe whose other end only the owner
has. It starts with an actor's first segment and ends with the actor.

=========================================  =====================================================
event                                      what happens
=========================================  =====================================================
a segment is opened                        its inode goes into the ledger; then it gets its name.
                                           If the name is taken it leaves the ledger again
the owner unlinks or destroys it           the name goes; then it leaves the ledger
the owner ends: returns, raises, is        its `lifetime_stack` unlinks, then closes each segment,
cancelled (Ctrl-C, too)                    last opened first; then the watcher is ended and waited
                                           for: nothing is left when the actor's process ends
the owner is killed (SIGKILL, SIGTERM,     the kernel closes the pipe: the watcher removes what is
`os._exit`, a crash)                       in the ledger and ends, some milliseconds later. No
                                           parent takes part: it may be dead as well
the whole tree is killed, process group    the same for each owner: watchers have sessions of their
or pid by pid                              own and are of no use to whoever lists actors
the owner's sub-interpreter is stopped     the interpreter's `atexit` removes what is in the ledger;
by force, its process lives on             if it cannot be closed, the end of the process does
the owner forks                            the child has neither ledger nor pipe
the watcher is killed                      noticed with the next segment: another one takes over
the watcher and the owner are killed       the segment stays: `/dev/shm` has to be cleaned by hand
another segment got the same name since    its inode differs: never removed by mistake
an attached actor ends or is killed        nothing: its mapping goes, the segment stays
the segment is removed while attached      the mapping stays valid until the last reference to it
                                           is gone; nobody can attach any more
no runtime when it is opened               no owner: whoever opened it unlinks it
=========================================  =====================================================

A watcher costs 10 ms of start-up, in the background, and 5 MB of memory of its own.
Multiprocessing's resource tracker is not used: children that multiprocessing starts share that of
their parent, so that a segment would outlive its owner as long as any relative lives, and whatever
it has to remove is reported as leaked on standard error.

In a sub-interpreter all of this works except for arrays: NumPy cannot be imported there.
"""

from tractor.ipc._mp_bs import SharedMemory as SharedMemory
from tractor.ipc._shm_array import SharedInt as SharedInt
from tractor.ipc._shm_array import ShmArray as ShmArray
from tractor.ipc._shm_array import attach_shm_array as attach_shm_array
from tractor.ipc._shm_array import attach_shm_ndarray as attach_shm_ndarray
from tractor.ipc._shm_array import maybe_open_shm_ndarray as maybe_open_shm_ndarray
from tractor.ipc._shm_array import open_shm_array as open_shm_array
from tractor.ipc._shm_array import open_shm_ndarray as open_shm_ndarray
from tractor.ipc._shm_list import ShmList as ShmList
from tractor.ipc._shm_list import attach_shm_list as attach_shm_list
from tractor.ipc._shm_list import open_shm_list as open_shm_list
from tractor.ipc._shm_token import NDToken as NDToken
from tractor.ipc._shm_token import _known_tokens as _known_tokens
from tractor.ipc._shm_token import get_shm_token as get_shm_token
