"""When to send how much: an absolute schedule, so that being late once does not make everything after late. No I/O."""

from __future__ import annotations

import math

SECOND = 1_000_000_000
MAX_BEHIND = SECOND // 10
"""Nanoseconds of backlog made up for; what a longer stall has cost is given up, and counted."""


class Schedule:
    """Frame n (from 0) of a run is due at `start + n / rate`, bursts as a whole with their first frame.

    `rate` is in frames per second, None for always. All times are nanoseconds of one clock.
    """

    def __init__(self, start: int, rate: float | None, burst: int = 1) -> None:
        self._start = start
        self._rate = rate
        self._burst = burst
        self._done = 0
        self.given_up = 0
        """Frames the schedule had and that were never sent, because the ring had no room or the process no time."""

    def allowed(self, now: int, most: int) -> int:
        """How many frames, `most` at the most, may be sent now."""
        if self._rate is None:
            return most
        if now < self._start:
            return 0
        bursts = int((now - self._start) * self._rate / (SECOND * self._burst)) + 1
        backlog = bursts * self._burst - self._done
        limit = max(int(MAX_BEHIND * self._rate / SECOND), self._burst)
        if backlog > limit + self._burst:
            skipped = (backlog - limit) // self._burst * self._burst
            self._done += skipped
            self.given_up += skipped
            backlog -= skipped
        return max(min(backlog, most), 0)

    def sent(self, count: int) -> None:
        """Note that `count` more frames of the schedule have been sent."""
        self._done += count

    def due(self) -> int:
        """When the next frame may be sent: a time in the past if it might be at once."""
        if self._rate is None:
            return self._start
        # Rounded up, so that whoever waits until then finds it allowed, but for what floating point rounds off.
        return self._start + math.ceil(self._done // self._burst * self._burst * SECOND / self._rate)
