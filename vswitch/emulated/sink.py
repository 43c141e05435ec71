"""Role `sink`: takes everything, and says what was lost, doubled, reordered or late of what generators sent. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from .meter import Meter
from .role import Frame, Role


class Sink(Role):
    """A sink. `names` are the lab's nodes by their place in it."""

    name: ClassVar[str] = "sink"

    def __init__(self, names: Mapping[int, str] | None = None) -> None:
        super().__init__()
        self._frames = 0
        self._bytes = 0
        self._meter = Meter(names or {})
        self.commands["report"] = self._meter.report_command
        self.commands["expect"] = self._meter.expect_command

    def handle(self, port: int, frames: Sequence[bytes], now: int) -> Sequence[Frame]:
        """Count and measure."""
        self._frames += len(frames)
        self._bytes += sum(map(len, frames))
        self._meter.take(frames, now)
        return ()

    def stats(self) -> Mapping[str, object]:
        """Everything measured."""
        return {"role": self.name, "received": self._frames, "bytes": self._bytes, **self._meter.stats()}

    def reset(self) -> None:
        """Measure from now on."""
        self._frames = self._bytes = 0
        self._meter.reset()
