"""Socket addresses as written in a lab file."""

from __future__ import annotations


def split_host_port(text: str) -> tuple[str, int]:
    """Split "host:port" or "[v6]:port". Raises ValueError, saying what is expected."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not host or (":" in host and not bracketed) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not an address: write host:port or [v6]:port, port 1 to 65535")
    return host, int(port)
