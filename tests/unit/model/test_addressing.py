"""Which address, which MAC and which name each interface gets."""

from __future__ import annotations

import itertools
from ipaddress import ip_interface, ip_network
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.errors import LabFileError
from vswitch.model import load
from vswitch.model.addressing import is_usable, usable
from vswitch.model.catalogue import Catalogue
from vswitch.model.lab import Lab
from vswitch.model.mac import PREFIX, derive_mac

from .conftest import lab_text, make_catalogue


def read(catalogue: Catalogue, **sections: Any) -> Lab:
    return load("lab.yaml", text=lab_text(**sections), env={}, catalogue=catalogue)


def addresses(lab: Lab) -> dict[str, tuple[str, ...]]:
    return {f"{node.name}:{i.name}": i.addresses for node in lab.nodes.values() for i in node.interfaces}


def hosts(*names: str, **interfaces: Any) -> dict[str, Any]:
    """Nodes called `names`, with what is written about their interface eth0."""
    return {
        name: {"kind": "host", **({"interfaces": {"eth0": interfaces[name]}} if name in interfaces else {})}
        for name in names
    }


def on_lan0(*names: str) -> list[list[str]]:
    return [[f"{name}:eth0", "lan0"] for name in names]


def test_addresses_go_out_in_node_order_whatever_the_order_of_links(catalogue: Catalogue) -> None:
    lab = read(catalogue, nodes=hosts("a", "b", "c"), links=on_lan0("c", "b", "a"))
    assert addresses(lab) == {"a:eth0": ("10.0.0.1/24",), "b:eth0": ("10.0.0.2/24",), "c:eth0": ("10.0.0.3/24",)}


def test_written_addresses_are_kept_and_skipped(catalogue: Catalogue) -> None:
    nodes = hosts("a", "b", "c", "d", b={"ip": "10.0.0.1"}, d={"ip": ["10.0.0.3/24", "10.0.0.2"]})
    lab = read(catalogue, nodes=nodes, links=on_lan0("a", "b", "c", "d"))
    assert addresses(lab) == {
        "a:eth0": ("10.0.0.4/24",),
        "b:eth0": ("10.0.0.1/24",),
        "c:eth0": ("10.0.0.5/24",),
        "d:eth0": ("10.0.0.3/24", "10.0.0.2/24"),
    }


def test_empty_list_of_addresses_means_none(catalogue: Catalogue) -> None:
    lab = read(catalogue, nodes=hosts("a", "b", a={"ip": []}))
    assert addresses(lab) == {"a:eth0": (), "b:eth0": ("10.0.0.1/24",)}


def test_both_families_are_given_out(catalogue: Catalogue) -> None:
    lab = read(catalogue, networks={"lan0": {"subnet": ["10.0.0.0/24", "fd00:1::/64"]}})
    assert addresses(lab)["b:eth0"] == ("10.0.0.2/24", "fd00:1::2/64")
    assert lab.hosts == {"10.0.0.1": ("a",), "fd00:1::1": ("a",), "10.0.0.2": ("b",), "fd00:1::2": ("b",)}


@pytest.mark.parametrize(
    ("subnet", "expected"),
    [
        ("10.1.0.0/30", ("10.1.0.1/30", "10.1.0.2/30")),
        ("10.1.0.0/31", ("10.1.0.0/31", "10.1.0.1/31")),
        ("fd00::/127", ("fd00::/127", "fd00::1/127")),
        ("fd00::/126", ("fd00::1/126", "fd00::2/126")),
        ("10.0.0.0/8", ("10.0.0.1/8", "10.0.0.2/8")),
        ("fd00::/8", ("fd00::1/8", "fd00::2/8")),
    ],
)
def test_point_to_point_link_gives_addresses_of_its_own_subnet(
    catalogue: Catalogue, subnet: str, expected: tuple[str, str]
) -> None:
    lab = read(catalogue, networks={}, links=[{"endpoints": ["b:p", "a:p"], "subnet": subnet}])
    assert addresses(lab) == {"a:p": (expected[0],), "b:p": (expected[1],)}


def test_endpoint_may_fix_address_and_mac(catalogue: Catalogue) -> None:
    end = {"node": "a", "interface": "eth0", "ip": "10.0.0.77", "mac": "52:54:00:AA:BB:CC"}
    lab = read(catalogue, links=[{"endpoints": [end, "lan0"]}, ["b:eth0", "lan0"]])
    (interface,) = lab.nodes["a"].interfaces
    assert (interface.mac, interface.addresses) == ("52:54:00:aa:bb:cc", ("10.0.0.77/24",))


def test_address_without_a_subnet_keeps_its_own_prefix_length(catalogue: Catalogue) -> None:
    nodes = hosts("a", "b", a={"ip": ["192.0.2.1/28", "2001:DB8::1/48"]}, b={"ip": "192.0.2.2/28"})
    lab = read(catalogue, networks={"lan0": {}}, nodes=nodes)
    assert addresses(lab) == {"a:eth0": ("192.0.2.1/28", "2001:db8::1/48"), "b:eth0": ("192.0.2.2/28",)}


def test_overlapping_subnets_share_their_addresses_out(catalogue: Catalogue) -> None:
    networks = {"lan0": {"subnet": "10.0.0.0/24"}, "lan1": {"subnet": "10.0.0.0/16"}}
    lab = read(catalogue, networks=networks, links=[["a:eth0", "lan0"], ["b:eth0", "lan1"]])
    assert addresses(lab) == {"a:eth0": ("10.0.0.1/24",), "b:eth0": ("10.0.0.2/16",)}


def test_subnet_just_large_enough_is_enough_and_one_more_is_too_many(catalogue: Catalogue) -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    networks = {"lan0": {"subnet": "10.0.0.0/29"}}
    lab = read(catalogue, networks=networks, nodes=hosts(*names), links=on_lan0(*names))
    assert addresses(lab)["f:eth0"] == ("10.0.0.6/29",)
    with pytest.raises(LabFileError, match=r"too small: 6 usable addresses, none left for g:eth0"):
        read(catalogue, networks=networks, nodes=hosts(*names, "g"), links=on_lan0(*names, "g"))


def test_names_resolve_to_first_addresses_and_further_interfaces_have_their_own(catalogue: Catalogue) -> None:
    links = [*on_lan0("a", "b"), {"endpoints": ["a:eth1", "b:eth1"], "subnet": "10.0.1.0/30"}]
    lab = read(catalogue, links=links)
    assert lab.hosts == {"10.0.0.1": ("a",), "10.0.1.1": ("a-eth1",), "10.0.0.2": ("b",), "10.0.1.2": ("b-eth1",)}


def test_interface_alias_never_takes_the_name_of_a_node(catalogue: Catalogue) -> None:
    links = [*on_lan0("a", "a-eth1"), {"endpoints": ["a:eth1", "a-eth1:eth1"], "subnet": "10.0.1.0/30"}]
    lab = read(catalogue, nodes=hosts("a", "a-eth1"), links=links)
    assert lab.hosts == {"10.0.0.1": ("a",), "10.0.0.2": ("a-eth1",), "10.0.1.2": ("a-eth1-eth1",)}


def test_interfaces_come_in_the_order_written_under_the_node_then_of_links(catalogue: Catalogue) -> None:
    nodes = {"a": {"kind": "host", "interfaces": {"z": {}, "b": {}}}}
    lab = read(catalogue, nodes=nodes, links=[["a:eth0", "lan0"], ["a:b", "lan0"], ["a:z", "lan0"]])
    assert [interface.name for interface in lab.nodes["a"].interfaces] == ["z", "b", "eth0"]
    assert addresses(lab)["a:z"] == ("10.0.0.1/24",)


# --- MACs ------------------------------------------------------------------------------------------------------------


def test_mac_is_pinned_by_seed_lab_node_and_interface(catalogue: Catalogue) -> None:
    """Pinned: a new version that gives other MACs breaks every lab that relies on them."""
    assert derive_mac(7, "duo", "vm1", "eth0") == "52:54:00:95:b1:5c"
    assert derive_mac(0, "pair", "a", "eth0") == "52:54:00:53:53:af"
    assert read(catalogue).nodes["a"].interfaces[0].mac == "52:54:00:53:53:af"
    varied = {
        derive_mac(*of) for of in [(7, "duo", "vm1", "eth1"), (7, "duo", "vm2", "eth0"), (7, "duo2", "vm1", "eth0")]
    }
    assert len(varied | {derive_mac(8, "duo", "vm1", "eth0"), derive_mac(7, "duo", "vm1", "eth0")}) == 5


def test_macs_do_not_depend_on_other_nodes_or_on_the_order(catalogue: Catalogue) -> None:
    def macs(*names: str) -> dict[str, str]:
        lab = read(catalogue, nodes=hosts(*names), links=on_lan0(*names))
        return {node.name: node.interfaces[0].mac for node in lab.nodes.values()}

    assert macs("a", "b").items() <= macs("c", "b", "a", "d").items()


def test_derived_mac_avoids_those_taken(catalogue: Catalogue) -> None:
    first = derive_mac(0, "pair", "a", "eth0")
    second = derive_mac(0, "pair", "a", "eth0", {first})
    assert second != first
    assert second.startswith(PREFIX)
    lab = read(catalogue, nodes=hosts("a", "b", b={"mac": first}))
    assert [node.interfaces[0].mac for node in lab.nodes.values()] == [second, first]


def test_derived_macs_are_locally_administered_unicast_and_all_different(catalogue: Catalogue) -> None:
    names = [f"h{number}" for number in range(3000)]
    links = [[f"{name}:eth0", f"lan{number % 3}"] for number, name in enumerate(names)]
    lab = read(catalogue, networks={f"lan{number}": {} for number in range(3)}, nodes=hosts(*names), links=links)
    macs = [node.interfaces[0].mac for node in lab.nodes.values()]
    assert len(set(macs)) == len(macs)
    assert {int(mac[:2], 16) & 3 for mac in macs} == {2}


def test_two_derived_macs_that_collide_are_told_apart(catalogue: Catalogue) -> None:
    seen: dict[str, str] = {}
    for number in itertools.count():
        name = f"n{number}"
        mac = derive_mac(0, "pair", name, "eth0")
        if mac in seen:
            break
        seen[mac] = name
    lab = read(catalogue, nodes=hosts(seen[mac], name), links=on_lan0(seen[mac], name))
    macs = [node.interfaces[0].mac for node in lab.nodes.values()]
    assert macs == [mac, derive_mac(0, "pair", name, "eth0", {mac})]


# --- properties ------------------------------------------------------------------------------------------------------

_SUBNETS = st.builds(
    lambda base, length: ip_network((int(base), length), strict=False),
    st.ip_addresses(v=4, network="10.0.0.0/8"),
    st.integers(24, 32),
)


@given(_SUBNETS)
def test_usable_addresses_are_those_that_are_usable(subnet: Any) -> None:
    everything = [address for address in subnet if is_usable(address, subnet)]
    assert list(usable(subnet)) == everything
    assert len(everything) == {32: 1, 31: 2}.get(subnet.prefixlen, subnet.num_addresses - 2)


_CATALOGUE = make_catalogue()


@given(st.integers(1, 12), st.sets(st.integers(1, 14)), st.integers(28, 32), st.randoms(use_true_random=False))
def test_allocation_is_unique_inside_the_subnet_or_refused(
    count: int, written: set[int], prefix: int, random: Any
) -> None:
    """Whatever is written, every interface gets one usable address of its own, or the subnet is too small."""
    subnet = ip_network(f"10.0.0.0/{prefix}")
    names = [f"n{number}" for number in range(count)]
    fixed = dict(zip(random.sample(names, k=min(count, len(written))), sorted(written), strict=False))
    allowed = {
        number for number in fixed.values() if is_usable(subnet[0] + number, subnet) and number < subnet.num_addresses
    }
    nodes = hosts(*names, **{name: {"ip": f"10.0.0.{number}"} for name, number in fixed.items()})
    text = msgspec.json.encode(
        {"networks": {"lan0": {"subnet": str(subnet)}}, "nodes": nodes, "links": on_lan0(*names)}
    ).decode()
    room = sum(1 for _ in usable(subnet))
    if len(allowed) < len(fixed) or count > room:
        with pytest.raises(LabFileError):
            load("lab.yaml", text=text, env={}, catalogue=_CATALOGUE)
        return
    given_out = list(itertools.chain(*addresses(load("lab.yaml", text=text, env={}, catalogue=_CATALOGUE)).values()))
    assert len(set(given_out)) == count
    for address in given_out:
        assert is_usable(ip_interface(address).ip, subnet)
        assert ip_interface(address).network == subnet
