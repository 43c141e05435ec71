"""From the file as written to the lab as it will be: links, interfaces, MACs, addresses, dependencies, names."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Container
from collections.abc import Mapping as AnyMapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

import msgspec
import msgspec.inspect as mi

from ..ports.bus import Bus, parse_group
from ..ports.descriptors import MAX_OF_LAB, MAX_OF_PORT, replace_descriptors
from ..ports.port import PortSpec
from .addressing import Addressing, Member, Segment, as_list, read_subnets
from .catalogue import Catalogue, ChecksLab
from .convert import BAD, Converter
from .inherit import Inheritance, Inherited
from .lab import (
    Check,
    Condition,
    Endpoint,
    Healthcheck,
    Interface,
    Lab,
    Link,
    Network,
    Node,
    OutsidePort,
    PortSettings,
    SwitchSettings,
)
from .links import End, WrittenLink, read_links
from .mac import derive_mac, mac_mistake
from .problems import Problems
from .settings import MAX_PORTS, MAX_SWITCHES, merge_port, merge_switch, network_mistakes, wants_filtering
from .spec import (
    INTERFACE_COMMON,
    CheckSpec,
    HealthcheckSpec,
    InterfaceSpec,
    LabSpec,
    NetworkSpec,
    PortSettingsSpec,
)
from .tree import Mapping, Path, find
from .tree import Node as Tree


class _Port(NamedTuple):
    """A port of a network: its settings, and where they are written."""

    settings: PortSettings
    path: Path


def resolve(
    file: LabSpec, root: Tree, name: str, source: str, problems: Problems, catalogue: Catalogue, converter: Converter
) -> Lab:
    """Settle everything the file leaves open. Mistakes go to `problems`; the result counts only if there are none."""
    return _Resolver(file, root, name, source, problems, catalogue, converter).lab()


class _Resolver:
    def __init__(
        self,
        file: LabSpec,
        root: Tree,
        name: str,
        source: str,
        problems: Problems,
        catalogue: Catalogue,
        converter: Converter,
    ) -> None:
        self._file = file
        self._root = root
        self._name = name
        self._source = source
        self._problems = problems
        self._catalogue = catalogue
        self._converter = converter
        # As declared, also where the value is wrong: a mistake in a node is not an unknown node in its links.
        self._declared_nodes = self._keys("nodes")
        self._declared_networks = self._keys("networks")
        self._descriptors: dict[int, Path] = {}
        self._exclusive: dict[str, Path] = {}
        self._groups: dict[tuple[str, int], Path] = {}

    def lab(self) -> Lab:
        """The lab."""
        self._check_names()
        links = read_links(self._file, self._problems, self._declared_nodes, self._declared_networks)
        inherited = Inheritance(self._file, self._root, self._problems, self._catalogue, self._converter).nodes()
        ends = {end.endpoint: end for link in links for end in link.ends if end.endpoint.interface is not None}
        names = self._interfaces(links)
        macs = self._macs(names, ends)
        addresses = self._addresses(names, links, ends)
        dependencies = self._dependencies(inherited)
        nodes = {
            node: self._node(node, settings, names[node], macs, addresses, dependencies.get(node, {}))
            for node, settings in inherited.items()
        }
        on_network = self._linked_ports(links)
        networks = {
            network: self._network(network, spec, on_network[network]) for network, spec in self._file.networks.items()
        }
        checks = {check: self._check(check, spec) for check, spec in self._file.checks.items()}
        self._check_pipes(links, inherited)
        written = tuple(self._link(link, on_network) for link in links)
        self._check_number_of_switches(written, nodes)
        self._warn(written)
        lab = Lab(
            name=self._name,
            seed=self._file.seed,
            source=self._source,
            networks=networks,
            nodes=nodes,
            links=written,
            checks=checks,
            hosts=_hosts(nodes),
        )
        self._check_in_lab(lab)
        return lab

    def _check_in_lab(self, lab: Lab) -> None:
        """Have the drivers' settings find what is wrong with them in this lab, if it is sound otherwise."""
        for node in lab.nodes.values() if not self._problems.errors else ():
            settings = msgspec.convert(node.settings, self._catalogue.drivers[node.driver])
            for place, what in settings.mistakes(node, lab) if isinstance(settings, ChecksLab) else ():
                self._problems.error(("nodes", node.name, *place), what, key=not place)

    def _keys(self, section: str) -> frozenset[str]:
        node = find(self._root, (section,))
        return frozenset(node.items) if isinstance(node, Mapping) else frozenset()

    def _check_names(self) -> None:
        empty = find(self._root, ("nodes",)) is None or not self._problems.errors
        if empty and not self._declared_nodes:
            self._problems.error(("nodes",), "a lab has at least one node")
        for name in self._declared_networks:
            if name in self._declared_nodes:
                place = self._problems.position(("nodes", name), key=True).line
                message = f"{name!r} is also a node, in line {place}; links could not tell them apart"
                self._problems.error(("networks", name), message, key=True)

    # --- interfaces -------------------------------------------------------------------------------------------------

    def _interfaces(self, links: list[WrittenLink]) -> dict[str, list[str]]:
        """The interfaces of each node: those under `interfaces`, then those of its links, in file order."""
        names = {node: dict.fromkeys(spec.interfaces) for node, spec in self._file.nodes.items()}
        for link in links:
            for end in link.ends:
                if end.endpoint.interface is not None and end.endpoint.target in names:
                    names[end.endpoint.target][end.endpoint.interface] = None
        return {node: list(known) for node, known in names.items()}

    def _spec(self, node: str, interface: str) -> InterfaceSpec:
        return self._file.nodes[node].interfaces.get(interface, InterfaceSpec())

    def _check_interface(self, node: str, driver: str, interface: str, spec: InterfaceSpec) -> None:
        """Report the keys of an interface that its node's driver does not know."""
        path: Path = ("nodes", node, "interfaces", interface)
        of_driver = self._catalogue.interface_keys.get(driver, frozenset())
        for key in spec.__struct_fields__:
            if key in INTERFACE_COMMON or key in of_driver or getattr(spec, key) is None:
                continue
            owners = sorted(name for name, keys in self._catalogue.interface_keys.items() if key in keys)
            message = f"key {key!r} is for interfaces of driver {', '.join(owners)}, but this is {driver}"
            self._problems.error((*path, key), message, key=True)
        known = self._catalogue.transports.get(driver, ())
        if "transport" in of_driver and spec.transport is not None and spec.transport not in known:
            self._problems.unknown((*path, "transport"), f"transport of driver {driver}", spec.transport, known)

    def _macs(self, names: dict[str, list[str]], ends: dict[Endpoint, End]) -> dict[Endpoint, str]:
        """The MAC of every interface: those written, then the rest derived so that none is there twice."""
        macs: dict[Endpoint, str] = {}
        owners: dict[str, Path] = {}
        interfaces = [Endpoint(node, interface) for node, known in names.items() for interface in known]
        for endpoint in interfaces:
            mac, path = self._written(endpoint, ends, "mac")
            if mac is None:
                continue
            mac = mac.lower()
            mistake = mac_mistake(mac)
            if mistake is None and mac in owners:
                mistake = f"MAC {mac} is given already, in {self._problems.line(owners[mac])}"
            if mistake is not None:
                self._problems.error(path, mistake)
            owners.setdefault(mac, path)
            macs[endpoint] = mac
        taken = set(owners)
        for endpoint in interfaces:
            if endpoint not in macs:
                macs[endpoint] = derive_mac(
                    self._file.seed, self._name, endpoint.target, str(endpoint.interface), taken
                )
                taken.add(macs[endpoint])
        return macs

    def _written(self, endpoint: Endpoint, ends: dict[Endpoint, End], key: str) -> tuple[Any, Path]:
        """What the file says about an interface, under its node or at its link's end (not both), and where."""
        interface = str(endpoint.interface)
        under_node = getattr(self._spec(endpoint.target, interface), key)
        node_path: Path = ("nodes", endpoint.target, "interfaces", interface, key)
        end = ends.get(endpoint)
        at_end = getattr(end.spec, key) if end is not None and end.spec is not None else None
        if end is None or at_end is None:
            return under_node, node_path
        end_path = (*end.path, key)
        if under_node is not None:
            self._problems.error(end_path, f"{endpoint} has its {key!r} already, in {self._problems.line(node_path)}")
        return at_end, end_path

    def _addresses(
        self, names: dict[str, list[str]], links: list[WrittenLink], ends: dict[Endpoint, End]
    ) -> dict[Endpoint, tuple[str, ...]]:
        """The addresses of every interface."""
        members: dict[Endpoint, Member] = {}  # in node order
        for node, known in names.items():
            for interface in known:
                endpoint = Endpoint(node, interface)
                written, path = self._written(endpoint, ends, "ip")
                members[endpoint] = Member(node, interface, None if written is None else as_list(written, path))
        Addressing(self._problems).settle(self._segments(members, links))
        return {endpoint: tuple(member.addresses) for endpoint, member in members.items()}

    def _segments(self, members: dict[Endpoint, Member], links: list[WrittenLink]) -> list[Segment]:
        order = {endpoint: number for number, endpoint in enumerate(members)}
        on_network: dict[str, list[Endpoint]] = defaultdict(list)
        linked = set()
        segments = []
        for written in links:
            link, path = written.link, (*written.path, "subnet")
            ends = [end for end in (link.a, link.b) if end in members]
            linked.update(ends)
            if link.point_to_point:
                subnets = read_subnets(written.subnet, path, self._problems)
                ends.sort(key=order.__getitem__)
                segments.append(Segment(f"link {link.a} - {link.b}", subnets, [members[end] for end in ends]))
            else:
                on_network[link.b.target] += ends
        for network, spec in self._file.networks.items():
            subnets = read_subnets(spec.subnet, ("networks", network, "subnet"), self._problems)
            ends = sorted(on_network[network], key=order.__getitem__)
            segments.append(Segment(network, subnets, [members[end] for end in ends]))
        unlinked = [Segment(str(end), [], [member]) for end, member in members.items() if end not in linked]
        self._warn_of_overlaps(segments)
        return segments + unlinked

    # --- nodes ------------------------------------------------------------------------------------------------------

    def _node(
        self,
        name: str,
        inherited: Inherited,
        interfaces: list[str],
        macs: AnyMapping[Endpoint, str],
        addresses: AnyMapping[Endpoint, tuple[str, ...]],
        depends_on: dict[str, Condition],
    ) -> Node:
        made = []
        for interface in interfaces:
            spec, endpoint = self._spec(name, interface), Endpoint(name, interface)
            self._check_interface(name, inherited.driver, interface, spec)
            made.append(
                Interface(
                    name=interface,
                    mac=macs[endpoint],
                    addresses=addresses[endpoint],
                    model=spec.model,
                    addr=spec.addr,
                    vectors=spec.vectors,
                    **_written(
                        mtu=spec.mtu or inherited.mtu,
                        transport=spec.transport or inherited.settings.get("transport"),
                        queues=spec.queues,
                    ),
                )
            )
        return Node(
            name=name,
            kind=inherited.kind,
            driver=inherited.driver,
            interfaces=tuple(made),
            settings=inherited.settings,
            depends_on=depends_on,
            env=inherited.env,
            labels=inherited.labels,
            exec=inherited.exec,
            healthcheck=_healthcheck(inherited.healthcheck),
            **_written(ready_timeout=inherited.ready_timeout),
        )

    def _dependencies(self, inherited: dict[str, Inherited]) -> dict[str, dict[str, Condition]]:
        """What each node waits for; unknown nodes and cycles are reported."""
        dependencies: dict[str, dict[str, Condition]] = {}
        paths: dict[tuple[str, str], Path] = {}
        for node, settings in inherited.items():
            dependencies[node] = {}
            for name, (condition, path) in settings.depends_on.items():
                if name not in self._declared_nodes:
                    self._problems.unknown(path, "node", name, self._declared_nodes)
                elif name in inherited:
                    dependencies[node][name] = condition
                    paths[node, name] = path
        graph = {node: set(needed) for node, needed in dependencies.items()}
        while not self._problems.full:
            try:
                TopologicalSorter(graph).prepare()
                break
            except CycleError as error:
                cycle: list[str] = error.args[1]  # each node is needed by the next one
                node, needed = cycle[1], cycle[0]
                chain = " -> ".join(reversed(cycle))
                self._problems.error(paths[node, needed], f"depends_on goes round in a circle: {chain}")
                graph[node].discard(needed)
        return dependencies

    # --- networks and checks ----------------------------------------------------------------------------------------

    def _linked_ports(self, links: list[WrittenLink]) -> dict[str, dict[str, _Port]]:
        """The ports that links bring, by network and name."""
        ports: dict[str, dict[str, _Port]] = defaultdict(dict)
        for link in links:
            interface, other = (end.endpoint for end in link.ends)
            if other.interface is None:
                path = (*link.path, "port")
                settings = self._port_settings(link.port, path) if link.port is not None else PortSettings()
                ports[other.target][str(interface)] = _Port(settings, path)
        return ports

    def _check_pipes(self, links: list[WrittenLink], inherited: AnyMapping[str, Inherited]) -> None:
        """A pipe is memory that its two ends share: both are processes of ours, or it cannot be."""
        for link in links:
            for end in link.ends if link.pipe else ():
                node = end.endpoint.target
                driver = inherited[node].driver if node in inherited else None
                if driver is not None and driver not in self._catalogue.ring_drivers:
                    known = " and ".join(sorted(self._catalogue.ring_drivers))
                    message = f"joins {known} nodes only, and {node} has driver {driver}; leave 'pipe' out"
                    self._problems.error((*link.path, "pipe"), message, key=True)

    def _link(self, written: WrittenLink, on_network: AnyMapping[str, AnyMapping[str, _Port]]) -> Link:
        link = written.link
        if link.point_to_point:
            return link
        return msgspec.structs.replace(link, settings=on_network[link.b.target][str(link.a)].settings)

    def _port_settings(self, spec: PortSettingsSpec, path: Path) -> PortSettings:
        node = find(self._root, path)
        return merge_port(PortSettings(), spec, node.items if isinstance(node, Mapping) else ())

    def _network(self, name: str, spec: NetworkSpec, linked: dict[str, _Port]) -> Network:
        path: Path = ("networks", name)
        outside = {port: self._outside_port((*path, "ports", port)) for port in spec.ports}
        facing_outside = {port: settings for port, settings in outside.items() if settings is not None}
        ports = {
            **{port: _Port(found.settings, (*path, "ports", port)) for port, found in facing_outside.items()},
            **linked,
        }
        node = find(self._root, path)
        settings = merge_switch(SwitchSettings(), spec, node.items if isinstance(node, Mapping) else ())
        if spec.vlan_filtering is None and spec.type == "switch":
            filtering = wants_filtering(port.settings for port in ports.values())
            settings = msgspec.structs.replace(settings, vlan_filtering=filtering)
        network = Network(
            name=name,
            type=spec.type,
            group=self._group(name, spec),
            # Mistakes in them have been reported where addresses were given out.
            subnets=tuple(str(subnet) for subnet, _ in read_subnets(spec.subnet, (), Problems(""))),
            settings=settings,
            ports=facing_outside,
        )
        self._check_settings(network, ports)
        return network

    def _group(self, network: str, spec: NetworkSpec) -> str | None:
        """What a multicast bus is called, if the file says so."""
        if spec.group is None:
            return None
        path: Path = ("networks", network, "group")
        if spec.type != "mcast":
            self._problems.error(path, f"is for a network of type mcast, but {network} is a {spec.type}", key=True)
            return None
        try:
            group, port = parse_group(spec.group)
        except ValueError as error:
            self._problems.error(path, str(error))
            return None
        if Bus.is_numbered(group):
            self._problems.error(path, f"{group} is one of those the lab gives buses without a group; take another")
        first = self._groups.setdefault((group, port), path)
        if first != path:
            self._problems.error(path, f"{spec.group} is another bus already, in {self._problems.line(first)}")
        return f"{group}:{port}"

    def _check_settings(self, network: Network, ports: dict[str, _Port]) -> None:
        path: Path = ("networks", network.name)
        for mistake in network_mistakes(network, {name: port.settings for name, port in ports.items()}):
            place = path if mistake.port is None else ports[mistake.port].path
            self._problems.error((*place, *mistake.path), mistake.what)
        if network.type != "mcast" and len(ports) > MAX_PORTS:
            self._problems.error(path, f"has {len(ports)} ports; {MAX_PORTS} is the most", key=True)

    def _check_number_of_switches(self, links: tuple[Link, ...], nodes: AnyMapping[str, Node]) -> None:
        """Bound what the fabric has to hold. A link whose two ends take one socket, and a pipe, need nothing of it."""
        direct = {
            Endpoint(node.name, interface.name)
            for node in nodes.values()
            if node.driver in self._catalogue.stream_drivers
            for interface in node.interfaces
            if interface.wants_stream
        }
        networks = sum(network.type != "mcast" for network in self._file.networks.values())
        between = sum(link.point_to_point and not link.pipe and not {link.a, link.b} <= direct for link in links)
        if networks + between > MAX_SWITCHES:
            what = f"{networks} switches and hubs, and {between} links between two interfaces, which take one each"
            self._problems.error((), f"needs too many switches: {what}; {MAX_SWITCHES} is the most")

    def _outside_port(self, path: Path) -> OutsidePort | None:
        """A port facing outside: the fields of its port type, and the settings any port has, stand side by side."""
        node = find(self._root, path)
        types = self._catalogue.port_types
        if not isinstance(node, Mapping) or "type" not in node.items:
            self._problems.error(path, f"needs 'type', one of: {', '.join(sorted(types))}")
            return None
        tag = self._converter.value(node.items["type"], mi.StrType(), (*path, "type"))
        if tag not in types:
            if tag is not BAD:
                self._problems.unknown((*path, "type"), "port type", tag, types)
            return None
        of_type = self._catalogue.port_fields(tag)
        common = PortSettingsSpec.__struct_fields__
        for key in node.items:
            if key not in common and key not in of_type and key != "type":
                self._converter.unknown_key(path, key, {*common, *of_type})
        mistakes = len(self._problems.errors)
        spec = self._converter.struct(_only(node, {*of_type, "type"}), types[tag], path)
        settings = self._converter.struct(_only(node, common), PortSettingsSpec, path)
        if not isinstance(spec, PortSpec) or settings is None:
            return None
        if len(self._problems.errors) == mistakes:  # else what is missing may only be mistaken
            for what in spec.problems():
                self._problems.error(path, what)
        fields = {key: value for key, value in msgspec.to_builtins(spec).items() if key in node.items}
        self._check_descriptors(types[tag], fields, path)
        self._check_exclusive(spec, path)
        merged = merge_port(PortSettings(), settings, node.items)
        return OutsidePort(spec=fields, settings=merged, many_peers=spec.many_peers())

    def _check_exclusive(self, spec: PortSpec, path: Path) -> None:
        """Have what only one port can have in one place only."""
        for key, what in spec.exclusive().items() if not spec.problems() else ():
            first = self._exclusive.setdefault(what, (*path, key))
            if first != (*path, key):
                self._problems.error((*path, key), f"{what} is taken already, in {self._problems.line(first)}")

    def _check_descriptors(self, spec: type[PortSpec], fields: dict[str, Any], path: Path) -> None:
        """Bound the descriptors that a port names, and have each in one place only: whoever gets it owns it."""
        before = len(self._descriptors)

        def note(number: int, where: Path) -> int:
            first = self._descriptors.setdefault(number, (*path, *where))
            if first != (*path, *where):
                what = f"descriptor {number} is taken already, in {self._problems.line(first)}"
                self._problems.error((*path, *where), what)
            return number

        replace_descriptors(spec, fields, note)
        if len(self._descriptors) - before > MAX_OF_PORT:
            self._problems.error(path, f"names more than {MAX_OF_PORT} descriptors, the most a port may have")
        if before <= MAX_OF_LAB < len(self._descriptors):
            self._problems.error(path, f"brings the lab to more than {MAX_OF_LAB} descriptors, the most it may have")

    def _check(self, name: str, spec: CheckSpec) -> Check:
        if spec.node not in self._declared_nodes:
            self._problems.unknown(("checks", name, "node"), "node", spec.node, self._declared_nodes)
        return Check(name=name, node=spec.node, run=spec.run, **_written(within=spec.within))

    # --- warnings ---------------------------------------------------------------------------------------------------

    def _warn(self, links: tuple[Link, ...]) -> None:
        linked = {end for link in links for end in (link.a, link.b)}
        targets = Counter(end.target for link in links for end in (link.a, link.b))
        for node, spec in self._file.nodes.items():
            if node not in targets:
                self._problems.warning(("nodes", node), "has no link: nothing can reach it", key=True)
            for interface in spec.interfaces:
                if node in targets and Endpoint(node, interface) not in linked:
                    path = ("nodes", node, "interfaces", interface)
                    self._problems.warning(path, "is in no link: it will be missing in the node", key=True)
        for network, network_spec in self._file.networks.items():
            members = targets[network] + len(network_spec.ports)
            if members < 2:
                what = "only one interface is on it" if members else "nothing is linked to it"
                self._problems.warning(("networks", network), what, key=True)

    def _warn_of_overlaps(self, segments: list[Segment]) -> None:
        seen = [(subnet, path, segment) for segment in segments for subnet, path in segment.subnets]
        seen.sort(key=lambda item: (item[0].version, int(item[0].network_address), item[0].prefixlen))
        for (lower, _, first), (upper, path, second) in itertools.pairwise(seen):
            if lower.version == upper.version and lower.overlaps(upper) and first is not second:
                message = f"{upper} overlaps {lower} of {first.name}: a node on both cannot tell which way to send"
                self._problems.warning(path, message)


def _healthcheck(spec: HealthcheckSpec | None) -> Healthcheck | None:
    if spec is None:
        return None
    return Healthcheck(run=spec.run, **_written(interval=spec.interval, timeout=spec.timeout))


def _written(**values: Any) -> dict[str, Any]:
    """The arguments that are not None, so that the defaults of lab.py hold for the others."""
    return {name: value for name, value in values.items() if value is not None}


def _only(node: Mapping, keys: Container[str]) -> Mapping:
    """The part of a mapping with these keys."""
    part = Mapping(node.mark)
    part.items = {key: value for key, value in node.items.items() if key in keys}
    part.keys = {key: node.keys[key] for key in part.items}
    return part


def _hosts(nodes: dict[str, Node]) -> dict[str, tuple[str, ...]]:
    """Which names each address has: a node's first address (of each family) the node's name, others NODE-INTERFACE."""
    hosts: dict[str, tuple[str, ...]] = {}
    for node in nodes.values():
        named: set[bool] = set()
        for interface in node.interfaces:
            for text in interface.addresses:
                address = text.partition("/")[0]
                family = ":" in address
                alias = f"{node.name}-{interface.name}"
                if family not in named:
                    hosts[address] = (node.name,)
                elif alias not in nodes:
                    hosts[address] = (alias,)
                named.add(family)
    return hosts
