"""A resolved lab written as a lab file again, with everything in it that was left open."""

from __future__ import annotations

import io
import re
from typing import Any

from .lab import Check, Healthcheck, Lab, Network, Node
from .tree import resolve_plain
from .units import format_duration

_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./:+@=, $-]*")


def to_plain(lab: Lab) -> dict[str, Any]:
    """The lab as the contents of a lab file, which load to the same lab: dicts, lists and plain values."""
    kinds = {node.kind: {"driver": node.driver} for node in lab.nodes.values() if node.kind != node.driver}
    contents = {
        "name": lab.name,
        "seed": lab.seed,
        "kinds": kinds,
        "networks": {name: _network(network) for name, network in lab.networks.items()},
        "nodes": {name: _node(node) for name, node in lab.nodes.items()},
        "links": [[str(link.a), str(link.b)] for link in lab.links],
        "checks": {name: _check(check) for name, check in lab.checks.items()},
    }
    rendered: dict[str, Any] = _escape({key: value for key, value in contents.items() if value not in ({}, [])})
    return rendered


def to_yaml(lab: Lab) -> str:
    """The lab as the text of a lab file, which loads to the same lab."""
    from ruamel.yaml import YAML
    from ruamel.yaml.nodes import ScalarNode
    from ruamel.yaml.representer import SafeRepresenter

    class Representer(SafeRepresenter):
        """Quotes every text that could be read as something else; what is left, ruamel.yaml's own rules see to."""

    def text(representer: SafeRepresenter, value: str) -> ScalarNode:
        style = None if _PLAIN.fullmatch(value) and isinstance(resolve_plain(value), str) else '"'
        node: ScalarNode = representer.represent_scalar("tag:yaml.org,2002:str", value, style=style)
        return node

    Representer.add_representer(str, text)
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = Representer
    yaml.default_flow_style = None  # collections of nothing but scalars on one line
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 120
    stream = io.StringIO()
    yaml.dump(to_plain(lab), stream)
    return stream.getvalue()


def _network(network: Network) -> dict[str, Any]:
    return {
        "type": network.type,
        **({"subnet": list(network.subnets)} if network.subnets else {}),
        "ageing": format_duration(network.ageing),
        "fdb_limit": network.fdb_limit,
        **({"ports": network.ports} if network.ports else {}),
    }


def _node(node: Node) -> dict[str, Any]:
    interfaces = {}
    for interface in node.interfaces:
        interfaces[interface.name] = {
            "mac": interface.mac,
            "ip": list(interface.addresses),
            "mtu": interface.mtu,
            **({"model": interface.model} if interface.model is not None else {}),
        }
    contents = {
        "kind": node.kind,
        **node.settings,
        "interfaces": interfaces,
        "depends_on": {name: {"condition": condition} for name, condition in node.depends_on.items()},
        "env": node.env,
        "labels": node.labels,
        "exec": list(node.exec),
        "healthcheck": _healthcheck(node.healthcheck) if node.healthcheck is not None else {},
        "ready_timeout": format_duration(node.ready_timeout),
    }
    return {key: value for key, value in contents.items() if key in node.settings or value not in ({}, [])}


def _healthcheck(healthcheck: Healthcheck) -> dict[str, Any]:
    return {
        "run": healthcheck.run,
        "interval": format_duration(healthcheck.interval),
        "timeout": format_duration(healthcheck.timeout),
    }


def _check(check: Check) -> dict[str, Any]:
    return {"node": check.node, "run": check.run, "within": format_duration(check.within)}


def _escape(value: Any) -> Any:
    """Double every "$" in values (keys are never substituted), so that nothing is taken for a variable."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, dict):
        return {key: _escape(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escape(item) for item in value]
    return value
