"""Settings of switches and ports in running labs of netns hosts: what they do to real traffic, from file and live."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LabCommand, processes_of

pytestmark = pytest.mark.namespaces

LabFile = Callable[..., Path]

VLANS = """\
name: vlans
networks: {lan0: {subnet: 10.0.0.0/24}}
nodes: {a: {kind: netns}, b: {kind: netns}, c: {kind: netns}, t: {kind: netns}}
links:
  - {endpoints: [a:eth0, lan0], port: {vlan: 10}}
  - {endpoints: [b:eth0, lan0], port: {vlan: 20}}
  - {endpoints: [c:eth0, lan0], port: {vlan: 10}}
  - {endpoints: [t:eth0, lan0], port: {trunk: [10, 20]}}
"""
PLAIN = """\
name: plain
networks: {lan0: {subnet: 10.0.0.0/24}}
nodes: {a: {kind: netns}, b: {kind: netns}, c: {kind: netns}}
links: [[a:eth0, lan0], [b:eth0, lan0], [c:eth0, lan0]]
"""


# Asks for an address within a VLAN and prints the VLAN the answer is tagged with. The kernel takes a tag off what it
# receives and puts it beside the frame (packet(7), PACKET_AUXDATA). Devices of type vlan are not in every kernel.
TAGGED_ARP = """
import select, socket, struct, sys
vlan, target = int(sys.argv[1]), socket.inet_aton(sys.argv[2])
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.setsockopt(263, 8, 1)
s.bind(("eth0", 3))
mac = s.getsockname()[4]
s.send(b"\\xff" * 6 + mac + struct.pack("!HHHHHBBH", 0x8100, vlan, 0x806, 1, 0x800, 6, 4, 1)
       + mac + socket.inet_aton("10.0.0.4") + bytes(6) + target)
while select.select([s], [], [], 1)[0]:
    frame, beside, _, _ = s.recvmsg(2048, 64)
    tci = [struct.unpack("IIIHHH", data[:18])[5] for level, kind, data in beside if (level, kind) == (263, 8)]
    if frame[12:14] == b"\\x08\\x06" and frame[20:22] == b"\\0\\2" and frame[28:32] == target:
        print(*tci)
        break
"""


def reaches(lab: LabCommand, source: str, target: str) -> bool:
    """Whether one host gets an answer from another. A first answer takes under a millisecond."""
    return lab("exec", source, "--", "busybox", "ping", "-c1", "-W1", target).returncode == 0


def drops(lab: LabCommand, port: str) -> dict[str, int]:
    rows = json.loads(lab.ok("stats", "-f", "json", port))
    found: dict[str, int] = rows[0]["drops"]
    return found


def settings_of(lab: LabCommand, network: str, port: str) -> dict[str, Any]:
    (row,) = json.loads(lab.ok("port", network, port, "-f", "json"))
    found: dict[str, Any] = row["settings"]
    return found


def mac_of(lab: LabCommand, node: str) -> str:
    rows = {row["node"]: row for row in json.loads(lab.ok("ps", "-f", "json"))}
    return str(rows[node]["macs"]["eth0"])


def send_from(lab: LabCommand, node: str, macs: list[str], *, count: int = 1, to: str = "ff:ff:ff:ff:ff:ff") -> None:
    """Have `node` send `count` frames from each of these addresses."""
    program = (
        "import socket\n"
        "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n"
        "s.bind(('eth0', 0))\n"
        f"to = bytes.fromhex({to.replace(':', '')!r})\n"
        f"for mac in {[mac.replace(':', '') for mac in macs]!r}:\n"
        f"    for _ in range({count}):\n"
        "        s.send(to + bytes.fromhex(mac) + b'\\x88\\xb5' + bytes(46))\n"
    )
    lab.ok("exec", node, "--", "python3", "-c", program)


@pytest.fixture
def vlans(lab_command: LabCommand, lab_file: LabFile) -> LabCommand:
    """Two hosts in VLAN 10, one in 20, and one on a trunk of both."""
    lab_file(VLANS)
    lab_command.ok("up", "-q")
    return lab_command


@pytest.fixture
def plain(lab_command: LabCommand, lab_file: LabFile) -> LabCommand:
    """Three hosts on a switch that nothing is set for."""
    lab_file(PLAIN)
    lab_command.ok("up", "-q")
    return lab_command


def test_vlans_keep_hosts_apart_and_a_trunk_reaches_all(vlans: LabCommand) -> None:
    assert reaches(vlans, "a", "10.0.0.3")
    assert not reaches(vlans, "a", "10.0.0.2")
    assert not reaches(vlans, "t", "10.0.0.1")  # without a tag, on a trunk without a native VLAN
    assert drops(vlans, "t:eth0")["vlan"] >= 1
    for vlan, target, there in (
        (10, "10.0.0.1", True),
        (10, "10.0.0.3", True),
        (20, "10.0.0.2", True),
        (20, "10.0.0.1", False),
    ):
        result = vlans("exec", "t", "--", "python3", "-c", TAGGED_ARP, str(vlan), target)
        assert result.stdout.split() == ([str(vlan).encode()] if there else []), result.stderr
    learnt = {(row["port"], row["vlan"]) for row in json.loads(vlans.ok("fdb", "lan0", "-f", "json"))}
    assert learnt >= {("a:eth0", 10), ("b:eth0", 20), ("c:eth0", 10), ("t:eth0", 10), ("t:eth0", 20)}


def test_host_moves_to_another_vlan_while_the_lab_runs(vlans: LabCommand) -> None:
    vlans.ok("port", "lan0", "b:eth0", "vlan=10")
    assert reaches(vlans, "a", "10.0.0.2")
    assert settings_of(vlans, "lan0", "b:eth0")["vlan"] == 10
    assert "b:eth0  vlan=10" in vlans.ok("port", "lan0")
    vlans.ok("port", "lan0", "b:eth0", "vlan=")
    assert not reaches(vlans, "a", "10.0.0.2")


def test_refused_change_says_why_and_changes_nothing(vlans: LabCommand) -> None:
    result = vlans("port", "lan0", "a:eth0", "isolated=true", "trunk=20")
    assert result.returncode == 1
    assert b"lan0/a:eth0.vlan: a port is either access ('vlan') or trunk" in result.stderr
    settings = settings_of(vlans, "lan0", "a:eth0")
    assert (settings["isolated"], settings["trunk"], settings["vlan"]) == (False, [], 10)
    assert b"did you mean 'a:eth0'?" in vlans("port", "lan0", "a:eth", "vlan=1").stderr
    assert b"did you mean 'isolated'?" in vlans("port", "lan0", "a:eth0", "isolate=true").stderr
    assert b"unknown network 'lan'" in vlans("network", "lan", "ageing=1s").stderr
    assert b"has vlan_filtering: false" in vlans("network", "lan0", "vlan_filtering=false").stderr
    assert reaches(vlans, "a", "10.0.0.3")


def test_isolated_ports_reach_others_but_not_each_other(plain: LabCommand) -> None:
    assert reaches(plain, "a", "b")
    for port in ("a:eth0", "b:eth0"):
        plain.ok("port", "lan0", port, "isolated=true")
    assert not reaches(plain, "a", "b")
    assert reaches(plain, "a", "c")
    assert reaches(plain, "b", "c")
    plain.ok("port", "lan0", "b:eth0", "isolated=")
    assert reaches(plain, "a", "b")


def test_mac_limit_drops_what_further_addresses_send(lab_command: LabCommand, lab_file: LabFile) -> None:
    lab_file(PLAIN.replace("[a:eth0, lan0]", "{endpoints: [a:eth0, lan0], port: {mac_limit: 1, sticky: true}}"))
    lab_command.ok("up", "-q")
    assert reaches(lab_command, "a", "b")
    send_from(lab_command, "a", ["02:00:00:00:00:01", "02:00:00:00:00:02"])
    assert drops(lab_command, "a:eth0")["mac_limit"] == 2
    assert reaches(lab_command, "a", "b")
    rows = json.loads(lab_command.ok("fdb", "lan0", "-f", "json"))
    assert [(row["mac"], row["kind"]) for row in rows if row["port"] == "a:eth0"] == [
        (mac_of(lab_command, "a"), "sticky")
    ]


def test_static_entry_holds_an_address_on_its_port(plain: LabCommand) -> None:
    mac = mac_of(plain, "a")
    plain.ok("fdb", "lan0", "--add", mac, "a:eth0")
    assert f"a:eth0  static_macs={mac}" in plain.ok("port", "lan0")
    rows = {row["mac"]: row for row in json.loads(plain.ok("fdb", "lan0", "-f", "json"))}
    assert (rows[mac]["port"], rows[mac]["kind"]) == ("a:eth0", "static")
    send_from(plain, "c", [mac])
    assert drops(plain, "c:eth0")["moved"] == 1
    assert reaches(plain, "b", "a")
    plain.ok("fdb", "lan0", "--remove", mac)
    send_from(plain, "c", [mac])
    assert drops(plain, "c:eth0")["moved"] == 1  # it may send from there now, whatever `a` says meanwhile
    rows = {row["mac"]: row for row in json.loads(plain.ok("fdb", "lan0", "-f", "json"))}
    assert rows[mac]["kind"] == "dynamic"
    assert plain("fdb", "lan0", "--remove", "02:00:00:00:00:99").returncode == 1


def test_static_entries_of_the_lab_file_are_there_from_the_start(lab_command: LabCommand, lab_file: LabFile) -> None:
    mac = "02:00:00:00:00:07"
    lab_file(VLANS.replace("{vlan: 10}", f"{{vlan: 10, static_macs: ['{mac}']}}", 1))
    lab_command.ok("up", "-q")
    rows = {(row["mac"], row["vlan"], row["port"]) for row in json.loads(lab_command.ok("fdb", "lan0", "-f", "json"))}
    assert (mac, 10, "a:eth0") in rows


def test_storm_is_limited_and_counted(plain: LabCommand) -> None:
    plain.ok("port", "lan0", "a:eth0", "storm_limit=10")
    send_from(plain, "a", ["02:00:00:00:00:01"], count=500)
    assert drops(plain, "a:eth0")["storm"] >= 400
    (row,) = json.loads(plain.ok("stats", "-f", "json", "lan0/a:eth0"))
    assert row["rx_broadcast_frames"] >= 500
    assert "storm=" in plain.ok("stats", "a:eth0")
    plain.ok("port", "lan0", "a:eth0", "storm_limit=")
    before = drops(plain, "a:eth0")["storm"]
    send_from(plain, "a", ["02:00:00:00:00:01"], count=500)
    assert drops(plain, "a:eth0")["storm"] == before


def test_flush_forgets_what_was_learnt_of_a_port(plain: LabCommand) -> None:
    assert reaches(plain, "a", "b")
    assert plain.ok("network", "lan0", "--flush", "--port", "a:eth0") == "1 address forgotten\n"
    assert "b:eth0" in {row["port"] for row in json.loads(plain.ok("fdb", "lan0", "-f", "json"))}
    assert re.fullmatch(r"[1-9] address(es)? forgotten\n", plain.ok("network", "lan0", "--flush"))
    assert plain.ok("network", "lan0", "--flush", "--vlan", "7") == "0 addresses forgotten\n"


def test_network_settings_are_listed_changed_and_told(plain: LabCommand) -> None:
    plain.ok("network", "lan0", "ageing=20s", "reserved_multicast.stp=drop", "vlan_filtering=true")
    (row,) = json.loads(plain.ok("network", "-f", "json"))
    assert (row["network"], row["type"], row["ports"], row["settings"]["ageing"]) == ("lan0", "switch", 3, 20.0)
    assert "ageing=20s vlan_filtering=true reserved_multicast.stp=drop" in plain.ok("network")
    shown = plain.ok("network", "lan0")
    assert "vlan_filtering      true" in shown
    assert "c:eth0" in shown
    assert reaches(plain, "a", "b")  # all in VLAN 1
    plain.ok("port", "lan0", "a:eth0", "vlan=5")
    assert not reaches(plain, "a", "b")


def test_changes_are_events(plain: LabCommand) -> None:
    events = plain.start("events")
    assert events.stdout is not None
    for seconds in range(1, 100):  # the stream begins once it is subscribed: change things until it does
        plain.ok("network", "lan0", f"ageing={seconds}s")
        plain.ok("port", "lan0", "a:eth0", f"mtu={1000 + seconds}", "isolated=true")
        if select.select([events.stdout], [], [], 0)[0]:
            break
    plain.ok("network", "lan0", "ageing=999s")
    plain.ok("network", "lan0", "--flush")
    plain.ok("down")
    told, _ = events.communicate(timeout=20)
    assert re.search(rb"network lan0: changed \(ageing=999s\)\n", told)
    assert re.search(rb"port lan0/a:eth0: changed \(.*mtu=1\d+\)\n", told)
    assert re.search(rb"network lan0: flushed \(\d addresses forgotten\)\n", told)


def test_outside_port_has_its_settings_for_every_peer(lab_command: LabCommand, lab_file: LabFile) -> None:
    path = lab_command.runtime / "p"
    port = f"{{type: stream, listen: 'unix:{path}', storm_limit: 1}}"
    lab_file(PLAIN.replace("subnet: 10.0.0.0/24", f"subnet: 10.0.0.0/24, ports: {{up: {port}}}"))
    lab_command.ok("up", "-q")
    broadcast = (b"\xff" * 6 + bytes.fromhex("020000000009") + b"\x88\xb5").ljust(60, b"\0")
    for number in (1, 2):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            peer.sendall((len(broadcast).to_bytes(4, "big") + broadcast) * 50)
            counted: dict[str, int] = {}
            for _ in range(100):  # asking takes longer than it takes to arrive
                rows = {row["port"]: row for row in json.loads(lab_command.ok("stats", "-f", "json", "lan0"))}
                if rows.get(f"up#{number}", {}).get("rx_frames") == 50:
                    counted = rows[f"up#{number}"]["drops"]
                    break
            assert counted["storm"] >= 48


def test_watched_stats_print_a_table_or_a_line_of_json_per_interval(plain: LabCommand) -> None:
    watching = plain.start("stats", "-w", "0.1", "-f", "json", "lan0")
    assert watching.stdout is not None
    send_from(plain, "a", ["02:00:00:00:00:01"], count=200)
    seen = 0.0
    while not seen:
        ports = {row["port"]: row for row in json.loads(watching.stdout.readline())["ports"]}
        seen = ports["a:eth0"]["rx_frames/s"]
    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=20)
    assert (watching.returncode, errors) == (0, b"")
    table = plain.start("stats", "-w", "0.1")
    assert table.stdout is not None
    lines = [table.stdout.readline().decode() for _ in range(12)]
    assert sum("RX BIT/S" in line for line in lines) == 2
    plain.ok("down")
    _, errors = table.communicate(timeout=20)
    assert b"is gone" in errors or b"being taken down" in errors


def test_watched_stats_redraw_on_a_terminal(plain: LabCommand) -> None:
    command = f"stty cols 80 rows 24; timeout -s INT 2 {' '.join(plain.argv('stats', '-w', '0.2'))}"
    result = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        env=plain.environment,
        cwd=plain.cwd,
        capture_output=True,
        timeout=30,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    text = result.stdout.decode()
    assert text.count("Ctrl-C ends") >= 3
    assert "\x1b[1A" in text  # it goes up and draws over what it drew
    assert "Traceback" not in text


def test_changed_lab_is_what_other_commands_see(plain: LabCommand) -> None:
    plain.ok("port", "lan0", "a:eth0", "mtu=100")
    lab = json.loads((plain.labs / "plain" / "lab.json").read_text())
    assert {"mtu": 100} in [link["settings"] for link in lab["links"]]
    assert "differ" in plain("up").stderr.decode()
    plain.ok("exec", "a", "--", "busybox", "ping", "-c1", "-W1", "-s", "40", "b")
    assert plain("exec", "a", "--", "busybox", "ping", "-c1", "-W1", "-s", "200", "b").returncode == 1
    assert drops(plain, "a:eth0")["oversize"] == 1


def test_change_that_the_fabric_cannot_make_is_not_made(plain: LabCommand) -> None:
    run_id = str(json.loads((plain.labs / "plain" / "run.json").read_text())["run_id"])
    for pid in processes_of(run_id):
        if b"vswitch.fabric" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    result = plain("port", "lan0", "a:eth0", "vlan=", "isolated=true")
    assert result.returncode == 1
    assert b"fabric" in result.stderr
    assert settings_of(plain, "lan0", "a:eth0")["isolated"] is False
    assert json.loads(plain.ok("network", "-f", "json"))[0]["macs"] == 0
