"""How much of what happens to a port is logged: a peer that comes and goes could else fill the disk."""

from __future__ import annotations

LINES = 20
PERIOD = 60.0
"""Seconds in which so many lines may be written about one subject."""


class LogBudget:
    """Says which lines are to be written. Subjects are few: they are the lab's own."""

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}
        self._lines: dict[str, int] = {}

    def allows(self, subject: str, now: float) -> bool:
        """Whether a line about `subject` may be written at `now` seconds; counts it."""
        if now - self._begun.get(subject, now - PERIOD) >= PERIOD:
            self._begun[subject] = now
            self._lines[subject] = 0
        self._lines[subject] += 1
        return self._lines[subject] <= LINES

    def is_spent(self, subject: str) -> bool:
        """Whether the last line that was allowed is the last for a while."""
        return self._lines[subject] == LINES
