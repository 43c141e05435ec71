"""Ring ports that a lab file declares (netmap_ring.h, ring.c): they wait for a client to open them by name."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from .port import PortSpec

LINE = 64
"""Bytes that buffers are a multiple of."""
MAX_MIB = 256
"""MiB of buffers that a port may have."""


class RingSpec(PortSpec, frozen=True, kw_only=True, tag="ring"):
    """A port opened by name, through libvswitch or vswitch.ring. What the client leaves open is decided here.

    `rings` are pairs, `slots` are those of each ring, `buf_size` is in bytes. The fabric does not `serve` such a port
    but lets clients open it: fabric/ring_ports.py.
    """

    rings: Annotated[int, Meta(ge=1, le=16)] = 1
    slots: Annotated[int, Meta(ge=64, le=4096)] = 512
    buf_size: Annotated[int, Meta(ge=256, le=65536)] = 2048

    def buffer_bytes(self) -> int:
        """Return how many bytes all buffers have, of both rings of each pair."""
        return 2 * self.rings * self.slots * self.buf_size

    def problems(self) -> list[str]:
        """Check the buffers' size, of each and of all."""
        found = []
        if self.buf_size % LINE:
            found.append(f"buf_size {self.buf_size} is not a multiple of {LINE}")
        if self.buffer_bytes() > MAX_MIB << 20:
            found.append(
                f"2 x rings {self.rings} x slots {self.slots} x buf_size {self.buf_size} are "
                f"{self.buffer_bytes() / (1 << 20):.1f} MiB of buffers; a port has {MAX_MIB} MiB at most"
            )
        return found
