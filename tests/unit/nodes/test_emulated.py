"""What a lab file may say to emulated nodes, and what the names in it mean."""

from __future__ import annotations

import msgspec
import pytest

from vswitch.emulated.frames import FramePool
from vswitch.emulated.settings import EmulatedSpec
from vswitch.emulated.targets import resolve
from vswitch.errors import LabFileError
from vswitch.model import load
from vswitch.model.lab import Lab

LAB = """\
name: t
networks: {{lan0: {{subnet: [10.0.0.0/24, "fd00::/64"]}}}}
nodes:
  gen: {{kind: emulated, role: pktgen{settings}}}
  other: {{kind: netns}}
  third: {{kind: netns}}
links:
  - [gen:eth0, lan0]
  - [other:eth0, lan0]
  - [third:eth0, lan0]
  - [third:eth1, other:eth1]
"""


def lab(settings: str = "") -> Lab:
    return load("lab.yaml", text=LAB.format(settings=f", {settings}" if settings else ""), env={})


def resolved(settings: str) -> EmulatedSpec:
    found = lab(settings)
    node = found.nodes["gen"]
    return resolve(msgspec.convert(node.settings, EmulatedSpec), node, found)


def mac(node: str, interface: int = 0) -> str:
    return lab().nodes[node].interfaces[interface].mac


def test_node_stands_for_its_interface_on_the_same_network() -> None:
    assert resolved("dst: third").dst == mac("third")
    assert resolved("dst: third:eth0").dst == mac("third")
    assert resolved("dst: 02:00:00:00:00:01").dst == "02:00:00:00:00:01"
    assert resolved("").dst == "ff:ff:ff:ff:ff:ff"
    assert resolved("").src == mac("gen")


def test_addresses_default_to_those_of_the_nodes() -> None:
    found = resolved("dst_ip: other, size: 64")
    assert (found.dst, found.src_ip, found.dst_ip) == (mac("other"), "10.0.0.1", "10.0.0.2")
    assert (found.src_port, found.dst_port) == ("49152", "9")
    found = resolved('dst_ip: other, src_ip: "fd00::{1-9}", size: 100')
    assert (found.src_ip, found.dst_ip) == ("fd00::{1-9}", "fd00::2")
    found = resolved('dst: other, src_ip: "10.9.0.{1-4}"')
    assert found.dst_ip == "10.0.0.2"


def test_only_neighbour_is_the_default_destination() -> None:
    found = load(
        "lab.yaml",
        text="name: t\nnodes:\n  a: {kind: emulated, role: pktgen}\n  b: {kind: emulated, role: sink}\n"
        "links: [[a:eth0, b:eth0]]\n",
        env={},
    )
    node = found.nodes["a"]
    spec = resolve(msgspec.convert(node.settings, EmulatedSpec), node, found)
    assert spec.dst == found.nodes["b"].interfaces[0].mac


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ("dst: thrid", "dst: 'thrid' is neither an address nor a node of the lab; did you mean 'third'?"),
        ("dst: third:eth1", "gen:eth0 does not reach third:eth1 directly"),
        ("dst_ip: nobody", "dst_ip: 'nobody' is neither"),
        ("src_ip: 10.0.0.1", "'src_ip' alone does not say where packets go"),
        ('src_ip: 10.0.0.1, dst_ip: "fd00::1", size: 100', "of two IP versions"),
        ("dst_ip: other, vlan: 5", "size 60 is too small: Ethernet, a VLAN tag, IPv4, UDP and the 18 bytes"),
    ],
)
def test_name_or_address_that_does_not_fit_is_explained(settings: str, what: str) -> None:
    with pytest.raises(LabFileError) as caught:
        lab(settings)
    assert what in str(caught.value)


def test_everything_resolved_makes_frames() -> None:
    for settings in (
        "",
        "dst_ip: other",
        'dst: "02:00:00:00:{00-01}:{00-ff}", vlan: "{1-2}"',
        "size: imix, rate: 1mbit",
    ):
        assert len(FramePool(resolved(settings), 0).frames) >= 256


def test_generator_with_two_interfaces_is_refused() -> None:
    with pytest.raises(LabFileError, match="a pktgen node has one interface, not 2"):
        load(
            "lab.yaml",
            text="name: t\nnodes: {a: {kind: emulated, role: pktgen}, b: {kind: netns}}\n"
            "links: [[a:eth0, b:eth0], [a:eth1, b:eth1]]\n",
            env={},
        )


def problems(node: str) -> list[str]:
    with pytest.raises(LabFileError) as caught:
        load(
            "lab.yaml",
            text=f"name: t\nnodes:\n  gen: {{kind: emulated, {node}}}\n  o: {{kind: netns}}\nlinks: [[gen:e, o:e]]\n",
            env={},
        )
    return [problem.split(": ", 1)[1] for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("node", "what"),
    [
        ("rate: 1kpps", "needs one of 'role' (pktgen, sink, echo, host), 'replay' and 'python'"),
        ("role: sing", "expected one of echo, host, pktgen, sink"),
        ("role: sink, python: m:C", "'role' and 'python' each make it another node"),
        ("role: sink, rate: 1kpps", "'rate' is a setting of pktgen and replay; sink has no settings"),
        ("role: host, gatway: 10.0.0.1", "unknown key 'gatway'"),
        ("role: echo, size: 60", "'size' is a setting of pktgen; echo takes promiscuous"),
        ("role: pktgen, rate: fast", "expected a rate such as 100kpps, 10mbit or max, not 'fast'"),
        ("role: pktgen, rate: 0pps", "'0pps' is not a rate"),
        ("role: pktgen, size: 59", "size '59' is not a number of bytes from 60 to 65535"),
        ("role: pktgen, size: {60: 0}", "expected a whole number"),
        ("role: pktgen, dst: '02:00:00:00:00:{09-00}'", "ends before it begins"),
        (
            "role: pktgen, dst_ip: 'fd00::1'",
            "size 60 is too small: Ethernet, IPv6, UDP and the 18 bytes that measure need 80",
        ),
        ("role: pktgen, dst_ip: '10.0.0.{1-300}'", "'10.0.0.256' (from '10.0.0.{1-300}') is not an IPv4 address"),
        ("role: pktgen, dst: p", "dst: 'p' is neither an address nor a node of the lab"),
        (
            "role: pktgen, dst: '02:00:00:00:{00-ff}:{00-ff}', vlan: '{1-3}'",
            "go together in 196608 ways, more than 65536",
        ),
        ("role: pktgen, dst: '02:00:00:00:{00-ff}:{00-ff}', size: 1514", "more than 64 MiB"),
        ("role: host, gateway: o", "gateway 'o' is not an address"),
        ("role: pktgen, dst_port: 5", "write 'dst_ip', too"),
        ("role: host, vlan: '{1-2}'", "a host is in one 'vlan'"),
        ("role: pktgen, vlan: 4095", "not a number from 1 to 4094"),
        ("replay: nothing.pcap", "no such file"),
        ("python: nocolon", "expected a class, as MODULE:CLASS"),
    ],
)
def test_mistake_in_the_lab_file_is_explained_where_it_is(node: str, what: str) -> None:
    found = problems(node)
    assert any(what in problem for problem in found), found
    assert all("nodes.gen" in problem for problem in found)


def test_settings_are_inherited_key_by_key() -> None:
    found = load(
        "lab.yaml",
        text="name: t\nkinds: {gen: {driver: emulated, role: pktgen, rate: 1kpps, size: imix}}\n"
        "nodes:\n  a: {kind: gen, rate: 2kpps}\n  b: {kind: emulated, role: sink}\nlinks: [[a:e, b:e]]\n",
        env={},
    )
    assert found.nodes["a"].settings == {"role": "pktgen", "rate": "2kpps", "size": "imix"}
