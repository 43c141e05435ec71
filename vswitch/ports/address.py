"""Socket addresses as written in a lab file."""

from __future__ import annotations

import os
from ipaddress import ip_address

_UNIX = "unix:"
_ABSTRACT = "unix:@"
_UNIX_BYTES = 107  # sun_path, less its end


def split_host_port(text: str) -> tuple[str, int]:
    """Split "host:port" or "[v6]:port". Raises ValueError, saying what is expected."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not host or (":" in host and not bracketed) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not an address: write host:port or [v6]:port, port 1 to 65535")
    return host, int(port)


def unix_path(text: str) -> str | None:
    """Return the path in "unix:/path", the name in "unix:@name" behind a null byte, None for any other address.

    Raises ValueError for a path that no unix socket can have.
    """
    if text.startswith(_ABSTRACT):
        name = text.removeprefix(_ABSTRACT)
        if not name or len(os.fsencode(name)) > _UNIX_BYTES or "\0" in name:
            raise ValueError(f"{text!r}: write unix:@ and a name of at most {_UNIX_BYTES} bytes")
        return "\0" + name
    if text.startswith(_UNIX):
        path = text.removeprefix(_UNIX)
        if not path.startswith("/") or len(os.fsencode(path)) > _UNIX_BYTES or "\0" in path:
            raise ValueError(
                f"{text!r}: write unix: and an absolute path of at most {_UNIX_BYTES} bytes, or unix:@ and a name"
            )
        return path
    return None


def unix_address(path: str) -> str:
    """Return a unix socket's address as it is written: the reverse of unix_path()."""
    return _ABSTRACT + path[1:] if path.startswith("\0") else _UNIX + path


def check_address(text: str) -> None:
    """Raise ValueError, saying what is expected, if `text` is neither a unix socket's address nor a host and port."""
    if unix_path(text) is None:
        split_host_port(text)


def own_address(text: str, protocol: str) -> str:
    """Name, for people, what a socket bound to `text` has for itself: a file, an abstract name or a port."""
    path = unix_path(text)
    if path is None:
        return f"{protocol} address {text}"
    return text if path.startswith("\0") else f"file {os.path.normpath(path)}"


def family_mistake(local: str, remote: str) -> str | None:
    """What is wrong when one of two addresses, without ports, is of IPv4 and the other of IPv6; names may be both."""
    try:
        versions = ip_address(local).version, ip_address(remote).version
    except ValueError:
        return None
    if versions[0] != versions[1]:
        return f"local {local} is of IPv{versions[0]} and remote {remote} of IPv{versions[1]}"
    return None
