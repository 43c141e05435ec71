"""External nodes: the words that `lab inspect` prints are taken as they are, and real peers join with them."""

from __future__ import annotations

import asyncio
import json
import select
import shlex
import socket
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LabCommand
from tests.qemu_converter import needs_qemu, qemu_peer
from tests.unit.fabric.peers import Peer
from vswitch.nodes.uml import UmlDriver

from .machines import Machine, bounded

pytestmark = [pytest.mark.namespaces, pytest.mark.timeout(180)]

LabFile = Callable[..., Path]

HOST = "10.0.0.1"


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def lab(lab_command: LabCommand, lab_file: LabFile) -> LabCommand:
    """A host h1, and an external node for each transport on its network; `far` is alone with it on a link."""
    lab_file(
        "name: ext\n"
        "networks: {lan0: {subnet: 10.0.0.0/24}}\n"
        "nodes:\n"
        "  h1: {kind: netns}\n"
        "  stream: {kind: external}\n"
        f"  tcp: {{kind: external, listen: '127.0.0.1:{free_port()}'}}\n"
        "  dgram: {kind: external, transport: dgram}\n"
        "  mcast: {kind: external, transport: mcast}\n"
        "  vde: {kind: external, interfaces: {eth0: {transport: vde}}}\n"
        "  l2tpv3: {kind: external, transport: l2tpv3, "
        f"local: '127.0.0.1:{free_port()}', remote: '127.0.0.1:{free_port()}', session: 77}}\n"
        "  far: {kind: external}\n"
        "links:\n"
        "  - [h1:eth0, lan0]\n"
        + "".join(f"  - [{node}:eth0, lan0]\n" for node in ("stream", "tcp", "dgram", "mcast", "vde"))
        + "  - [lan0, l2tpv3:eth0]\n"
        "  - {endpoints: [h1:eth1, far:eth0], subnet: 10.0.1.0/30}\n"
    )
    lab_command.ok("up")
    return lab_command


def inspect(lab: LabCommand, node: str) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(lab.ok("inspect", node, "-f", "json"))[0]
    return row


def netdev(row: dict[str, Any]) -> str:
    """The netdev of the words for QEMU, without its id, which the converter gives."""
    words = shlex.split(row["join"]["qemu"])
    assert [words[0], words[2]] == ["-netdev", "-device"]
    assert row["mac"] in words[3]
    return words[1].replace("id=eth0,", "")


def arp_request(row: dict[str, Any], target: str) -> bytes:
    mac = bytes.fromhex(row["mac"].replace(":", ""))
    own = socket.inet_aton(row["addresses"][0].partition("/")[0])
    arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, own, bytes(6), socket.inet_aton(target))
    return b"\xff" * 6 + mac + b"\x08\x06" + arp


def is_answer(frame: bytes, row: dict[str, Any]) -> bool:
    mac = bytes.fromhex(row["mac"].replace(":", ""))
    return frame[:6] == mac and frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x02"


def resolve(peer: Peer, row: dict[str, Any], target: str) -> None:
    """Ask who has `target` as the external node would, until the answer comes."""
    for _ in range(100):
        peer.send(arp_request(row, target))
        while select.select([peer.sock], [], [], 0.3)[0]:
            if is_answer(peer.receive(), row):
                return
    raise AssertionError(f"{target} did not answer {row['node']}")


@needs_qemu
def test_qemu_joins_over_every_transport_with_the_words_printed(lab: LabCommand) -> None:
    """A QEMU given `join.qemu` is the external node: a host of the lab answers it."""
    for node in ("stream", "tcp", "dgram", "mcast", "vde", "l2tpv3", "far"):
        row = inspect(lab, node)
        with qemu_peer(netdev(row)) as peer:
            resolve(peer, row, HOST if node != "far" else "10.0.1.1")
            assert inspect(lab, node)["state"] == "up"
    rows = {row["node"]: row for row in json.loads(lab.ok("ps", "-f", "json"))}
    assert rows["stream"]["state"] == "ready"
    assert rows["stream"]["facts"] == {"waiting": "waiting for a peer: eth0"}


def test_vde_plug_joins_with_the_words_printed(lab: LabCommand) -> None:
    """`join.vde` is a command that passes frames between the lab and its standard input and output."""
    row = inspect(lab, "vde")
    request = arp_request(row, HOST)
    plug = subprocess.Popen(shlex.split(row["join"]["vde"]), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert plug.stdin is not None
    assert plug.stdout is not None
    try:
        plug.stdin.write(struct.pack("!H", len(request)) + request)
        plug.stdin.flush()
        while True:
            (size,) = struct.unpack("!H", plug.stdout.read(2))
            if is_answer(plug.stdout.read(size), row):
                break
    finally:
        plug.kill()
        plug.communicate()


def test_another_lab_joins_with_the_words_printed(lab: LabCommand, lab_file: LabFile, tmp_path: Path) -> None:
    """`join.lab` is a port of a network in another lab's file, whose host then is the external node."""
    for node in ("stream", "vde"):
        row = inspect(lab, node)
        other = lab_file(
            f"name: other\nnetworks: {{lan: {{ports: {{up: {row['join']['lab']}}}}}}}\n"
            f"nodes: {{h: {{kind: netns, interfaces: {{eth0: {{mac: '{row['mac']}', ip: {row['addresses'][0]}}}}}}}}}\n"
            "links: [[h:eth0, lan]]\n",
            "other/lab.yaml",
        )
        lab.ok("up", str(other))
        lab.ok("exec", "-l", "other", "h", "--", "busybox", "ping", "-c1", "-W10", HOST)
        lab.ok("exec", "-l", "ext", "h1", "--", "busybox", "ping", "-c1", "-W10", node)
        lab.ok("down", "-l", "other")


@pytest.mark.qemu
def test_real_machine_joins_with_the_words_printed(lab: LabCommand, tmp_path: Path) -> None:
    """A virtual machine started by hand pings a host of the lab, and is pinged by name."""
    row = inspect(lab, "stream")
    join_and_ping(lab, row, Machine(tmp_path / "vm", "vm", args=tuple(shlex.split(row["join"]["qemu"]))))


@pytest.mark.uml
def test_user_mode_linux_joins_with_the_words_printed(lab: LabCommand, tmp_path: Path) -> None:
    """The same for User-Mode Linux, over VDE and over L2TPv3."""
    for node in ("vde", "l2tpv3"):
        row = inspect(lab, node)
        join_and_ping(lab, row, Machine(tmp_path / node, "vm", driver=UmlDriver, append=row["join"]["uml"]))


def join_and_ping(lab: LabCommand, row: dict[str, Any], machine: Machine) -> None:
    async def main() -> None:
        async with bounded(machine):
            await machine.driver.start()
            code, out, err = await machine.run(
                "nic=$(ls /sys/class/net | grep -v '^lo'); "
                f"ip addr add {row['addresses'][0]} dev $nic && ip link set $nic up && "
                f"grep -q {row['mac']} /sys/class/net/$nic/address && ping -c2 -W10 {HOST}"
            )
            assert code == 0, (out, err)
            asking = asyncio.to_thread(lab.ok, "exec", "h1", "--", "busybox", "ping", "-c1", "-W10", row["node"])
            await asking

    asyncio.run(main())


def test_exec_and_console_say_that_it_is_elsewhere(lab: LabCommand) -> None:
    """There is no way into an external node, and the error says where to look."""
    for arguments in (("exec", "stream", "--", "true"), ("console", "stream")):
        process = subprocess.Popen(
            lab.argv(*arguments), stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=lab.environment, cwd=lab.cwd
        )
        with process:  # its standard input stays open, as a terminal would
            assert process.wait(timeout=60) != 0
            assert process.stderr is not None
            said = process.stderr.read().decode()
        assert "node stream is external: its console and commands are with whoever starts it" in said
        assert "see: lab inspect stream" in said
        assert "attached" not in said


def test_carrier_of_the_other_end_comes_and_goes_with_the_peer(lab: LabCommand) -> None:
    """On a link of two, whoever waits for an external node sees it: the state is told, and events say so."""
    row = inspect(lab, "far")
    assert row["state"] == "listening"
    assert facts(lab, "far") == {"waiting": "waiting for a peer: eth0"}
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(json.loads(row["join"]["lab"])["connect"].removeprefix("unix:"))
        wait_for(lab, "far", "up")
        assert facts(lab, "far") == {}
    wait_for(lab, "far", "listening")


def facts(lab: LabCommand, node: str) -> Any:
    rows = json.loads(lab.ok("ps", "-f", "json"))
    return next(row["facts"] for row in rows if row["node"] == node)


def wait_for(lab: LabCommand, node: str, state: str) -> None:
    for _ in range(200):  # each takes a fifth of a second
        if inspect(lab, node)["state"] == state:
            return
    raise AssertionError(f"{node} did not become {state}")


def test_inspect_shows_every_interface_and_teaches_how_to_join(lab: LabCommand) -> None:
    """The table for all, the words for one; an unknown node is an error that names those there are."""
    lines = lab.ok("inspect").splitlines()
    assert lines[0].split() == ["NODE", "INTERFACE", "MAC", "ADDRESSES", "MTU", "LINK", "TRANSPORT", "STATE"]
    assert len(lines) == 1 + 9
    assert [line.split()[5] for line in lines if line.startswith("h1")] == ["lan0", "far:eth0"]
    text = lab.ok("inspect", "vde")
    for words in inspect(lab, "vde")["join"].values():
        assert words in text
    assert "To join" not in lab.ok("inspect", "h1")
    result = lab("inspect", "nobody")
    assert result.returncode != 0
    assert b"no node 'nobody' in lab ext; nodes: h1, stream" in result.stderr
