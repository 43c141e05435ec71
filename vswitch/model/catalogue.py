"""The node drivers and port types a lab file may name, and the settings each takes."""

from __future__ import annotations

import functools
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec.inspect as mi
from msgspec import Struct

from ..ports.port import PortSpec
from .lab import Lab, Node, Transport
from .spec import CommonSpec, GroupSpec, KindSpec, NodeSpec, PortSettingsSpec
from .tree import Path

_COMMON = {
    name for spec in (CommonSpec, KindSpec, GroupSpec, NodeSpec) for name in spec.__struct_fields__
}  # spelt as in the file: these structs rename nothing


@runtime_checkable
class ChecksLab(Protocol):
    """A driver's settings that can be wrong in ways only the whole lab shows, as when they name other nodes."""

    def mistakes(self, node: Node, lab: Lab) -> list[tuple[Path, str]]:
        """What is wrong with these settings of `node`, or with its interfaces, and where within the node."""


class Catalogue(NamedTuple):
    """Settings structs by the name of their driver, and of their port type.

    `stream_drivers` are the drivers of which any two nodes can be joined by one socket, `ring_drivers` those by a pipe,
    without the fabric. `interface_keys` are the keys of an interface that a driver knows beyond those all know,
    `transports` the values it knows of the one of that name.
    """

    drivers: dict[str, type[Struct]]
    port_types: dict[str, type[PortSpec]]
    stream_drivers: frozenset[str] = frozenset()
    ring_drivers: frozenset[str] = frozenset()
    interface_keys: dict[str, frozenset[str]] = {}
    transports: dict[str, tuple[Transport, ...]] = {}

    def fields(self, driver: str) -> dict[str, mi.Field]:
        """The settings of one driver, by key."""
        return _fields(self.drivers[driver])

    def port_fields(self, port_type: str) -> dict[str, mi.Field]:
        """The settings of one port type, by key."""
        return _port_fields(self.port_types[port_type])

    def drivers_with(self, key: str) -> list[str]:
        """The drivers that have a setting called `key`."""
        return [name for name in self.drivers if key in self.fields(name)]

    def all_driver_keys(self) -> set[str]:
        """Every setting that some driver has."""
        return {key for name in self.drivers for key in self.fields(name)}


@functools.cache
def _fields(spec: type[Struct]) -> dict[str, mi.Field]:
    info = mi.type_info(spec)
    assert isinstance(info, mi.StructType)
    fields = {field.encode_name: field for field in info.fields}
    if clash := _COMMON & fields.keys():
        raise TypeError(
            f"{spec.__name__}: {', '.join(sorted(clash))} mean the same for every driver; choose other names"
        )
    return fields


@functools.cache
def _port_fields(spec: type[PortSpec]) -> dict[str, mi.Field]:
    info = mi.type_info(spec)
    assert isinstance(info, mi.StructType)
    fields = {field.encode_name: field for field in info.fields}
    if clash := set(PortSettingsSpec.__struct_fields__) & fields.keys():
        raise TypeError(f"{spec.__name__}: {', '.join(sorted(clash))} are settings of every port; choose other names")
    return fields


@functools.cache
def installed() -> Catalogue:
    """Everything that comes with vswitch."""
    from ..nodes.driver import load_drivers
    from ..ports.port import load_port_types

    drivers = load_drivers()
    specs = {name: driver.Spec for name, driver in drivers.items()}
    streams = frozenset(name for name, driver in drivers.items() if driver.takes_stream)
    rings = frozenset(name for name, driver in drivers.items() if driver.opens_rings)
    keys = {name: driver.interface_keys for name, driver in drivers.items()}
    transports = {name: driver.transports for name, driver in drivers.items()}
    return Catalogue(specs, load_port_types(), streams, rings, keys, transports)
