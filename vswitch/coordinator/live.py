"""Changes of a running lab's settings: from what was asked, as text, to the lab as it is to be. No I/O here.

Values are checked by the same code, against the same types and rules, as those of a lab file, so their mistakes are
told in the same words; nothing is changed unless all of it is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path as FilePath
from typing import Any, get_args

from msgspec.structs import replace

from ..errors import LabError
from ..model.convert import Converter
from ..model.lab import Endpoint, Lab, Network, PortSettings, ReservedGroup, SwitchSettings
from ..model.problems import Problems, quote, suggestion, where
from ..model.settings import changed_settings, merge_port, merge_switch, network_mistakes, setting_words
from ..model.spec import PortSettingsSpec, SwitchSettingsSpec
from ..model.tree import Mapping as MappingNode
from ..model.tree import Mark, Node, Path, Scalar, Sequence, resolve_plain
from ..model.vlan import static_entry

_MAX_MISTAKES = 10
_NOWHERE = Mark(1, 1)


def find_network(lab: Lab, name: str) -> Network:
    """A network by name. Raises LabError with the names there are."""
    network = lab.networks.get(name)
    if network is None:
        raise LabError(f"unknown network {quote(name)}{suggestion(name, lab.networks)}")
    return network


def find_port(lab: Lab, network: str, name: str) -> PortSettings:
    """The settings of a network's port by name. Raises LabError with the names there are."""
    find_network(lab, network)
    ports = lab.ports(network)
    if name not in ports:
        raise LabError(f"network {network}: unknown port {quote(name)}{suggestion(name, ports)}")
    return ports[name]


def change_network(lab: Lab, network: str, texts: Mapping[str, str]) -> Lab:
    """The lab with settings of a network replaced. Raises LabError with every mistake."""
    old = find_network(lab, network).settings
    problems = Problems("")
    written = Converter(problems, FilePath()).struct(_tree(texts, old), SwitchSettingsSpec, (network,))
    _raise(f"{problem.where}: {problem.what}" for problem in problems.errors)
    assert written is not None
    changed = _with_settings(lab, network, merge_switch(old, written, _keys(texts)))
    _check(changed, network)
    return changed


def change_port(lab: Lab, network: str, port: str, texts: Mapping[str, str]) -> Lab:
    """The lab with settings of a port replaced. Raises LabError with every mistake."""
    old = find_port(lab, network, port)
    problems = Problems("")
    written = Converter(problems, FilePath()).struct(_tree(texts, old), PortSettingsSpec, (f"{network}/{port}",))
    _raise(f"{problem.where}: {problem.what}" for problem in problems.errors)
    assert written is not None
    changed = _with_port(lab, network, port, merge_port(old, written, _keys(texts)))
    _check(changed, network)
    return changed


def add_static(lab: Lab, network: str, entry: str, port: str) -> Lab:
    """The lab with static entry "MAC" or "MAC@VLAN" on `port`, and on no other port. Raises LabError."""
    settings = find_port(lab, network, port)
    without = _without_static(lab, network, entry, settings)
    macs = find_port(without, network, port).static_macs
    return change_port(without, network, port, {"static_macs": ",".join([*macs, entry])})


def remove_static(lab: Lab, network: str, mac: str, vlan: int | None) -> Lab:
    """The lab without the static entry of `mac` in `vlan` (None: in any); the same lab if there is none."""
    filtering = find_network(lab, network).settings.vlan_filtering
    for port, settings in lab.ports(network).items():
        entries = {text: static_entry(text, settings, filtering=filtering) for text in settings.static_macs}
        kept = tuple(text for text, (its, its_vlan) in entries.items() if its != mac or vlan not in (None, its_vlan))
        if kept != settings.static_macs:
            lab = _with_port(lab, network, port, replace(settings, static_macs=kept))
    return lab


# --- what is ----------------------------------------------------------------------------------------------------------


def network_rows(lab: Lab, learnt: Mapping[str, int]) -> list[dict[str, Any]]:
    """A row per network; `learnt` has the number of addresses each knows."""
    linked = Counter(link.b.target for link in lab.links if not link.point_to_point)
    return [
        {
            "network": name,
            "type": network.type,
            "ports": linked[name] + len(network.ports),
            "macs": learnt.get(name, 0),
            "settings": _plain(network.settings),
            "changed": list(changed_settings(network.settings)),
        }
        for name, network in lab.networks.items()
    ]


def port_rows(lab: Lab, network: str) -> list[dict[str, Any]]:
    """A row per port of a network. Raises LabError."""
    outside = find_network(lab, network).ports
    return [
        {
            "network": network,
            "port": name,
            "outside": name in outside,
            "settings": _plain(settings),
            "changed": list(changed_settings(settings)),
        }
        for name, settings in lab.ports(network).items()
    ]


def difference(old: SwitchSettings | PortSettings, new: SwitchSettings | PortSettings) -> str:
    """What changed, in a few words: "vlan=10 trunk="."""
    before, after = _plain(old), _plain(new)
    return setting_words(after, [key for key in after if after[key] != before[key]])


def _plain(settings: SwitchSettings | PortSettings) -> dict[str, Any]:
    """All settings, by name, as values a message can carry."""
    values = {key: getattr(settings, key) for key in settings.__struct_fields__}
    if isinstance(settings, SwitchSettings):
        policies = settings.reserved_multicast
        values["reserved_multicast"] = {group: policies.get(group, "forward") for group in get_args(ReservedGroup)}
    return values


# --- parts ------------------------------------------------------------------------------------------------------------


def _without_static(lab: Lab, network: str, entry: str, settings: PortSettings) -> Lab:
    """The lab without what `entry`, written for a port with `settings`, would collide with (nothing, if malformed)."""
    filtering = find_network(lab, network).settings.vlan_filtering
    try:
        mac, vlan = static_entry(entry.lower(), settings, filtering=filtering)
    except ValueError:
        return lab
    return remove_static(lab, network, mac, vlan)


def _tree(texts: Mapping[str, str], old: SwitchSettings | PortSettings) -> MappingNode:
    """`setting=value` as the tree the same would be in a lab file.

    A value without text is null, one with commas a list. `setting.part=value` changes one part of a mapping.
    """
    root = MappingNode(_NOWHERE)
    for key, text in texts.items():
        name, dot, part = key.partition(".")
        if not dot:
            _put(root, name, _value(text))
            continue
        whole = root.items.get(name)
        if not isinstance(whole, MappingNode):
            before = getattr(old, name, None)
            whole = MappingNode(_NOWHERE)
            for known, value in before.items() if isinstance(before, Mapping) else ():
                _put(whole, known, _scalar(value))
            _put(root, name, whole)
        if text:
            _put(whole, part, _value(text))
        else:
            whole.items.pop(part, None)
    return root


def _put(mapping: MappingNode, key: str, value: Node) -> None:
    mapping.items[key] = value
    mapping.keys[key] = _NOWHERE


def _value(text: str) -> Node:
    if not text:
        return Scalar(_NOWHERE, "", None)
    if "," not in text:
        return _scalar(text)
    items = Sequence(_NOWHERE)
    items.items = [_scalar(item.strip()) for item in text.split(",") if item.strip()]
    return items


def _scalar(text: str) -> Scalar:
    return Scalar(_NOWHERE, text, resolve_plain(text))


def _keys(texts: Mapping[str, str]) -> Collection[str]:
    return [key.partition(".")[0] for key in texts]


def _with_settings(lab: Lab, network: str, settings: SwitchSettings) -> Lab:
    changed = replace(lab.networks[network], settings=settings)
    return replace(lab, networks={**lab.networks, network: changed})


def _with_port(lab: Lab, network: str, port: str, settings: PortSettings) -> Lab:
    outside = lab.networks[network].ports
    if port in outside:
        ports = {**outside, port: replace(outside[port], settings=settings)}
        return replace(lab, networks={**lab.networks, network: replace(lab.networks[network], ports=ports)})
    links = tuple(
        replace(link, settings=settings) if link.b == Endpoint(network) and str(link.a) == port else link
        for link in lab.links
    )
    return replace(lab, links=links)


def _check(lab: Lab, name: str) -> None:
    """Raise LabError for what is wrong with a network's settings taken together."""
    network = lab.networks[name]
    found = []
    for mistake in network_mistakes(network, lab.ports(name)):
        place: Path = (name if mistake.port is None else f"{name}/{mistake.port}", *mistake.path)
        found.append(f"{where(place)}: {mistake.what}")
    _raise(found)


def _raise(mistakes: Iterable[str]) -> None:
    lines = list(mistakes)
    if len(lines) > _MAX_MISTAKES:
        lines[_MAX_MISTAKES:] = [f"and {len(lines) - _MAX_MISTAKES} more"]
    if lines:
        raise LabError("\n".join(lines))
