"""From the names in a generator's settings to the MAC and IP addresses they stand for in the lab. No I/O."""

from __future__ import annotations

import difflib
from ipaddress import ip_interface
from typing import NamedTuple

import msgspec

from ..model.lab import Endpoint, Interface, Lab, Node
from . import patterns
from .settings import EmulatedSpec, is_address, is_mac

_BROADCAST = "ff:ff:ff:ff:ff:ff"
DEFAULT_DST_PORT, DEFAULT_SRC_PORT = "9", "49152"  # discard (RFC 863), and the first that is nobody's (RFC 6335)


class _Neighbour(NamedTuple):
    node: str
    interface: Interface


def resolve(spec: EmulatedSpec, node: Node, lab: Lab) -> EmulatedSpec:
    """`spec` with every name replaced and every default filled in. Raises ValueError saying what cannot be."""
    if spec.does in ("sink", "echo", "python"):
        return spec
    if spec.does in ("pktgen", "replay") and len(node.interfaces) != 1:
        raise ValueError(f"a {spec.does} node has one interface, not {len(node.interfaces)}")
    if spec.does == "host":
        if spec.gateway is not None and (not is_address(spec.gateway) or len(patterns.addresses(spec.gateway)) != 1):
            raise ValueError(f"gateway {spec.gateway!r} is not an address")
        return spec
    return _Targets(spec, node, lab).resolve() if spec.does == "pktgen" else spec


class _Targets:
    def __init__(self, spec: EmulatedSpec, node: Node, lab: Lab) -> None:
        self._spec = spec
        self._lab = lab
        self._own = node.interfaces[0]
        self._here = Endpoint(node.name, self._own.name)
        self._neighbours = _neighbours(self._here, lab)

    def resolve(self) -> EmulatedSpec:
        spec = self._spec
        src_ip, dst_ip = self._addresses()
        # This checks anew what depends on the IP version, which names did not tell.
        return msgspec.structs.replace(
            spec,
            dst=self._dst(),
            src=spec.src or self._own.mac,
            src_ip=src_ip,
            dst_ip=dst_ip,
            src_port=(spec.src_port or DEFAULT_SRC_PORT) if dst_ip else None,
            dst_port=(spec.dst_port or DEFAULT_DST_PORT) if dst_ip else None,
            size=spec.size or str(patterns.MIN_FRAME),
            rate=spec.rate or "max",
            burst=spec.burst or 1,
        )

    def _dst(self) -> str:
        written = self._spec.dst
        if written is not None and is_mac(written):
            return written
        if written is not None:
            return self._neighbour(written, "dst").interface.mac
        if self._spec.dst_ip is not None and not is_address(self._spec.dst_ip):
            return self._neighbour(self._spec.dst_ip, "dst_ip").interface.mac
        return self._neighbours[0].interface.mac if len(self._neighbours) == 1 else _BROADCAST

    def _neighbour(self, written: str, key: str) -> _Neighbour:
        """The interface that `NODE` or `NODE:INTERFACE` means, among those this one reaches."""
        name, _, interface = written.partition(":")
        if name not in self._lab.nodes:
            near = difflib.get_close_matches(name[:60], self._lab.nodes, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{key}: {written[:60]!r} is neither an address nor a node of the lab{hint}")
        for neighbour in self._neighbours:
            if neighbour.node == name and interface in ("", neighbour.interface.name):
                return neighbour
        raise ValueError(f"{key}: {self._here} does not reach {written} directly; write a MAC address")

    def _addresses(self) -> tuple[str | None, str | None]:
        src, dst = self._spec.src_ip, self._spec.dst_ip
        if src is None and dst is None:
            return None, None
        version = self._spec.version
        if dst is None:
            target = self._spec.dst if self._spec.dst is not None and not is_mac(self._spec.dst) else None
            if target is None and len(self._neighbours) != 1:
                raise ValueError("'src_ip' alone does not say where packets go: write 'dst_ip', too")
            dst = target or self._neighbours[0].node
        dst = dst if is_address(dst) else self._address_of(dst, "dst_ip", version)
        if src is None:
            src = _pick(self._own, _version(dst))
            if src is None:
                raise ValueError(f"{self._here} has no IPv{_version(dst)} address to send from: write 'src_ip'")
        elif not is_address(src):
            src = self._address_of(src, "src_ip", _version(dst))
        if _version(src) != _version(dst):
            raise ValueError(f"src_ip {src} and dst_ip {dst} are of two IP versions")
        return src, dst

    def _address_of(self, written: str, key: str, version: int | None) -> str:
        name, _, interface = written.partition(":")
        if name not in self._lab.nodes:
            self._neighbour(written, key)  # raises
        near = [one.interface for one in self._neighbours if one.node == name]
        for candidate in (*near, *self._lab.nodes[name].interfaces):
            address = _pick(candidate, version) if interface in ("", candidate.name) else None
            if address is not None:
                return address
        family = f"IPv{version} " if version else ""
        raise ValueError(f"{key}: {written} has no {family}address")


def _neighbours(here: Endpoint, lab: Lab) -> list[_Neighbour]:
    """The interfaces on the same network, or at the other end of the same link, as `here`."""
    ends: list[Endpoint] = []
    for link in lab.links:
        if here == link.a or here == link.b:
            if link.point_to_point:
                ends = [link.b if here == link.a else link.a]
            else:
                ends = [other.a for other in lab.links if other.b == link.b and other.a != here]
    return [
        _Neighbour(end.target, interface)
        for end in ends
        for interface in lab.nodes[end.target].interfaces
        if interface.name == end.interface
    ]


def _pick(interface: Interface, version: int | None) -> str | None:
    addresses = [ip_interface(text).ip for text in interface.addresses]
    fitting = [str(address) for address in addresses if version in (None, address.version)]
    return fitting[0] if fitting else None


def _version(pattern: str) -> int:
    return patterns.addresses(pattern)[0].version
