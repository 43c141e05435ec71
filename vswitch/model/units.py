"""Quantities as people write them: sizes, durations, rates, percentages.

Own code because no library fits: they take `M` for a million or for 1024 squared as they please, and accept far more
spellings than a lab file should.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple

_NUMBER = r"[0-9]{1,16}(?:\.[0-9]{1,20})?"

_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DURATIONS = {"us": "1e-6", "ms": "1e-3", "s": "1", "m": "60", "h": "3600"}
_RATES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


class Unit(NamedTuple):
    """One sort of quantity. `parse` is given a text that fully matches `pattern`."""

    noun: str
    examples: str
    pattern: str
    parse: Callable[[re.Match[str]], float]

    def read(self, text: str) -> float:
        """The quantity in bytes, seconds, bits per second, or as a fraction of 1. Raises ValueError."""
        found = re.fullmatch(self.pattern, text)
        if found is None:
            raise ValueError(f"expected {self.noun} such as {self.examples}")
        return self.parse(found)


def _percentage(found: re.Match[str]) -> float:
    value = Decimal(found[1]) / 100
    if value > 1:
        raise ValueError("is more than 100%")
    return float(value)


UNITS = {
    # M is 1024 squared, with or without the "i": QEMU's reading, and what memory comes in.
    "size": Unit(
        "a size",
        "96M, 1G, 512KiB",
        rf"({_NUMBER})(?:([KMGTkmgt])(?:i?B)?|B)",
        lambda found: int(Decimal(found[1]) * _SIZES[(found[2] or "").upper()]),
    ),
    "duration": Unit(
        "a duration",
        "20ms, 5s, 1m",
        rf"({_NUMBER})(us|ms|s|m|h)",
        lambda found: float(Decimal(found[1]) * Decimal(_DURATIONS[found[2]])),
    ),
    # As tc(8): k, m, g are powers of 1000.
    "rate": Unit(
        "a rate",
        "100mbit, 1gbit, 64kbit",
        rf"({_NUMBER})([kmgtKMGT]?)[bB]it",
        lambda found: float(Decimal(found[1]) * _RATES[found[2].lower()]),
    ),
    "percentage": Unit("a percentage", "1%, 0.5%", rf"({_NUMBER})%", _percentage),
}


def format_duration(seconds: float) -> str:
    """Write `seconds` so that reading it gives exactly the same number."""
    text = format(Decimal(repr(seconds)), "f")
    return (text.rstrip("0").rstrip(".") if "." in text else text) + "s"
