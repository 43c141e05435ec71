"""The carrier of an interface follows its port and its peer, in real machines and hosts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LabCommand
from tests.unit.ports.vde_peers import VdePlug

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


@pytest.fixture
def outside_peers(lab_command: LabCommand, lab_file: LabFile, runtime_dir: Path) -> dict[str, Path]:
    """A host `h` with an interface to each of two external nodes, and where these are to join."""
    places = {"vde": runtime_dir / "v", "dgram": runtime_dir / "d"}
    lab_file(
        "name: peers\nnodes:\n  h: {kind: netns}\n"
        f"  v: {{kind: external, transport: vde, listen: '{places['vde']}'}}\n"
        f"  d: {{kind: external, transport: dgram, local: 'unix:{places['dgram']}', "
        f"remote: 'unix:{places['dgram']}.peer'}}\n"
        "links: [[h:vde, v:eth0], [h:dgram, d:eth0]]\n"
    )
    lab_command.ok("up", "-q")
    return places


def test_carrier_follows_a_vde_client_that_is_killed(lab_command: LabCommand, outside_peers: dict[str, Path]) -> None:
    """Its end is told, the node waits for a peer again, and the next client gives the carrier back."""
    assert carrier(lab_command, "h", "vde") == 0
    for _ in range(2):
        with VdePlug(str(outside_peers["vde"])):
            wait_for_carrier(lab_command, "h", "vde", 1)
            assert waiting(lab_command, "v") is None
        wait_for_carrier(lab_command, "h", "vde", 0)
        assert waiting(lab_command, "v") == "waiting for a peer: eth0"


def test_carrier_follows_a_unix_datagram_peer(lab_command: LabCommand, outside_peers: dict[str, Path]) -> None:
    """It has no connection that could end: that its socket has gone is looked for."""
    assert carrier(lab_command, "h", "dgram") == 0
    path = outside_peers["dgram"]
    for _ in range(2):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.bind(f"{path}.peer")
            wait_for_carrier(lab_command, "h", "dgram", 1)
        wait_for_carrier(lab_command, "h", "dgram", 0)
        Path(f"{path}.peer").unlink()


def waiting(lab: LabCommand, node: str) -> str | None:
    """What `lab ps` says a node waits for."""
    rows = json.loads(lab.ok("ps", "-f", "json"))
    fact: str | None = next(row["facts"] for row in rows if row["node"] == node).get("waiting")
    return fact


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


@pytest.mark.qemu
def test_ports_of_a_machine_that_is_killed_are_closed(lab_command: LabCommand, lab_file: LabFile) -> None:
    """Also those whose transport does not tell; the counters stay, with the reason, the other end has no carrier."""
    transports = ("dgram", "vde", "l2tpv3", "tap", "stream")
    interfaces = ", ".join(f"{name}: {{transport: {name}}}" for name in transports)
    links = ", ".join(f"[vm:{name}, lan0]" for name in transports)
    lab_file(
        "name: killed\ndefaults: {ready_timeout: 140s}\nnetworks: {lan0: {}, bus: {type: mcast}}\n"
        f"nodes: {{vm: {{kind: qemu, interfaces: {{{interfaces}, far: {{transport: dgram}}}}}}, h: {{kind: netns}}}}\n"
        f"links: [{links}, [h:lan, lan0], [vm:far, h:far], [vm:bus, bus], [h:bus, bus]]\n"
    )
    lab_command.ok("up", "-q", timeout=150)
    assert {row["state"] for row in stats(lab_command)} == {"up"}
    kill(lab_command, "vm")
    wait_for_carrier(lab_command, "h", "far", 0)
    for _ in range(100):
        rows = {row["port"]: row for row in stats(lab_command) if row["port"].startswith("vm:")}
        if {row["state"] for row in rows.values()} == {"closed"}:
            break
    assert {row["state"] for row in rows.values()} == {"closed"}
    assert rows.keys() == {f"vm:{name}" for name in (*transports, "far")}
    for name in ("dgram", "vde", "l2tpv3", "far"):
        assert rows[f"vm:{name}"]["reason"] == "the node has exited"
    assert {row["state"] for row in stats(lab_command) if row["port"].startswith("h:")} == {"up"}
    assert carrier(lab_command, "h", "lan") == 1


def stats(lab: LabCommand) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(lab.ok("stats", "-f", "json"))
    return rows
