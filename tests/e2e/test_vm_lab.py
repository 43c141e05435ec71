"""Labs with real QEMU machines, driven by the command line as a user would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import LabCommand

pytestmark = [pytest.mark.namespaces, pytest.mark.qemu, pytest.mark.timeout(180)]

LabFile = Callable[..., Path]

MICRO = "kinds: {micro: {driver: qemu, memory: 96M}}\n"


def ps(lab: LabCommand) -> dict[str, dict[str, object]]:
    return {row["node"]: row for row in json.loads(lab.ok("ps", "-f", "json"))}


def test_machines_and_a_host_ping_over_every_medium(lab_command: LabCommand, lab_file: LabFile) -> None:
    """VM to VM and VM to host, each over a switch, a hub, a multicast bus and point to point, in one lab."""
    media = ("switch", "hub", "mcast")
    networks = "".join(f"  n{i}: {{type: {kind}, subnet: 10.0.{i}.0/24}}\n" for i, kind in enumerate(media))
    links = "".join(f"  - [{node}:eth{i}, n{i}]\n" for i in range(3) for node in ("vm1", "vm2", "h1"))
    lab_file(
        f"name: media\n{MICRO}networks:\n{networks}"
        "nodes: {vm1: {kind: micro}, vm2: {kind: micro}, h1: {kind: netns}}\n"
        f"links:\n{links}"
        "  - {endpoints: [vm1:eth3, vm2:eth3], subnet: 10.0.3.0/30}\n"
        "  - {endpoints: [vm1:eth4, h1:eth4], subnet: 10.0.4.0/30}\n"
    )
    lab_command.ok("up", timeout=150)
    targets = {
        "switch VM": "10.0.0.2",
        "switch host": "10.0.0.3",
        "hub VM": "10.0.1.2",
        "hub host": "10.0.1.3",
        "mcast VM": "10.0.2.2",
        "mcast host": "10.0.2.3",
        "point-to-point VM": "10.0.3.2",
        "point-to-point host": "10.0.4.2",
    }
    for what, address in targets.items():
        result = lab_command("exec", "vm1", "--", "ping", "-c2", "-W5", address)
        assert result.returncode == 0, (what, result.stdout)
    lab_command.ok("exec", "h1", "--", "busybox", "ping", "-c1", "-W5", "vm2")
    for size in (1400,):
        lab_command.ok("exec", "vm1", "--", "ping", "-c1", "-W5", "-s", str(size), "vm2")
    assert lab_command("exec", "vm1", "--", "ping", "-c1", "-W1", "10.0.0.77").returncode != 0


@pytest.fixture
def duo(lab_command: LabCommand, lab_file: LabFile) -> LabCommand:
    """Two machines and a host on one switch, up."""
    lab_file(
        f"name: duo\n{MICRO}networks: {{lan0: {{subnet: 10.0.0.0/24}}}}\n"
        "nodes:\n  vm1: {kind: micro}\n  vm2: {kind: micro}\n  h1: {kind: netns}\n"
        "links: [[vm1:eth0, lan0], [vm2:eth0, lan0], [h1:eth0, lan0]]\n"
    )
    lab_command.ok("up", "-q", timeout=150)
    return lab_command


def test_machine_answers_exec_console_and_logs_and_its_death_is_seen(duo: LabCommand) -> None:
    result = duo("exec", "vm1", "--", "sh", "-c", "cat; echo err >&2; exit 7", stdin=b"in\0\xff")
    assert (result.returncode, result.stdout, result.stderr) == (7, b"in\0\xff", b"err\n")
    assert duo.ok("exec", "vm2", "--", "hostname").strip() == "vm2"
    assert duo("exec", "vm1", "--", "no-such-program").returncode == 127

    console = subprocess.Popen(
        duo.argv("console", "vm1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=duo.environment,
        cwd=duo.cwd,
    )
    assert console.stdin is not None
    assert console.stdout is not None
    console.stdin.write(b"\necho answer $((6*7))\n")
    console.stdin.flush()
    seen = b""
    while b"answer 42" not in seen:
        piece = os.read(console.stdout.fileno(), 4096)
        assert piece, seen
        seen += piece
    console.stdin.write(b"\x1d")
    console.stdin.flush()
    _, said = console.communicate(timeout=20)
    assert console.returncode == 0
    assert said == b"attached to vm1's console; Ctrl-] leaves it\n"
    assert "answer 42" in duo.ok("logs", "vm1")

    rows = ps(duo)
    assert rows["vm1"]["state"] == "ready"
    assert rows["vm1"]["info"] in ("tcg", "kvm")
    os.kill(int(str(rows["vm1"]["pid"])), signal.SIGKILL)
    for _ in range(100):
        if ps(duo)["vm1"]["state"] == "exited":
            break
    dead = ps(duo)["vm1"]
    assert dead["state"] == "exited"
    assert "SIGKILL" in str(dead["info"])
    duo.ok("exec", "vm2", "--", "ping", "-c1", "-W5", "h1")
    assert duo("exec", "vm1", "--", "true").returncode == 1


def test_machine_that_powers_off_is_exited_with_the_cause(duo: LabCommand) -> None:
    duo("exec", "vm2", "--", "poweroff", "-f")
    for _ in range(200):
        if ps(duo)["vm2"]["state"] == "exited":
            break
    row = ps(duo)["vm2"]
    assert row["state"] == "exited"
    assert "guest" in str(row["info"])


def test_root_lab_comes_up_and_passes_its_checks(lab_command: LabCommand) -> None:
    root = Path(__file__).parents[2]
    lab_command.ok("up", "-q", "--name", "root-lab", cwd=root, timeout=150)
    lab_command.ok("check", "-l", "root-lab", cwd=root)


def test_kernel_that_never_answers_fails_the_up_with_its_console(lab_command: LabCommand, lab_file: LabFile) -> None:
    lab_file("name: mute\nnodes: {vm1: {kind: qemu, append: 'rdinit=/nowhere init=/nowhere', ready_timeout: 60s}}\n")
    result = lab_command("up", timeout=150)
    assert result.returncode == 1
    assert b"node vm1" in result.stderr
    assert b"panic" in result.stderr
    assert lab_command.left() == []


def test_killed_coordinator_takes_the_machines_along(duo: LabCommand) -> None:
    (row,) = json.loads(duo.ok("ls", "-f", "json"))
    machines = [os.pidfd_open(int(str(node["pid"]))) for node in ps(duo).values()]
    os.kill(row["pid"], signal.SIGKILL)
    import select

    poll = select.poll()
    for fd in machines:
        poll.register(fd, select.POLLIN)
        assert poll.poll(10_000), "a node outlived its coordinator"
        poll.unregister(fd)
        os.close(fd)
    duo.ok("gc")


def test_machines_run_where_network_namespaces_are_forbidden_and_hosts_say_why_not(
    lab_command: LabCommand, lab_file: LabFile
) -> None:
    """In a user namespace that may make no network namespaces: switch and point to point work, netns hosts do not."""
    forbid = 'echo 0 > /proc/sys/user/max_net_namespaces && exec "$@"'

    def up(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        argv = ["unshare", "-Ur", "sh", "-c", forbid, "sh", *lab_command.argv("up", *arguments)]
        return subprocess.run(
            argv, env=lab_command.environment, cwd=lab_command.cwd, capture_output=True, check=False, timeout=150
        )

    lab_file(
        f"name: bare\n{MICRO}networks: {{lan0: {{subnet: 10.0.0.0/24}}}}\n"
        "nodes: {vm1: {kind: micro}, vm2: {kind: micro}}\n"
        "links: [[vm1:eth0, lan0], [vm2:eth0, lan0], {endpoints: [vm1:eth1, vm2:eth1], subnet: 10.0.1.0/30}]\n"
    )
    result = up("-q")
    assert result.returncode == 0, result.stderr
    lab_command.ok("exec", "vm1", "--", "ping", "-c1", "-W5", "vm2")
    lab_command.ok("exec", "vm1", "--", "ping", "-c1", "-W5", "vm2-eth1")
    lab_command.ok("down")
    for network, node in (("switch", "netns"), ("mcast", "micro")):
        lab_file(
            f"name: bare\n{MICRO}networks: {{lan0: {{type: {network}, subnet: 10.0.0.0/24}}}}\n"
            f"nodes: {{a: {{kind: {node}}}}}\nlinks: [[a:eth0, lan0]]\n"
        )
        result = up()
        assert result.returncode == 1
        assert b"does not allow" in result.stderr
        assert b"lab doctor" in result.stderr


def test_ipv6_works_the_moment_the_lab_is_up(lab_command: LabCommand, lab_file: LabFile) -> None:
    """Over the switch and point to point, also beside an interface that is linked to nothing."""
    lab_file(
        f"name: six\n{MICRO}networks: {{lan0: {{subnet: 'fd00::/64'}}}}\n"
        "nodes: {vm1: {kind: micro, interfaces: {eth2: {}}}, vm2: {kind: micro}, h1: {kind: netns}}\n"
        "links: [[vm1:eth0, lan0], [vm2:eth0, lan0], [h1:eth0, lan0],"
        " {endpoints: [vm1:eth1, vm2:eth1], subnet: 'fd01::/64'}]\n"
    )
    lab_command.ok("up", "-q", timeout=150)
    lab_command.ok("exec", "h1", "--", "busybox", "ping", "-6", "-c1", "-W1", "vm1")
    lab_command.ok("exec", "vm2", "--", "ping", "-6", "-c1", "-W1", "h1")
    lab_command.ok("exec", "vm1", "--", "ping", "-6", "-c1", "-W1", "vm2-eth1")
