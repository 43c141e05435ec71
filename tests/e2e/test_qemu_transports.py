"""Every transport of a QEMU machine's interfaces, with a real machine, and what its network cards look like inside."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import LabCommand

pytestmark = [pytest.mark.namespaces, pytest.mark.qemu, pytest.mark.timeout(240)]

LabFile = Callable[..., Path]


class Transport(NamedTuple):
    """A transport, the largest MTU to try it with, and the type of port it becomes."""

    name: str
    mtu: int
    port_type: str


TRANSPORTS = [
    Transport("auto", 9000, "stream"),
    Transport("stream", 65535, "stream"),
    Transport("dgram", 65535, "dgram"),
    Transport("mcast", 9000, "mcast"),
    Transport("vde", 4078, "dgram"),
    Transport("l2tpv3", 2030, "l2tpv3"),
    Transport("tap", 65521, "packet"),
]
if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
    TRANSPORTS.pop()
_KIB = 2048
"""Sent over TCP each way."""


def lab_text() -> str:
    """A machine and a host that meet on a switch for each transport, once without one, and once on a bus."""
    lines = ["name: transports", "defaults: {ready_timeout: 140s}", "networks:"]
    lines += [f"  n{n}: {{subnet: 10.0.{n}.0/24}}" for n in range(len(TRANSPORTS))]
    lines.append("  bus: {type: mcast, subnet: 10.2.0.0/24}")
    lines += ["nodes:", "  vm:", "    kind: qemu", "    cpus: 2", "    interfaces:"]
    for n, transport in enumerate(TRANSPORTS):
        queues = ", queues: 2" if transport.name == "tap" else ""
        lines.append(f"      eth{n}: {{transport: {transport.name}, mtu: {transport.mtu}{queues}}}")
    lines += [
        "      direct: {transport: dgram, model: vmxnet3}",
        "      bus: {transport: dgram}",
        "  host:",
        "    kind: netns",
        "    interfaces:",
    ]
    lines += [f"      eth{n}: {{mtu: {min(transport.mtu, 65521)}}}" for n, transport in enumerate(TRANSPORTS)]
    lines.append("links:")
    lines += [f"  - [{node}:eth{n}, n{n}]" for n in range(len(TRANSPORTS)) for node in ("vm", "host")]
    lines.append("  - {endpoints: [vm:direct, host:direct], subnet: 10.1.0.0/24}")
    lines += ["  - [vm:bus, bus]", "  - [host:bus, bus]"]
    return "\n".join(lines) + "\n"


def ping_all(own: int) -> str:
    """A script that pings the node whose address ends in `own` with frames of many sizes, and says what failed."""
    lines = []
    for n, transport in enumerate(TRANSPORTS):
        for size in (0, 18, 1472, min(transport.mtu, 65521) - 28):
            ping = f"busybox ping -c1 -W10 -s {size} 10.0.{n}.{own}"
            lines.append(f"{ping} >/dev/null || echo {transport.name} {size}")
    for n, what in ((1, "direct"), (2, "bus")):
        lines.append(f"busybox ping -c1 -W10 10.{n}.0.{own} >/dev/null || echo {what}")
    return "\n".join(lines)


def listen_all() -> str:
    """A script that counts the bytes received on a TCP port for each transport, and tells the sender."""
    return "\n".join(f"busybox nc -l -p {5000 + n} -e wc -c &" for n in range(len(TRANSPORTS))) + "\nwait"


def send_all(to: int) -> str:
    """A script that sends `_KIB` of zeros to each of these ports, and prints how many bytes arrived."""
    sends = [
        f"dd if=/dev/zero bs=1024 count={_KIB} 2>/dev/null | busybox nc -w 20 10.0.{n}.{to} {5000 + n}"
        for n in range(len(TRANSPORTS))
    ]
    return "\n".join(f"until {send}; do sleep 0.1; done" for send in sends)


def test_machine_reaches_a_host_over_every_transport(lab_command: LabCommand, lab_file: LabFile) -> None:
    """Small, full and jumbo frames, and TCP both ways, whose checksums and segments may be left to others."""
    lab_file(lab_text())
    lab_command.ok("up", timeout=150)
    vm, host = 1, 2
    for node, other, address in (("vm", "host", host), ("host", "vm", vm)):
        assert lab_command.ok("exec", node, "--", "sh", "-c", ping_all(address)) == ""
        with lab_command.start("exec", other, "--", "sh", "-c", listen_all()) as listener:
            counted = lab_command.ok("exec", node, "--", "sh", "-c", send_all(address), timeout=100)
            listener.communicate(timeout=60)
        assert counted.split() == [str(_KIB * 1024)] * len(TRANSPORTS)

    rows = {row["port"]: row for row in json.loads(lab_command.ok("stats", "-f", "json"))}
    assert [rows[f"vm:eth{n}"]["type"] for n in range(len(TRANSPORTS))] == [each.port_type for each in TRANSPORTS]
    assert rows["vm:direct"]["type"] == "dgram"
    assert rows["vm:bus"]["type"] == "dgram"
    queues = lab_command.ok("exec", "vm", "--", "sh", "-c", "ls -d /sys/class/net/eth*/queues/tx-*").split()
    several = [path.split("/")[4] for path in queues if path.endswith("/tx-1")]
    assert several == [f"eth{n}" for n, transport in enumerate(TRANSPORTS) if transport.name == "tap"]
    driver = lab_command.ok("exec", "vm", "--", "readlink", "/sys/class/net/direct/device/driver")
    assert driver.strip().endswith("/vmxnet3")


@pytest.mark.parametrize("transport", ["mcast", "tap", "l2tpv3"])
def test_transport_that_needs_a_namespace_says_so_where_there_is_none(
    lab_command: LabCommand, lab_file: LabFile, transport: str
) -> None:
    lab_file(
        "name: bare\nnetworks: {lan0: }\n"
        f"nodes: {{vm: {{kind: qemu, transport: {transport}}}}}\nlinks: [[vm:eth0, lan0]]\n"
    )
    forbid = 'echo 0 > /proc/sys/user/max_net_namespaces && exec "$@"'
    argv = ["unshare", "-Ur", "sh", "-c", forbid, "sh", *lab_command.argv("up")]
    result = subprocess.run(
        argv, env=lab_command.environment, cwd=lab_command.cwd, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 1
    assert f"node vm: eth0, transport {transport}: it needs the lab to have a network namespace" in result.stderr
    assert "use transport: stream" in result.stderr


def test_tap_says_how_to_do_without_where_tap_devices_are_not_for_us(
    lab_command: LabCommand, lab_file: LabFile
) -> None:
    lab_file("name: bare\nnetworks: {lan0: }\nnodes: {vm: {kind: qemu, transport: tap}}\nlinks: [[vm:eth0, lan0]]\n")
    hide = 'mount -t tmpfs none /dev/net && exec "$@"'
    argv = ["unshare", "-Urm", "sh", "-c", hide, "sh", *lab_command.argv("up")]
    result = subprocess.run(
        argv, env=lab_command.environment, cwd=lab_command.cwd, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 1
    assert "transport tap: /dev/net/tun is not for this user" in result.stderr
