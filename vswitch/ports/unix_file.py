"""The files of unix sockets: what a dead process left is replaced, and ours is gone when we are."""

from __future__ import annotations

import contextlib
import socket
import stat
from collections.abc import Iterator
from pathlib import Path


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
        ours = None if file is None else file.stat().st_ino
        try:
            yield sock
        finally:
            if file is not None:
                with contextlib.suppress(OSError):
                    if file.stat().st_ino == ours:
                        file.unlink()


def _remove_stale(file: Path, kind: socket.SocketKind) -> None:
    """Remove a socket nobody has open any more. Raises OSError for anything else that is in the way."""
    try:
        if not stat.S_ISSOCK(file.stat().st_mode):
            raise FileExistsError(17, f"{file} exists and is not a socket")
        with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as probe:
            probe.connect(str(file))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        file.unlink(missing_ok=True)
        return
    except (BlockingIOError, PermissionError):  # its backlog is full; it has a peer: somebody is there
        pass
    raise FileExistsError(17, f"somebody else has {file}")
