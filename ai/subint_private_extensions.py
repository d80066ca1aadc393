"""
What `subint-private-extensions.md` says of names, observed: the linker takes a second copy of the same path for the
first, and tells copies apart by the thread in their path.

Exit code 0 if both were seen. Linux, CPython 3.14.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from pathlib import Path

import msgspec._core

IMAGE = Path(str(msgspec._core.__file__)).read_bytes()


def load(path_of: str) -> tuple[str, int]:
    """Map a fresh copy, close its descriptor, and tell its path and where its init function is."""
    fd = os.memfd_create('copy')
    os.write(fd, IMAGE)
    path = path_of.format(thread=threading.get_native_id(), fd=fd)
    library = ctypes.PyDLL(path)
    os.close(fd)
    return path, ctypes.cast(library.PyInit__core, ctypes.c_void_p).value or 0


def load_two(path_of: str) -> tuple[bool, list[str]]:
    """Load one in this thread and one in another, which are both alive; whether they are two."""
    found = [load(path_of)]
    other = threading.Thread(target=lambda: found.append(load(path_of)))
    other.start()
    other.join()
    return found[0][1] != found[1][1], [path for path, _ in found]


def main() -> int:
    """Both ways."""
    by_number, paths = load_two('/proc/self/fd/{fd}')
    print(f'{paths}: {"two copies" if by_number else "one and the same"}')
    by_thread, paths = load_two('/proc/self/task/{thread}/fd/{fd}')
    print(f'{paths}: {"two copies" if by_thread else "one and the same"}')
    return 0 if by_thread and not by_number else 1


if __name__ == '__main__':
    sys.exit(main())
