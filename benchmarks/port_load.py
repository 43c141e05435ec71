"""Runs port_load.c: frames in at one end of whatever switches, counted at the other."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

BATCH_FRAMES, BATCH_BYTES = 256, 128 << 10
PATIENCE = 60.0
"""Seconds; the program gives up sooner by itself."""


class Timing(NamedTuple):
    """How long and how often to measure; milliseconds."""

    warm_up: int
    measure: int
    runs: int


class End(NamedTuple):
    """What a sender or receiver has: a `kind` of framing, of port_load.c, and what goes before a frame of it.

    Frames are received from `sock` and sent to `out`, the same socket unless it is given.
    """

    sock: socket.socket
    kind: str
    header: bytes = b""
    out: socket.socket | None = None

    @property
    def fds(self) -> tuple[int, int]:
        """The descriptors to receive from and to send to."""
        return self.sock.fileno(), (self.out or self.sock).fileno()

    def argument(self) -> str:
        """What port_load is told."""
        return ":".join([self.kind, *map(str, self.fds), self.header.hex()]).rstrip(":")


class Load(NamedTuple):
    """What a measurement found.

    `rate` is of frames that arrived, per second, `lost` the share of those sent that did not. The rest is processor
    time, in cores: of sender and receiver, and of each process that was asked about.
    """

    rate: float
    lost: float
    sender: float
    receiver: float
    others: tuple[float, ...]


class LoadError(Exception):
    """What arrived was not what was sent, or nothing was."""


def per_call(size: int) -> int:
    """How many frames a sender puts into one system call."""
    return max(1, min(BATCH_FRAMES, BATCH_BYTES // size))


def compile_load(directory: Path) -> Path:
    """Build the program."""
    program = directory / "port_load"
    source = Path(__file__).with_name("port_load.c")
    subprocess.run(["cc", "-O2", "-D_GNU_SOURCE", "-o", program, source], check=True)
    return program


def measure(
    program: Path,
    ends: tuple[End, End],
    size: int,
    timing: Timing,
    *,
    batch: int,
    window: int = 0,
    pids: Sequence[int] = (),
) -> Load:
    """Send frames of `size` bytes from the first end to the second, `batch` in a system call.

    With a `window` no more than so many are under way at once: needed where nothing holds up who sends too fast. Raises
    LoadError.
    """
    for end in ends:
        for sock in {end.sock, end.out or end.sock}:
            sock.setblocking(True)
    argv = [str(program), *map(str, (size, batch, window, timing.warm_up, timing.measure))]
    argv += [*(end.argument() for end in ends), *map(str, pids)]
    fds = {fd for end in ends for fd in end.fds}
    run = subprocess.run(argv, pass_fds=fds, capture_output=True, text=True, check=False, timeout=PATIENCE)
    if run.returncode:
        raise LoadError(run.stderr.strip() or "no frame arrived")
    rate, lost, sender, receiver, *others = map(float, run.stdout.split())
    return Load(rate, lost, sender, receiver, tuple(others))
