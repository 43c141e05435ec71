"""From the difference of two labs to named actions with their order. No I/O here.

`diff(old, new)` says what to do; each action knows what it comes after. The coordinator runs them as early as that
order allows; `lab up --dry-run` prints them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from graphlib import TopologicalSorter

from msgspec import Struct
from msgspec.structs import replace

from ..model.lab import Lab, Link, Network, Node, PortSettings, SwitchSettings

Key = tuple[str, str]
"""Names an action within a plan: its kind and what it is about."""


class Action(Struct, frozen=True):
    """One step. `str(action)` is its line in a printed plan."""

    @property
    def subject(self) -> str:
        """Name of the node, network, link or port it is about: the first field has it, unless this is overridden."""
        about: str | Node | Network | Link = getattr(self, self.__struct_fields__[0])
        return about if isinstance(about, str) else about.name

    @property
    def key(self) -> Key:
        """What tells it apart in its plan."""
        return type(self).__name__, self.subject


class AddNetwork(Action, frozen=True):
    """Create a switch or hub in the fabric, or reserve a multicast bus."""

    network: Network

    def __str__(self) -> str:
        ports = [f"{name} ({port.spec['type']})" for name, port in self.network.ports.items()]
        outside = f", with outside ports: {', '.join(ports)}" if ports else ""
        return f"add network {self.network.name} ({self.network.type}){outside}"


class ConfigureNetwork(Action, frozen=True):
    """Change a network's settings while it runs."""

    name: str
    settings: SwitchSettings

    def __str__(self) -> str:
        return f"configure network {self.name}"


class ConfigurePort(Action, frozen=True):
    """Change the settings of a network's port while it runs, whether it is a link's or faces outside."""

    network: str
    port: str
    settings: PortSettings

    @property
    def subject(self) -> str:
        """The port's name is unique within its network only."""
        return f"{self.network}/{self.port}"

    def __str__(self) -> str:
        return f"configure port {self.port} of network {self.network}"


class CreateNode(Action, frozen=True):
    """Prepare a node so that its interfaces can be made."""

    node: Node

    def __str__(self) -> str:
        return f"create node {self.node.name} ({self.node.driver})"


class AddLink(Action, frozen=True):
    """Make a link's interface(s) and join its two ends."""

    link: Link

    def __str__(self) -> str:
        return f"add link {self.link.a} - {self.link.b}" + (" (pipe)" if self.link.pipe else "")


class StartNode(Action, frozen=True):
    """Launch a node and wait until it is ready, then healthy."""

    node: Node

    def __str__(self) -> str:
        waits = ", ".join(f"{name} {condition}" for name, condition in self.node.depends_on.items())
        return f"start node {self.node.name}" + (f" once {waits}" if waits else "")


class StopNode(Action, frozen=True):
    """End a node and everything in it."""

    name: str

    def __str__(self) -> str:
        return f"stop node {self.name}"


class RemoveLink(Action, frozen=True):
    """Take a link's ports out of the fabric."""

    link: Link

    def __str__(self) -> str:
        return f"remove link {self.link.a} - {self.link.b}"


class RemoveNetwork(Action, frozen=True):
    """Remove a switch, hub or bus."""

    name: str

    def __str__(self) -> str:
        return f"remove network {self.name}"


def diff(old: Lab | None, new: Lab | None) -> list[Action]:
    """Say how to get from `old` to `new` (None is no lab at all), removals first, in an order that works one by one.

    A node whose definition changed is stopped and made anew, with its links; a changed network likewise. Where nothing
    but settings of a switch or its ports changed, these are changed in place.
    """
    before = old or Lab(name="", seed=0, source="")
    after = new or Lab(name="", seed=0, source="")
    gone_nodes = {name for name, node in before.nodes.items() if after.nodes.get(name) != node}
    new_nodes = [node for name, node in after.nodes.items() if before.nodes.get(name) != node]
    kept_networks = {
        name for name, network in before.networks.items() if _same_but_settings(network, after.networks.get(name))
    }
    gone_networks = before.networks.keys() - kept_networks
    new_networks = [network for name, network in after.networks.items() if name not in kept_networks]
    rebuilt = (
        gone_nodes | gone_networks | {node.name for node in new_nodes} | {network.name for network in new_networks}
    )

    def touched(link: Link) -> bool:
        return link.a.target in rebuilt or link.b.target in rebuilt

    links_before = {link.name: link for link in before.links}
    links_after = {link.name: link for link in after.links}
    gone_links = [link for link in before.links if link.name not in links_after or touched(link)]
    new_links = [link for link in after.links if link.name not in links_before or touched(link)]
    kept_links = [
        (link, links_after[link.name]) for link in before.links if link.name in links_after and not touched(link)
    ]
    return [
        *(StopNode(name) for name in before.nodes if name in gone_nodes),
        *(RemoveLink(link) for link in gone_links),
        *(RemoveNetwork(name) for name in before.networks if name in gone_networks),
        *_configure(before, after, kept_networks, kept_links),
        *(AddNetwork(network) for network in new_networks),
        *(CreateNode(node) for node in new_nodes),
        *(AddLink(link) for link in new_links),
        *(StartNode(node) for node in _by_dependency(new_nodes)),
    ]


def _same_but_settings(one: Network, other: Network | None) -> bool:
    """Whether `one` becomes `other` by a change of settings."""
    return other is not None and _bare(one) == _bare(other)


def _bare(network: Network) -> Network:
    ports = {name: replace(port, settings=PortSettings()) for name, port in network.ports.items()}
    return replace(network, settings=SwitchSettings(), ports=ports)


def _configure(
    before: Lab, after: Lab, kept_networks: Collection[str], kept_links: Iterable[tuple[Link, Link]]
) -> list[Action]:
    """The changes of settings in what stays."""
    switches: list[Action] = []
    ports: list[Action] = []
    for name, new in after.networks.items():
        if name in kept_networks:
            old = before.networks[name]
            if old.settings != new.settings:
                switches.append(ConfigureNetwork(name, new.settings))
            changed = [port for port in new.ports if new.ports[port].settings != old.ports[port].settings]
            ports += [ConfigurePort(name, port, new.ports[port].settings) for port in changed]
    for link, changed_link in kept_links:
        if link.settings != changed_link.settings:
            ports.append(ConfigurePort(link.b.target, str(link.a), changed_link.settings))
    return [*switches, *ports]


def prerequisites(actions: Sequence[Action]) -> dict[Key, frozenset[Key]]:
    """For each action, the other actions of the plan that must be done before it may begin.

    A dependency with condition `started` only orders the launches, so it is not among them; the nodes come in an order
    that respects it.
    """
    planned = {action.key for action in actions}
    added: dict[str, list[Key]] = {}
    removed: dict[str, list[Key]] = {}
    configured: dict[str, list[Key]] = {}
    for action in actions:
        if isinstance(action, ConfigurePort):
            configured.setdefault(action.network, []).append(action.key)
        if isinstance(action, AddLink | RemoveLink):
            by_end = added if isinstance(action, AddLink) else removed
            for end in (action.link.a.target, action.link.b.target):
                by_end.setdefault(end, []).append(action.key)

    def needed(action: Action) -> list[Key]:
        match action:
            case RemoveLink(link):
                return [("StopNode", link.a.target), ("StopNode", link.b.target)]
            case RemoveNetwork(name):
                return removed.get(name, [])
            case ConfigurePort(network_name):
                # A switch that is to filter does so before its ports name VLANs: until then all are in one, as before.
                return [("ConfigureNetwork", network_name), *removed.get(network_name, [])]
            case ConfigureNetwork(name):
                return removed.get(name, [])
            case AddNetwork(network):
                return [("RemoveNetwork", network.name)]
            case CreateNode(node):
                return [("StopNode", node.name)]
            case AddLink(link):
                ends = (link.a.target, link.b.target)
                makers = [(maker, end) for maker in ("AddNetwork", "ConfigureNetwork", "CreateNode") for end in ends]
                return [("RemoveLink", link.name), *makers, *configured.get(link.b.target, [])]
            case StartNode(node):
                waits = [name for name, condition in node.depends_on.items() if condition != "started"]
                links = added.get(node.name, [])
                return [("CreateNode", node.name), *links, *(("StartNode", name) for name in waits)]
            case _:
                return []

    return {action.key: frozenset(planned.intersection(needed(action))) for action in actions}


def apply(lab: Lab, action: Action) -> Lab:
    """What `lab` is after `action`: the meaning of each action, which `diff` is tested against."""
    nodes, networks, links = dict(lab.nodes), dict(lab.networks), list(lab.links)
    match action:
        case AddNetwork(network):
            networks[network.name] = network
        case ConfigureNetwork(name, settings):
            networks[name] = replace(networks[name], settings=settings)
        case ConfigurePort(name, port, port_settings):
            outside = networks[name].ports
            if port in outside:
                changed = {**outside, port: replace(outside[port], settings=port_settings)}
                networks[name] = replace(networks[name], ports=changed)
            else:
                links = [
                    replace(link, settings=port_settings) if (link.b.target, str(link.a)) == (name, port) else link
                    for link in links
                ]
        case RemoveNetwork(name):
            del networks[name]
        case CreateNode(node):
            nodes[node.name] = node
        case StopNode(name):
            del nodes[name]
        case AddLink(link):
            links.append(link)
        case RemoveLink(link):
            links.remove(link)
        case _:
            pass
    return replace(lab, nodes=nodes, networks=networks, links=tuple(links))


def _by_dependency(nodes: list[Node]) -> list[Node]:
    """Order nodes so that each comes after those it depends on (the loader has refused cycles)."""
    by_name = {node.name: node for node in nodes}
    graph = {node.name: [name for name in node.depends_on if name in by_name] for node in nodes}
    return [by_name[name] for name in TopologicalSorter(graph).static_order()]
