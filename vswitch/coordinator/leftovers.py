"""Files outside a lab's directory that its ports make: removed by those who tidy up after a fabric that was killed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec

from ..errors import LabError
from ..model.lab import Lab
from ..nodes.external_settings import ExternalSpec, port_spec
from ..ports.port import PortSpec, load_port_types
from ..rundir import RunDir


def remove_left(lab: Lab) -> None:
    """Remove what the ports of `lab`, which is not up any more, have left; what somebody else serves now stays."""
    for spec in _outside_ports(lab):
        spec.remove_left()


def remove_left_of(run_dir: RunDir) -> None:
    """The same for the lab of a directory, as far as that can still be read."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        remove_left(msgspec.json.decode(run_dir.lab_file.read_bytes(), type=Lab))


def _outside_ports(lab: Lab) -> Iterator[PortSpec]:
    types = load_port_types()
    for network in lab.networks.values():
        for port in network.ports.values():
            with contextlib.suppress(KeyError, msgspec.ValidationError):  # a lab of another version's
                yield msgspec.convert(port.spec, types[port.spec["type"]])
    for node in lab.nodes.values():
        if node.driver == "external":
            with contextlib.suppress(LabError, msgspec.ValidationError):
                external = msgspec.convert(node.settings, ExternalSpec)
                for interface in node.interfaces if external.address else ():
                    yield port_spec(external.transport_of(interface), external.address)
