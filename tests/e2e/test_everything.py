"""One lab with every kind of member, and one bus that QEMU and User-Mode Linux share."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import LabCommand

pytestmark = [pytest.mark.namespaces, pytest.mark.qemu, pytest.mark.uml, pytest.mark.timeout(300)]

LabFile = Callable[..., Path]


def test_every_kind_of_member_pings_every_other(lab_command: LabCommand, lab_file: LabFile) -> None:
    """QEMU, User-Mode Linux on a socket pair and on VDE, a network namespace, an emulated host, and a whole lab that
    has joined by a VDE plug: each reaches each of the others by name.
    """
    lab_file(
        "name: all\n"
        "networks: {lan0: {subnet: 10.0.0.0/24}}\n"
        "nodes:\n"
        "  vm: {kind: qemu}\n"
        "  um: {kind: uml}\n"
        "  umvde: {kind: uml, transport: vde}\n"
        "  host: {kind: netns}\n"
        "  emu: {kind: emulated, role: host}\n"
        "  plug: {kind: external, transport: vde}\n"
        "links:\n" + "".join(f"  - [{node}:eth0, lan0]\n" for node in ("vm", "um", "umvde", "host", "emu", "plug"))
    )
    lab_command.ok("up", timeout=200)
    plug = json.loads(lab_command.ok("inspect", "plug", "-f", "json"))[0]
    other = lab_file(
        "name: beyond\n"
        "networks: {lan: {ports: {out: {type: vde, listen: " + json.dumps(str(lab_command.runtime / "v")) + "}}}}\n"
        f"nodes: {{far: {{kind: netns, interfaces: {{eth0: {{mac: '{plug['mac']}', ip: {plug['addresses'][0]}}}}}}}}}\n"
        "links: [[far:eth0, lan]]\n",
        "beyond/lab.yaml",
    )
    lab_command.ok("up", str(other))
    with subprocess.Popen(
        ["dpipe", *shlex.split(plug["join"]["vde"]), "=", "vde_plug", str(lab_command.runtime / "v")],
        stdin=subprocess.DEVNULL,
    ) as cable:
        try:
            for node in ("vm", "um", "umvde", "host", "emu"):
                for target in {"vm", "um", "umvde", "host", "emu", "plug"} - {node}:
                    # Three tries: the cable may still be plugging itself in.
                    command = ("exec", "-l", "all", node, "--", *busybox(node), "ping", "-c3", "-W5", target)
                    result = lab_command(*command)
                    assert result.returncode == 0, (node, target, result.stdout, result.stderr)
            for target in json.loads(lab_command.ok("ps", "-l", "all", "-f", "json")):
                address = target["addresses"].removeprefix("eth0=").partition("/")[0]
                lab_command.ok("exec", "-l", "beyond", "far", "--", "busybox", "ping", "-c3", "-W5", address)
        finally:
            cable.terminate()


def busybox(node: str) -> tuple[str, ...]:
    """A host runs programs of this machine, whose `ping` may not be busybox's."""
    return ("busybox",) if node == "host" else ()


def test_qemu_and_user_mode_linux_share_a_bus(lab_command: LabCommand, lab_file: LabFile) -> None:
    """Both sit on a multicast bus by themselves, with nothing of ours between, and so does a host beside them."""
    lab_file(
        "name: bus\n"
        "networks: {bus: {type: mcast, subnet: 10.0.0.0/24}}\n"
        "nodes: {vm: {kind: qemu}, um: {kind: uml}, um2: {kind: uml}, host: {kind: netns}}\n"
        "links:\n" + "".join(f"  - [{node}:eth0, bus]\n" for node in ("vm", "um", "um2", "host"))
    )
    lab_command.ok("up", timeout=200)
    rows = {row["node"]: row["state"] for row in json.loads(lab_command.ok("inspect", "-f", "json"))}
    assert rows == {"vm": "direct", "um": "direct", "um2": "direct", "host": "up"}
    for node in ("vm", "um", "um2", "host"):
        for target in ("vm", "um", "um2", "host"):
            lab_command.ok("exec", node, "--", *busybox(node), "ping", "-c2", "-W5", target)


@pytest.mark.parametrize("transport", ["auto", "dgram", "mcast", "vde", "l2tpv3"])
def test_user_mode_linux_reaches_a_host_over_every_transport(
    lab_command: LabCommand, lab_file: LabFile, transport: str
) -> None:
    """Each way of carrying frames works, with frames as long as they get, also after the interface was down."""
    lab_file(
        "name: way\n"
        "networks: {lan0: {subnet: 10.0.0.0/24}}\n"
        f"nodes: {{um: {{kind: uml, transport: {transport}}}, host: {{kind: netns}}}}\n"
        "links: [[um:eth0, lan0], [host:eth0, lan0]]\n"
    )
    lab_command.ok("up", timeout=100)
    lab_command.ok("exec", "um", "--", "ping", "-c2", "-W5", "-s", "1472", "host")
    lab_command.ok("exec", "um", "--", "sh", "-c", "ip link set eth0 down && ip link set eth0 up")
    lab_command.ok("exec", "um", "--", "ping", "-c2", "-W5", "host")
    lab_command.ok("exec", "host", "--", "busybox", "ping", "-c1", "-W5", "um")
