"""Role `pktgen`: sends frames with probes in them at a rate, and measures those that an echo sends back. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from ..model.units import UNITS
from . import patterns
from .frames import FramePool
from .meter import Meter
from .pacing import SECOND, Schedule
from .role import Arguments, Command, Frame, Reply, Role, Usage, no_arguments
from .settings import MAX_BURST, EmulatedSpec

MAX_BATCH = 256


class Pktgen(Role):
    """A generator. `spec` is what `targets.resolve` returned; `flow` goes into its probes."""

    name: ClassVar[str] = "pktgen"

    def __init__(self, spec: EmulatedSpec, flow: int, names: Mapping[int, str] | None = None) -> None:
        super().__init__()
        self._pool = FramePool(spec, flow)
        self._rate = patterns.rate(spec.rate or "max")
        self._burst = spec.burst or 1
        self._count = spec.count
        self._duration = spec.duration
        self._auto = spec.start != "manual"
        self._schedule: Schedule | None = None
        self._sequence = 0  # goes on through stop and start: for a sink it is one flow
        self._run_sent = 0
        self._run_began = 0
        self._ends = 0
        self._frames_sent = 0
        self._bytes_sent = 0
        self._given_up = 0
        self._first_at = 0
        self._last_at = 0
        self._offered: Sequence[bytearray] = ()
        self._meter = Meter(names or {})
        self.commands["start"] = Command(self._command_start, "start", "send (again)")
        self.commands["stop"] = Command(self._command_stop, "stop", "send no more")
        self.commands["set"] = Command(
            self._command_set, "set rate=RATE burst=N count=N duration=TIME", "change how it sends"
        )
        self.commands["report"] = self._meter.report_command
        self.commands["expect"] = self._meter.expect_command

    def ports_attached(self, frame_max: Sequence[int]) -> None:
        """Check that the ring takes the longest frames."""
        longest = max(self._pool.sizes)
        if frame_max and longest > frame_max[0]:
            raise ValueError(f"frames of {longest} bytes do not fit the ring, which takes {frame_max[0]}")

    def begin(self, now: int) -> None:
        """Start unless that is to be done by hand."""
        if self._auto:
            self._start(now)

    # --- sending ----------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether it is sending."""
        return self._schedule is not None

    def _start(self, now: int) -> None:
        self._run_sent = 0
        self._run_began = now
        self._plan(now)

    def _plan(self, now: int) -> None:
        """Go on from now as the settings have it."""
        self._schedule = Schedule(now, self._rate.frames_per_second(self._pool.sizes), self._burst)
        self._ends = self._run_began + int(self._duration * SECOND) if self._duration is not None else 0

    def _stop(self) -> None:
        if self._schedule is not None:
            self._given_up += self._schedule.given_up
            self._schedule = None
            self.log(f"sent {self._frames_sent} frames")

    def due(self) -> int | None:
        """When the next frame, or the end, is due."""
        if self._schedule is None:
            return None
        due = self._schedule.due()
        return min(due, self._ends) if self._ends else due

    def emit(self, now: int, room: int) -> tuple[int, Sequence[Frame]]:
        """The frames that are due."""
        if self._schedule is None:
            return 0, ()
        most = min(room, MAX_BATCH)
        if self._ends and now >= self._ends:
            # What was due before the end and is late still goes out; with no rate nothing is ever late.
            most = 0 if self._rate.unit == "max" else self._schedule.allowed(self._ends - 1, most)
            if most <= 0:
                self._stop()
                return 0, ()
        if self._count is not None:
            if self._run_sent >= self._count:  # it has been set to less than was sent
                self._stop()
                return 0, ()
            most = min(most, self._count - self._run_sent)
        self._offered = self._pool.take(self._schedule.allowed(now, most))
        self._pool.stamp(self._offered, self._sequence, now)
        return 0, self._offered

    def sent(self, count: int, now: int) -> None:
        """Count what the ring took."""
        if self._schedule is None or count == 0:
            return
        self._schedule.sent(count)
        self._pool.advance(count)
        self._sequence += count
        self._bytes_sent += sum(map(len, self._offered[:count]))
        if not self._frames_sent:
            self._first_at = now
        self._last_at = now
        self._frames_sent += count
        self._run_sent += count
        if self._count is not None and self._run_sent >= self._count:
            self._stop()

    # --- receiving --------------------------------------------------------------------------------------------------

    def handle(self, port: int, frames: Sequence[bytes], now: int) -> Sequence[Frame]:
        """Measure what comes back."""
        self._meter.take(frames, now)
        return ()

    # --- commands ---------------------------------------------------------------------------------------------------

    def stats(self) -> Mapping[str, object]:
        """What was sent, and what came back."""
        seconds = (self._last_at - self._first_at) / SECOND
        rate = (self._frames_sent - 1) / seconds if seconds > 0 else 0.0
        pending = self._schedule.given_up if self._schedule is not None else 0
        return {
            "role": self.name,
            "running": self.running,
            "sent": self._frames_sent,
            "bytes": self._bytes_sent,
            "pps": round(rate, 1),
            "given_up": self._given_up + pending,
            "next_sequence": self._sequence,
            **self._meter.stats(),
        }

    def reset(self) -> None:
        """Forget the counters; sequence numbers go on."""
        self._frames_sent = self._bytes_sent = self._given_up = 0
        if self._schedule is not None:
            self._schedule.given_up = 0
        self._meter.reset()

    def _command_start(self, arguments: Arguments, reply: Reply, now: int) -> None:
        no_arguments(arguments)
        if not self.running:
            self._start(now)
        reply.exit()

    def _command_stop(self, arguments: Arguments, reply: Reply, now: int) -> None:
        no_arguments(arguments)
        self._stop()
        reply.exit()

    def _command_set(self, arguments: Arguments, reply: Reply, now: int) -> None:
        changes = dict(argument.partition("=")[::2] for argument in arguments)
        if not changes:
            raise Usage("nothing to set")
        rate, burst, count, duration = self._rate, self._burst, self._count, self._duration
        for key, value in changes.items():
            if key == "rate":
                rate = patterns.rate(value)
            elif key == "burst":
                (burst,) = patterns.numbers(value, 1, MAX_BURST)
            elif key == "count":
                count = None if value == "none" else _count(value)
            elif key == "duration":
                duration = None if value == "none" else UNITS["duration"].read(value)
            else:
                raise Usage(f"{key[:60]!r} cannot be set")
        self._rate, self._burst, self._count, self._duration = rate, burst, count, duration
        if self._schedule is not None:
            self._given_up += self._schedule.given_up
            self._plan(now)
        reply.exit()


def _count(text: str) -> int:
    if re.fullmatch(r"[1-9][0-9]{0,11}", text) is None:
        raise ValueError(f"{text[:60]!r} is not a number of frames")
    return int(text)
