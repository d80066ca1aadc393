"""UNIX sockets: the address type, the listener and the transport."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast
from weakref import WeakKeyDictionary

import msgspec
import trio

from tractor.discovery._addr import register_address_type
from tractor.discovery._multiaddr import mk_maddr
from tractor.ipc import _sockfile
from tractor.ipc._access import ForeignUser
from tractor.ipc._transport import MsgpackTransport
from tractor.runtime import _state

if TYPE_CHECKING:
    from multiaddr import Multiaddr
else:
    # annotations must resolve at run time without loading the package
    Multiaddr = Any

# whether UNIX sockets can be used here
HAS_UDS: bool = sys.platform != 'win32' and hasattr(socket, 'AF_UNIX')

# size of `sockaddr_un.sun_path` in bytes, which includes the final NUL; read at call time
_SUN_PATH_LIMIT: int = 108 if sys.platform == 'linux' else 104

_BACKLOG: int = 128

# The lock of a directory is held for well below a millisecond; past this its holder must have been
# stopped. In seconds, as all of these.
_LOCK_TIMEOUT: float = 1.0
_LOCK_TIMEOUT_AT_CLOSE: float = 0.05
_LOCK_RETRY: float = 0.001

# first and longest pause between attempts to connect to a listener whose backlog is full
_BUSY_RETRY: float = 0.001
_BUSY_RETRY_MAX: float = 0.05

# of macOS, missing in the `socket` module; the second is `struct xucred`, of which the version and the uid are read
_SOL_LOCAL: int = 0
_LOCAL_PEERPID: int = 2
_LOCAL_PEERCRED: int = 1
_XUCRED = struct.Struct('=II68x')


class _RuntimeDir:
    """
    A class attribute whose value is the runtime directory, found (and created) when it is read.

    Assigning to the attribute of the class replaces it by a plain value.
    """

    def __get__(self, instance: object, owner: type | None = None) -> Path:
        return _state.get_rt_dir()


class UDSAddress(msgspec.Struct, frozen=True):
    """
    The path of a UNIX socket, as a directory and a file name.

    `filedir` may be `None`, for the default directory `def_bindspace`. `maybe_pid`, the process at
    that end where it is known, takes no part in comparisons.
    """

    filedir: str | Path | None
    filename: str | Path
    maybe_pid: int | None = None

    proto_key: ClassVar[str] = 'uds'
    unwrapped_type: ClassVar[Any] = tuple[str, str]
    def_bindspace: ClassVar[Path] = cast('Path', _RuntimeDir())

    def __post_init__(self) -> None:
        force = msgspec.structs.force_setattr
        # not `Path('')`, which would be the current directory
        force(self, 'filedir', Path(self.filedir) if self.filedir else None)
        force(self, 'filename', Path(self.filename))

    @property
    def is_valid(self) -> bool:
        """Whether the file lies below its directory."""
        path = self.sockpath
        return self.bindspace in path.parents and '..' not in Path(self.filename).parts

    @property
    def namespace(self) -> str | None:
        """`None`: the mount namespace of the process."""
        return None

    @property
    def bindspace(self) -> Path:
        """The directory."""
        return Path(self.filedir) if self.filedir else type(self).def_bindspace

    @property
    def sockpath(self) -> Path:
        """The path of the socket file."""
        return self.bindspace / self.filename

    @classmethod
    def from_addr(cls, addr: Any) -> UDSAddress:
        """
        Wrap a pair `(directory, file name)` or the path of a socket file.

        Raises:
            TypeError: `addr` is neither.
        """
        match addr:
            case (None | str() | os.PathLike() as filedir, str() | os.PathLike() as filename):
                return cls(Path(filedir) if filedir else None, Path(filename))
            case str() | os.PathLike():
                path = Path(addr)
                return cls(path.parent, path.name)
        raise TypeError(
            f'Not a UNIX socket address: {addr!r}. Give (directory, file name) or a path.'
        )

    @classmethod
    def get_random(cls, bindspace: str | Path | None = None) -> UDSAddress:
        """
        An address to bind in the given directory, the default one if `None`.

        Within a runtime the name is that of the actor, so that its parent can tell which file a
        killed child left behind: all calls in one actor give the same address. Without a runtime
        each call gives another one.
        """
        filedir = Path(bindspace) if bindspace else cls.def_bindspace
        pid = os.getpid()
        actor = _state.current_actor(err_on_no_runtime=False)
        if actor is not None:
            name = actor.aid.name
        else:
            kind = 'root' if _state.is_root_process() else 'actor'
            name = f'no_runtime_{kind}.{os.urandom(4).hex()}'
        filename = cls.get_sockname(name, pid, filedir, interp_id=_state.current_interp_id())
        return cls(filedir, filename, maybe_pid=pid)

    @classmethod
    def get_root(cls) -> UDSAddress:
        """The default address of a registrar on this host."""
        return cls(cls.def_bindspace, 'registry@1616.sock')

    @classmethod
    def get_sockname(
        cls,
        name: str,
        pid: int,
        bindspace: str | Path,
        interp_id: int = 0,
    ) -> Path:
        """
        The name of an actor's socket file: `<name>@<pid>.sock`.

        In a sub-interpreter it is `<name>.i<interp_id>@<pid>.sock`, as several actors share a pid.
        A name that cannot be part of a file name, or makes the path too long, is replaced by
        `actor.<hash of it>`.

        Args:
            name: of the actor, any text.
            pid: of its process.
            bindspace: the directory that the file will be in.
            interp_id: of its interpreter, 0 for the main one.

        Raises:
            ValueError: the directory is so long that not even the hash fits.
        """
        suffix = f'@{pid}.sock' if not interp_id else f'.i{interp_id}@{pid}.sock'
        unsafe = (
            any(char in name for char in ('\0', '/', os.altsep) if char) or Path(name).is_absolute()
        )
        over_budget = len(os.fsencode(Path(bindspace, name + suffix))) >= _SUN_PATH_LIMIT
        if not unsafe and not over_budget:
            return Path(name + suffix)

        import hashlib

        digest = hashlib.blake2s(os.fsencode(name), digest_size=16).hexdigest()
        filename = f'actor.{digest}{suffix}'
        size = len(os.fsencode(Path(bindspace, filename)))
        if size < _SUN_PATH_LIMIT:
            return Path(filename)
        raise ValueError(
            f'The directory {str(bindspace)!r} leaves no room for the socket file of an actor: '
            f'{filename!r} in it makes {size} bytes. Use a shorter directory.\n'
            f'name was unsafe: {unsafe}\n'
            f'name was over budget: {over_budget}\n'
            f'AF_UNIX path limit: {_SUN_PATH_LIMIT}'
        )

    def unwrap(self) -> tuple[str, str]:
        """`(directory, file name)`."""
        return str(self.bindspace), str(self.filename)

    async def open_listener(self, **kwargs: Any) -> trio.SocketListener:
        """Bind and listen, see `start_listener()`."""
        return await start_listener(self, **kwargs)

    def close_listener(self, lstnr: trio.SocketListener) -> None:
        """Stop listening and remove the socket file, see `close_listener()`."""
        close_listener(self, lstnr)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, UDSAddress):
            return NotImplemented
        return self.sockpath == other.sockpath

    def __hash__(self) -> int:
        return hash(self.sockpath)

    def __repr__(self) -> str:
        return f'{type(self).__name__}[{self.unwrap()}]'


if HAS_UDS:
    register_address_type(UDSAddress)


# which file belongs to a listener, as another one may have taken its path since
_bound_files: WeakKeyDictionary[trio.SocketListener, _sockfile.FileId] = WeakKeyDictionary()


async def start_listener(addr: UDSAddress, **kwargs: Any) -> trio.SocketListener:
    """
    Bind and listen, taking over the path of a listener that died without removing its file.

    Args:
        addr: where. The directory and those above it are created, with mode 0700, if they are missing.
        kwargs: `backlog`, the number of connections that may wait to be accepted (default 128).

    Raises:
        PermissionError: the directory belongs to another user.
        ConnectionError: the path is taken or cannot be bound, from the `OSError` that says why.

    Cancelled: nothing was bound.
    """
    backlog = kwargs.pop('backlog', None) or _BACKLOG
    if kwargs:
        raise TypeError(f'Unknown option for a UNIX socket listener: {", ".join(kwargs)}')
    await trio.lowlevel.checkpoint()
    path = addr.sockpath
    try:
        _sockfile.make_private(path.parent)
        with _sockfile.opened(path.parent) as dir_fd:
            with trio.move_on_after(_LOCK_TIMEOUT) as timeout:
                while not _sockfile.try_lock(dir_fd):  # noqa: ASYNC110 - locks tell nobody
                    await trio.sleep(_LOCK_RETRY)
            if timeout.cancelled_caught:
                raise TimeoutError(
                    errno.ETIMEDOUT,
                    f'the lock of {path.parent} is not released. Some process that was binding a '
                    'socket there has been stopped: continue it or end it',
                )
            sock, file_id = _sockfile.bind(path, backlog)
    except _sockfile.ForeignDirectory as err:
        raise PermissionError(
            f'Refusing to listen on {addr}: {err}. The owner of the directory could replace our '
            'socket. Use a directory of your own.'
        ) from None
    except OSError as err:
        raise ConnectionError(f'Cannot listen on {addr}: {err.strerror or err}') from err
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    _bound_files[listener] = file_id
    return listener


def close_listener(addr: UDSAddress, lstnr: trio.SocketListener) -> None:
    """
    Stop listening and remove the socket file; what was accepted lives on. Idempotent.

    A file which another listener has bound to the path since is left alone.

    Raises:
        OSError: the file cannot be removed; the socket is closed all the same.
    """
    file_id = _bound_files.pop(lstnr, None)
    if file_id is None and lstnr.socket.fileno() == -1:
        return
    path = addr.sockpath
    try:
        with _sockfile.opened(path.parent) as dir_fd:
            # Going on without the lock leaves but a tiny window for harm, so the wait is short.
            deadline = time.monotonic() + _LOCK_TIMEOUT_AT_CLOSE
            while not _sockfile.try_lock(dir_fd) and time.monotonic() < deadline:
                time.sleep(_LOCK_RETRY)
            # The file goes first: as long as the socket listens, nobody finds the file stale.
            if file_id is None or file_id == _sockfile.identify(path):
                os.unlink(path)
    except FileNotFoundError:
        pass  # removed by somebody else, maybe with its directory
    finally:
        lstnr.socket.close()


async def open_unix_socket(path: str | Path) -> trio.SocketStream:
    """
    Connect to a UNIX socket; waits while the listener has too many connections to accept.

    Raises:
        ConnectionRefusedError: nobody listens there any more.
        ConnectionError: there is no such file.
        OSError: it cannot be reached for another reason.

    Cancelled: nothing stays open.
    """
    await trio.lowlevel.checkpoint()
    pause = _BUSY_RETRY
    try:
        while (sock := _sockfile.connect(path)) is None:
            await trio.sleep(pause)
            pause = min(2 * pause, _BUSY_RETRY_MAX)
    except FileNotFoundError as err:
        raise ConnectionError(f'Cannot connect to {path}: there is no such socket.') from err
    except OSError as err:
        text = f'Cannot connect to {path}: {err.strerror or err}'
        raise (OSError(err.errno, text) if err.errno else OSError(text)) from err
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


# compatible name: the credentials of the peer can be read without a socket option
open_unix_socket_w_passcred = open_unix_socket


def get_peer_info(sock: trio.socket.SocketType) -> tuple[int, int, int]:
    """
    `(pid, uid, gid)` of the process at the other end of a connected UNIX socket.

    Raises:
        RuntimeError: not on Linux.
    """
    if sys.platform != 'linux':
        raise RuntimeError(
            f'The credentials of a peer can be read on Linux only, not on {sys.platform}. '
            'Use `get_peer_pid()`.'
        )
    layout = struct.Struct('3i')
    creds = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size)
    pid, uid, gid = layout.unpack(creds)
    return pid, uid, gid


def get_peer_pid(sock: trio.socket.SocketType) -> int | None:
    """The pid of the process at the other end, `None` where the system does not tell."""
    pid = 0
    if sys.platform == 'linux':
        pid, _, _ = get_peer_info(sock)
    elif sys.platform == 'darwin':
        pid = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID)
    return pid or None


def get_peer_uid(sock: trio.socket.SocketType) -> int | None:
    """
    The uid of the process at the other end, `None` where the system does not tell.

    It is the effective one which that process had when it connected, or began to listen.
    """
    uid: int | None = None
    if sys.platform == 'linux':
        _, uid, _ = get_peer_info(sock)
    elif sys.platform == 'darwin':
        _, uid = _XUCRED.unpack(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size))
    return uid


def check_peer(sock: trio.socket.SocketType) -> None:
    """
    Refuse a peer of another user; root is another user, too. Where the system does not tell, nobody is refused.

    Raises:
        ForeignUser: it is one.
        OSError: the connection is gone.
    """
    uid = get_peer_uid(sock)
    if uid is not None and uid != os.geteuid():
        raise ForeignUser(
            f'no connection with {_described(sock)}: that is another user, we are uid {os.geteuid()}. Run both as one '
            'user; actors of several users talk over TCP, with a key\n'
        )


def _described(sock: trio.socket.SocketType) -> str:
    return f'pid {get_peer_pid(sock)}, uid {get_peer_uid(sock)}'


class MsgpackUDSStream(MsgpackTransport):
    """
    Messages over a UNIX socket.

    Args:
        stream, prefix_size, codec: as for `MsgpackTransport`.

    Raises:
        ForeignUser: the peer belongs to another user.
    """

    address_type: ClassVar[type[UDSAddress]] = UDSAddress
    layer_key: ClassVar[int] = 4

    def __init__(self, stream: Any, prefix_size: int = 4, codec: Any = None) -> None:
        check_peer(stream.socket)
        super().__init__(stream, prefix_size, codec)

    def describe_peer(self) -> str:
        """The process at the other end, for people."""
        return _described(self.stream.socket)

    @property
    def maddr(self) -> Multiaddr | str:
        """The listener's address as a multiaddr; a text in its place where that has none."""
        if not self.raddr.is_valid:
            return '<unnamed socket pair>'
        try:
            return mk_maddr(self.raddr)
        except ValueError:
            return str(self.raddr)

    @classmethod
    def get_stream_addrs(cls, stream: trio.SocketStream) -> tuple[UDSAddress, UDSAddress]:
        """
        Local and remote address of a connected stream.

        Both carry the path of the listener, as the connecting end has none; they differ by
        `maybe_pid`. The ends of an unnamed socket pair have an address that is not valid.

        Raises:
            OSError: the connection is gone.
        """
        sock = stream.socket
        # Linux may show the connecting end under a made-up name, which is `bytes`.
        names = (sock.getpeername(), sock.getsockname())
        path = next((name for name in names if name and isinstance(name, str)), '/')
        filedir, filename = os.path.split(path)
        return (
            UDSAddress(filedir or '.', filename, maybe_pid=os.getpid()),
            UDSAddress(filedir or '.', filename, maybe_pid=get_peer_pid(sock)),
        )

    @classmethod
    async def connect_to(
        cls,
        addr: UDSAddress,
        prefix_size: int = 4,
        codec: Any = None,
        **kwargs: Any,
    ) -> MsgpackUDSStream:
        """
        Connect to a listening address.

        Args:
            addr: where to.
            prefix_size, codec: kept for compatibility, see `MsgpackTransport`.
            kwargs: none is known; for the common signature of transports.

        Raises:
            ConnectionError: nobody listens there (`ConnectionRefusedError`), or never did.
            OSError: it cannot be reached for another reason.
            ForeignUser: the listener belongs to another user.

        Cancelled: nothing stays open.
        """
        if kwargs:
            raise TypeError(f'Unknown option for a UNIX socket connection: {", ".join(kwargs)}')
        stream = await open_unix_socket(addr.sockpath)
        try:
            return cls(stream, prefix_size=prefix_size, codec=codec)
        except BaseException:
            stream.socket.close()
            raise
