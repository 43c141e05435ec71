"""Changes of a running lab: the same rules and words as in a lab file, all of it or nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.coordinator import live
from vswitch.errors import LabError, LabFileError
from vswitch.model import load
from vswitch.model.catalogue import Catalogue
from vswitch.model.lab import Lab, PortSettings, SwitchSettings
from vswitch.ports.stream import StreamSpec

from ..model.conftest import HostSpec

CATALOGUE = Catalogue({"host": HostSpec}, {"stream": StreamSpec})
MAC = "52:54:00:00:00:07"


def read(**ports: dict[str, Any]) -> Lab:
    """A lab of two hosts (a, b), two ports facing outside (one, many) and a hub; `ports` are settings of ports."""
    outside = {
        "one": {"type": "stream", "connect": "127.0.0.1:7000", **ports.get("one", {})},
        "many": {"type": "stream", "listen": "127.0.0.1:7001"},
    }
    contents = {
        "name": "l",
        "networks": {"lan0": {"vlan_filtering": True, "ports": outside}, "flat": None, "hub0": {"type": "hub"}},
        "nodes": {"a": {"kind": "host"}, "b": {"kind": "host"}},
        "links": [
            {"endpoints": ["a:e0", "lan0"], "port": ports.get("a", {})},
            {"endpoints": ["b:e0", "lan0"], "port": ports.get("b", {})},
            ["a:e1", "flat"],
            ["a:e2", "hub0"],
        ],
    }
    return load("l.yaml", text=json.dumps(contents), env={}, catalogue=CATALOGUE)


def refusal(action: Any, *arguments: Any) -> str:
    with pytest.raises(LabError) as caught:
        action(*arguments)
    return str(caught.value)


def test_values_are_read_as_in_a_lab_file() -> None:
    texts = {"trunk": "10,20-29,21", "native": "5", "mtu": "1500", "isolated": "true", "overflow": "drop"}
    lab = live.change_port(read(), "lan0", "a:e0", texts)
    expected = PortSettings(trunk=("10", "20-29"), native=5, mtu=1500, isolated=True, overflow="drop")
    assert lab.ports("lan0")["a:e0"] == expected
    lab = live.change_network(lab, "lan0", {"ageing": "20ms", "vlan_protocol": "802.1ad", "fdb_limit": "9"})
    assert lab.networks["lan0"].settings == SwitchSettings(
        ageing=0.02, vlan_protocol="802.1ad", fdb_limit=9, vlan_filtering=True
    )


def test_setting_without_a_value_has_its_default_again_and_the_others_stay() -> None:
    lab = live.change_port(read(a={"vlan": 7, "mtu": 1500}), "lan0", "a:e0", {"vlan": ""})
    assert lab.ports("lan0")["a:e0"] == PortSettings(mtu=1500)


def test_port_that_faces_outside_is_changed_like_any_other() -> None:
    before = read()
    lab = live.change_port(before, "lan0", "many", {"vlan": "10"})
    assert lab.ports("lan0")["many"] == PortSettings(vlan=10)
    assert lab.networks["lan0"].ports["many"].spec == before.networks["lan0"].ports["many"].spec


def test_parts_of_reserved_multicast_are_changed_one_by_one() -> None:
    lab = live.change_network(read(), "flat", {"reserved_multicast": "drop"})
    lab = live.change_network(lab, "flat", {"reserved_multicast.stp": "deliver", "reserved_multicast.lldp": ""})
    policies = lab.networks["flat"].settings.reserved_multicast
    assert policies == {"stp": "deliver", "pause": "drop", "lacp": "drop", "dot1x": "drop", "other": "drop"}
    text = refusal(live.change_network, lab, "flat", {"reserved_multicast.vtp": "drop"})
    assert text.startswith("flat.reserved_multicast: unknown key 'vtp'; known: dot1x, lacp,")


def test_unknown_names_are_answered_with_the_known_and_the_nearest() -> None:
    lab = read()
    assert refusal(live.change_network, lab, "lan", {}) == (
        "unknown network 'lan'; known: flat, hub0, lan0; did you mean 'lan0'?"
    )
    assert refusal(live.change_port, lab, "lan0", "a:e9", {}) == (
        "network lan0: unknown port 'a:e9'; known: a:e0, b:e0, many, one; did you mean 'a:e0'?"
    )
    assert "lan0/a:e0: unknown key 'vlna'" in refusal(live.change_port, lab, "lan0", "a:e0", {"vlna": "1"})
    assert refusal(live.change_network, lab, "lan0", {"agein": "1s"}).endswith("did you mean 'ageing'?")


@pytest.mark.parametrize(
    ("port", "texts", "message"),
    [
        ("a:e0", {"vlan": "4095"}, "lan0/a:e0.vlan: expected a whole number from 1 to 4094, not 4095"),
        ("a:e0", {"trunk": "10,x"}, "lan0/a:e0.trunk[1]: expected a VLAN such as 10"),
        ("a:e0", {"trunk": "30-20"}, "lan0/a:e0.trunk: '30-20' is no range of VLANs"),
        ("a:e0", {"vlan": "1", "trunk": "2"}, "lan0/a:e0.vlan: a port is either access"),
        ("b:e0", {"vlan": "1"}, "lan0/b:e0.vlan: a port is either access"),
        ("a:e0", {"native": "4"}, "lan0/a:e0.native: is the untagged VLAN of a trunk"),
        ("a:e0", {"static_macs": MAC}, f"lan0/a:e0.static_macs[0]: {MAC} of VLAN 1 is static on port one already"),
        ("many", {"static_macs": "52:54:00:00:00:08"}, "lan0/many.static_macs: is for a port with one peer"),
        ("a:e0", {"vlan.x": "1"}, "lan0/a:e0.vlan: expected a whole number from 1 to 4094, not a mapping"),
        ("a:e0", {"": "1"}, "lan0/a:e0: unknown key ''"),
    ],
    ids=str,
)
def test_mistake_is_named_with_its_port(port: str, texts: dict[str, str], message: str) -> None:
    lab = read(b={"trunk": [3]}, one={"static_macs": [MAC]})
    assert refusal(live.change_port, lab, "lan0", port, texts).startswith(message)


def test_switching_vlans_off_is_refused_while_ports_have_some() -> None:
    lab = read(a={"vlan": 7})
    text = refusal(live.change_network, lab, "lan0", {"vlan_filtering": "false"})
    assert text.startswith("lan0/a:e0.vlan: network lan0 has vlan_filtering: false")
    lab = live.change_port(lab, "lan0", "a:e0", {"vlan": ""})
    assert not live.change_network(lab, "lan0", {"vlan_filtering": "false"}).networks["lan0"].settings.vlan_filtering


def test_settings_of_a_switch_are_refused_for_a_hub() -> None:
    assert "is for a switch, but hub0 is a hub" in refusal(live.change_port, read(), "hub0", "a:e2", {"vlan": "1"})
    assert live.change_port(read(), "hub0", "a:e2", {"mtu": "100"}).ports("hub0")["a:e2"].mtu == 100


def test_static_entry_moves_from_port_to_port_and_goes() -> None:
    lab = live.add_static(read(a={"vlan": 10}, b={"trunk": "all"}), "lan0", MAC.upper(), "a:e0")
    assert lab.ports("lan0")["a:e0"].static_macs == (MAC,)
    lab = live.add_static(lab, "lan0", f"{MAC}@10", "b:e0")
    assert lab.ports("lan0")["a:e0"].static_macs == ()
    assert lab.ports("lan0")["b:e0"].static_macs == (f"{MAC}@10",)
    assert live.add_static(lab, "lan0", f"{MAC}@10", "b:e0") == lab
    assert live.remove_static(lab, "lan0", MAC, 11) == lab
    assert live.remove_static(lab, "lan0", MAC, 10).ports("lan0")["b:e0"].static_macs == ()
    assert "expected MAC or MAC@VLAN" in refusal(live.add_static, lab, "lan0", "52:54", "b:e0")
    assert "expected MAC or MAC@VLAN" in refusal(live.add_static, lab, "lan0", f"{MAC}@x", "b:e0")


def test_many_mistakes_are_cut_short() -> None:
    links = [{"endpoints": [f"a:p{number}", "lan0"], "port": {"vlan": 2}} for number in range(50)]
    contents = {"networks": {"lan0": {}}, "nodes": {"a": {"kind": "host"}}, "links": links}
    lab = load("l.yaml", text=json.dumps(contents), env={}, catalogue=CATALOGUE)
    text = refusal(live.change_network, lab, "lan0", {"vlan_filtering": "false"})
    assert text.splitlines()[10:] == ["and 40 more"]


TEXTS = st.dictionaries(
    st.sampled_from(
        ["vlan", "trunk", "native", "isolated", "mtu", "static_macs", "mac_limit", "storm_limit", "sticky"]
    ),
    st.sampled_from(["", "1", "10", "10,20-30", "all", "true", "false", MAC, f"{MAC}@10", "0", "-1", "é", "1.5", ",,"]),
    max_size=4,
)


@given(TEXTS)
def test_port_is_changed_exactly_as_the_same_lines_in_a_file_would_have_made_it(texts: dict[str, str]) -> None:
    """Whatever is asked: the lab file that says it loads to what the change leads to, or both are refused."""
    written: dict[str, Any] = {}
    for key, text in texts.items():
        items = [item for item in text.split(",") if item] if "," in text else text
        written[key] = items if items != "" else None
    plain = {key: _plain(value) for key, value in written.items()}
    try:
        expected = read(a=plain)
    except LabFileError:
        refusal(live.change_port, read(), "lan0", "a:e0", texts)
    else:
        assert live.change_port(read(), "lan0", "a:e0", texts) == expected


def _plain(value: Any) -> Any:
    """What YAML makes of an unquoted text."""
    from vswitch.model.tree import resolve_plain

    if isinstance(value, list):
        return [_plain(item) for item in value]
    return resolve_plain(value) if isinstance(value, str) else value


def test_rows_tell_everything_and_what_is_not_the_default() -> None:
    lab = live.change_network(read(a={"vlan": 7}), "lan0", {"reserved_multicast.stp": "drop"})
    row = live.network_rows(lab, {"lan0": 3})[0]
    assert (row["network"], row["type"], row["ports"], row["macs"]) == ("lan0", "switch", 4, 3)
    assert row["changed"] == ["vlan_filtering", "reserved_multicast"]
    assert row["settings"]["reserved_multicast"]["lldp"] == "forward"
    assert row["settings"].keys() == set(SwitchSettings.__struct_fields__)
    ports = {row["port"]: row for row in live.port_rows(lab, "lan0")}
    assert ports["a:e0"]["settings"]["vlan"] == 7
    assert (ports["a:e0"]["changed"], ports["many"]["changed"]) == (["vlan"], [])
    assert (ports["a:e0"]["outside"], ports["many"]["outside"]) == (False, True)


def test_difference_is_told_as_it_would_be_typed() -> None:
    old, new = PortSettings(vlan=3, isolated=True), PortSettings(trunk=("1", "3-4"), isolated=True)
    assert live.difference(old, new) == "vlan= trunk=1,3-4"
