"""Settings of switches and their ports: from what is written to what holds, and the rules that types cannot say.

The same rules serve the lab file and a change of a running lab, so they know neither positions nor commands: a mistake
names the port (None is the network itself), the way to the value within its settings, and what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, get_args

import msgspec.inspect as mi
from msgspec import NODEFAULT, Struct
from msgspec.structs import fields, replace

from .lab import Network, PortSettings, ReservedGroup, SwitchSettings
from .mac import mac_mistake
from .spec import PortSettingsSpec, SwitchSettingsSpec
from .tree import Path
from .units import format_duration
from .vlan import MAX_VLAN, join_ranges, join_vlans, member_vlans, static_entry, vlan_range

MAX_PORTS = 1024
"""Ports of one switch."""
MAX_SWITCHES = 256
"""Switches and hubs of one lab, those within point-to-point links included."""

_S = TypeVar("_S", SwitchSettings, PortSettings)
_VLAN_KEYS = ("vlan", "trunk", "native")
_HUB_PORT_KEYS = ("mtu", "overflow")
_HUB_KEYS = ("ageing", "fdb_limit")


class Mistake(NamedTuple):
    """What is wrong with the settings of `port` (None: of the network)."""

    port: str | None
    path: Path
    what: str


# --- from what is written ---------------------------------------------------------------------------------------------


def merge_switch(base: SwitchSettings, written: SwitchSettingsSpec, keys: Iterable[str]) -> SwitchSettings:
    """`base` with those settings replaced that are among `keys`; one written as null has its default again."""
    changes = _changes(SwitchSettings, written, keys)
    policies = changes.get("reserved_multicast")
    if isinstance(policies, str):
        policies = dict.fromkeys(get_args(ReservedGroup), policies)
    if policies is not None:
        changes["reserved_multicast"] = {group: policy for group, policy in policies.items() if policy != "forward"}
    return replace(base, **changes)


def merge_port(base: PortSettings, written: PortSettingsSpec, keys: Iterable[str]) -> PortSettings:
    """`base` with those settings replaced that are among `keys`; one written as null has its default again."""
    changes = _changes(PortSettings, written, keys)
    for key, normalise in (("trunk", _ranges), ("static_macs", _static_macs)):
        value = changes.get(key)
        if value is not None:
            changes[key] = normalise([value] if isinstance(value, str) else value)
    return replace(base, **changes)


def _changes(kind: type[Struct], written: Struct, keys: Iterable[str]) -> dict[str, Any]:
    defaults = default_settings(kind)
    changes = {}
    for key in keys:
        if key in defaults:
            value = getattr(written, key)
            changes[key] = defaults[key] if value is None else value
    return changes


def default_settings(kind: type[Struct]) -> dict[str, Any]:
    """The settings of a switch or a port, each with its default."""
    return {
        field.name: field.default if field.default is not NODEFAULT else field.default_factory()
        for field in fields(kind)
    }


def changed_settings(settings: SwitchSettings | PortSettings) -> dict[str, Any]:
    """The settings that differ from their defaults."""
    defaults = default_settings(type(settings))
    return {key: getattr(settings, key) for key in defaults if getattr(settings, key) != defaults[key]}


def _ranges(written: Iterable[str]) -> tuple[str, ...]:
    """Sort and join ranges. Those that are none stay as they are, for `port_mistakes` to find."""
    found = [(text, vlan_range(text)) for text in written]
    wrong = [text for text, vlans in found if vlans is None]
    return (*wrong, *join_ranges(vlans for _, vlans in found if vlans is not None))


def _static_macs(written: Iterable[str]) -> tuple[str, ...]:
    """In lower case, VLANs without leading zeros."""
    parts = [text.lower().partition("@") for text in written]
    return tuple(f"{mac}{at}{int(vlan) if at else ''}" for mac, at, vlan in parts)


def wants_filtering(ports: Iterable[PortSettings]) -> bool:
    """Whether some port says something of VLANs, so that the network filters unless it is told not to."""
    return any(getattr(port, key) for port in ports for key in _VLAN_KEYS)


def setting_choices(spec: mi.Type, name: str) -> list[str]:
    """The words that setting `name` of a settings struct takes; none when these are not a few."""
    key, dot, _ = name.partition(".")
    types = [field.type for field in spec.fields if field.encode_name == key] if isinstance(spec, mi.StructType) else []
    return [word for kind in types for word in _words(kind, within=bool(dot))]


def _words(kind: mi.Type, *, within: bool) -> list[str]:
    match kind:
        case mi.Metadata(type=inner):
            return _words(inner, within=within)
        case mi.UnionType(types=types):
            return [word for one in types for word in _words(one, within=within)]
        case mi.DictType(value_type=values) if within:
            return _words(values, within=False)
        case mi.LiteralType(values=values) if not within:
            return [str(value) for value in values]
        case mi.BoolType() if not within:
            return ["true", "false"]
        case _:
            return []


def setting_words(settings: Mapping[str, Any], names: Iterable[str]) -> str:
    """Settings on one line, as they would be typed: "vlan=10 isolated=true"."""
    words: list[str] = []
    for name in names:
        value = settings[name]
        if isinstance(value, Mapping) and len(set(value.values())) > 1:
            words += [f"{name}.{part}={what}" for part, what in value.items() if what != "forward"]
        else:
            words.append(f"{name}={setting_text(name, value)}")
    return " ".join(words)


def setting_text(name: str, value: Any) -> str:
    """A setting's value as text; "" is none."""
    if isinstance(value, Mapping):
        parts = set(value.values())
        if len(parts) == 1:
            return str(parts.pop())
        return " ".join(f"{part}={what}" for part, what in value.items() if what != "forward")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    if value is None:
        return ""
    return format_duration(value) if name == "ageing" else str(value)


# --- rules ------------------------------------------------------------------------------------------------------------


def network_mistakes(network: Network, ports: Mapping[str, PortSettings]) -> Iterator[Mistake]:
    """What is wrong with a network's settings and those of its `ports`, each by itself and taken together."""
    if network.type != "switch":
        yield from _mistakes_without_a_switch(network, ports)
        return
    owners: dict[tuple[str, int], tuple[str, int]] = {}
    for name, settings in ports.items():
        wrong = list(_port_mistakes(network, settings, owners, name))
        yield from (Mistake(name, path, what) for path, what in wrong)
    if len(owners) > network.settings.fdb_limit:
        yield Mistake(None, ("fdb_limit",), f"is less than the {len(owners)} static_macs of the network's ports")


def _mistakes_without_a_switch(network: Network, ports: Mapping[str, PortSettings]) -> Iterator[Mistake]:
    hub = network.type == "hub"
    what = "hub" if hub else "multicast bus"
    for key in changed_settings(network.settings):
        if key not in _HUB_KEYS:
            yield Mistake(None, (key,), f"is a setting of a switch, but {network.name} is a {what}")
    for name, settings in ports.items():
        for key in changed_settings(settings):
            if not hub:
                message = f"{network.name} is a multicast bus: there is no switch whose port this could be a setting of"
                yield Mistake(name, (key,), message)
            elif key not in _HUB_PORT_KEYS:
                kept = " and ".join(_HUB_PORT_KEYS)
                message = f"is for a switch, but {network.name} is a hub; a hub's ports have {kept} only"
                yield Mistake(name, (key,), message)


def _port_mistakes(
    network: Network, settings: PortSettings, owners: dict[tuple[str, int], tuple[str, int]], name: str
) -> Iterator[tuple[Path, str]]:
    """What is wrong with one port of a switch. `owners` collects where each static entry was found first."""
    if not network.settings.vlan_filtering:
        for key in _VLAN_KEYS:
            if getattr(settings, key):
                cure = "set vlan_filtering to true, or leave this out"
                yield (key,), f"network {network.name} has vlan_filtering: false, so its ports have no VLANs; {cure}"
                return
    wrong = [text for text in settings.trunk if vlan_range(text) is None]
    if wrong:
        yield ("trunk",), f"{wrong[0]!r} is no range of VLANs: they are 1 to {MAX_VLAN}, the lower one first"
        return
    if settings.vlan is not None and settings.trunk:
        message = (
            "a port is either access ('vlan') or trunk ('trunk'); a trunk's untagged frames belong to its 'native'"
        )
        yield ("vlan",), message
    elif settings.native is not None and not settings.trunk:
        yield ("native",), "is the untagged VLAN of a trunk: give 'trunk' too, or write 'vlan' for an access port"
    else:
        yield from _static_mistakes(network, settings, owners, name)


def _static_mistakes(
    network: Network, settings: PortSettings, owners: dict[tuple[str, int], tuple[str, int]], name: str
) -> Iterator[tuple[Path, str]]:
    if name in network.ports and network.ports[name].many_peers and settings.static_macs:
        yield ("static_macs",), "is for a port with one peer; this one serves many: which of them has the address?"
        return
    filtering = network.settings.vlan_filtering
    members = member_vlans(settings) if settings.static_macs else set()
    for number, text in enumerate(settings.static_macs):
        path: Path = ("static_macs", number)
        mac, vlan = entry = static_entry(text, settings, filtering=filtering)
        mistake = mac_mistake(mac)
        if mistake is not None:
            yield path, mistake
        elif not filtering and vlan:
            yield path, f"names VLAN {vlan}, but network {network.name} has vlan_filtering: false"
        elif filtering and not vlan and "@" not in text:
            yield path, f"is of which VLAN? This trunk has no 'native'; write {mac}@VLAN"
        elif filtering and vlan not in members:
            yield path, f"VLAN {vlan} is not one of the port's: {', '.join(join_vlans(members))}"
        elif owners.setdefault(entry, (name, number)) != (name, number):
            first = owners[entry][0]
            where = "here twice" if first == name else f"static on port {first} already"
            yield path, f"{mac}{f' of VLAN {vlan}' if vlan else ''} is {where}"
    if 0 < settings.mac_limit < len(settings.static_macs):
        yield ("mac_limit",), f"is less than the {len(settings.static_macs)} static_macs, which count"
