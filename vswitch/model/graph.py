"""A lab's topology as a drawing: Mermaid or Graphviz text. Names need no escaping: the lab file allows none that do."""

from __future__ import annotations

from .lab import Endpoint, Lab, Network, Node


def to_mermaid(lab: Lab) -> str:
    """A Mermaid flowchart: nodes as boxes, networks as round ones, links labelled with interface and addresses."""
    ids = _ids(lab)
    lines = ["graph LR"]
    lines += [f'  {ids[name]}(["{"<br>".join(_network_lines(network))}"])' for name, network in lab.networks.items()]
    lines += [f'  {ids[name]}["{"<br>".join(_node_lines(node))}"]' for name, node in lab.nodes.items()]
    for link in lab.links:
        label = " / ".join("<br>".join(_end_lines(lab, end)) for end in (link.a, link.b) if end.interface is not None)
        lines.append(f'  {ids[link.a.target]} ---|"{label}"| {ids[link.b.target]}')
    return "\n".join(lines) + "\n"


def to_dot(lab: Lab) -> str:
    """A Graphviz graph of the same."""
    ids = _ids(lab)
    lines = [
        f'graph "{lab.name}" {{',
        '  graph [layout=neato, overlap=false, splines=true, sep="+20"];',
        '  node [shape=box, style=rounded, fontname="sans-serif"];',
        '  edge [fontname="sans-serif", fontsize=10, len=2];',
    ]
    for name, network in lab.networks.items():
        lines.append(f'  {ids[name]} [label="{_dot(_network_lines(network))}", shape=ellipse];')
    for name, node in lab.nodes.items():
        lines.append(f'  {ids[name]} [label="{_dot(_node_lines(node))}"];')
    for link in lab.links:
        ends = [f'taillabel="{_dot(_end_lines(lab, link.a))}"']
        if link.b.interface is not None:
            ends.append(f'headlabel="{_dot(_end_lines(lab, link.b))}"')
        lines.append(f"  {ids[link.a.target]} -- {ids[link.b.target]} [{', '.join(ends)}];")
    return "\n".join([*lines, "}"]) + "\n"


def _ids(lab: Lab) -> dict[str, str]:
    """Identifiers both languages take, whatever the names."""
    return {
        **{name: f"network{number}" for number, name in enumerate(lab.networks)},
        **{name: f"node{number}" for number, name in enumerate(lab.nodes)},
    }


def _dot(lines: list[str]) -> str:
    return "\\n".join(lines)


def _network_lines(network: Network) -> list[str]:
    return [network.name, network.type, *network.subnets]


def _node_lines(node: Node) -> list[str]:
    return [node.name, node.kind]


def _end_lines(lab: Lab, end: Endpoint) -> list[str]:
    interfaces = lab.nodes[end.target].interfaces
    return [
        text
        for interface in interfaces
        if interface.name == end.interface
        for text in (interface.name, *interface.addresses)
    ]
