"""What `lab inspect` shows: every interface, where it is linked, and how to join the ports that wait for somebody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..fabric.messages import PortStats
from ..model.lab import Endpoint, Interface, Lab, Link
from ..nodes.driver import Driver


def interface_rows(
    lab: Lab, drivers: Mapping[str, Driver], stats: Sequence[PortStats], only: str | None = None
) -> Iterator[dict[str, Any]]:
    """A row on every interface of the lab, or of the node `only`; `drivers` are those of the nodes there are."""
    links = {end: link for link in lab.links for end in (link.a, link.b) if end.interface is not None}
    for node in lab.nodes.values():
        for interface in node.interfaces if only in (None, node.name) else ():
            end = Endpoint(node.name, interface.name)
            yield {
                "node": node.name,
                "driver": node.driver,
                "interface": interface.name,
                "mac": interface.mac,
                "addresses": list(interface.addresses),
                "mtu": interface.mtu,
                **_link(links.get(end), end, stats),
                **_outside(drivers.get(node.name), interface),
            }


def _link(link: Link | None, end: Endpoint, stats: Sequence[PortStats]) -> dict[str, Any]:
    """What the interface is linked to, and the port of the fabric that it has there."""
    if link is None:
        return {"link": None, "network": None, "port": None, "state": "not linked"}
    other = link.b if end == link.a else link.a
    network = link.name if link.point_to_point else link.b.target
    found = [row for row in stats if row.network == network and row.port.partition("#")[0] == str(end)]
    if not found:  # both ends have one socket, or memory; or the machine sits on the bus itself
        return {"link": str(other), "network": None, "port": None, "state": "direct"}
    states = [row.state for row in found]
    state = "up" if "up" in states else states[0]
    return {"link": str(other), "network": network, "port": str(end), "state": state}


def _outside(driver: Driver | None, interface: Interface) -> dict[str, Any]:
    """How the interface joins: for one from outside, the words that do."""
    outside = driver.outside_port(interface) if driver is not None else None
    if driver is None or outside is None:
        return {"transport": interface.transport, "join": {}}
    return {"transport": str(outside.__struct_config__.tag), "join": driver.join_words(interface)}
