"""A catalogue of two drivers of the tests' own, so that what real drivers take may change without these tests."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct

from vswitch.model.catalogue import Catalogue
from vswitch.ports.port import load_port_types


class MachineSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A driver with settings of many sorts."""

    memory: Annotated[str, Meta(extra={"unit": "size"})] = "96M"
    cpus: Annotated[int, Meta(ge=1, le=64)] = 1
    accel: Literal["auto", "kvm", "tcg"] = "auto"
    kernel: Annotated[str, Meta(extra={"path": True})] | None = None
    initrd: Annotated[str | None, Meta(extra={"path": True})] = None
    agent: bool | None = None
    args: list[str] = []
    ready: Literal["started"] | dict[Literal["console"], str] | None = None

    def __post_init__(self) -> None:
        if self.initrd is not None and self.kernel is None:
            raise ValueError("initrd needs kernel")


class HostSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A driver with hardly any settings, one of them (`cpus`) of another type than the machine's."""

    cpus: Annotated[str, Meta(pattern="^[0-9,-]+$")] = "0"
    isolate: bool = False


def make_catalogue() -> Catalogue:
    """Drivers `machine` and `host`, and a few real port types."""
    ports = {name: spec for name, spec in load_port_types().items() if name in ("mcast", "ring", "stream")}
    return Catalogue(
        {"machine": MachineSpec, "host": HostSpec},
        ports,
        ring_drivers=frozenset({"machine"}),
        interface_keys={"machine": frozenset({"transport", "model", "addr", "queues", "vectors"})},
        transports={"machine": ("auto", "stream", "tap")},
    )


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """See `make_catalogue`."""
    return make_catalogue()


def lab_text(**sections: Any) -> str:
    """A lab of two hosts on a network, with `sections` (JSON-like values) laid over it, as YAML."""
    base: dict[str, Any] = {
        "name": "pair",
        "networks": {"lan0": {"subnet": "10.0.0.0/24"}},
        "nodes": {"a": {"kind": "host"}, "b": {"kind": "host"}},
        "links": [["a:eth0", "lan0"], ["b:eth0", "lan0"]],
    }
    return json.dumps({**base, **sections})
