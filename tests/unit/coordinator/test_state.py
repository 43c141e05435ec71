"""The state tables: what may follow what, and the events that tell of it."""

from __future__ import annotations

import itertools

import pytest

from vswitch.coordinator.protocol import Event
from vswitch.coordinator.state import LAB_TRANSITIONS, NODE_TRANSITIONS, Actual, LabState
from vswitch.model.lab import Lab, Node
from vswitch.nodes.driver import NodeState


class Recorded:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.now = 100.0
        self.node = Node(name="a", kind="netns", driver="netns")
        lab = Lab(name="l", seed=0, source="l.yaml", nodes={"a": self.node})
        self.actual = Actual(lab, "l", self.events.append, clock=lambda: self.now)


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.mark.parametrize(("old", "new"), list(itertools.permutations(NodeState, 2)))
def test_node_state_changes_only_as_the_table_allows(recorded: Recorded, old: NodeState, new: NodeState) -> None:
    ways = {
        NodeState.CREATED: [],
        NodeState.BOOTING: [NodeState.BOOTING],
        NodeState.READY: [NodeState.BOOTING, NodeState.READY],
        NodeState.EXITED: [NodeState.EXITED],
    }
    recorded.actual.node_created(recorded.node)
    for step in ways[old]:
        recorded.actual.node_changed("a", step)
    if new in NODE_TRANSITIONS[old]:
        recorded.actual.node_changed("a", new)
        assert recorded.actual.node_state("a") is new
    else:
        with pytest.raises(ValueError, match="cannot go"):
            recorded.actual.node_changed("a", new)
        assert recorded.actual.node_state("a") is old


def test_every_state_has_a_row_in_its_table() -> None:
    assert set(NODE_TRANSITIONS) == set(NodeState)
    assert set(LAB_TRANSITIONS) == set(LabState)


def test_broken_lab_never_runs_again(recorded: Recorded) -> None:
    recorded.actual.lab_changed(LabState.BROKEN, "the fabric died")
    with pytest.raises(ValueError, match="cannot go"):
        recorded.actual.lab_changed(LabState.RUNNING)
    recorded.actual.lab_changed(LabState.STOPPING)


def test_events_are_numbered_without_a_gap_and_carry_the_cause(recorded: Recorded) -> None:
    recorded.actual.node_created(recorded.node)
    recorded.actual.node_changed("a", NodeState.BOOTING)
    recorded.actual.node_changed("a", NodeState.EXITED, "killed by SIGKILL")
    assert [event.sequence for event in recorded.events] == [1, 2, 3]
    assert recorded.events[-1].state == "exited"
    assert recorded.events[-1].cause == "killed by SIGKILL"


def test_repeated_lab_state_makes_no_event(recorded: Recorded) -> None:
    recorded.actual.lab_changed(LabState.RUNNING)
    recorded.actual.lab_changed(LabState.RUNNING)
    assert len(recorded.events) == 1


def test_boot_time_is_from_launch_to_ready(recorded: Recorded) -> None:
    recorded.actual.node_created(recorded.node)
    recorded.now = 101.0
    recorded.actual.node_changed("a", NodeState.BOOTING)
    recorded.now = 103.5
    recorded.actual.node_changed("a", NodeState.READY)
    status = recorded.actual.status(source="l.yaml", version="0", pid=1, fabric_pid=2, live=lambda _: (3, {}))
    assert status.nodes[0].boot_seconds == 2.5
    assert status.nodes[0].pid == 3
    assert status.sequence == 3


def test_exited_node_may_be_created_again(recorded: Recorded) -> None:
    recorded.actual.node_created(recorded.node)
    with pytest.raises(ValueError, match="exists"):
        recorded.actual.node_created(recorded.node)
    recorded.actual.node_changed("a", NodeState.EXITED)
    recorded.actual.node_created(recorded.node)
    assert recorded.actual.node_state("a") is NodeState.CREATED
