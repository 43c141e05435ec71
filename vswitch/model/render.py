"""A resolved lab written as a lab file again, with everything in it that was left open."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping as AnyMapping
from typing import Any, get_args

from .lab import Check, Healthcheck, Interface, Lab, Link, Network, Node, PortSettings, ReservedGroup, ReservedPolicy
from .settings import changed_settings
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
        "links": [_link(link) for link in lab.links],
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
        **({"group": network.group} if network.group is not None else {}),
        **({"subnet": list(network.subnets)} if network.subnets else {}),
        **_switch(network),
        **(
            {"ports": {name: port.spec | _port(port.settings) for name, port in network.ports.items()}}
            if network.ports
            else {}
        ),
    }


def _switch(network: Network) -> dict[str, Any]:
    settings = network.settings
    common = {"ageing": format_duration(settings.ageing), "fdb_limit": settings.fdb_limit}
    if network.type != "switch":
        return common
    return {
        **common,
        "vlan_filtering": settings.vlan_filtering,
        "vlan_protocol": settings.vlan_protocol,
        "reserved_multicast": plain_reserved(settings.reserved_multicast),
    }


def plain_reserved(policies: AnyMapping[ReservedGroup, ReservedPolicy]) -> str | dict[str, str]:
    """What becomes of reserved multicast, as a lab file says it: one word if it is the same for all."""
    every: dict[str, str] = {group: policies.get(group, "forward") for group in get_args(ReservedGroup)}
    words = set(every.values())
    if len(words) == 1:
        return words.pop()
    return {group: policy for group, policy in every.items() if policy != "forward"}


def _link(link: Link) -> Any:
    ends = [str(link.a), str(link.b)]
    settings = _port(link.settings)
    if link.pipe:
        return {"endpoints": ends, "pipe": True}
    return {"endpoints": ends, "port": settings} if settings else ends


def _port(settings: PortSettings) -> dict[str, Any]:
    """Those settings of a port that differ from their defaults: ports are many."""
    contents = changed_settings(settings)
    if settings.trunk:
        contents["trunk"] = [int(text) if text.isdecimal() else text for text in settings.trunk]
    if settings.static_macs:
        contents["static_macs"] = list(settings.static_macs)
    return contents


def _node(node: Node) -> dict[str, Any]:
    interfaces = {}
    for interface in node.interfaces:
        interfaces[interface.name] = {
            "mac": interface.mac,
            "ip": list(interface.addresses),
            "mtu": interface.mtu,
            **_hardware(interface),
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


def _hardware(interface: Interface) -> dict[str, Any]:
    """What an interface's driver is told about it, as far as it is not the usual."""
    keys = ("transport", "model", "addr", "queues", "vectors")
    usual = Interface(name="", mac="")
    return {key: getattr(interface, key) for key in keys if getattr(interface, key) != getattr(usual, key)}


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
