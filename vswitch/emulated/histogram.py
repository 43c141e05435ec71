"""A log-linear histogram: percentiles of any number of values in a few kilobytes. No I/O."""

from __future__ import annotations

from array import array

_BITS = 7  # values below 2**_BITS have a bucket each
_HALF = 1 << (_BITS - 1)
_MAX_BITS = 56

RELATIVE_ERROR = 1 / (1 << _BITS)
"""Of a percentile, at most: a bucket is at most 1/64 of its values wide, and its middle stands for all of them."""


class Histogram:
    """Counts whole numbers from 0 to 2**56 - 1, as HdrHistogram does: in each power of two 64 buckets of one width."""

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * ((_MAX_BITS - _BITS) * _HALF + (1 << _BITS))))
        self.count = 0
        self.total = 0
        self.smallest = 1 << _MAX_BITS
        self.largest = 0

    def add(self, value: int, times: int = 1) -> None:
        """Count `value` `times` times. It has to be in range."""
        shift = value.bit_length() - _BITS
        self._counts[value if shift <= 0 else shift * _HALF + (value >> shift)] += times
        self.count += times
        self.total += value * times
        if value < self.smallest:
            self.smallest = value
        if value > self.largest:
            self.largest = value

    def percentile(self, percent: float) -> int:
        """The smallest counted value that at least `percent` % do not exceed, within RELATIVE_ERROR; 0 without any."""
        wanted = self.count * percent / 100
        seen = 0
        for bucket, times in enumerate(self._counts):
            seen += times
            if times and seen >= wanted:
                return min(max(self._middle(bucket), self.smallest), self.largest)
        return 0

    @staticmethod
    def _middle(bucket: int) -> int:
        shift = bucket // _HALF - 1
        if shift <= 0:
            return bucket
        return ((bucket - shift * _HALF) << shift) + (1 << shift) // 2

    def summary(self) -> dict[str, float]:
        """Least, mean, percentiles and greatest, of values in nanoseconds, as microseconds; {} without any."""
        if not self.count:
            return {}
        named = {f"p{percent:g}": self.percentile(percent) for percent in (50, 90, 99, 99.9)}
        values = {"min": self.smallest, "mean": self.total / self.count, **named, "max": self.largest}
        return {name: round(value / 1000, 3) for name, value in values.items()}
