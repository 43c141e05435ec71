"""The plan: what diff says, in what order, and that doing it leads where it should."""

from __future__ import annotations

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from vswitch.coordinator import plan
from vswitch.model.lab import Endpoint, Interface, Lab, Link, Network, Node

NETWORKS = ("lan0", "lan1")
NODES = ("a", "b", "c")


def interface(name: str) -> Interface:
    return Interface(name=name, mac="52:54:00:00:00:01")


def node(name: str, **fields: object) -> Node:
    return Node(name=name, kind="netns", driver="netns", interfaces=(interface("eth0"),), **fields)  # type: ignore[arg-type]


def lab(nodes: dict[str, Node], networks: dict[str, Network], links: tuple[Link, ...] = ()) -> Lab:
    return Lab(name="l", seed=0, source="l.yaml", nodes=nodes, networks=networks, links=links)


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
    networks = {name: Network(name=name, type=draw(st.sampled_from(["switch", "hub"]))) for name in nets}
    links = []
    for name in names:
        for number, net in enumerate(nets):
            if draw(st.booleans()):
                links.append(Link(Endpoint(name, f"eth{number}"), Endpoint(net)))
    if len(names) > 1 and draw(st.booleans()):
        links.append(Link(Endpoint(names[0], "p0"), Endpoint(names[1], "p0")))
    return lab(nodes, networks, tuple(links))


def end_state(one: Lab) -> tuple[object, ...]:
    return one.nodes, one.networks, set(one.links)


@given(labs(), labs())
def test_plan_leads_from_any_lab_to_any_other(old: Lab, new: Lab) -> None:
    assert end_state(reduce(plan.apply, plan.diff(old, new), old)) == end_state(new)


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
