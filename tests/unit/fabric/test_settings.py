"""Settings in the engine's terms, and that they fit the messages that carry them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.fabric import core
from vswitch.fabric.messages import (
    MAX_MESSAGE,
    AddOutsidePort,
    FdbEntry,
    PortStats,
    Reply,
    Request,
    batches,
)
from vswitch.fabric.settings import mac_number, mac_text, port_arguments, static_entries, switch_arguments
from vswitch.model.lab import PortSettings, SwitchSettings
from vswitch.model.spec import MAX_STATIC_MACS


def members(settings: PortSettings) -> set[int]:
    bits = port_arguments(settings)["members"]
    assert len(bits) == 512
    return {vlan for vlan in range(4096) if bits[vlan >> 3] >> (vlan & 7) & 1}


def test_port_without_vlans_is_in_vlan_1_untagged() -> None:
    assert members(PortSettings()) == {1}
    assert port_arguments(PortSettings())["pvid"] == 1


def test_access_port_trunk_and_native_vlan() -> None:
    assert (members(PortSettings(vlan=10)), port_arguments(PortSettings(vlan=10))["pvid"]) == ({10}, 10)
    trunk = PortSettings(trunk=("10", "20-22"))
    assert (members(trunk), port_arguments(trunk)["pvid"]) == ({10, 20, 21, 22}, 0)
    native = PortSettings(trunk=("10",), native=99)
    assert (members(native), port_arguments(native)["pvid"]) == ({10, 99}, 99)
    assert members(PortSettings(trunk=("1-4094",))) == set(range(1, 4095))


@pytest.mark.parametrize(
    "flag",
    [
        "isolated",
        "learning",
        "unknown_flood",
        "broadcast_flood",
        "multicast_flood",
        "sticky",
        "hairpin",
        "control",
    ],
)
@pytest.mark.parametrize("value", [False, True])
def test_flag_of_a_port_is_passed_on_as_itself(flag: str, value: bool) -> None:
    changed = port_arguments(PortSettings(**{flag: value}))  # type: ignore[arg-type]
    assert changed[flag] is value
    assert {key: val for key, val in changed.items() if key != flag} == {
        key: val for key, val in port_arguments(PortSettings()).items() if key != flag
    }


def test_limits_of_a_port_and_what_it_does_when_full() -> None:
    arguments = port_arguments(PortSettings(storm_limit=7, mac_limit=8, mtu=1500, overflow="drop"))
    assert (arguments["storm_limit"], arguments["mac_limit"], arguments["mtu"]) == (7, 8, 1500)
    assert arguments["overflow_drop"] is True
    defaults = port_arguments(PortSettings())
    assert (defaults["storm_limit"], defaults["mac_limit"], defaults["mtu"], defaults["overflow_drop"]) == (
        0,
        0,
        0,
        False,
    )


def test_reserved_addresses_have_the_policy_of_their_group() -> None:
    settings = SwitchSettings(reserved_multicast={"stp": "drop", "lldp": "deliver", "other": "drop"})
    assert switch_arguments(settings)["reserved"] == bytes([1, 0, 0, 0, *[1] * 10, 2, 1])
    each = SwitchSettings(reserved_multicast={"pause": "drop", "lacp": "deliver", "dot1x": "drop"})
    assert switch_arguments(each)["reserved"] == bytes([0, 1, 2, 1, *[0] * 12])


def test_switch_settings_are_passed_on() -> None:
    arguments = switch_arguments(SwitchSettings(ageing=1.5, fdb_limit=9, vlan_filtering=True, vlan_protocol="802.1ad"))
    assert (arguments["ageing"], arguments["fdb_limit"]) == (1.5, 9)
    assert (arguments["vlan_filtering"], arguments["vlan_protocol"]) == (True, 0x88A8)
    assert switch_arguments(SwitchSettings())["vlan_protocol"] == 0x8100


def test_static_entries_are_of_the_untagged_vlan_unless_they_say_otherwise() -> None:
    settings = PortSettings(trunk=("10",), native=5, static_macs=("52:54:00:00:00:01", "52:54:00:00:00:02@10"))
    assert static_entries(settings, filtering=True) == {(0x525400000001, 5), (0x525400000002, 10)}
    plain = PortSettings(static_macs=("52:54:00:00:00:01",))
    assert static_entries(plain, filtering=False) == {(0x525400000001, 0)}


@given(st.integers(0, 2**48 - 1))
def test_mac_as_text_and_number(number: int) -> None:
    assert mac_number(mac_text(number)) == number


# --- room in messages -------------------------------------------------------------------------------------------------


def test_largest_settings_fit_a_message() -> None:
    settings = PortSettings(
        trunk=tuple(str(vlan) for vlan in range(1001, 4094, 2)),
        static_macs=tuple(
            f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}@4094" for number in range(MAX_STATIC_MACS)
        ),
        storm_limit=2**31 - 1,
        mac_limit=1 << 20,
        mtu=65535,
    )
    operation = AddOutsidePort("n" * 63, "p" * 63, {"type": "stream", "listen": "unix:" + "x" * 107}, settings)
    assert len(msgspec.msgpack.encode(Request(2**40, operation))) < MAX_MESSAGE


def test_a_replys_rows_fit_a_message_whatever_they_hold() -> None:
    """And they are all there, in their order."""
    names = {"network": "n" * 63 + "--" + "m" * 63, "port": "p" * 63 + ":" + "i" * 15}
    words = {"type": "stream", "state": "listening", "reason": "\N{GRINNING FACE}" * 300, "peer": "\u20ac" * 300}
    numbers = {field.name: 2**64 - 1 for field in msgspec.structs.fields(PortStats) if field.type is int}
    drops = dict.fromkeys(core.DROP_REASONS, 2**64 - 1)
    rows = [PortStats(**names, **words, drops=drops, **numbers | {"pauses": n}) for n in range(100)]  # type: ignore[arg-type]
    replies = list(batches(rows))
    assert all(len(msgspec.msgpack.encode(Reply(2**40, stats=some, more=more))) < MAX_MESSAGE for some, more in replies)
    assert [row for some, _ in replies for row in some] == rows
    assert [more for _, more in replies] == [True] * (len(replies) - 1) + [False]
    entry = FdbEntry(mac="52:54:00:00:00:01", vlan=4094, port=names["port"], kind="dynamic", age=1e9)
    for some, more in batches([entry] * 2000):
        assert len(msgspec.msgpack.encode(Reply(2**40, fdb=some, more=more))) < MAX_MESSAGE
    assert list(batches([])) == [([], False)]
