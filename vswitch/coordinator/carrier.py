"""Which interfaces have a carrier: decided from the lab's links, the ports they bring, and the nodes that are gone.

No I/O here. An interface on a network has one while its own port is up, whatever becomes of the others there; one of a
point-to-point link only while somebody is at the other end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from ..model.lab import Endpoint, Link

_Port = tuple[str, str]
"""A network of the fabric and the name of a port there."""


class Change(NamedTuple):
    """An interface is to get a carrier, or to lose it, and why."""

    link: str
    end: Endpoint
    up: bool
    why: str


class Carriers:
    """What is known, and what follows. Every method that adds to it returns the changes that makes.

    `gone` nodes have no interfaces to speak of: nothing is said of theirs.
    """

    def __init__(self) -> None:
        self._links: dict[str, Link] = {}
        self._of_port: dict[_Port, Link] = {}
        self._peers: dict[_Port, set[str]] = {}
        self._reasons: dict[_Port, str] = {}
        self._of_node: defaultdict[str, list[str]] = defaultdict(list)
        self._gone: dict[str, str] = {}
        self._off: set[Endpoint] = set()

    def has_carrier(self, end: Endpoint) -> bool:
        """Whether an interface is to have a carrier now."""
        return end not in self._off

    def has_peer(self, end: Endpoint) -> bool:
        """Whether somebody is at the port of a linked interface."""
        return any(bool(peers) for (_, port), peers in self._peers.items() if port == str(end))

    def ports_of(self, node: str) -> list[_Port]:
        """The ports a node's linked interfaces have in the fabric, except those that share a socket."""
        links = (self._links[name] for name in self._of_node[node])
        ports = (_port(link, end) for link in links for end in _ends(link) if end.target == node)
        return list(dict.fromkeys(port for port in ports if port in self._of_port))

    def link_added(self, link: Link, *, direct: bool, waiting: frozenset[Endpoint] = frozenset()) -> list[Change]:
        """A link is being made; `direct` if no port of the fabric is in it. `waiting` ends have no peer yet."""
        self._links[link.name] = link
        ends = _ends(link)
        for end in ends:
            self._of_node[end.target].append(link.name)
            if not direct:
                port = _port(link, end)
                self._of_port[port] = link
                self._peers[port] = set() if end in waiting else {""}
                self._reasons[port] = "nobody is connected" if end in waiting else ""
        return list(self._settle(link))

    def link_removed(self, link: Link) -> None:
        """A link is gone, and whatever was known of its ports."""
        if self._links.pop(link.name, None) is None:
            return
        for end in _ends(link):
            self._of_node[end.target].remove(link.name)
            self._off.discard(end)
            port = _port(link, end)
            for known in (self._of_port, self._peers, self._reasons):
                known.pop(port, None)

    def port_changed(self, network: str, port: str, state: str, reason: str) -> list[Change]:
        """A port of the fabric is up, or is not any more; "NAME#1", "NAME#2"... are the several peers of one."""
        name, _, peer = port.partition("#")
        link = self._of_port.get((network, name))
        if link is None:
            return []
        peers = self._peers[network, name]
        if state == "up":
            peers.add(peer)
        else:
            peers.discard(peer)
            self._reasons[network, name] = f"{state}: {reason}" if reason else state
        return list(self._settle(link))

    def node_gone(self, name: str, why: str) -> list[Change]:
        """A node has ended."""
        self._gone[name] = why
        return [change for link in self._of_node[name] for change in self._settle(self._links[link])]

    def node_made(self, name: str) -> None:
        """A node of this name is there (again); its links come after it."""
        self._gone.pop(name, None)

    def _settle(self, link: Link) -> Iterator[Change]:
        for end in _ends(link):
            why = self._why_none(link, end)
            if end.target in self._gone or (end in self._off) == (why is not None):
                continue
            if why is None:
                self._off.discard(end)
            else:
                self._off.add(end)
            yield Change(link.name, end, why is None, why or "")

    def _why_none(self, link: Link, end: Endpoint) -> str | None:
        """Why an end of a link has no carrier; None when it has."""
        others = [other for other in _ends(link) if other != end]
        for node in (other.target for other in others):
            if node in self._gone:
                return f"{node} has exited ({self._gone[node]})"
        for each in (end, *others):
            port = _port(link, each)
            if self._peers.get(port) == set():
                return f"{each}: {self._reasons[port]}"
        return None


def _ends(link: Link) -> tuple[Endpoint, ...]:
    """The interfaces of a link."""
    return (link.a, link.b) if link.point_to_point else (link.a,)


def _port(link: Link, end: Endpoint) -> _Port:
    """The fabric's port for an interface; a link of two interfaces has a network of its own."""
    return (link.name if link.point_to_point else link.b.target, str(end))
