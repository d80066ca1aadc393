"""
The watcher: removes the shared memory of an actor that did not live to do it.

Run as a script, with no more of Python than that takes: it reads records from its standard input,
whose other end only the owner of the segments has. When the owner ends, in whatever way, the kernel
closes that end, and what is still held then is removed. It has a session of its own and ignores
what asks others to end: neither Ctrl-C in the terminal nor a kill of the process group reaches it.

=========================  =================================================================
record                     meaning
=========================  =================================================================
``+<inode> <name>\\0``      hold the segment `name`; inode 0: whichever has that name
``-<inode> <name>\\0``      forget it
end of file                the owner is gone: remove what is held, and end
=========================  =================================================================
"""

from __future__ import annotations

# not `signal`: its enumerations cost a third of the start
import _signal  # type: ignore[import-not-found]
import os

FOLDER = b'/dev/shm/'


def apply(record: bytes, held: set[tuple[bytes, int]]) -> None:
    """Take one record, without its terminator, into account."""
    number, _, name = record[1:].partition(b' ')
    segment = name, int(number)
    if record[:1] == b'+':
        held.add(segment)
    else:
        held.discard(segment)


def remove(name: bytes, inode: int) -> None:
    """Unlink a segment unless it is gone, or another one has its name now."""
    try:
        if not inode:
            import _posixshmem  # type: ignore[import-not-found]

            _posixshmem.shm_unlink('/' + os.fsdecode(name))
        elif os.lstat(FOLDER + name).st_ino == inode:
            os.unlink(FOLDER + name)
    except OSError:
        # gone already; if it could not be removed there is nobody left to tell
        return


def watch(fd: int) -> None:
    """Follow the records on `fd` to their end."""
    held: set[tuple[bytes, int]] = set()
    rest = b''
    while data := os.read(fd, 65536):
        *records, rest = (rest + data).split(b'\0')
        for record in records:
            apply(record, held)
    for name, inode in held:
        remove(name, inode)


if __name__ == '__main__':
    for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
        _signal.signal(number, _signal.SIG_IGN)
    watch(0)
    os._exit(0)
