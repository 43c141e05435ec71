"""Who is at the other end of a socket, in words for people."""

from __future__ import annotations

import os
import socket
import struct

from .address import unix_address

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: struct ucred
_MAX = 200


def peer_name(sock: socket.socket) -> str:
    """The address that `sock` is connected to; of a unix socket without one, the process and user. "" if nobody knows.

    The peer may have chosen it: what a terminal would not show as it is comes escaped.
    """
    try:
        there = sock.getpeername()
        if sock.family == socket.AF_UNIX:
            return _sayable(unix_address(os.fsdecode(there))) if there else _process(sock)
        host, port = there[:2]
    except (OSError, ValueError):  # it has gone, or has no address of that form
        return ""
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


def peer_credentials(sock: socket.socket) -> tuple[int, int]:
    """The process and user that connected, or began to listen, at the other end of a unix socket. Raises OSError.

    The process is 0 where it is in another PID namespace.
    """
    pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(pid), int(uid)


def _process(sock: socket.socket) -> str:
    pid, uid = peer_credentials(sock)
    if uid < 0 or (sock.type == socket.SOCK_DGRAM and not pid):  # a datagram socket has none, unless of a pair
        return ""
    return f"pid {pid}, uid {uid}" if pid else f"uid {uid}"


def _sayable(text: str) -> str:
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return shown if len(shown) <= _MAX else shown[: _MAX - 1] + "…"
