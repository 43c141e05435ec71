"""Labs with virtio-net headers at the hosts and ports: segments pass whole, and are cut where they must be."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import LabCommand

from .conftest import PAIR

LabFile = Callable[..., Path]

needs_iperf3 = pytest.mark.skipif(shutil.which("iperf3") is None, reason="needs iperf3")


def drops(lab: LabCommand) -> dict[str, dict[str, int]]:
    """What each port has dropped, but for what hosts say of themselves before all ports are there."""
    rows = json.loads(lab.ok("stats", "-f", "json"))
    return {row["port"]: {why: n for why, n in row["drops"].items() if why != "nowhere"} for row in rows}


@pytest.mark.root  # tcpdump wants to become another user, which a user's namespace does not have
@needs_iperf3
@pytest.mark.namespaces
@pytest.mark.parametrize("setting", ["", ", port: {mtu: 1500}"], ids=["free", "with a port's MTU"])
def test_tcp_between_hosts_is_of_whole_segments(lab_command: LabCommand, lab_file: LabFile, setting: str) -> None:
    """Tcpdump in a host sees frames longer than the MTU; none is dropped for it, also by a port that has one."""
    lab_file(PAIR.replace("- [b:eth0, lan0]", f"- {{endpoints: [b:eth0, lan0]{setting}}}"))
    lab_command.ok("up", "-q")
    server = lab_command.start("exec", "b", "--", "iperf3", "-s", "-1", "--forceflush")
    assert server.stdout is not None
    while b"listening" not in server.stdout.readline():
        assert server.poll() is None
    dump = lab_command.start("exec", "b", "--", "tcpdump", "-c1", "-nei", "eth0", "tcp and greater 3000")
    assert dump.stderr is not None
    while b"listening" not in dump.stderr.readline():
        assert dump.poll() is None
    result = json.loads(lab_command.ok("exec", "a", "--", "iperf3", "-J", "-c", "b", "-n", "64M"))
    assert result["end"]["sum_received"]["bytes"] > 60 << 20  # the rest may be on its way when it looks
    assert dump.communicate(timeout=30)[0].count(b"\n") == 1
    server.communicate(timeout=30)
    for port, why in drops(lab_command).items():
        assert not {"oversize", "too_long", "no_checksum", "refused"} & set(why), (port, why)


@needs_iperf3
@pytest.mark.qemu
@pytest.mark.namespaces
@pytest.mark.timeout(180)
def test_segments_are_cut_for_a_machine_that_takes_none(
    lab_command: LabCommand, lab_file: LabFile, tmp_path: Path
) -> None:
    """From a host into a VM over a stream, which has no header to say so: TCP works, both ways, byte for byte."""
    lab_file(
        "name: mixed\nnetworks: {lan0: {subnet: 10.0.0.0/24}}\n"
        "nodes: {h: {kind: netns}, v: {kind: qemu, interfaces: {eth0: {transport: stream}}}}\n"
        "links: [[h:eth0, lan0], [v:eth0, lan0]]\n"
    )
    lab_command.ok("up", "-q", timeout=120)
    make = "cd /tmp && head -c 3000000 /dev/urandom > data && md5sum data"
    for server, client, serve in (("v", "h", "httpd"), ("h", "v", "busybox httpd")):
        lab_command.ok("exec", server, "--", "mkdir", "-p", f"{tmp_path}/www", timeout=60)
        made = lab_command.ok("exec", server, "--", "sh", "-c", make.replace("/tmp", f"{tmp_path}/www"), timeout=60)
        lab_command.ok("exec", server, "--", *serve.split(), "-p", "7000", "-h", f"{tmp_path}/www")
        fetch = f"busybox wget -q -O - http://{server}:7000/data | md5sum"
        fetched = lab_command.ok("exec", client, "--", "sh", "-c", fetch, timeout=60)
        assert fetched.split()[0] == made.split()[0]
    rows = {row["port"]: row for row in json.loads(lab_command.ok("stats", "-f", "json"))}
    assert rows["v:eth0"]["tx_frames"] > rows["h:eth0"]["rx_frames"], "nothing was cut"
    assert not {"too_long", "no_checksum"} & set(rows["v:eth0"]["drops"])


def test_mtu_no_device_has_is_a_mistake_in_the_file(lab_command: LabCommand, lab_file: LabFile) -> None:
    """Said with its place, before anything is started."""
    lab_file(PAIR.replace("  b: {kind: netns}", "  b: {kind: netns, mtu: 65522}"))
    result = lab_command("validate")
    assert result.returncode == 1
    assert b"nodes.b.interfaces.eth0.mtu: 65522 is more than the 65521 a netns host can have" in result.stderr


@pytest.mark.root
@pytest.mark.tun
def test_lab_joins_this_machine_by_a_device(lab_command: LabCommand, lab_file: LabFile, tmp_path: Path) -> None:
    """A TAP port and its scripts: this machine's stack pings a host, and nothing is left of the device."""
    trace = tmp_path / "trace"
    for name, text in (("up", 'ip addr add 10.213.7.1/24 dev "$1"'), ("down", f'echo "$1 $(pwd)" > {trace}')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    lab_file(
        "name: joined\nnetworks:\n  lan0:\n    subnet: 10.213.7.0/24\n"
        "    ports: {t: {type: tap, script: up, downscript: down}}\n"
        "nodes: {a: {kind: netns, interfaces: {eth0: {ip: 10.213.7.9}}}}\nlinks: [[a:eth0, lan0]]\n"
    )
    lab_command.ok("up", "-q")
    (row,) = [row for row in json.loads(lab_command.ok("stats", "-f", "json")) if row["port"] == "t"]
    device = row["peer"].removeprefix("device ")
    assert Path("/sys/class/net", device).exists()
    ping = subprocess.run(["busybox", "ping", "-c1", "-W5", "10.213.7.9"], check=False, timeout=30)
    assert ping.returncode == 0
    lab_command.ok("down")
    assert not Path("/sys/class/net", device).exists()
    assert trace.read_text().split()[0] == device
