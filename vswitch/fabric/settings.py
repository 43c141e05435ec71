"""Settings of switches and ports in the engine's terms: numbers, bytes and bits (core.pyi)."""

from __future__ import annotations

from typing import Any

from ..model.lab import PortSettings, ReservedGroup, SwitchSettings
from ..model.vlan import member_vlans, static_entry, untagged_vlan

_ETHERTYPES = {"802.1Q": 0x8100, "802.1ad": 0x88A8}
_POLICIES = {"forward": 0, "drop": 1, "deliver": 2}
_GROUPS: dict[int, ReservedGroup] = {0x0: "stp", 0x1: "pause", 0x2: "lacp", 0x3: "dot1x", 0xE: "lldp"}


def switch_arguments(settings: SwitchSettings) -> dict[str, Any]:
    """The keywords of `Engine.configure_switch`."""
    policies = (settings.reserved_multicast.get(_GROUPS.get(last, "other"), "forward") for last in range(16))
    return {
        "ageing": settings.ageing,
        "fdb_limit": settings.fdb_limit,
        "vlan_filtering": settings.vlan_filtering,
        "vlan_protocol": _ETHERTYPES[settings.vlan_protocol],
        "reserved": bytes(_POLICIES[policy] for policy in policies),
    }


def port_arguments(settings: PortSettings) -> dict[str, Any]:
    """The keywords of `Engine.configure_port`."""
    members = bytearray(512)
    for vlan in member_vlans(settings):
        members[vlan >> 3] |= 1 << (vlan & 7)
    return {
        "members": bytes(members),
        "pvid": untagged_vlan(settings),
        "isolated": settings.isolated,
        "learning": settings.learning,
        "unknown_flood": settings.unknown_flood,
        "broadcast_flood": settings.broadcast_flood,
        "multicast_flood": settings.multicast_flood,
        "sticky": settings.sticky,
        "hairpin": settings.hairpin,
        "control": settings.control,
        "overflow_drop": settings.overflow == "drop",
        "storm_limit": settings.storm_limit,
        "mac_limit": settings.mac_limit,
        "mtu": settings.mtu or 0,
    }


def static_entries(settings: PortSettings, *, filtering: bool) -> set[tuple[int, int]]:
    """The addresses, as numbers, and VLANs of a port's static entries."""
    entries = (static_entry(text, settings, filtering=filtering) for text in settings.static_macs)
    return {(mac_number(mac), vlan) for mac, vlan in entries}


def mac_number(mac: str) -> int:
    """An address as the engine has it. Raises ValueError."""
    octets = bytes.fromhex(mac.replace(":", ""))
    if len(octets) != 6:
        raise ValueError(f"{mac!r} is no MAC address")
    return int.from_bytes(octets, "big")


def mac_text(number: int) -> str:
    """An address as people write it."""
    return number.to_bytes(6, "big").hex(":")
