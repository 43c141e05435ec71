"""A port of a lab's switch, in this program: frames through shared memory (netmap_ring.h), no guest and no kernel.

    from vswitch.ring import Ring

    with Ring.open("duo/vale0:p1") as ring:
        ring.send([frame, frame])
        while ring.wait():
            for frame in ring.receive():
                ...

`python3 -m vswitch.ring --cflags --libs` prints what a C program that uses libvswitch is compiled with.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import click

from . import __path__ as directories
from . import _ring
from .errors import LabError

_TX, _RX = 1, 2
_FOREVER = -1
_LONGEST = 1e6
"""Seconds of a single sleep: in ms it must fit an int."""


class RingError(LabError):
    """A ring could not be opened, is closed, or its other side has gone."""


class Ring:
    """One open port, or one end of a pipe. To be used by one thread at a time; only `close` may come from any other.

    The port appears in its network when it is opened, unless the lab file declares it, and goes with the last
    descriptor of it.
    """

    def __init__(self, ring: _ring.Ring, name: str, reconnect: float) -> None:
        self._ring = ring
        self._reconnect = reconnect
        self.name = name
        self.closed = False

    @classmethod
    def open(
        cls,
        name: str,
        *,
        rings: int = 0,
        slots: int = 0,
        buf_size: int = 0,
        timeout: float = 5.0,
        linger: float = 50e-6,
        reconnect: float = 0.0,
    ) -> Ring:
        """Open a port by name.

        `name` is "LAB/NETWORK:PORT", "NETWORK:PORT" in the lab that $VSWITCH_LAB names, or "PATH:NETWORK:PORT" with the
        absolute path of a fabric's ring socket; "NETWORK:PORT{ID" and "NETWORK:PORT}ID" are the two ends of a pipe.
        `rings` pairs (1 by default) of `slots` (512) with buffers of `buf_size` bytes (2048); longer frames take
        several slots. `linger`: seconds, 1 at most, that `wait` looks before it sleeps. With `reconnect`, `wait` opens
        the port anew when the fabric has gone, trying for so many seconds. Raises RingError, which says why.
        """
        return cls(_ring.Ring(name, -1, rings, slots, buf_size, timeout, linger, RingError), name, reconnect)

    @classmethod
    def from_fd(
        cls, fd: int, *, rings: int = 0, slots: int = 0, buf_size: int = 0, timeout: float = 5.0, linger: float = 50e-6
    ) -> Ring:
        """Open the port that the connected socket `fd`, handed down by whoever started us, stands for. Owns `fd`."""
        return cls(_ring.Ring(None, fd, rings, slots, buf_size, timeout, linger, RingError), f"fd {fd}", 0.0)

    def __enter__(self) -> Ring:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the port up. Idempotent. Views of frames stay readable.

        May be called by any thread: what another one waits for in `wait` or `reopen` ends with RingError.
        """
        self.closed = True
        self._ring.close()

    def fileno(self) -> int:
        """Return what becomes readable when the ring is to be looked at: `arm`, poll if that says so, `disarm`."""
        return self._ring.fileno()

    @property
    def rings(self) -> int:
        """How many ring pairs it has."""
        return self._ring.facts()[0]

    @property
    def slots(self) -> int:
        """Slots of each ring; one less can be in use."""
        return self._ring.facts()[1]

    @property
    def buf_size(self) -> int:
        """Bytes of a frame that fit one slot."""
        return self._ring.facts()[2]

    def send(self, frames: Sequence[bytes | bytearray | memoryview]) -> int:
        """Copy frames (14 to 69632 bytes each) into free slots and publish them; return how many there was room for.

        Never waits. Raises ValueError for a frame of no valid size, TypeError for one that is none, RingError when the
        ring is closed; but where frames before it have been sent, it returns their number.
        """
        return self._ring.send(frames)

    def send_all(self, frames: Sequence[bytes | bytearray | memoryview], timeout: float | None = None) -> int:
        """Like `send`, but wait for room, `timeout` seconds at most (None: for ever). Return how many were sent."""
        deadline = None if timeout is None else time.monotonic() + timeout
        sent = self.send(frames)
        while sent < len(frames):
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self.wait(read=False, write=True, timeout=left):
                break
            sent += self.send(frames[sent:])
        return sent

    def reserve(self, n: int) -> list[memoryview]:
        """Return up to `n` free buffers of the first ring to write frames into, for `commit`."""
        return self._ring.reserve(n)

    def commit(self, lengths: Sequence[int]) -> None:
        """Send the frames written into the first of the reserved buffers, of these lengths. Raises ValueError."""
        self._ring.commit(lengths)

    def receive(self, limit: int = 256) -> list[bytes]:
        """Return up to `limit` frames (256 at most), [] when there is none. Never waits."""
        return self._ring.receive(limit)

    def borrow(self, limit: int = 256) -> list[memoryview]:
        """Like `receive` without copying: views of the frames, valid until the next `borrow`, `receive` or `wait`.

        A view that is held longer stays readable but shows whatever the buffer is used for next.
        """
        return self._ring.borrow(limit)

    def release(self) -> None:
        """Give back what `borrow` returned."""
        self._ring.release()

    def sync(self) -> None:
        """Tell the other side what was sent and released, and see what it did; never waits. For polling loops."""
        self._ring.sync(_TX | _RX)

    def wait(self, *, read: bool = True, write: bool = False, timeout: float | None = None) -> bool:
        """Sleep until a frame can be received (`read`) or there is room to send (`write`).

        `timeout` is in seconds, None for ever. Return whether either is so. Raises RingError when the other side has
        gone and it is not to be, or could not be, opened anew.
        """
        which = (_RX if read else 0) | (_TX if write else 0)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _FOREVER if deadline is None else math.ceil(_left(deadline) * 1000)
            try:
                ready = self._ring.wait(which, left)
            except RingError:
                if not self._reconnect or self.closed:
                    raise
                self.reopen(self._reconnect)
                continue
            if ready > 0:
                return True
            if ready == 0 and deadline is not None and not time.monotonic() < deadline:
                return False

    def arm(self, *, read: bool = True, write: bool = False) -> bool:
        """Ask for `fileno()` to become readable. Return whether something is ready already: then do not sleep."""
        return bool(self._ring.arm((_RX if read else 0) | (_TX if write else 0)))

    def disarm(self) -> None:
        """Silence `fileno()`. Raises RingError when the other side has gone."""
        self._ring.disarm()

    def reopen(self, timeout: float = 5.0) -> None:
        """Open the port anew after the fabric has gone, trying for `timeout` seconds. Raises RingError, BufferError."""
        deadline = time.monotonic() + timeout
        while self._ring.reopen(_left(deadline)) != 0:
            pass  # a signal's handler has returned


def _left(deadline: float) -> float:
    """Return the seconds until then, or of the next sleep on the way to it."""
    return min(max(0.0, deadline - time.monotonic()), _LONGEST)


def main() -> None:
    """Print compiler flags."""
    parser = argparse.ArgumentParser(prog="python3 -m vswitch.ring", description="Flags to compile C programs with.")
    parser.add_argument("--cflags", action="store_true", help="where the headers are")
    parser.add_argument("--libs", action="store_true", help="where the library is")
    arguments = parser.parse_args()
    package = next(path for path in map(Path, directories) if (path / "include").exists())
    flags = [f"-I{package / 'include'}"] if arguments.cflags else []
    if arguments.libs:
        flags += [f"-L{package / 'lib'}", f"-Wl,-rpath,{package / 'lib'}", "-lvswitch"]
    click.echo(" ".join(flags))


if __name__ == "__main__":
    main()
