"""The plan: what diff says, in what order, and that doing it leads where it should."""

from __future__ import annotations

from functools import reduce

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from vswitch.coordinator import plan
from vswitch.model.lab import (
    Endpoint,
    Interface,
    Lab,
    Link,
    Network,
    Node,
    OutsidePort,
    PortSettings,
    SwitchSettings,
)

NETWORKS = ("lan0", "lan1")
NODES = ("a", "b", "c")
PORT_SETTINGS = st.sampled_from([PortSettings(), PortSettings(vlan=10), PortSettings(isolated=True)])


def interface(name: str) -> Interface:
    return Interface(name=name, mac="52:54:00:00:00:01")


def node(name: str, **fields: object) -> Node:
    return Node(name=name, kind="netns", driver="netns", interfaces=(interface("eth0"),), **fields)  # type: ignore[arg-type]


def lab(nodes: dict[str, Node], networks: dict[str, Network], links: tuple[Link, ...] = ()) -> Lab:
    return Lab(name="l", seed=0, source="l.yaml", nodes=nodes, networks=networks, links=links)


@st.composite
def made_networks(draw: st.DrawFn, name: str) -> Network:
    return Network(
        name=name,
        type=draw(st.sampled_from(["switch", "hub"])),
        settings=draw(st.builds(SwitchSettings, ageing=st.sampled_from([300.0, 1.0]))),
        ports=draw(
            st.dictionaries(
                st.sampled_from(["up", "down"]),
                st.builds(
                    OutsidePort,
                    spec=st.sampled_from([{"type": "stream"}, {"type": "mcast"}]),
                    settings=PORT_SETTINGS,
                ),
            )
        ),
    )


@st.composite
def labs(draw: st.DrawFn) -> Lab:
    names = draw(st.lists(st.sampled_from(NODES), unique=True))
    nets = draw(st.lists(st.sampled_from(NETWORKS), unique=True))
    nodes = {
        name: node(
            name,
            env=draw(st.sampled_from([{}, {"A": "1"}])),
            depends_on={other: "ready" for other in names[:index] if draw(st.booleans())},
        )
        for index, name in enumerate(names)
    }
    networks = {name: draw(made_networks(name)) for name in nets}
    links = []
    for name in names:
        for number, net in enumerate(nets):
            if draw(st.booleans()):
                links.append(Link(Endpoint(name, f"eth{number}"), Endpoint(net), draw(PORT_SETTINGS)))
    if len(names) > 1 and draw(st.booleans()):
        links.append(Link(Endpoint(names[0], "p0"), Endpoint(names[1], "p0")))
    return lab(nodes, networks, tuple(links))


def end_state(one: Lab) -> tuple[object, ...]:
    return one.nodes, one.networks, set(one.links)


@given(labs(), labs())
def test_plan_leads_from_any_lab_to_any_other(old: Lab, new: Lab) -> None:
    assert end_state(reduce(plan.apply, plan.diff(old, new), old)) == end_state(new)


@st.composite
def with_other_settings(draw: st.DrawFn, one: Lab) -> Lab:
    """The same lab, but for settings."""
    networks = {}
    for name, network in one.networks.items():
        ports = {
            port: OutsidePort(spec=there.spec, settings=draw(PORT_SETTINGS)) for port, there in network.ports.items()
        }
        settings = SwitchSettings(ageing=draw(st.sampled_from([300.0, 1.0])))
        networks[name] = msgspec.structs.replace(network, settings=settings, ports=ports)
    links = [
        link if link.point_to_point else msgspec.structs.replace(link, settings=draw(PORT_SETTINGS))
        for link in one.links
    ]
    return msgspec.structs.replace(one, networks=networks, links=tuple(links))


@given(st.data())
def test_change_of_settings_alone_is_made_in_place(data: st.DataObject) -> None:
    """Nothing is taken away and made anew, and each thing that changed is changed once."""
    old = data.draw(labs())
    new = data.draw(with_other_settings(old))
    actions = plan.diff(old, new)
    assert {type(action) for action in actions} <= {plan.ConfigureNetwork, plan.ConfigurePort}
    changed = {name for name in old.networks if old.networks[name].settings != new.networks[name].settings}
    for name in old.networks:
        before, after = old.ports(name), new.ports(name)
        changed |= {f"{name}/{port}" for port in before if before[port] != after[port]}
    assert sorted(action.subject for action in actions) == sorted(changed)
    assert reduce(plan.apply, actions, old) == new


def test_switch_is_configured_before_its_ports_and_both_before_new_ones() -> None:
    here, there = Link(Endpoint("a", "eth0"), Endpoint("lan0")), Link(Endpoint("b", "eth0"), Endpoint("lan0"))
    filtering = Network(name="lan0", settings=SwitchSettings(vlan_filtering=True))
    old = lab({"a": node("a"), "b": node("b")}, {"lan0": Network(name="lan0")}, (here,))
    tagged = Link(here.a, here.b, PortSettings(vlan=10))
    order = plan.prerequisites(plan.diff(old, lab(old.nodes, {"lan0": filtering}, (tagged, there))))
    assert order["ConfigurePort", "lan0/a:eth0"] == {("ConfigureNetwork", "lan0")}
    assert order["AddLink", there.name] == {("ConfigureNetwork", "lan0"), ("ConfigurePort", "lan0/a:eth0")}


@given(labs())
def test_plan_from_a_lab_to_itself_is_empty(one: Lab) -> None:
    assert plan.diff(one, one) == []


@given(labs(), labs())
def test_prerequisites_are_part_of_the_plan_and_come_earlier_in_it(old: Lab, new: Lab) -> None:
    actions = plan.diff(old, new)
    position = {action.key: number for number, action in enumerate(actions)}
    assert len(position) == len(actions)
    for key, needs in plan.prerequisites(actions).items():
        assert all(position[need] < position[key] for need in needs)


def test_node_waits_for_the_node_it_depends_on_only_when_that_must_be_ready() -> None:
    nodes = {
        "a": node("a"),
        "b": node("b", depends_on={"a": "ready"}),
        "c": node("c", depends_on={"a": "started"}),
    }
    order = plan.prerequisites(plan.diff(None, lab(nodes, {})))
    assert ("StartNode", "a") in order["StartNode", "b"]
    assert ("StartNode", "a") not in order["StartNode", "c"]


def test_node_is_launched_only_when_its_links_are_there() -> None:
    link = Link(Endpoint("a", "eth0"), Endpoint("lan0"))
    actions = plan.diff(None, lab({"a": node("a")}, {"lan0": Network(name="lan0")}, (link,)))
    order = plan.prerequisites(actions)
    assert order["AddLink", link.name] == {("AddNetwork", "lan0"), ("CreateNode", "a")}
    assert ("AddLink", link.name) in order["StartNode", "a"]


def test_changed_node_is_stopped_and_made_anew_with_its_links() -> None:
    link = Link(Endpoint("a", "eth0"), Endpoint("lan0"))
    networks = {"lan0": Network(name="lan0")}
    old = lab({"a": node("a"), "b": node("b")}, networks, (link,))
    new = lab({"a": node("a", env={"X": "1"}), "b": node("b")}, networks, (link,))
    kinds = [type(action).__name__ for action in plan.diff(old, new)]
    assert kinds == ["StopNode", "RemoveLink", "CreateNode", "AddLink", "StartNode"]
    assert all(action.subject != "b" for action in plan.diff(old, new))
