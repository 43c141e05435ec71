"""Carriers follow ports and nodes: which changes follow from what, without a lab."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vswitch.coordinator.carrier import Carriers, Change
from vswitch.model.lab import Endpoint, Link

A, B, C = Endpoint("a", "eth0"), Endpoint("b", "eth0"), Endpoint("c", "eth0")
ON_LAN = Link(C, Endpoint("lan0"))
BETWEEN = Link(A, B)
NAME = "a:eth0--b:eth0"


def test_interface_on_a_network_follows_its_own_port_only() -> None:
    carriers = Carriers()
    other = Link(A, Endpoint("lan0"))
    assert carriers.link_added(ON_LAN, direct=False) == []
    assert carriers.link_added(other, direct=False) == []
    (off,) = carriers.port_changed("lan0", "c:eth0", "error", "a frame of 0 bytes")
    assert off == Change("c:eth0--lan0", C, False, "c:eth0: error: a frame of 0 bytes")
    assert not carriers.has_carrier(C)
    assert carriers.has_carrier(A)
    assert carriers.port_changed("lan0", "c:eth0", "closed", "") == []  # nothing new
    assert carriers.port_changed("lan0", "tcp", "closed", "the peer closed") == []  # faces outside
    assert carriers.port_changed("lan1", "c:eth0", "up", "") == []
    assert carriers.node_gone("a", "exit code 0") == []
    assert carriers.port_changed("lan0", "c:eth0", "up", "") == [Change("c:eth0--lan0", C, True, "")]


def test_point_to_point_ends_follow_both_ports() -> None:
    carriers = Carriers()
    carriers.link_added(BETWEEN, direct=False)
    changes = carriers.port_changed(NAME, "b:eth0", "closed", "")
    assert [(change.end, change.up, change.why) for change in changes] == [
        (A, False, "b:eth0: closed"),
        (B, False, "b:eth0: closed"),
    ]
    assert [change.up for change in carriers.port_changed(NAME, "b:eth0", "up", "")] == [True, True]


def test_end_of_a_node_takes_the_carrier_of_what_is_joined_to_it_and_its_own_is_nobodys_business() -> None:
    for direct in (True, False):
        carriers = Carriers()
        carriers.link_added(BETWEEN, direct=direct)
        assert carriers.node_gone("b", "killed by SIGKILL") == [
            Change(NAME, A, False, "b has exited (killed by SIGKILL)")
        ]
        assert carriers.port_changed(NAME, "b:eth0", "closed", "") == []
        carriers.link_removed(BETWEEN)
        carriers.node_made("b")
        assert carriers.link_added(BETWEEN, direct=direct) == []
        assert carriers.has_carrier(A)


def test_peer_that_is_still_to_connect_leaves_both_ends_dark_until_it_has() -> None:
    carriers = Carriers()
    dark = carriers.link_added(BETWEEN, direct=False, waiting=frozenset({B}))
    assert [(change.end, change.up) for change in dark] == [(A, False), (B, False)]
    assert dark[0].why == "b:eth0: nobody is connected"
    assert len(carriers.port_changed(NAME, "b:eth0#1", "up", "")) == 2
    assert carriers.port_changed(NAME, "b:eth0#2", "up", "") == []
    assert carriers.port_changed(NAME, "b:eth0#1", "closed", "") == []  # the other is still there
    assert len(carriers.port_changed(NAME, "b:eth0#2", "closed", "")) == 2
    assert not carriers.has_carrier(A)


def test_node_that_ended_before_its_link_was_made_counts() -> None:
    carriers = Carriers()
    carriers.node_gone("b", "poweroff")
    assert [change.end for change in carriers.link_added(BETWEEN, direct=True)] == [A]


EVENTS = st.one_of(
    st.tuples(st.just("port"), st.sampled_from([A, B, C]), st.booleans()),
    st.tuples(st.just("node"), st.sampled_from([A, B, C]), st.just(False)),
)


@given(st.lists(EVENTS, max_size=12))
def test_changes_add_up_to_what_is_known(events: list[tuple[str, Endpoint, bool]]) -> None:
    carriers = Carriers()
    for link in (BETWEEN, ON_LAN):
        carriers.link_added(link, direct=False)
    told = dict.fromkeys([A, B, C], True)
    up = dict.fromkeys([A, B, C], True)
    gone: set[Endpoint] = set()
    for what, end, state in events:
        if what == "port":
            up[end] = state
            network = "lan0" if end == C else NAME
            changes = carriers.port_changed(network, str(end), "up" if state else "closed", "")
        else:
            gone.add(end)
            changes = carriers.node_gone(end.target, "")
        for change in changes:
            assert change.end not in gone
            assert told[change.end] != change.up
            told[change.end] = change.up
        both = up[A] and up[B]
        wanted = {A: both and B not in gone, B: both and A not in gone, C: up[C]}
        assert all(told[each] == wanted[each] for each in wanted if each not in gone)
        assert all(carriers.has_carrier(each) == told[each] for each in told)
