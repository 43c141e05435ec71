"""Files of unix sockets: what a dead process left is replaced, ours goes when we do, nobody slips us another."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

_ACCEPTS = 0x10000  # __SO_ACCEPTCON, in the flags of /proc/net/unix


@contextlib.contextmanager
def bound_unix(path: str, kind: socket.SocketKind) -> Iterator[socket.socket]:
    """A non-blocking socket bound to `path` (an abstract name begins with a null byte).

    A file that nobody serves any more is replaced; ours is removed at the end of the block, if it is still ours. Raises
    OSError, FileExistsError if somebody else is there.
    """
    file = None if path.startswith("\0") else Path(path)
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as sock:
        if file is not None:
            _remove_stale(file, kind)
        sock.bind(path)
        with contextlib.nullcontext() if file is None else removed_afterwards(file):
            yield sock


@contextlib.contextmanager
def removed_afterwards(path: Path) -> Iterator[None]:
    """Remove the socket file just made at `path` at the end of the block, if it is still that one. Raises OSError."""
    ours = path.lstat().st_ino
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if path.lstat().st_ino == ours:
                path.unlink()


def remove_dead(path: str, kind: socket.SocketKind) -> None:
    """Remove the socket at `path` if nobody has it open any more; leave alone whatever else is there."""
    if not path.startswith("\0"):
        with contextlib.suppress(OSError):
            _remove_stale(Path(path), kind)


def hand_over(path: Path, *, mode: int | None = None, uid: int = -1, gid: int = -1) -> None:
    """Give the socket we have just bound to `path` its permissions and owners (-1: as they are).

    Others may be able to write to its directory: whatever they have put in its place is left alone. Raises OSError.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        there = os.fstat(fd)
        # One with a second name may be a socket of ours that has nothing to do with this.
        if not stat.S_ISSOCK(there.st_mode) or there.st_uid != os.geteuid() or there.st_nlink != 1:
            raise PermissionError(errno.EPERM, f"{path} is not the socket we bound to it")
        same = Path(f"/proc/self/fd/{fd}")
        if mode is not None:
            same.chmod(mode)
        if (uid, gid) != (-1, -1):
            os.chown(same, uid, gid)
    finally:
        os.close(fd)


def is_dead(path: Path, kind: socket.SocketKind) -> bool:
    """Whether nobody has the socket at `path` open any more. Raises FileNotFoundError when there is none,
    PermissionError when it is not for us to know.

    Who has it is asked as a client only where the kernel's list does not say: it may be a server for one.
    """
    if _is_listed(path, kind):
        return False
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except (FileNotFoundError, PermissionError):
            raise
        except OSError:  # its backlog is full; it has a peer, or is of another kind: somebody is there
            return False
    return False


def _is_listed(path: Path, kind: socket.SocketKind) -> bool:
    """Whether a process of this network namespace serves `path`, as /proc/net/unix has it."""
    name = os.fsencode(path.name)
    for line in Path("/proc/net/unix").read_bytes().splitlines()[1:]:
        fields = line.split(None, 7)  # address, references, protocol, flags, type, state, inode, path
        if len(fields) < 8 or not fields[7].startswith(b"/") or os.path.basename(fields[7]) != name:  # noqa: PTH119
            continue
        if int(fields[4], 16) != kind or (kind != socket.SOCK_DGRAM and not int(fields[3], 16) & _ACCEPTS):
            continue
        with contextlib.suppress(OSError):
            if path.samefile(os.fsdecode(fields[7])):
                return True
    return False


def _remove_stale(file: Path, kind: socket.SocketKind) -> None:
    """Remove a socket nobody has open any more. Raises OSError for anything else that is in the way."""
    try:
        if not stat.S_ISSOCK(file.stat().st_mode):
            raise FileExistsError(errno.EEXIST, f"{file} exists and is not a socket")
        if not is_dead(file, kind):
            raise FileExistsError(errno.EEXIST, f"somebody else has {file}")
    except FileNotFoundError:
        return
    file.unlink(missing_ok=True)
