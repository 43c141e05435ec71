"""The carrier of an interface follows its port and its peer, in real machines and hosts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import LabCommand

pytestmark = [pytest.mark.namespaces, pytest.mark.timeout(240)]

LabFile = Callable[..., Path]


def wait_for_carrier(lab: LabCommand, node: str, interface: str, state: int) -> None:
    """Have the node itself wait: fails if it does not happen."""
    loop = f'until [ "$(cat /sys/class/net/{interface}/carrier)" = {state} ]; do sleep 0.05; done'
    lab.ok("exec", node, "--", "sh", "-c", loop, timeout=30)


def carrier(lab: LabCommand, node: str, interface: str) -> int:
    return int(lab.ok("exec", node, "--", "cat", f"/sys/class/net/{interface}/carrier"))


def kill(lab: LabCommand, node: str) -> None:
    (pid,) = (row["pid"] for row in json.loads(lab.ok("ps", "-f", "json")) if row["node"] == node)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.qemu
def test_guest_loses_its_carrier_with_whoever_is_at_the_other_end(lab_command: LabCommand, lab_file: LabFile) -> None:
    """A machine joined directly, one through the fabric, a host; what is on a switch keeps its carrier."""
    lab_file(
        "name: ends\ndefaults: {ready_timeout: 140s}\nnetworks: {lan0: {subnet: 10.0.0.0/24}}\n"
        "nodes: {vm1: {kind: qemu}, vm2: {kind: qemu}, h1: {kind: netns}}\n"
        "links: [[vm1:lan, lan0], [vm2:lan, lan0], [h1:lan, lan0], [vm1:vm, vm2:vm], [vm1:host, h1:vm], "
        "[vm2:host, h1:vm2]]\n"
    )
    lab_command.ok("up", "-q", timeout=150)
    for interface in ("lan", "vm", "host"):
        assert carrier(lab_command, "vm1", interface) == 1
    kill(lab_command, "vm2")
    wait_for_carrier(lab_command, "vm1", "vm", 0)
    wait_for_carrier(lab_command, "h1", "vm2", 0)
    assert carrier(lab_command, "vm1", "host") == 1
    assert carrier(lab_command, "h1", "vm") == 1
    kill(lab_command, "h1")
    wait_for_carrier(lab_command, "vm1", "host", 0)
    assert carrier(lab_command, "vm1", "lan") == 1


def plug_in(lab: LabCommand, path: Path) -> socket.socket:
    """Connect to an external node's port, as somebody else's QEMU would."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    return client


@pytest.mark.qemu
def test_carrier_comes_back_with_a_peer_from_outside(
    lab_command: LabCommand, lab_file: LabFile, runtime_dir: Path
) -> None:
    """Of a machine and of a host on a TAP device."""
    path = runtime_dir / "out"
    lab_file(
        "name: outside\ndefaults: {ready_timeout: 140s}\nnodes:\n  vm: {kind: qemu}\n  h: {kind: netns}\n"
        f"  a: {{kind: external, listen: 'unix:{path}.vm'}}\n  b: {{kind: external, listen: 'unix:{path}.h'}}\n"
        "links: [[vm:eth0, a:eth0], [h:eth0, b:eth0]]\n"
    )
    lab_command.ok("up", "-q", timeout=150)
    for node in ("vm", "h"):
        assert carrier(lab_command, node, "eth0") == 0
        for _ in range(2):
            with plug_in(lab_command, path.with_suffix(f".{node}")):
                wait_for_carrier(lab_command, node, "eth0", 1)
            wait_for_carrier(lab_command, node, "eth0", 0)


def up_without_tun(lab: LabCommand) -> None:
    """Bring the lab up where there is no /dev/net/tun."""
    hide = 'mount -t tmpfs none /dev/net && exec "$@"'
    argv = ["unshare", "-Urm", "sh", "-c", hide, "sh", *lab.argv("up", "-q")]
    subprocess.run(argv, env=lab.environment, cwd=lab.cwd, check=True, timeout=60)


def test_host_on_a_veth_pair_loses_its_carrier_and_gets_it_back(
    lab_command: LabCommand, lab_file: LabFile, runtime_dir: Path
) -> None:
    path = runtime_dir / "out"
    lab_file(
        "name: veth\n"
        f"nodes: {{a: {{kind: netns}}, b: {{kind: netns}}, c: {{kind: external, listen: 'unix:{path}'}}}}\n"
        "links: [[a:eth0, b:eth0], [a:eth1, c:eth0]]\n"
    )
    up_without_tun(lab_command)
    assert "veth" in lab_command.ok("exec", "a", "--", "ip", "-d", "link", "show", "eth0")
    assert carrier(lab_command, "a", "eth0") == 1
    assert carrier(lab_command, "a", "eth1") == 0
    kill(lab_command, "b")
    wait_for_carrier(lab_command, "a", "eth0", 0)
    with plug_in(lab_command, path):
        wait_for_carrier(lab_command, "a", "eth1", 1)
    wait_for_carrier(lab_command, "a", "eth1", 0)
