"""MAC addresses that are always the same for the same lab file."""

from __future__ import annotations

import hashlib
from collections.abc import Container

PREFIX = "52:54:00"  # QEMU's habit: locally administered, unicast


def derive_mac(seed: int, lab: str, node: str, interface: str, taken: Container[str] = ()) -> str:
    """The MAC of an interface: `PREFIX`, then 24 bits of SHA-256 over seed, lab, node and interface.

    Where that one is in `taken` the next is tried, and so on: a counter goes into the hash.
    """
    attempt = 0
    while True:
        digest = hashlib.sha256("\0".join([str(seed), lab, node, interface, str(attempt)]).encode()).hexdigest()
        mac = f"{PREFIX}:{digest[0:2]}:{digest[2:4]}:{digest[4:6]}"
        if mac not in taken:
            return mac
        attempt += 1


def mac_mistake(mac: str) -> str | None:
    """Why an interface cannot have `mac` (well-formed, lower case), None if it can."""
    if int(mac[:2], 16) & 1:
        return f"{mac} is a group address: the first byte of an interface's MAC is even"
    if mac == "00:00:00:00:00:00":
        return f"{mac} is no address"
    return None
