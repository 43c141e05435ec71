"""What is known of one flow of probes from those that arrived: loss, order, duplicates, latency. No I/O.

Words as in the RFCs on measuring: *lost* (RFC 7680), *reordered* (RFC 4737: arriving after a packet with a higher
sequence number), *duplicate* (RFC 5560: arriving again), one-way *delay* (RFC 7679). A packet that arrives late is
reordered, not lost, as long as it comes within the window; a gap counts as lost until it is filled.
"""

from __future__ import annotations

from .histogram import Histogram
from .probe import SEQUENCE_MODULUS, STAMP_MODULUS

WINDOW = 65536
"""Sequence numbers behind the highest one seen that are remembered; RFC 5236 calls this the displacement threshold."""

_HALF_SEQUENCE = SEQUENCE_MODULUS // 2
_HALF_STAMP = STAMP_MODULUS // 2


class Flow:
    """Counters of one flow. `window` is a power of two; `start` the sequence number nothing is expected before."""

    def __init__(self, window: int = WINDOW, start: int = 0) -> None:
        self._window = window
        self._start = start
        self._seen = bytearray(window)  # by sequence number modulo window, for [expected - window, expected)
        self._first = 0
        self._expected = 0  # RFC 4737's NextExp: one more than the highest sequence number seen
        self.received = 0
        self.bytes = 0
        self.unique = 0
        self.reordered = 0
        self.greatest_distance = 0
        """How far behind the highest sequence number the most displaced reordered packet was."""
        self.duplicates = 0
        self.outside = 0
        """Packets too far behind to tell whether they are late or duplicates; counted nowhere else but as received."""
        self.bad_stamps = 0
        self.latency = Histogram()
        self.first_at = 0
        self.last_at = 0

    @property
    def lost(self) -> int:
        """Sequence numbers between the least and the greatest one seen that did not arrive."""
        return self._expected - self._first - self.unique

    @property
    def missed_before(self) -> int:
        """Packets the generator sent before the first one that arrived; its first is number 0."""
        return max(self._first - self._start, 0) if self.unique else 0

    def begin_anew(self) -> Flow:
        """The same flow with nothing counted, and nothing expected of what has been sent so far."""
        return Flow(self._window, self._expected if self.unique else self._start)

    def arrived(self, sequence: int, stamp: int, size: int, now: int) -> None:
        """Count a packet of `size` bytes that arrived at `now`; `sequence` and `stamp` as in its probe."""
        self.received += 1
        self.bytes += size
        self.last_at = now
        if self.received == 1:
            self.first_at = now
        delay = (now - stamp) % STAMP_MODULUS
        if delay < _HALF_STAMP:
            self.latency.add(delay)
        else:
            self.bad_stamps += 1  # from the future: another machine's clock
        if not self.unique:
            self._first = self._expected = sequence
        # What follows the highest number modulo 2**40 is ahead of it, the rest behind.
        ahead = (sequence - self._expected + _HALF_SEQUENCE) % SEQUENCE_MODULUS - _HALF_SEQUENCE
        if ahead >= 0:
            self._advance(ahead)
        else:
            self._behind(-ahead)

    def _advance(self, skipped: int) -> None:
        """The highest sequence number so far; `skipped` before it are missing."""
        if skipped:
            self._forget(self._expected, skipped)
        self._expected += skipped + 1
        self._seen[(self._expected - 1) & (self._window - 1)] = 1
        self.unique += 1

    def _forget(self, number: int, count: int) -> None:
        """Note that `count` sequence numbers from `number` have not been seen."""
        if count >= self._window:
            self._seen = bytearray(self._window)
            return
        at = number & (self._window - 1)
        wrapped = max(at + count - self._window, 0)
        self._seen[at : at + count - wrapped] = bytes(count - wrapped)
        self._seen[:wrapped] = bytes(wrapped)

    def _behind(self, distance: int) -> None:
        """Number `expected - distance`: late, or there already."""
        if distance > self._window:
            self.outside += 1
            return
        number = self._expected - distance
        at = number & (self._window - 1)
        if number >= self._first and self._seen[at]:
            self.duplicates += 1
            return
        # Below the first one nothing is marked: what shares those places is ahead of the highest number.
        self._first = min(self._first, number)
        self._seen[at] = 1
        self.unique += 1
        self.reordered += 1
        self.greatest_distance = max(self.greatest_distance, distance - 1)

    def report(self) -> dict[str, object]:
        """All of it, fit for JSON; times in seconds, latency in microseconds."""
        seconds = (self.last_at - self.first_at) / 1e9
        return {
            "received": self.received,
            "bytes": self.bytes,
            "lost": self.lost,
            "missed_before": self.missed_before,
            "duplicates": self.duplicates,
            "reordered": self.reordered,
            "greatest_distance": self.greatest_distance,
            "outside_window": self.outside,
            "bad_stamps": self.bad_stamps,
            "seconds": round(seconds, 6),
            "pps": round((self.received - 1) / seconds, 1) if seconds > 0 else 0.0,
            "latency_us": self.latency.summary(),
        }
