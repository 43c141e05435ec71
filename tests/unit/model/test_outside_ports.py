"""Mistakes in ports that face outside, which the file alone tells: each with its place, before anything is opened."""

from __future__ import annotations

import pytest

from vswitch.errors import LabFileError
from vswitch.model import load

NODES = "nodes: {a: {kind: netns}}\nlinks: [[a:eth0, lan0]]\n"


def mistakes(ports: str, rest: str = NODES) -> list[str]:
    with pytest.raises(LabFileError) as caught:
        load("lab.yaml", text=f"networks: {{lan0: {{ports: {{\n{ports}\n}}}}}}\n{rest}", env={})
    return caught.value.problems


@pytest.mark.parametrize(
    ("first", "second", "key", "what"),
    [
        ("stream, listen: '0.0.0.0:7001'", "stream, listen: '0.0.0.0:7001'", "listen", "TCP address 0.0.0.0:7001"),
        ("stream, listen: 'unix:/x/y'", "dgram, local: 'unix:/x//y', remote: 'unix:/z'", "local", "file /x/y"),
        ("stream, listen: 'unix:@x'", "stream, listen: 'unix:@x', clients: one", "listen", "unix:@x"),
        (
            "dgram, local: '[::1]:7001', remote: '[::1]:7002'",
            "l2tpv3, local: '[::1]:7001', remote: '[::1]:7003', tx_session: 1",
            "local",
            "UDP address [::1]:7001",
        ),
        ("vde, listen: /x/lan.ctl", "vde, listen: /x/lan.ctl/", "listen", "file /x/lan.ctl"),
        ("tap, ifname: tap7", "tap, ifname: tap7", "ifname", "device tap7"),
        ("pcap, write: /usr/a.pcap", "pcap, write: /usr/./a.pcap", "write", "file /usr/a.pcap"),
    ],
)
def test_what_only_one_port_can_have_is_in_one_place(first: str, second: str, key: str, what: str) -> None:
    (mistake,) = mistakes(f"p: {{type: {first}}},\nq: {{type: {second}}}")
    assert mistake.startswith("lab.yaml:3:")
    assert mistake.endswith(f" networks.lan0.ports.q.{key}: {what} is taken already, in line 2")


def test_what_several_can_have_is_not_refused() -> None:
    ports = (
        "a: {type: stream, listen: '127.0.0.1:7001'}, b: {type: dgram, local: '127.0.0.1:7001', remote: 'h:1'}, "
        "c: {type: l2tpv3, udp: false, local: 10.0.0.1, remote: 10.0.0.2, tx_session: 1}, "
        "d: {type: l2tpv3, udp: false, local: 10.0.0.1, remote: 10.0.0.2, tx_session: 2}, "
        "e: {type: pcap, write: /dev/null}, f: {type: pcap, write: /dev/null}, g: {type: tap}, h: {type: tap}"
    )
    load("lab.yaml", text=f"networks: {{lan0: {{ports: {{{ports}}}}}}}\n{NODES}", env={})


def test_an_external_node_has_an_address_of_its_own() -> None:
    external = "{kind: external, listen: '127.0.0.1:7001'}"
    rest = f"nodes:\n  x: {external}\n  y: {external}\nlinks: [[x:eth0, lan0], [y:eth0, lan0]]\n"
    taken = "listen: TCP address 127.0.0.1:7001 is taken already, by"
    assert mistakes("p: {type: stream, listen: '127.0.0.1:7001'}", rest) == [
        f"lab.yaml:5:31: nodes.x.{taken} networks.lan0.ports.p",
        f"lab.yaml:6:31: nodes.y.{taken} networks.lan0.ports.p",
    ]
    assert mistakes("", rest) == [f"lab.yaml:6:31: nodes.y.{taken} nodes.x"]


@pytest.mark.parametrize("setting", ["exec: ip link", "healthcheck: {run: 'true'}"])
def test_nothing_can_be_run_in_an_external_node(setting: str) -> None:
    key = setting.partition(":")[0]
    rest = f"nodes:\n  x: {{kind: external, {setting}}}\nlinks: [[x:eth0, lan0]]\n"
    (mistake,) = mistakes("", rest)
    assert mistake.startswith("lab.yaml:5:")
    assert f"nodes.x.{key}: x is external: whoever starts it runs its commands" in mistake


@pytest.mark.parametrize(
    ("port", "what"),
    [
        (
            "dgram, local: '127.0.0.1:1', remote: '[::1]:2'",
            "local 127.0.0.1 is of IPv4 and remote ::1 of IPv6",
        ),
        (
            "l2tpv3, local: '[fe80::1]:1', remote: '10.0.0.1:2', tx_session: 1",
            "local fe80::1 is of IPv6 and remote 10.0.0.1 of IPv4",
        ),
        ("vde, listen: /x, group: no-such-group", "group: there is no group 'no-such-group' on this machine"),
    ],
)
def test_what_cannot_work_is_said_with_its_place(port: str, what: str) -> None:
    (mistake,) = mistakes(f"p: {{type: {port}}}")
    assert mistake == f"lab.yaml:2:4: networks.lan0.ports.p: {what}"


def test_values_that_are_none_are_told_what_to_be() -> None:
    assert mistakes("p: {type: vde, listen: /x, mode: 999}") == [
        "lab.yaml:2:34: networks.lan0.ports.p.mode: expected octal permissions such as 660, not 999"
    ]
    assert mistakes("p: {type: tap, sndbuf: 2G}") == [
        "lab.yaml:2:4: networks.lan0.ports.p: sndbuf is from 1 byte to 2047M"
    ]


def test_buffer_of_a_device_has_a_size_with_a_unit() -> None:
    lab = load("lab.yaml", text=f"networks: {{lan0: {{ports: {{t: {{type: tap, sndbuf: 1M}}}}}}}}\n{NODES}", env={})
    assert lab.networks["lan0"].ports["t"].spec["sndbuf"] == 1 << 20
