"""The lab file as written: one struct per mapping, one field per key. The loader, the JSON Schema and the documentation
follow from these types.

An annotation's `extra` says what types cannot: `unit` (units.py) turns the text into a number where the field is one,
`what` describes a pattern in words, `path` marks a file's name, relative to the lab file (one that is there, or with
"new" one to be written), `sparse` keeps a list whose items are not all right, with None in their place.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct

from .lab import Condition, NetworkType, Overflow, ReservedGroup, ReservedPolicy, Transport, VlanProtocol

NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
NAME_RULE = "a name (letters, digits, '_', '.', '-'; the first a letter or digit; 63 at most)"
INTERFACE_PATTERN = "^(?!lo$)[A-Za-z0-9][A-Za-z0-9_.@+-]{0,14}$"
INTERFACE_RULE = "an interface name (letters, digits, '_', '.', '@', '+', '-'; 15 at most; not lo)"

Name = Annotated[str, Meta(pattern=NAME_PATTERN, extra={"what": NAME_RULE})]
InterfaceName = Annotated[str, Meta(pattern=INTERFACE_PATTERN, extra={"what": INTERFACE_RULE})]
VariableName = Annotated[
    str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_]*$", extra={"what": "an environment variable's name"})
]
MacAddress = Annotated[
    str,
    Meta(
        pattern="^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$",
        extra={"what": "a MAC address such as 52:54:00:12:34:56"},
    ),
]
Command = Annotated[str, Meta(min_length=1, max_length=65536)]
Duration = Annotated[float, Meta(extra={"unit": "duration"})]
Rate = Annotated[float, Meta(extra={"unit": "rate"})]
Percentage = Annotated[float, Meta(extra={"unit": "percentage"})]
Mtu = Annotated[int, Meta(ge=68, le=65535)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Addresses = Annotated[list[str], Meta(max_length=64)]
Subnets = Annotated[list[str], Meta(max_length=16)]
FdbLimit = Annotated[int, Meta(ge=1, le=1 << 20)]
Vlan = Annotated[int, Meta(ge=1, le=4094)]
Vlans = Annotated[
    str,
    Meta(
        pattern="^([0-9]{1,4}(-[0-9]{1,4})?|all)$", extra={"what": "a VLAN such as 10, a range such as 20-30, or all"}
    ),
]
MAX_STATIC_MACS = 1024
"""On one port."""
StaticMac = Annotated[
    str,
    Meta(
        pattern="^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}(@[0-9]{1,4})?$",
        extra={"what": "MAC or MAC@VLAN, such as 52:54:00:12:34:56@10"},
    ),
]
FramesPerSecond = Annotated[int, Meta(ge=0, le=2**31 - 1)]
MacLimit = Annotated[int, Meta(ge=0, le=1 << 20)]
PciAddress = Annotated[
    str,
    Meta(
        pattern="^(0[xX])?[01]?[0-9A-Fa-f](\\.[0-7])?$",
        extra={"what": "a PCI address such as 05.0 or 0x5 (slot 0 to 1f, function 0 to 7, both hexadecimal)"},
    ),
]

DriverSettings: TypeAlias = dict[str, Any]
"""Stands for the fields of a driver's own `Spec`."""


class DependencySpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node waits for before it starts."""

    condition: Condition = "ready"


class HealthcheckSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A shell command run in the node until it exits 0."""

    run: Command
    interval: Duration | None = None
    timeout: Duration | None = None


class InterfaceSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node fixes about one of its interfaces. `ip`: addresses, with or without prefix length; [] is none.

    `mac`, `ip` and `mtu` are for all nodes, the others for those whose driver knows them.
    """

    mac: MacAddress | None = None
    ip: str | Addresses | None = None
    mtu: Mtu | None = None
    transport: Transport | None = None
    model: str | None = None
    addr: PciAddress | None = None
    queues: Annotated[int, Meta(ge=1, le=16)] | None = None
    vectors: Annotated[int, Meta(ge=0, le=2048)] | None = None


INTERFACE_COMMON = frozenset({"mac", "ip", "mtu"})
"""The keys of an interface that every driver knows."""


class CommonSpec(Struct, frozen=True, kw_only=True):
    """Settings of a node whatever its driver; they may stand in `defaults`, a kind, a group or the node.

    Keys not listed here are the driver's, so unknown ones are not refused by this struct.
    """

    depends_on: list[Name] | dict[Name, DependencySpec | Condition] | None = None
    healthcheck: HealthcheckSpec | None = None
    env: dict[VariableName, str] = {}
    labels: dict[str, str] = {}
    exec: Command | list[Command] | None = None
    ready_timeout: Duration | None = None
    mtu: Mtu | None = None


class KindSpec(CommonSpec, frozen=True, kw_only=True):
    """A named bundle of node settings over a driver."""

    driver: str | None = None


class GroupSpec(CommonSpec, frozen=True, kw_only=True):
    """Settings shared by the nodes of a group, or (`defaults`) by all."""

    kind: str | None = None


class NodeSpec(CommonSpec, frozen=True, kw_only=True):
    """One machine."""

    kind: str | None = None
    group: str | None = None
    interfaces: dict[InterfaceName, InterfaceSpec] = {}


class SwitchSettingsSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a network's switch; `lab network` changes them while it runs."""

    ageing: Duration | None = None
    fdb_limit: FdbLimit | None = None
    vlan_filtering: bool | None = None
    vlan_protocol: VlanProtocol | None = None
    reserved_multicast: ReservedPolicy | dict[ReservedGroup, ReservedPolicy] | None = None


class PortSettingsSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a switch's port; `lab port` changes them while it runs."""

    vlan: Vlan | None = None
    trunk: Vlans | Annotated[list[Vlans], Meta(max_length=4094)] | None = None
    native: Vlan | None = None
    isolated: bool | None = None
    learning: bool | None = None
    unknown_flood: bool | None = None
    broadcast_flood: bool | None = None
    multicast_flood: bool | None = None
    storm_limit: FramesPerSecond | None = None
    mac_limit: MacLimit | None = None
    static_macs: StaticMac | Annotated[list[StaticMac], Meta(max_length=MAX_STATIC_MACS)] | None = None
    sticky: bool | None = None
    mtu: Mtu | None = None
    hairpin: bool | None = None
    control: bool | None = None
    overflow: Overflow | None = None


class NetworkSpec(SwitchSettingsSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One LAN. `ports` (name -> settings of a port type and of the switch's port) face outside the lab.

    `group` ("address:port") is what a multicast bus is called in the lab's namespace.
    """

    type: NetworkType = "switch"
    group: str | None = None
    subnet: str | Subnets | None = None
    ports: dict[Name, DriverSettings] = {}


class EndpointSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One end of a link: `node` and `interface`, or `network`."""

    node: str | None = None
    interface: InterfaceName | None = None
    network: str | None = None
    ip: str | Addresses | None = None
    mac: MacAddress | None = None


class ImpairSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a link does to its frames."""

    delay: Duration | None = None
    jitter: Duration | None = None
    loss: Percentage | None = None
    duplicate: Percentage | None = None
    reorder: Percentage | None = None
    corrupt: Percentage | None = None
    rate: Rate | None = None
    direction: Literal["both", "a-to-b", "b-to-a"] | None = None


Endpoints = Annotated[
    list[str | EndpointSpec],
    Meta(min_length=2, max_length=2, extra={"what": "two ends such as [vm1:eth0, lan0]"}),
]


class LinkSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A link in its long form. `subnet` is for a link of two interfaces, `port` for one to a switch: its side.

    `pipe` joins two emulated nodes by memory they share, with nothing between.
    """

    endpoints: Endpoints
    subnet: str | Subnets | None = None
    port: PortSettingsSpec | None = None
    pipe: bool = False
    impair: ImpairSpec | None = None


class CheckSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An assertion: a shell command that must exit 0 in `node` within a time."""

    node: str
    run: Command
    within: Duration | None = None


class LabSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A lab file. Keys that begin with `x-` are free for your own use, for instance to hold YAML anchors."""

    name: Name | None = None
    seed: Seed = 0
    defaults: GroupSpec | None = None
    kinds: dict[Name, KindSpec] = {}
    groups: dict[Name, GroupSpec] = {}
    networks: dict[Name, NetworkSpec] = {}
    nodes: dict[Name, NodeSpec] = {}
    links: Annotated[list[Endpoints | LinkSpec], Meta(extra={"sparse": True})] = []
    checks: dict[Name, CheckSpec] = {}


TOPOLOGY_KEYS = ("defaults", "kinds", "groups", "networks", "nodes", "links")
"""What may also stand under `topology:`, as containerlab has it."""
