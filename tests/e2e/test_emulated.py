"""Labs with emulated nodes, driven by the command line as a user would."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import PcapNgWriter

from tests.conftest import LabCommand

from .conftest import Leftovers

LabFile = Callable[..., Path]

SINKS = """\
name: gens
networks: {n: {}}
nodes:
  gen: {kind: emulated, role: pktgen, dst: sink, rate: 10kpps, count: 10000, start: manual}
  sink: {kind: emulated, role: sink}
links: [[gen:eth0, n], [sink:eth0, n]]
checks:
  whole: {node: sink, run: expect received=10000 lost=0 missed_before=0 duplicates=0 reordered=0, within: 20s}
  too-fast: {node: sink, run: expect max<=0.000001ms, within: 100ms}
"""


def stats(lab: LabCommand, node: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab.ok("exec", node, "--", "stats"))
    return found


def ps(lab: LabCommand) -> dict[str, dict[str, Any]]:
    return {row["node"]: row for row in json.loads(lab.ok("ps", "-f", "json"))}


def until(lab: LabCommand, node: str, *command: str) -> str:
    """Run a command of a node's until it exits 0, which has to be before the test's own time is over."""
    while (result := lab("exec", node, "--", *command)).returncode != 0:
        assert result.returncode == 1, result.stderr.decode()
    return result.stdout.decode()


def test_ten_thousand_frames_a_second_arrive_whole_and_are_measured(lab_command: LabCommand, lab_file: LabFile) -> None:
    lab_file(SINKS)
    before = Leftovers.of(lab_command.runtime)
    lab_command.ok("up", "-q")
    lab_command.ok("exec", "gen", "--", "start")
    result = lab_command("check")
    lines = (result.stdout + result.stderr).decode()
    assert result.returncode == 1
    assert re.search(r"whole.*(ok|pass)", lines), lines
    assert re.search(r"too-fast.*max<=0.000001ms: it is", lines, re.DOTALL), lines
    report = stats(lab_command, "sink")["flows"]
    (flow,) = report.values()
    assert flow["pps"] == pytest.approx(10_000, rel=0.1)
    assert 0 < flow["latency_us"]["min"] <= flow["latency_us"]["p50"] <= flow["latency_us"]["p99"]
    assert re.search(r"^gen/\d+ +10000 +0 ", lab_command.ok("exec", "sink", "--", "report"), re.MULTILINE)
    ports = {row["port"]: row for row in json.loads(lab_command.ok("stats", "-f", "json"))}
    assert ports["gen:eth0"]["rx_frames"] == ports["sink:eth0"]["tx_frames"] == 10_000
    lab_command.ok("down")
    assert Leftovers.of(lab_command.runtime) == before


def test_commands_of_a_node_work_as_commands_do(lab_command: LabCommand, lab_file: LabFile) -> None:
    lab_file(SINKS)
    lab_command.ok("up", "-q")
    result = lab_command("exec", "sink", "--", "dance")
    assert result.returncode == 127
    assert b"dance: no such command; this node (sink) has: stats" in result.stderr
    assert "set rate=RATE" in lab_command.ok("exec", "gen", "--", "help")
    lab_command.ok("exec", "gen", "--", "set", "rate=max", "count=100")
    lab_command.ok("exec", "gen", "--", "start")
    until(lab_command, "sink", "expect", "received=100")
    assert "sent 100 frames" in lab_command.ok("logs", "gen")
    assert ps(lab_command)["gen"]["facts"] == {"role": "pktgen"}


def test_echo_returns_a_generators_frames_to_it(lab_command: LabCommand, lab_file: LabFile) -> None:
    lab_file(
        "name: mirror\nnetworks: {n: {subnet: [10.0.0.0/24, 'fd00::/64']}}\nnodes:\n"
        "  gen: {kind: emulated, role: pktgen, dst_ip: mirror, src_ip: 'fd00::77', rate: 5kpps,\n"
        "        size: 100, count: 500, depends_on: [mirror]}\n"
        "  mirror: {kind: emulated, role: echo}\n"
        "links: [[gen:eth0, n], [mirror:eth0, n]]\n"
    )
    lab_command.ok("up", "-q")
    until(lab_command, "gen", "expect", "received=500")
    lab_command.ok("exec", "gen", "--", "expect", "lost=0", "max<=10s")
    assert stats(lab_command, "mirror") == {"role": "echo", "echoed": 500, "ignored": 0}


HOSTS = """\
name: hosts
networks: {n: {subnet: [10.0.0.0/24, "fd00::/64"]}}
nodes:
  real: {kind: KIND}
  pet: {kind: emulated, role: host}
links: [[real:eth0, n], [pet:eth0, n]]
"""
UDP_ECHO = """
import socket, sys
for family, address in ((socket.AF_INET, "10.0.0.2"), (socket.AF_INET6, "fd00::2")):
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.sendto(b"hello", (address, 7))
        assert sock.recvfrom(100)[0] == b"hello"
"""


@pytest.mark.namespaces
def test_linux_host_and_emulated_host_ping_each_other_over_both_families(
    lab_command: LabCommand, lab_file: LabFile
) -> None:
    lab_file(HOSTS.replace("KIND", "netns"))
    lab_command.ok("up", "-q")
    for family in ("-4", "-6"):
        lab_command.ok("exec", "real", "--", "ping", family, "-c3", "-i0.2", "-W5", "pet")
        said = lab_command.ok("exec", "pet", "--", "ping", family, "-c3", "-i", "0.1", "real")
        assert "3 packets transmitted, 3 packets received, 0% packet loss" in said
    lab_command.ok("exec", "real", "--", "ping", "-c1", "-s1472", "-Mdo", "-W5", "10.0.0.2")
    lab_command.ok("exec", "real", "--", "python3", "-c", UDP_ECHO)
    nobody = lab_command("exec", "pet", "--", "ping", "-c1", "-W", "0.2", "10.0.0.99")
    assert (nobody.returncode, b"100% packet loss" in nobody.stdout) == (1, True)
    counters = stats(lab_command, "pet")
    assert (counters["udp_echo"], "bad_checksum" in counters, "malformed" in counters) == (2, False, False)


@pytest.mark.namespaces
@pytest.mark.qemu
@pytest.mark.timeout(180)
def test_real_machine_pings_an_emulated_host(lab_command: LabCommand, lab_file: LabFile) -> None:
    lab_file(HOSTS.replace("KIND", "qemu"))
    lab_command.ok("up", "-q", timeout=150)
    lab_command.ok("exec", "real", "--", "ping", "-c2", "-W5", "10.0.0.2")
    lab_command.ok("exec", "real", "--", "ping", "-6", "-c2", "-W5", "fd00::2")
    assert "0% packet loss" in lab_command.ok("exec", "pet", "--", "ping", "-c2", "real")


TAKER = """
class Taker:
    def setup(self, node):
        self.node, self.frames = node, []

    def received(self, frame, interface):
        self.frames.append(frame.hex())

    def command(self, argv):
        if argv == ["crash"]:
            self.node.send(None)
        if len(self.frames) < 5:
            raise LookupError("not yet")
        return self.frames
"""


def test_replayed_capture_arrives_intact_in_a_class_of_the_users(
    lab_command: LabCommand, lab_file: LabFile, tmp_path: Path
) -> None:
    frames = [
        Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01") / Raw(bytes([number]) * size)
        for number, size in enumerate((0, 46, 100, 1500, 46))
    ]
    for number, frame in enumerate(frames):
        frame.time = 1000 + number / 100
    with PcapNgWriter(str(tmp_path / "old.pcapng")) as file:
        file.write(frames)
    (tmp_path / "taker.py").write_text(TAKER)
    lab_file(
        "name: again\nnodes:\n"
        "  old: {kind: emulated, replay: old.pcapng, depends_on: [mine]}\n"
        "  mine: {kind: emulated, python: taker:Taker}\n"
        "links: [[old:eth0, mine:eth0]]\n"
    )
    lab_command.ok("up", "-q")
    assert json.loads(until(lab_command, "mine", "frames")) == [bytes(frame).hex() for frame in frames]
    assert stats(lab_command, "old")["sent"] == len(frames)
    result = lab_command("exec", "mine", "--", "crash")
    assert (result.returncode, b"TypeError" in result.stderr) == (1, True)


SCAPY = """
import threading
from scapy.layers.l2 import ARP, Ether
from vswitch.emulated.scapy_socket import RingSocket

class Asker:
    found = None

    def run(self, node):
        with RingSocket(node.rings["eth0"]) as sock:
            question = Ether(dst="ff:ff:ff:ff:ff:ff", src=node.interfaces["eth0"].mac) / ARP(pdst="10.0.0.2")
            answer = sock.sr1(question, timeout=5, verbose=0)
            self.found = str(answer[ARP].hwsrc) if answer is not None else "nobody"
            threading.Event().wait()

    def command(self, argv):
        if self.found is None:
            raise LookupError("not yet")
        return self.found
"""


def test_scapy_asks_an_emulated_host_through_a_ring(lab_command: LabCommand, lab_file: LabFile, tmp_path: Path) -> None:
    (tmp_path / "asker.py").write_text(SCAPY)
    lab_file(
        "name: ask\nnetworks: {n: {subnet: 10.0.0.0/24}}\nnodes:\n"
        "  asker: {kind: emulated, python: asker:Asker, depends_on: [pet]}\n"
        "  pet: {kind: emulated, role: host}\n"
        "links: [[asker:eth0, n], [pet:eth0, n]]\n"
    )
    lab_command.ok("up", "-q")
    mac = ps(lab_command)["pet"]["macs"]["eth0"]
    assert until(lab_command, "asker", "found").strip() == mac


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("raise RuntimeError('no luck')\n", "RuntimeError: no luck"),
        (
            "class Mine:\n    def setup(self, node):\n        raise OSError('no disk')\n    received = None\n",
            "none of the methods",
        ),
        ("class Other:\n    pass\n", "module mine has no 'Mine'"),
    ],
)
def test_class_that_fails_fails_its_node_and_says_where(
    lab_command: LabCommand, lab_file: LabFile, tmp_path: Path, text: str, what: str
) -> None:
    (tmp_path / "mine.py").write_text(text)
    lab_file(
        "name: bad\nnodes: {a: {kind: emulated, python: mine:Mine}, b: {kind: emulated, role: sink}}\n"
        "links: [[a:e, b:e]]\n"
    )
    result = lab_command("up", "-q")
    assert result.returncode == 1
    assert what in result.stderr.decode()
    assert b"SIGKILL" not in result.stderr  # it ended by itself


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_death_of_a_nodes_process_is_noticed_and_named(
    lab_command: LabCommand, lab_file: LabFile, number: signal.Signals
) -> None:
    lab_file(SINKS)
    lab_command.ok("up", "-q")
    os.kill(ps(lab_command)["sink"]["pid"], number)
    while (sink := ps(lab_command)["sink"])["state"] != "exited":
        assert sink["state"] == "ready"
    assert f"killed by {number.name}" in sink["info"]
    assert stats(lab_command, "gen")["role"] == "pktgen"  # the other node goes on
    result = lab_command("exec", "sink", "--", "stats")
    assert result.returncode != 0


def test_stopped_process_does_not_hold_up_taking_the_lab_down(lab_command: LabCommand, lab_file: LabFile) -> None:
    lab_file(SINKS)
    lab_command.ok("up", "-q")
    os.kill(ps(lab_command)["sink"]["pid"], signal.SIGSTOP)
    lab_command.ok("down", timeout=15)
    assert lab_command.left() == []


def test_two_nodes_share_a_pipe(lab_command: LabCommand, lab_file: LabFile) -> None:
    lab_file(
        "name: piped\nnodes:\n"
        "  gen: {kind: emulated, role: pktgen, dst: sink, rate: 10kpps, count: 5000, depends_on: [sink]}\n"
        "  sink: {kind: emulated, role: sink}\n"
        "links: [{endpoints: [gen:eth0, sink:eth0], pipe: true}]\n"
    )
    before = Leftovers.of(lab_command.runtime)
    lab_command.ok("up", "-q")
    until(lab_command, "sink", "expect", "received=5000", "lost=0", "reordered=0")
    assert json.loads(lab_command.ok("stats", "-f", "json")) == []  # the fabric has no part in it
    lab_command.ok("down")
    assert Leftovers.of(lab_command.runtime) == before
