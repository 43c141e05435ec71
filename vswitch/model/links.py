"""Links: what their two ends are."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from .lab import Endpoint, Link
from .problems import Problems, quote
from .spec import INTERFACE_PATTERN, INTERFACE_RULE, EndpointSpec, LabSpec, LinkSpec, PortSettingsSpec
from .tree import Path


class End(NamedTuple):
    """One end of a link as written: an endpoint, what was fixed about its interface, and where."""

    endpoint: Endpoint
    path: Path
    spec: EndpointSpec | None = None


class WrittenLink(NamedTuple):
    """A link as written. `ends` begins with an interface."""

    ends: tuple[End, End]
    path: Path
    subnet: str | list[str] | None = None
    port: PortSettingsSpec | None = None
    pipe: bool = False

    @property
    def link(self) -> Link:
        """The link itself, its port's settings left open."""
        return Link(self.ends[0].endpoint, self.ends[1].endpoint, pipe=self.pipe)


def read_links(
    file: LabSpec, problems: Problems, nodes: Collection[str], networks: Collection[str]
) -> list[WrittenLink]:
    """Read `links`; those with a mistake in them are reported and left out."""
    reader = _Reader(problems, nodes, networks)
    links = []
    for index, spec in enumerate(file.links):
        link = reader.link(("links", index), spec) if spec is not None else None
        if link is not None:
            links.append(link)
    return links


class _Reader:
    def __init__(self, problems: Problems, nodes: Collection[str], networks: Collection[str]) -> None:
        self._problems = problems
        self._nodes = nodes
        self._networks = networks
        self._taken: dict[Endpoint, Path] = {}

    def link(self, path: Path, spec: list[str | EndpointSpec] | LinkSpec) -> WrittenLink | None:
        """Read one link."""
        if isinstance(spec, LinkSpec):
            written, subnet, port, ends_path = spec.endpoints, spec.subnet, spec.port, (*path, "endpoints")
            pipe = spec.pipe
            if spec.impair is not None:
                self._problems.error((*path, "impair"), "impairments are not there yet", key=True)
        else:
            written, subnet, port, ends_path = spec, None, None, path
            pipe = False
        ends = [self._end((*ends_path, index), end) for index, end in enumerate(written)]
        first, second = ends
        if first is None or second is None:
            return None
        if first.endpoint.interface is None:
            first, second = second, first
        if first.endpoint.interface is None:
            self._problems.error(path, "joins two networks; a link joins an interface to a network, or two interfaces")
            return None
        if first.endpoint == second.endpoint:
            self._problems.error(path, f"joins {first.endpoint} to itself")
            return None
        if subnet is not None and second.endpoint.interface is None:
            network = second.endpoint.target
            message = f"is for a link of two interfaces; here it belongs under networks.{network}"
            self._problems.error((*path, "subnet"), message, key=True)
        if port is not None and second.endpoint.interface is not None:
            message = "is for a link to a switch: between two interfaces there is none"
            self._problems.error((*path, "port"), message, key=True)
        if pipe and second.endpoint.interface is None:
            self._problems.error((*path, "pipe"), "is for a link of two interfaces: a pipe has no switch", key=True)
        taken = [self._take(end) for end in (first, second)]
        return WrittenLink((first, second), path, subnet, port, pipe) if all(taken) else None

    def _take(self, end: End) -> bool:
        """Note that an interface is linked; False if it was already."""
        if end.endpoint.interface is None:
            return True
        earlier = self._taken.setdefault(end.endpoint, end.path)
        if earlier is not end.path:
            place = self._problems.line(earlier)
            self._problems.error(
                end.path, f"{end.endpoint} is linked already, in {place}; give the node another interface"
            )
        return earlier is end.path

    def _end(self, path: Path, written: str | EndpointSpec) -> End | None:
        if isinstance(written, str):
            target, colon, interface = written.partition(":")
            if not colon:
                return self._network_end(path, target, None)
            if not re.search(INTERFACE_PATTERN, interface):
                self._problems.error(
                    path, f"expected a network, or a node, ':' and {INTERFACE_RULE}, not {quote(written)}"
                )
                return None
            return self._interface_end(path, target, interface, None)
        if written.network is not None:
            if written.node is not None or written.interface is not None:
                self._problems.error(path, "has a network and a node; an end of a link is one of them")
                return None
            if written.ip is not None or written.mac is not None:
                self._problems.error(path, "a network's end has no 'ip' or 'mac'")
            return self._network_end((*path, "network"), written.network, written)
        if written.node is None or written.interface is None:
            self._problems.error(
                path, "needs 'node' and 'interface', or 'network'; in NODE:INTERFACE no space follows the ':'"
            )
            return None
        return self._interface_end(path, written.node, written.interface, written)

    def _network_end(self, path: Path, name: str, spec: EndpointSpec | None) -> End | None:
        if name in self._networks:
            return End(Endpoint(name), path, spec)
        if name in self._nodes:
            self._problems.error(path, f"{name!r} is a node: name its interface too, as in {name}:eth0")
        else:
            self._problems.unknown(path, "network", name, self._networks)
        return None

    def _interface_end(self, path: Path, node: str, interface: str, spec: EndpointSpec | None) -> End | None:
        if node in self._nodes:
            return End(Endpoint(node, interface), path, spec)
        place = path if spec is None else (*path, "node")
        if node in self._networks:
            self._problems.error(place, f"{node!r} is a network: it has no interfaces to name, write just {node}")
        else:
            self._problems.unknown(place, "node", node, self._nodes)
        return None
