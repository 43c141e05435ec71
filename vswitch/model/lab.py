"""The resolved lab: what is left of a lab file once defaults, groups, kinds, addresses and MACs are settled.

Everything here is frozen, plain data that survives a round trip through JSON; the coordinator receives exactly this.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

NetworkType = Literal["switch", "hub", "mcast"]
Condition = Literal["started", "ready", "healthy"]
VlanProtocol = Literal["802.1Q", "802.1ad"]
ReservedGroup = Literal["stp", "pause", "lacp", "dot1x", "lldp", "other"]
ReservedPolicy = Literal["forward", "drop", "deliver"]
Overflow = Literal["pause", "drop"]
Transport = Literal["auto", "stream", "dgram", "mcast", "tap", "vde", "l2tpv3"]


class Interface(Struct, frozen=True, kw_only=True):
    """One network interface of a node. `addresses` are "address/prefix" strings, v4 or v6.

    What follows `mtu` is for the drivers that say so (`Driver.interface_keys`): how its frames travel to the fabric,
    the hardware it looks like, its PCI address (hexadecimal, "slot" or "slot.function"), its pairs of queues and its
    interrupt vectors.
    """

    name: str
    mac: str
    addresses: tuple[str, ...] = ()
    mtu: int = 1500
    transport: Transport = "auto"
    model: str | None = None
    addr: str | None = None
    queues: int = 1
    vectors: int | None = None

    @property
    def wants_stream(self) -> bool:
        """Whether it may be given a stream socket."""
        return self.transport in ("auto", "stream")


class Healthcheck(Struct, frozen=True, kw_only=True):
    """A command run in the node until it exits 0; times in seconds."""

    run: str
    interval: float = 0.2
    timeout: float = 30.0


class Node(Struct, frozen=True, kw_only=True):
    """One machine. `settings` holds the fields of its driver's `Spec`, already validated against it.

    `ready_timeout` is in seconds; `depends_on` maps a node name to the state this node waits for; `exec` lists shell
    commands run in the node, in order, once it is up and before it counts as ready.
    """

    name: str
    kind: str
    driver: str
    interfaces: tuple[Interface, ...] = ()
    settings: dict[str, Any] = {}
    depends_on: dict[str, Condition] = {}
    env: dict[str, str] = {}
    labels: dict[str, str] = {}
    exec: tuple[str, ...] = ()
    healthcheck: Healthcheck | None = None
    ready_timeout: float = 60.0


class SwitchSettings(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What may be changed of a switch while it runs. `ageing` in seconds; `fdb_limit` in entries.

    `reserved_multicast` has the groups that are not simply forwarded.
    """

    ageing: float = 300.0
    fdb_limit: int = 8192
    vlan_filtering: bool = False
    vlan_protocol: VlanProtocol = "802.1Q"
    reserved_multicast: dict[ReservedGroup, ReservedPolicy] = {}


class PortSettings(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What may be changed of a switch's port while it runs; model/settings.py has the rules.

    `trunk` holds VLANs and ranges ("10", "20-30"), ascending, none twice; `static_macs` "MAC" or "MAC@VLAN".
    `storm_limit` in frames/s and `mac_limit` in addresses, 0 is none; `mtu` in bytes after the Ethernet header.
    """

    vlan: int | None = None
    trunk: tuple[str, ...] = ()
    native: int | None = None
    isolated: bool = False
    learning: bool = True
    unknown_flood: bool = True
    broadcast_flood: bool = True
    multicast_flood: bool = True
    storm_limit: int = 0
    mac_limit: int = 0
    static_macs: tuple[str, ...] = ()
    sticky: bool = False
    mtu: int | None = None
    hairpin: bool = False
    control: bool = False
    overflow: Overflow = "pause"


class OutsidePort(Struct, frozen=True, kw_only=True):
    """A port that faces outside the lab. `spec` holds the fields of a port spec (vswitch/ports), `type` among them.

    `many_peers`: several may be attached at once, each as a port of its own with these settings.
    """

    spec: dict[str, Any]
    settings: PortSettings = PortSettings()
    many_peers: bool = False


class Network(Struct, frozen=True, kw_only=True):
    """One LAN. `ports` are the ports that face outside the lab, by name; links bring the others.

    `group` ("address:port") is a multicast bus's, None for one of the lab's choice.
    """

    name: str
    type: NetworkType = "switch"
    group: str | None = None
    subnets: tuple[str, ...] = ()
    settings: SwitchSettings = SwitchSettings()
    ports: dict[str, OutsidePort] = {}


class Endpoint(Struct, frozen=True):
    """One end of a link: an interface of a node, or (with `interface` None) a network."""

    target: str
    interface: str | None = None

    def __str__(self) -> str:
        return self.target if self.interface is None else f"{self.target}:{self.interface}"


class Link(Struct, frozen=True):
    """Joins a node interface to a network, or two interfaces point to point. `a` is always an interface.

    `settings` are those of the network's port, which is called like the interface ("vm1:eth0"). The ends of a `pipe`
    share memory, with nothing between.
    """

    a: Endpoint
    b: Endpoint
    settings: PortSettings = PortSettings()
    pipe: bool = False

    @property
    def name(self) -> str:
        """The link's name in messages and commands, unique in the lab."""
        return f"{self.a}--{self.b}"

    @property
    def point_to_point(self) -> bool:
        """True when no network is involved."""
        return self.b.interface is not None


class Check(Struct, frozen=True, kw_only=True):
    """A named assertion: `run` in `node` must exit 0 within `within` seconds (it is retried until then)."""

    name: str
    node: str
    run: str
    within: float = 5.0


class Lab(Struct, frozen=True, kw_only=True):
    """A whole lab. `hosts` maps an address to the names it resolves from, on every node. `source` is the lab file."""

    name: str
    seed: int
    source: str
    networks: dict[str, Network] = {}
    nodes: dict[str, Node] = {}
    links: tuple[Link, ...] = ()
    checks: dict[str, Check] = {}
    hosts: dict[str, tuple[str, ...]] = {}
    warnings: tuple[str, ...] = ()

    def ports(self, network: str) -> dict[str, PortSettings]:
        """The ports of one network by name: those that face outside, then those of links, in file order."""
        outside = {name: port.settings for name, port in self.networks[network].ports.items()}
        return outside | {str(link.a): link.settings for link in self.links if link.b == Endpoint(network)}
