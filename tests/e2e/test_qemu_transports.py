"""Every transport of a QEMU machine's interfaces, with a real machine, and what its network cards look like inside."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import LabCommand

pytestmark = [pytest.mark.namespaces, pytest.mark.qemu, pytest.mark.timeout(180)]

LabFile = Callable[..., Path]

# With the MTU that QEMU's end of each carries.
TRANSPORTS = {"auto": 9000, "stream": 9000, "dgram": 9000, "mcast": 9000, "vde": 4000}
TAP = {"tap": 9000} if os.access("/dev/net/tun", os.R_OK | os.W_OK) else {}


def test_machine_reaches_a_host_over_every_transport(lab_command: LabCommand, lab_file: LabFile) -> None:
    """One machine, an interface of each; on switches, and one of them point to point. Small, full and jumbo frames."""
    transports = {**TRANSPORTS, **TAP}
    numbered = list(enumerate(transports.items()))
    mtus = "".join(f"      eth{n}: {{transport: {name}, mtu: {mtu}}}\n" for n, (name, mtu) in numbered)
    host = "".join(f"      eth{n}: {{mtu: {mtu}}}\n" for n, (_, mtu) in numbered)
    lab_file(
        "name: transports\nnetworks:\n"
        + "".join(f"  n{n}: {{subnet: 10.0.{n}.0/24}}\n" for n, _ in numbered)
        + "nodes:\n  vm: {kind: qemu, interfaces: {\n"
        + mtus.replace("}\n", "},\n")
        + "      direct: {transport: dgram}}}\n"
        + "  host: {kind: netns, interfaces: {\n"
        + host.replace("}\n", "},\n")
        + "      direct: {}}}\n"
        + "links:\n"
        + "".join(f"  - [{node}:eth{n}, n{n}]\n" for n, _ in numbered for node in ("vm", "host"))
        + "  - {endpoints: [vm:direct, host:direct], subnet: 10.1.0.0/24}\n"
    )
    lab_command.ok("up", timeout=150)
    for n, (name, mtu) in numbered:
        for size in (0, 18, 1472, mtu - 28):
            result = lab_command("exec", "vm", "--", "ping", "-c1", "-W5", "-s", str(size), f"10.0.{n}.2")
            assert result.returncode == 0, (name, size, result.stdout)
        too_long = lab_command("exec", "host", "--", "busybox", "ping", "-c1", "-W5", "-s", "1472", f"10.0.{n}.1")
        assert too_long.returncode == 0, (name, too_long.stdout)
    lab_command.ok("exec", "vm", "--", "ping", "-c1", "-W5", "10.1.0.2")
