"""What a lab file may say of an external node: how whoever plays it joins, and where."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from msgspec import Struct

from ..errors import LabError
from ..model.lab import Interface, Lab, Node
from ..model.tree import Path
from ..ports.l2tpv3 import Offset, Session
from ..ports.port import PortSpec, load_port_types

ExternalTransport = Literal["stream", "dgram", "mcast", "vde", "l2tpv3"]

_KEYS: dict[ExternalTransport, tuple[str, ...]] = {
    "stream": ("listen",),
    "dgram": ("local", "remote"),
    "mcast": ("bus", "localaddr"),
    "vde": ("listen",),
    "l2tpv3": ("local", "remote", "session", "tx_cookie", "rx_cookie", "cookie64", "counter", "pincounter", "offset"),
}


class ExternalSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a node that somebody else starts. Its interfaces join over `transport`.

    The other keys fix the lab's address there, as the port type of that name has them (`bus` is its `group`, `session`
    its `tx_session`); without, it is a socket in the lab's own directory, or a group of its own.
    """

    transport: ExternalTransport = "stream"
    listen: str | None = None
    local: str | None = None
    remote: str | None = None
    bus: str | None = None
    localaddr: str | None = None
    session: Session | None = None
    tx_cookie: str | None = None
    rx_cookie: str | None = None
    cookie64: bool | None = None
    counter: bool | None = None
    pincounter: bool | None = None
    offset: Offset | None = None

    def mistakes(self, node: Node, lab: Lab) -> list[tuple[Path, str]]:
        """Report addresses that the transport has not, or cannot have."""
        fields = self.address
        what = f"{node.name} is external: whoever starts it runs its commands; leave this out, or write null here"
        found: list[tuple[Path, str]] = [((key,), what) for key in ("exec", "healthcheck") if getattr(node, key)]
        used = {self.transport_of(interface) for interface in node.interfaces} or {self.transport}
        for key in fields:
            if not any(key in _KEYS[transport] for transport in used):
                owners = ", ".join(transport for transport, keys in _KEYS.items() if key in keys)
                found.append(((key,), f"is for transport {owners}, not {', '.join(sorted(used))}"))
        if fields and len(node.interfaces) > 1:
            found.append(((next(iter(fields)),), "an address is for one interface; this node has several"))
        if "l2tpv3" in used and not {"local", "remote"} <= fields.keys():
            found.append((("transport",), "l2tpv3 needs both local and remote, such as 127.0.0.1:7400"))
        if ("local" in fields) != ("remote" in fields):
            found.append((("local" if "local" in fields else "remote",), "give both local and remote"))
        if fields and not found:
            problems = port_spec(self.transport_of(node.interfaces[0]) if node.interfaces else self.transport, fields)
            found += [((next(iter(fields)),), problem) for problem in problems.problems()]
        if fields and not found:
            found += self._taken(node, lab)
        return found

    def _taken(self, node: Node, lab: Lab) -> Iterator[tuple[Path, str]]:
        """What another port has already, or the same of a node that comes before."""
        owners: dict[str, str] = {}
        for place, spec in outside_ports(lab).items():
            for key, what in spec.exclusive().items():
                if place == f"nodes.{node.name}" and what in owners:
                    yield (key,), f"{what} is taken already, by {owners[what]}"
                owners.setdefault(what, place)

    @property
    def address(self) -> dict[str, Any]:
        """The keys of an address that are given."""
        values = msgspec.structs.asdict(self)
        return {key: value for key, value in values.items() if key != "transport" and value is not None}

    def transport_of(self, interface: Interface) -> ExternalTransport:
        """The interface's own transport, or the node's."""
        own = interface.transport
        return self.transport if own not in _KEYS else own


def outside_ports(lab: Lab) -> dict[str, PortSpec]:
    """The ports of `lab` whose addresses its file fixes, by where that is; external nodes' last."""
    types = load_port_types()
    found: dict[str, PortSpec] = {}
    for network in lab.networks.values():
        for name, port in network.ports.items():
            with contextlib.suppress(KeyError, msgspec.ValidationError):  # a lab of another version's
                found[f"networks.{network.name}.ports.{name}"] = msgspec.convert(port.spec, types[port.spec["type"]])
    for node in lab.nodes.values():
        if node.driver == "external":
            with contextlib.suppress(LabError, msgspec.ValidationError):
                external = msgspec.convert(node.settings, ExternalSpec)
                for interface in node.interfaces if external.address else ():
                    found[f"nodes.{node.name}"] = port_spec(external.transport_of(interface), external.address)
    return found


def port_spec(transport: ExternalTransport, address: dict[str, Any]) -> PortSpec:
    """The port by which an external interface joins. Raises LabError for an address that is none."""
    fields: dict[str, Any] = {"type": transport, **address}
    if transport == "stream":
        fields["clients"] = "one"
    if "bus" in fields:
        fields["group"] = fields.pop("bus")
    if transport == "l2tpv3":
        fields["tx_session"] = fields.pop("session", 1)
    try:
        return msgspec.convert(fields, load_port_types()[transport])
    except msgspec.ValidationError as error:
        raise LabError(f"{transport}: {error}") from None
