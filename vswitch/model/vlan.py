"""VLANs as settings name them, and what they mean for a port of a switch that filters."""

from __future__ import annotations

from collections.abc import Iterable

from .lab import PortSettings

MAX_VLAN = 4094


def vlan_range(text: str) -> range | None:
    """The VLANs that "10", "20-30" or "all" stands for; None when it is none of these."""
    if text == "all":
        return range(1, MAX_VLAN + 1)
    first, _, last = text.partition("-")
    low, high = int(first), int(last or first)
    return range(low, high + 1) if 1 <= low <= high <= MAX_VLAN else None


def join_ranges(ranges: Iterable[range]) -> list[str]:
    """Write VLANs as few ascending ranges. Costs what there are of `ranges`, not what is in them."""
    found: list[list[int]] = []
    for low, high in sorted((part.start, part.stop - 1) for part in ranges):
        if found and low <= found[-1][1] + 1:
            found[-1][1] = max(found[-1][1], high)
        else:
            found.append([low, high])
    return [str(low) if low == high else f"{low}-{high}" for low, high in found]


def join_vlans(numbers: Iterable[int]) -> list[str]:
    """Write single VLANs as few ascending ranges."""
    return join_ranges(range(number, number + 1) for number in numbers)


def untagged_vlan(settings: PortSettings) -> int:
    """The VLAN of frames without a tag, on a switch that filters; 0 when such frames are dropped."""
    if settings.trunk:
        return settings.native or 0
    return settings.vlan or 1


def member_vlans(settings: PortSettings) -> set[int]:
    """The VLANs a port is in, on a switch that filters."""
    members = {number for text in settings.trunk for number in vlan_range(text) or ()}
    return members | ({untagged_vlan(settings)} - {0})


def static_entry(text: str, settings: PortSettings, *, filtering: bool) -> tuple[str, int]:
    """The address and the VLAN that "MAC" or "MAC@VLAN" of `static_macs` stands for on this port."""
    mac, _, vlan = text.partition("@")
    return mac, int(vlan) if vlan else untagged_vlan(settings) if filtering else 0
