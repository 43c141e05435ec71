"""The carrier of an interface follows its port and its peer, in real machines and hosts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import LabCommand

pytestmark = [pytest.mark.namespaces, pytest.mark.timeout(180)]

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
        "name: ends\nnetworks: {lan0: {subnet: 10.0.0.0/24}}\n"
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


def up_without_tun(lab: LabCommand) -> None:
    """Bring the lab up where there is no /dev/net/tun."""
    hide = 'mount -t tmpfs none /dev/net && exec "$@"'
    argv = ["unshare", "-Urm", "sh", "-c", hide, "sh", *lab.argv("up", "-q")]
    subprocess.run(argv, env=lab.environment, cwd=lab.cwd, check=True, timeout=60)


def test_host_on_a_veth_pair_loses_its_carrier_too(lab_command: LabCommand, lab_file: LabFile) -> None:
    lab_file("name: veth\nnodes: {a: {kind: netns}, b: {kind: netns}}\nlinks: [[a:eth0, b:eth0]]\n")
    up_without_tun(lab_command)
    assert "veth" in lab_command.ok("exec", "a", "--", "ip", "-d", "link", "show", "eth0")
    assert carrier(lab_command, "a", "eth0") == 1
    kill(lab_command, "b")
    wait_for_carrier(lab_command, "a", "eth0", 0)
