"""The C part of vswitch.ring (_ring.c); see there for what the methods do. `which` is 1 (send), 2 (receive) or 3."""

from collections.abc import Sequence

_Bytes = bytes | bytearray | memoryview

class Ring:
    """An open ring. Methods raise `error` when it is closed or the other side has gone."""

    def __init__(
        self,
        name: str | None,
        fd: int,
        rings: int,
        slots: int,
        buf_size: int,
        timeout: float,
        linger: float,
        error: type[Exception],
    ) -> None: ...
    def close(self) -> None: ...
    def reopen(self, timeout: float, /) -> int:
        """Return 0, or -1 after a signal whose handler returned."""

    def fileno(self) -> int: ...
    def facts(self) -> tuple[int, int, int]:
        """Return (ring pairs, slots of each ring, bytes of a buffer)."""

    def send(self, frames: Sequence[_Bytes], /) -> int: ...
    def reserve(self, n: int, /) -> list[memoryview]: ...
    def commit(self, lengths: Sequence[int], /) -> None: ...
    def receive(self, limit: int = 256, /) -> list[bytes]: ...
    def borrow(self, limit: int = 256, /) -> list[memoryview]: ...
    def release(self) -> None: ...
    def sync(self, which: int, /) -> None: ...
    def wait(self, which: int, timeout_ms: int, /) -> int:
        """Return what is ready, 0 after the timeout, -1 after a signal whose handler returned."""

    def arm(self, which: int, /) -> int: ...
    def disarm(self) -> None: ...

def create(name: str, rings: int, slots: int, buf_size: int, halves: int, generation: int, /) -> int:
    """Make the memory of a ring (with 2 `halves`: of a pipe); return its descriptor. Raises ValueError, OSError."""
