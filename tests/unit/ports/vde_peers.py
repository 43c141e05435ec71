"""Programs of VDE as peers, and the bytes they exchange."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .served import TIMEOUT, eventually

SIZES = (14, 42, 60, 64, 1514, 1518, 4096, 9014)
"""Bytes of frames that all of VDE carries."""


class VdePlug:
    """`vde_plug DIRECTORY`, whose standard input and output are ours: frames behind two bytes of length."""

    def __init__(self, *arguments: str, program: tuple[str, ...] = ("vde_plug",)) -> None:
        self.process = subprocess.Popen(
            [*program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )

    def send(self, frame: bytes) -> None:
        """Send one frame, in one write."""
        assert self.process.stdin is not None
        self.process.stdin.write(struct.pack(">H", len(frame)) + frame)

    def receive(self) -> bytes:
        """Return the next frame."""
        (length,) = struct.unpack(">H", self._exactly(2))
        return self._exactly(length)

    def _exactly(self, size: int) -> bytes:
        assert self.process.stdout is not None
        data = b""
        while len(data) < size:
            assert select.select([self.process.stdout], [], [], TIMEOUT)[0], "nothing came"
            piece = self.process.stdout.read(size - len(data))
            assert piece, "vde_plug has ended"
            data += piece
        return data

    def ended(self) -> tuple[int, str]:
        """Wait for its end; return the exit code and what it said."""
        _, said = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, said.decode()

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        self.process.communicate(timeout=TIMEOUT)

    def __enter__(self) -> VdePlug:
        return self

    def __exit__(self, *error: Any) -> None:
        if self.process.returncode is None:
            self.kill()


@contextlib.contextmanager
def vde_switch(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A vde_switch at `directory`, in the foreground, for which it needs a standard input that stays open."""
    with subprocess.Popen(
        ["vde_switch", "-s", str(directory), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            eventually(lambda: answers(directory))
            yield process
        finally:
            process.kill()


def answers(directory: Path) -> bool:
    """Whether a switch listens at `directory`."""
    with socket.socket(socket.AF_UNIX) as control:
        return control.connect_ex(str(directory / "ctl")) == 0


def ask(directory: Path, data: bytes) -> socket.socket:
    """Connect to the switch at `directory` and send `data`."""
    control = socket.socket(socket.AF_UNIX)
    control.settimeout(TIMEOUT)
    control.connect(str(directory / "ctl"))
    if data:
        control.sendall(data)
    return control
