"""The control directory of a VDE switch: what clients find the switch by, made, guarded and removed.

In it are `ctl`, a stream socket to ask for a port at, and a datagram socket for each client's frames, NNN.N. Clients
put theirs there, too, for as long as they need a name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from .unix_file import hand_over, is_dead, removed_afterwards
from .vde_request import MAX_PATH

MAX_DIRECTORY = MAX_PATH - len("/65535.1048576")
"""Bytes of a control directory's path: that of any socket in it must fit an address."""
_BACKLOG = 64
_SWITCH_SOCKET = re.compile(r"\d{3,}\.\d+")
_CLIENT_SOCKET = re.compile(r"\.\d{5,}-\d{5,}")


class ControlDirectory:
    """A control directory that is served, until `close()`.

    `mode` is what its sockets get; whoever may write to these may use the directory. Both are given to `group` (a
    number), if there is one. What a switch that was killed has left is swept away. Raises OSError, FileExistsError
    when somebody else serves it.
    """

    def __init__(self, path: Path, *, mode: int = 0o600, group: int | None = None) -> None:
        self.path = path
        self._mode = mode
        self._group = -1 if group is None else group
        with contextlib.ExitStack() as undo:
            self._made = self._make()
            undo.callback(self._remove)
            self._lock = _claim(path)
            undo.callback(os.close, self._lock)
            self._made |= _sweep(path)
            self._permit()
            self.listener = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            undo.enter_context(self._bound(self.listener, path / "ctl"))
            self.listener.listen(_BACKLOG)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Stop listening and remove what was made. Idempotent."""
        self._undo.close()

    @contextlib.contextmanager
    def data_socket(self, sock: socket.socket, number: int) -> Iterator[Path]:
        """Bind `sock`, for port `number`, to a path, for as long. Raises OSError."""
        path = self.path / f"{number:03d}.{sock.fileno()}"
        with self._bound(sock, path):
            yield path

    def remove_left(self, path: Path) -> None:
        """Remove a socket a client has put here, if it has."""
        if path.parent == self.path and _CLIENT_SOCKET.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()

    def remove_dead(self, path: Path) -> None:
        """Remove a socket a client has put here, if nobody has it open any more."""
        if path.parent == self.path and _CLIENT_SOCKET.fullmatch(path.name):
            with contextlib.suppress(OSError):
                _remove_dead_socket(path)

    # --- making it ----------------------------------------------------------------------------------------------------

    def _make(self) -> bool:
        try:
            self.path.mkdir(0o700)
        except FileExistsError:
            return False
        return True

    def _remove(self) -> None:
        if self._made:
            with contextlib.suppress(OSError):  # a client may have left something else in it
                self.path.rmdir()

    def _permit(self) -> None:
        """Let into the directory whoever may use its sockets, and make new ones its group's.

        It is sticky: who may put sockets there may not remove ours.
        """
        read_write = (0o600, 0o060, 0o006)
        allowed = (0o700, 0o070, 0o007)
        mode = sum(all_ for rw, all_ in zip(read_write, allowed, strict=True) if self._mode & rw)
        os.fchown(self._lock, -1, self._group)
        os.fchmod(self._lock, stat.S_ISGID | (stat.S_ISVTX if mode & 0o022 else 0) | mode)

    @contextlib.contextmanager
    def _bound(self, sock: socket.socket, path: Path) -> Iterator[None]:
        """Bind `sock` to `path`, which never lets in more than `mode` does; remove that afterwards, if still ours."""
        os.fchmod(sock.fileno(), self._mode)  # what bind() gives the file, but for the umask
        sock.bind(str(path))
        with removed_afterwards(path):
            hand_over(path, mode=self._mode, gid=self._group)
            yield


def remove_dead_directory(path: Path) -> None:
    """Remove what a switch that was killed has left of the control directory at `path`, if nobody serves it now."""
    with contextlib.suppress(OSError):
        lock = _claim(path)
        try:
            if _sweep(path):
                path.rmdir()
        finally:
            os.close(lock)


def _claim(path: Path) -> int:
    """Lock the directory for as long as the descriptor returned is open: only the kernel knows who died."""
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(lock).st_uid not in (0, os.geteuid()):  # who could put anything in the place of our sockets
            raise PermissionError(errno.EPERM, "the directory belongs to another user")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            raise FileExistsError(errno.EEXIST, "somebody else serves it") from None
        raise
    return lock


def _sweep(path: Path) -> bool:
    """Remove what a dead switch and its clients have left; return whether there was one. Raises FileExistsError."""
    control = path / "ctl"
    names = [entry.name for entry in path.iterdir()]
    if "ctl" not in names:
        if names:  # it may be anybody's; what we would do to its permissions might surprise
            raise FileExistsError(errno.EEXIST, "it is neither empty nor a VDE control directory")
        return False
    if not stat.S_ISSOCK(control.lstat().st_mode):
        raise FileExistsError(errno.EEXIST, f"{control} is not a socket")
    if not is_dead(control, socket.SOCK_STREAM):
        raise FileExistsError(errno.EEXIST, "somebody else serves it")
    control.unlink()
    for name in names:
        if _SWITCH_SOCKET.fullmatch(name) or _CLIENT_SOCKET.fullmatch(name):
            _remove_dead_socket(path / name)
    return True


def _remove_dead_socket(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError, PermissionError):
        if is_dead(path, socket.SOCK_DGRAM):
            path.unlink()
