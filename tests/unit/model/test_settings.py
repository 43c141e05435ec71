"""Settings of switches and ports: what they come to, and the bounds on how many there may be."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.errors import LabFileError
from vswitch.model import load
from vswitch.model.catalogue import Catalogue
from vswitch.model.lab import Lab, PortSettings, SwitchSettings
from vswitch.model.settings import changed_settings, merge_port, merge_switch
from vswitch.model.spec import PortSettingsSpec, SwitchSettingsSpec
from vswitch.model.vlan import join_ranges, join_vlans, member_vlans, static_entry, untagged_vlan, vlan_range

from .conftest import lab_text, make_catalogue

VLANS = st.sets(st.integers(1, 4094), max_size=40)


def read(**sections: Any) -> Lab:
    return load("lab.yaml", text=lab_text(**sections), env={}, catalogue=make_catalogue())


def link(interface: str, network: str, **port: Any) -> dict[str, Any]:
    return {"endpoints": [interface, network], "port": port}


@given(VLANS)
def test_joined_ranges_hold_the_same_vlans_and_are_as_few_as_can_be(numbers: set[int]) -> None:
    ranges = [vlan_range(text) or range(0) for text in join_vlans(numbers)]
    assert {number for found in ranges for number in found} == numbers
    assert all(second.start > first.stop for first, second in itertools.pairwise(ranges))


@given(st.lists(st.tuples(st.integers(1, 4094), st.integers(1, 4094)).map(sorted), max_size=20))
def test_joined_ranges_that_overlap_hold_the_same_vlans(pairs: list[list[int]]) -> None:
    ranges = [range(low, high + 1) for low, high in pairs]
    joined = [vlan_range(text) or range(0) for text in join_ranges(ranges)]
    assert {number for found in joined for number in found} == {number for found in ranges for number in found}
    assert all(second.start > first.stop for first, second in itertools.pairwise(joined))


@given(VLANS.filter(bool), st.none() | st.integers(1, 4094))
def test_trunk_is_in_its_vlans_and_its_native_one(numbers: set[int], native: int | None) -> None:
    settings = PortSettings(trunk=tuple(join_vlans(numbers)), native=native)
    assert member_vlans(settings) == numbers | ({native} - {None})
    assert untagged_vlan(settings) == (native or 0)


def test_ranges_that_overlap_are_written_once() -> None:
    written = PortSettingsSpec(trunk=["30", "10-12", "11-13", "31"])
    assert merge_port(PortSettings(), written, ["trunk"]).trunk == ("10-13", "30-31")
    assert merge_port(PortSettings(), PortSettingsSpec(trunk="all"), ["trunk"]).trunk == ("1-4094",)


def test_only_the_settings_named_are_replaced_and_null_is_the_default_again() -> None:
    base = PortSettings(vlan=10, isolated=True, mtu=1500)
    merged = merge_port(base, PortSettingsSpec(isolated=None, mtu=9000), ["isolated", "mtu"])
    assert merged == PortSettings(vlan=10, mtu=9000)
    policies = SwitchSettingsSpec(reserved_multicast="drop")
    dropping = merge_switch(SwitchSettings(ageing=1), policies, ["reserved_multicast"])
    assert set(dropping.reserved_multicast.values()) == {"drop"}
    assert len(dropping.reserved_multicast) == 6
    assert merge_switch(dropping, SwitchSettingsSpec(), ["reserved_multicast"]) == SwitchSettings(ageing=1)


def test_changed_settings_are_those_that_differ_from_their_defaults() -> None:
    assert changed_settings(PortSettings()) == {}
    assert changed_settings(PortSettings(vlan=1, learning=False)) == {"vlan": 1, "learning": False}


def test_static_mac_without_a_vlan_is_of_the_untagged_one() -> None:
    mac = "52:54:00:00:00:01"
    assert static_entry(mac, PortSettings(vlan=10), filtering=True) == (mac, 10)
    assert static_entry(mac, PortSettings(), filtering=True) == (mac, 1)
    assert static_entry(mac, PortSettings(vlan=10), filtering=False) == (mac, 0)
    assert static_entry(f"{mac}@7", PortSettings(trunk=("7",)), filtering=True) == (mac, 7)


def test_network_filters_when_a_port_of_any_sort_says_something_of_vlans() -> None:
    assert not read().networks["lan0"].settings.vlan_filtering
    linked = read(links=[link("a:eth0", "lan0", vlan=10), ["b:eth0", "lan0"]])
    assert linked.networks["lan0"].settings.vlan_filtering
    assert linked.ports("lan0") == {"a:eth0": PortSettings(vlan=10), "b:eth0": PortSettings()}
    port = {"type": "stream", "connect": "127.0.0.1:7000", "trunk": "all"}
    outside = read(networks={"lan0": {"ports": {"up": port}}})
    assert outside.networks["lan0"].settings.vlan_filtering
    assert outside.ports("lan0")["up"] == PortSettings(trunk=("1-4094",))
    assert outside.networks["lan0"].ports["up"].spec == {"type": "stream", "connect": "127.0.0.1:7000"}


def test_the_same_static_mac_in_two_vlans_is_two_entries() -> None:
    macs = ["52:54:00:00:00:01@10", "52:54:00:00:00:01@20"]
    lab = read(links=[link("a:eth0", "lan0", trunk=[10, 20], static_macs=macs), ["b:eth0", "lan0"]])
    assert lab.ports("lan0")["a:eth0"].static_macs == tuple(macs)


def many(number: int) -> dict[str, Any]:
    """A node with that many interfaces on one network."""
    links = [[f"a:e{index}", "lan0"] for index in range(number)]
    return {"networks": {"lan0": {}}, "nodes": {"a": {"kind": "host"}}, "links": links}


def test_switch_has_at_most_1024_ports() -> None:
    assert len(read(**many(1024)).links) == 1024
    with pytest.raises(LabFileError, match=r"networks\.lan0: has 1025 ports; 1024 is the most"):
        read(**many(1025))


def test_lab_has_at_most_256_switches_those_of_links_included() -> None:
    kinds = {"a": {"kind": "host"}, "b": {"kind": "machine"}, "c": {"kind": "machine"}}
    networks = {f"n{number}": {"type": "hub" if number % 2 else "switch"} for number in range(255)}
    networks["bus"] = {"type": "mcast"}
    between = [["a:p0", "b:p0"], *([f"b:q{number}", f"c:q{number}"] for number in range(20))]
    catalogue = Catalogue(make_catalogue().drivers, {}, frozenset({"machine"}))

    def load_with(links: list[Any]) -> Lab:
        text = lab_text(nodes=kinds, networks=networks, links=links)
        return load("lab.yaml", text=text, env={}, catalogue=catalogue)

    assert len(load_with(between).links) == 21
    with pytest.raises(
        LabFileError, match=r"255 switches and hubs, and 2 links between two interfaces.* 256 is the most"
    ):
        load_with([*between, ["a:p1", "b:p1"]])
