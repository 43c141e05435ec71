"""What is: the states of a lab and its nodes, which changes are allowed, and the events they make. No I/O here."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum

from ..model.lab import Lab, Node
from ..nodes.driver import NodeState
from .protocol import Event, LabStatus, NodeStatus


class LabState(Enum):
    """Where a lab is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    BROKEN = "broken"
    STOPPING = "stopping"


LAB_TRANSITIONS: dict[LabState, frozenset[LabState]] = {
    LabState.STARTING: frozenset({LabState.RUNNING, LabState.BROKEN, LabState.STOPPING}),
    LabState.RUNNING: frozenset({LabState.BROKEN, LabState.STOPPING}),
    # BROKEN -> RUNNING is prohibited: what broke (the fabric) took every port's state with it.
    LabState.BROKEN: frozenset({LabState.STOPPING}),
    LabState.STOPPING: frozenset(),
}

NODE_TRANSITIONS: dict[NodeState, frozenset[NodeState]] = {
    NodeState.CREATED: frozenset({NodeState.BOOTING, NodeState.EXITED}),
    # CREATED -> READY is prohibited: a node is ready only because it answered while booting.
    NodeState.BOOTING: frozenset({NodeState.READY, NodeState.EXITED}),
    NodeState.READY: frozenset({NodeState.EXITED}),
    # EXITED is final: a restarted node is a new node in CREATED.
    NodeState.EXITED: frozenset(),
}


class _NodeRecord:
    """What is known of one node."""

    def __init__(self, node: Node, now: float) -> None:
        self.node = node
        self.state = NodeState.CREATED
        self.cause = ""
        self.since = now
        self.boot_began = now
        self.boot_seconds: float | None = None


class Actual:
    """The lab as it is. Every change goes through a method here and is published as one numbered event.

    `publish` is called with each event; `clock` gives seconds since the epoch.
    """

    def __init__(
        self, lab: Lab, name: str, publish: Callable[[Event], None], clock: Callable[[], float] = time.time
    ) -> None:
        self.lab = lab
        self.name = name
        self.state = LabState.STARTING
        self.cause = ""
        self.created = clock()
        self.sequence = 0
        self._publish = publish
        self._clock = clock
        self._nodes: dict[str, _NodeRecord] = {}

    def _emit(self, what: str, name: str, state: str, cause: str = "") -> None:
        self.sequence += 1
        self._publish(Event(sequence=self.sequence, time=self._clock(), what=what, name=name, state=state, cause=cause))

    def lab_changed(self, state: LabState, cause: str = "") -> None:
        """Move the lab to `state`; a repeated state changes nothing. Raises ValueError for a prohibited change."""
        if state is self.state:
            return
        if state not in LAB_TRANSITIONS[self.state]:
            raise ValueError(f"a lab cannot go from {self.state.value} to {state.value}")
        self.state, self.cause = state, cause
        self._emit("lab", self.name, state.value, cause)

    def node_created(self, node: Node) -> None:
        """A node exists now. Raises ValueError while one of that name has not exited."""
        old = self._nodes.get(node.name)
        if old is not None and old.state is not NodeState.EXITED:
            raise ValueError(f"node {node.name} exists")
        self._nodes[node.name] = _NodeRecord(node, self._clock())
        self._emit("node", node.name, NodeState.CREATED.value)

    def node_changed(self, name: str, state: NodeState, cause: str = "") -> None:
        """Move a node to `state`. Raises ValueError for a prohibited change, KeyError for an unknown node."""
        record = self._nodes[name]
        if state not in NODE_TRANSITIONS[record.state]:
            raise ValueError(f"node {name} cannot go from {record.state.value} to {state.value}")
        now = self._clock()
        if state is NodeState.BOOTING:
            record.boot_began = now
        elif state is NodeState.READY:
            record.boot_seconds = now - record.boot_began
        record.state, record.cause, record.since = state, cause, now
        self._emit("node", name, state.value, cause)

    def node_failed(self, name: str, cause: str) -> None:
        """Say why a node that stays in its state will not leave it. Raises KeyError for an unknown node."""
        record = self._nodes[name]
        record.cause = cause
        self._emit("node", name, record.state.value, cause)

    def node_removed(self, name: str) -> None:
        """Forget a node."""
        del self._nodes[name]
        self._emit("node", name, "removed")

    def node_state(self, name: str) -> NodeState | None:
        """A node's state, None when there is no such node."""
        record = self._nodes.get(name)
        return record.state if record else None

    def happened(self, what: str, name: str, state: str, cause: str = "") -> None:
        """Publish something that changes no state kept here (a link added, a port failed, a progress note)."""
        self._emit(what, name, state, cause)

    def status(
        self,
        *,
        source: str,
        version: str,
        pid: int,
        fabric_pid: int | None,
        live: Callable[[str], tuple[int | None, dict[str, str]]],
    ) -> LabStatus:
        """Everything at once, for `lab ps`. `live(node)` gives a node's pid and driver facts."""
        nodes = []
        for name in self.lab.nodes:
            record = self._nodes.get(name)
            node = self.lab.nodes[name]
            pid_of_node, facts = live(name)
            nodes.append(
                NodeStatus(
                    name=name,
                    kind=node.kind,
                    driver=node.driver,
                    state=record.state.value if record else "waiting",
                    cause=record.cause if record else "",
                    since=record.since if record else self.created,
                    boot_seconds=record.boot_seconds if record else None,
                    pid=pid_of_node,
                    interfaces={interface.name: interface.addresses for interface in node.interfaces},
                    macs={interface.name: interface.mac for interface in node.interfaces},
                    facts=facts,
                )
            )
        return LabStatus(
            name=self.name,
            lab=self.lab.name,
            source=source,
            state=self.state.value,
            cause=self.cause,
            sequence=self.sequence,
            created=self.created,
            version=version,
            pid=pid,
            fabric_pid=fabric_pid,
            nodes=tuple(nodes),
            networks={name: network.type for name, network in self.lab.networks.items()},
            links=tuple((str(link.a), str(link.b)) for link in self.lab.links),
            warnings=self.lab.warnings,
        )
