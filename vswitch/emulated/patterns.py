"""What a lab file writes for values that vary from frame to frame: `02:00:00:00:00:{00-ff}`, `imix`, `100kpps`.

A pattern is a text with any number of ranges `{FIRST-LAST}` in it; its values are those of all ranges combined, the
last range fastest. In MAC and IPv6 addresses ranges count in hexadecimal, in IPv4 addresses and numbers in decimal.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, TypeVar

MAX_VALUES = 65536
"""How many values one pattern may have."""
MIN_FRAME = 60
"""Bytes of the shortest Ethernet frame, without its checksum."""
MAX_FRAME = 65535

# The customary "simple IMIX": to one IPv4 packet of 1500 bytes four of 576 and seven of 40, here in Ethernet frames.
IMIX: Mapping[int, int] = {60: 7, 590: 4, 1514: 1}

_T = TypeVar("_T")
_RANGE = re.compile(r"\{([0-9A-Fa-f]{1,8})-([0-9A-Fa-f]{1,8})\}")
_RATE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([kmgKMG]?)(pps|[bB]it)")
_SCALE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def expand(text: str, base: int) -> list[str]:
    """All texts `text` stands for. Raises ValueError."""
    pieces = _RANGE.split(text)
    if any(brace in piece for piece in pieces[::3] for brace in "{}"):
        raise ValueError(f"{text!r} has a brace that is not part of a range such as {{1-9}}")
    choices: list[list[str]] = []
    total = 1
    for fixed, first, last in zip(pieces[::3], [*pieces[1::3], None], [*pieces[2::3], None], strict=True):
        choices.append([fixed])
        if first is not None and last is not None:
            try:
                low, high = int(first, base), int(last, base)
            except ValueError:
                raise ValueError(f"{{{first}-{last}}} is not a range of decimal numbers") from None
            if high < low:
                raise ValueError(f"{{{first}-{last}}} ends before it begins")
            total *= high - low + 1
            if total > MAX_VALUES:
                raise ValueError(f"{text!r} stands for more than {MAX_VALUES} values")
            width = len(first) if len(first) == len(last) else 1
            digits = "x" if base == 16 else "d"
            choices.append([format(value, f"0{width}{digits}") for value in range(low, high + 1)])
    return ["".join(choice) for choice in itertools.product(*choices)]


def _values(text: str, base: int, read: Callable[[str], _T], noun: str) -> list[_T]:
    values = []
    for one in expand(text, base):
        try:
            values.append(read(one))
        except ValueError:
            inside = f" (from {text!r})" if one != text else ""
            raise ValueError(f"{one!r}{inside} is not {noun}") from None
    return values


def _mac(text: str) -> bytes:
    if re.fullmatch(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}", text) is None:
        raise ValueError
    return bytes.fromhex(text.replace(":", ""))


def macs(text: str) -> list[bytes]:
    """The MAC addresses a pattern stands for. Raises ValueError."""
    return _values(text, 16, _mac, "a MAC address")


def addresses(text: str) -> list[IPv4Address] | list[IPv6Address]:
    """The IP addresses a pattern stands for, all of one family. Raises ValueError."""
    if ":" in text:
        return _values(text, 16, IPv6Address, "an IPv6 address")
    return _values(text, 10, IPv4Address, "an IPv4 address")


def numbers(text: str, low: int, high: int) -> list[int]:
    """The numbers a pattern stands for, each from `low` to `high`. Raises ValueError."""

    def read(one: str) -> int:
        if not one.isascii() or not one.isdigit() or not low <= int(one) <= high:
            raise ValueError
        return int(one)

    return _values(text, 10, read, f"a number from {low} to {high}")


def sizes(written: str | Mapping[str, int]) -> list[int]:
    """One cycle of frame sizes in bytes (without checksum) from `60`, `60-1514`, `imix` or `{60: 7, 1514: 1}`.

    Each size comes as often as its weight says, spread evenly. Raises ValueError.
    """
    if isinstance(written, str):
        if written == "imix":
            return _spread(IMIX)
        first, dash, last = written.partition("-")
        low, high = _size(first), _size(last if dash else first)
        if high < low:
            raise ValueError(f"size {written!r} ends before it begins")
        return list(range(low, high + 1))
    if not written:
        raise ValueError("size: a mix has at least one size")
    weights = {_size(size): weight for size, weight in written.items()}
    if sum(weights.values()) > MAX_VALUES:
        raise ValueError(f"size: the weights of a mix add up to {MAX_VALUES} at most")
    return _spread(weights)


def _size(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not MIN_FRAME <= int(text) <= MAX_FRAME:
        raise ValueError(f"size {text!r} is not a number of bytes from {MIN_FRAME} to {MAX_FRAME}")
    return int(text)


def _spread(weights: Mapping[int, int]) -> list[int]:
    divisor = math.gcd(*weights.values())
    places = [
        ((2 * number + 1) / (2 * (weight // divisor)), size)
        for size, weight in weights.items()
        for number in range(weight // divisor)
    ]
    return [size for _, size in sorted(places)]


class Rate(NamedTuple):
    """How fast to send. `unit` is "pps" or "bit" (bits of frames per second, without preamble and gap), or "max"."""

    unit: str
    value: float

    def frames_per_second(self, sizes: Sequence[int]) -> float | None:
        """The same in frames of these sizes, None for as fast as possible."""
        if self.unit == "max":
            return None
        return self.value if self.unit == "pps" else self.value * len(sizes) / (8 * sum(sizes))


def rate(text: str) -> Rate:
    """Read `100kpps`, `10mbit` or `max`. Raises ValueError."""
    if text == "max":
        return Rate("max", 0.0)
    found = _RATE.fullmatch(text)
    value = float(Decimal(found[1]) * _SCALE[found[2].lower()]) if found is not None else 0.0
    if found is None or value <= 0:
        raise ValueError(f"{text!r} is not a rate such as 100kpps, 10mbit or max")
    return Rate(found[3].lower(), value)
