"""
One interpreter and the thread that owns it, from its creation to its end.

| phase | the thread | ends when |
|---|---|---|
| booting | creates the interpreter, loads the runtime in it | that is done, or failed |
| ready | waits for an order | it is told who to be, or that it is not needed |
| running | is the actor | the actor has ended, or was killed |
| closing | frees what was private, closes the interpreter | that is done |
| gone | tells who asked for it, and ends | - |

The interpreter is created, run and closed by that one thread: a thread keeps a state in each interpreter that it has
been in. It is none of trio's worker threads for the same reason.
"""

from __future__ import annotations

import os
import queue
import sys
import tempfile
import threading
from ast import literal_eval
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from tractor.runtime import _state
from tractor.spawn import _subint_pack

# extensions which refuse sub-interpreters and are loaded as private copies
PRIVATE_EXTENSIONS: tuple[str, ...] = ('msgspec._core',)

# what an actor comes to need soon; a spare loads those which its parent has come to need, too
PRELOAD: tuple[str, ...] = ('encodings.idna', 'pkgutil', 'runpy', 'tractor._aio._guest')

_LATE: str = 'tractor.spawn._subint_late'
_LOADER: str = 'tractor.spawn._subint_loader'
_PACK: str = 'tractor.spawn._subint_pack'
_MEMORY: str = 'tractor.spawn._subint_memory'

_BOOT: str = f"""
def boot():
    import gc
    import sys
    from importlib.util import module_from_spec, spec_from_file_location
    # next to nothing of what is made now is ever dropped
    thresholds = gc.get_threshold()
    gc.set_threshold(10_000, *thresholds[1:])
    def load(name, path):
        spec = spec_from_file_location(name, path)
        module = sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    packed = load({_PACK!r}, PACK_PATH).install(PACK)
    late = load({_LATE!r}, LATE_PATH)
    load({_LOADER!r}, LOADER_PATH).install(COPIES, LIBRARIES, packed, late)
    sys.path[:] = MODULE_PATH
    import tractor.spawn._subint_child
    late.settle()
    for name in PRELOAD:
        __import__(name)
    # all there is counts as old
    gc.freeze()
    gc.unfreeze()
    gc.set_threshold(*thresholds)
boot()
del boot, PACK, PACK_PATH, LATE_PATH, LOADER_PATH, COPIES, LIBRARIES, MODULE_PATH, PRELOAD
"""
_LEAN: str = """
from tractor.spawn import _subint_lean
_subint_lean.write(LEAN_TO)
del _subint_lean, LEAN_TO
"""
_RUN: str = """
from tractor.spawn._subint_child import run
run(ORDER)
del run, ORDER
"""
_FINISH: str = f"""
def finish():
    from importlib.util import module_from_spec, spec_from_file_location
    spec = spec_from_file_location({_MEMORY!r}, MEMORY_PATH)
    memory = module_from_spec(spec)
    spec.loader.exec_module(memory)
    memory.finish(REPORT_TO)
def collect():
    import gc
    # what has given all back is garbage by now, and would be found too late
    for _ in range(5):
        if not gc.collect():
            return
finish()
del finish, MEMORY_PATH, REPORT_TO
collect()
del collect
"""

# the creation and the end of interpreters touch what the whole process shares: one at a time
_one_at_a_time = threading.Lock()


class Driver:
    """
    An interpreter and its thread.

    Args:
        name: of the thread.
        in_background: nobody waits for it yet.

    Raises:
        OSError: there are no file descriptors left, or no thread can be started.
    """

    def __init__(self, name: str, in_background: bool = False) -> None:
        self.interp_id: int | None = None
        self._in_background = in_background
        self._preload = tuple(name for name in PRELOAD if in_background and name in sys.modules)
        self.error = ''
        self.leak = ''
        self.stacks = ''
        self.ended: str | None = None
        self.killed = False
        self.is_gone = False
        self._on_gone: Callable[[], None] | None = None
        self._orders: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._handles: list[int] = []
        self._unread = b''
        self._fds: list[int] = []
        self._copies: list[_Copy] = []
        try:
            self._open()
            # an isolated interpreter allows no daemon threads; at the exit of the main one they must not be waited for
            self.thread = threading.Thread(
                target=self._drive, name=name, daemon=_state.current_interp_id() == 0
            )
            self.thread.start()
        except RuntimeError as err:
            self._close_files()
            raise OSError(f'no thread can be started for a sub-interpreter: {err}') from err
        except BaseException:
            self._close_files()
            raise

    def _open(self) -> None:
        self._copies = [_Copy(name) for name in PRIVATE_EXTENSIONS]
        for copy in self._copies:
            copy.open()
        self._fds += os.pipe()
        self._fds += os.pipe()
        os.set_blocking(self._fds[2], False)

    # -- from any thread ----------------------------------------------------------------------------------------

    def assign(self, actor: dict[str, Any], on_gone: Callable[[], None]) -> None:
        """
        Make it an actor.

        Args:
            actor: arguments of `_entry._actor_child_main()`.
            on_gone: called in its thread when all is over.
        """
        self._on_gone = on_gone
        self.thread.name = f'tractor subint {actor["uid"][0]}'
        orders, retire_by, _, report = self._fds
        self._orders.put(
            {
                'path': list(sys.path),
                'argv': list(sys.argv),
                'fds': (orders, retire_by, report),
                'actor': actor,
            }
        )

    def dismiss(self) -> None:
        """It will not be needed: end it as soon as it is ready, if it is no actor yet."""
        self._orders.put(None)

    def command(self, order: bytes) -> None:
        """Send an order to the warden, if there is anybody left to order about."""
        with self._lock:
            if self._fds:
                os.write(self._fds[1], order)

    def kill(self) -> None:
        """End whatever it does."""
        self.killed = True
        self.dismiss()
        self.command(b'K')

    def read_reports(self) -> None:
        """Take in what was reported until now."""
        with self._lock:
            if not self._fds:
                return
            with suppress(BlockingIOError):
                while data := os.read(self._fds[2], 65536):
                    self._unread += data
        *lines, self._unread = self._unread.split(b'\n')
        for line in lines:
            facts = literal_eval(line.decode())
            self.ended = facts.get('ended', self.ended)
            self.error = facts.get('error') or self.error
            self.leak = facts.get('leak', self.leak)
            self.stacks = facts.get('stacks', self.stacks)
            self._handles += facts.get('handles', ())

    # -- its thread ---------------------------------------------------------------------------------------------

    def _drive(self) -> None:
        interp: Any = None
        try:
            with _low_priority(self._in_background):
                interp = self._boot()
                if self._in_background:
                    self._make_lean(interp)
                order = self._orders.get()
            if order is not None and not self.killed:
                interp.prepare_main(ORDER=repr(order))
                interp.exec(_RUN)
        except BaseException as err:  # noqa: BLE001 - the end of a thread: reported as the end of the child
            self._note(err)
        try:
            if interp is not None:
                self._finish(interp)
        except BaseException as err:  # noqa: BLE001 - as above
            self._note(err)
        finally:
            self._close_files()
            self.is_gone = True
            if self._on_gone is not None:
                self._on_gone()

    def _note(self, err: BaseException) -> None:
        # an error in the interpreter comes as a snapshot of it
        inside = getattr(err, 'excinfo', None)
        text = f'{type(err).__name__}: {err}' if inside is None else str(inside.formatted)
        self.error = self.error or text

    def _boot(self) -> Any:
        from concurrent import interpreters

        with _one_at_a_time:
            # static types of its extension are first readied in the main interpreter
            import datetime  # noqa: F401

            interp = interpreters.create()
        self.interp_id = interp.id
        try:
            interp.prepare_main(
                PACK_PATH=_beside('_subint_pack.py'),
                PACK=_subint_pack.pack(),
                LATE_PATH=_beside('_subint_late.py'),
                LOADER_PATH=_beside('_subint_loader.py'),
                COPIES=tuple((copy.name, copy.path(), copy.mark) for copy in self._copies),
                LIBRARIES=_libraries(),
                MODULE_PATH=tuple(sys.path),
                PRELOAD=self._preload,
            )
            interp.exec(_BOOT)
        except BaseException as err:  # noqa: BLE001 - it has an interpreter to close
            self._note(err)
            self.dismiss()
        for copy in self._copies:
            copy.close()
        return interp

    def _make_lean(self, interp: Any) -> None:
        # once in a program, and only while nobody waits for this interpreter
        if self.error or not self._orders.empty() or not _subint_pack.order_lean():
            return
        with tempfile.TemporaryFile() as file:
            interp.prepare_main(LEAN_TO=file.fileno())
            interp.exec(_LEAN)
            file.seek(0)
            _subint_pack.take_lean(file.read())

    def _finish(self, interp: Any) -> None:
        import _ctypes

        try:
            interp.prepare_main(REPORT_TO=self._fds[3], MEMORY_PATH=_beside('_subint_memory.py'))
            interp.exec(_FINISH)
        finally:
            self.read_reports()
            with _one_at_a_time:
                interp.close()
            for handle in self._handles:
                _ctypes.dlclose(handle)
            _trim()

    def _close_files(self) -> None:
        with self._lock:
            fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)
        for copy in self._copies:
            copy.close()


@contextmanager
def _low_priority(wanted: bool) -> Iterator[None]:
    """The calling thread gives way to others, as far as anybody may ask for that and take it back."""
    if not wanted or not hasattr(os, 'SCHED_BATCH'):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setscheduler(0, policy, parameters)


class _Copy:
    """
    A fresh copy of the file of an extension, in memory where that is possible.

    Args:
        name: the module's.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        # unique in the process, all its interpreters included
        self.mark = f'tractor-{name}-{os.urandom(6).hex()}-'
        self._file = ''
        self._fd: int | None = None

    def open(self) -> None:
        """Make it."""
        image = _image(self.name)
        try:
            self._fd = os.memfd_create(self.mark)
        except (AttributeError, OSError):
            # no such system call, or not allowed here
            self._fd, self._file = tempfile.mkstemp(suffix='.so', prefix=self.mark)
        with open(self._fd, 'wb', closefd=False) as file:
            file.write(image)

    def path(self) -> str:
        """
        Where the calling thread may load it from.

        The dynamic linker knows a library by the name it was loaded by, and would take a second one of that name for
        the first. File descriptors are soon used again; the thread, which is in this name, lives as long as the copy.
        """
        return self._file or f'/proc/self/task/{threading.get_native_id()}/fd/{self._fd}'

    def close(self) -> None:
        """It has been mapped, or never will be."""
        if self._fd is None:
            return
        os.close(self._fd)
        self._fd = None
        if self._file:
            os.unlink(self._file)


@cache
def _image(name: str) -> bytes:
    from importlib import import_module

    # loaded here in any case: the runtime needs it
    return Path(str(import_module(name).__file__)).read_bytes()


@cache
def _libraries() -> tuple[tuple[str, str], ...]:
    """What trio looks for when it is imported: to find it means to run `ldconfig`, each time."""
    from ctypes.util import find_library

    found = find_library('pthread')
    return () if found is None else (('pthread', found),)


def _trim() -> None:
    """Have the allocator of C give the system what it does not use: by itself it keeps that, for each thread anew."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    # only glibc's has it
    if trim is not None:
        trim(0)


def _beside(name: str) -> str:
    return str(Path(__file__).with_name(name))
