"""Ports of a lab's switch that face outside it: a peer in the host's namespace speaks QEMU's framing with a host."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import LabCommand
from vswitch.namespace import visiting
from vswitch.ports.mcast import open_bus

pytestmark = pytest.mark.namespaces

OWN_MAC, OWN_ADDRESS = bytes.fromhex("020000000009"), socket.inet_aton("10.0.0.77")
ARP_REQUEST = (
    b"\xff" * 6 + OWN_MAC + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    + OWN_MAC + OWN_ADDRESS + bytes(6) + socket.inet_aton("10.0.0.1")
)  # fmt: skip


def lab_text(ports: str) -> str:
    return (
        f"name: outside\nnetworks: {{lan0: {{subnet: 10.0.0.0/24, ports: {ports}}}}}\n"
        "nodes: {a: {kind: netns}}\nlinks: [[a:eth0, lan0]]\n"
    )


def ask_for_a(sock: socket.socket) -> str:
    """Ask who has 10.0.0.1; return the address of whoever answers."""
    sock.settimeout(20)
    sock.sendall(struct.pack("!I", len(ARP_REQUEST)) + ARP_REQUEST)
    while True:
        (length,) = struct.unpack("!I", sock.recv(4, socket.MSG_WAITALL))
        frame = sock.recv(length, socket.MSG_WAITALL)
        if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2":
            return socket.inet_ntoa(frame[28:32])


def test_peers_connect_over_tcp_and_unix_and_reach_a_host(
    lab_command: LabCommand, lab_file: Callable[..., Path], runtime_dir: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = runtime_dir / "p"
    lab_file(
        lab_text(f"{{t: {{type: stream, listen: '127.0.0.1:{port}'}}, u: {{type: stream, listen: 'unix:{path}'}}}}")
    )
    lab_command.ok("up", "-q")
    for _ in range(2):  # a peer that comes again is served again
        with socket.create_connection(("127.0.0.1", port)) as peer:
            assert ask_for_a(peer) == "10.0.0.1"
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
        assert ask_for_a(peer) == "10.0.0.1"
        ports = {row["port"]: row for row in json.loads(lab_command.ok("stats", "-f", "json"))}
        assert ports["u#1"]["state"] == "up"
        assert ports["u#1"]["rx_frames"] == 1
        assert ports["t"]["state"] == "listening"
    lab_command.ok("down")
    assert not path.exists()


def test_lab_connects_to_a_peer_outside(lab_command: LabCommand, lab_file: Callable[..., Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        lab_file(lab_text(f"{{c: {{type: stream, connect: '127.0.0.1:{server.getsockname()[1]}'}}}}"))
        lab_command.ok("up", "-q")
        for _ in range(2):  # it comes back after the peer has dropped it
            peer, _ = server.accept()
            with peer:
                assert ask_for_a(peer) == "10.0.0.1"


def test_ports_without_a_peer_are_told_of_and_peers_have_names(
    lab_command: LabCommand, lab_file: Callable[..., Path], runtime_dir: Path
) -> None:
    """`lab up` does not hide what does not work yet; `lab stats` says who is there, and why somebody is not."""
    path, away = runtime_dir / "p", runtime_dir / "away"
    lab_file(
        lab_text(
            f"{{c: {{type: stream, connect: 'unix:{away}'}}, u: {{type: stream, listen: 'unix:{path}'}}, "
            f"d: {{type: dgram, local: 'unix:{path}.d', remote: 'unix:{away}.d'}}}}"
        )
    )
    out = lab_command.ok("up").splitlines()
    reason = f"connecting to unix:{away}: No such file or directory"
    assert out[-3:] == [
        f"port lan0/c (stream) is connecting: {reason}",
        f"port lan0/d (dgram) is connecting: connecting to unix:{away}.d: No such file or directory",
        "port lan0/u (stream) is listening",
    ]
    with socket.socket(socket.AF_UNIX) as peer, socket.socket(socket.AF_UNIX) as server:
        peer.connect(str(path))
        assert ask_for_a(peer) == "10.0.0.1"
        table = lab_command.ok("stats").splitlines()
        assert table[0].split()[-2:] == ["DROPPED", "NOTE"]
        notes = {line.split()[1]: line for line in table[1:]}
        assert notes["c"].endswith(f"  {reason}")
        assert notes["u#1"].endswith(f"  pid {os.getpid()}, uid {os.getuid()}")
        assert notes["a:eth0"].endswith(" -")
        server.bind(str(away))
        server.listen()
        server.settimeout(20)
        accepted, _ = server.accept()
        with accepted:
            assert ask_for_a(accepted) == "10.0.0.1"
            (row,) = (row for row in json.loads(lab_command.ok("stats", "-f", "json")) if row["port"] == "c")
            assert (row["state"], row["peer"], row["reason"]) == ("up", f"unix:{away}", "")


def test_address_in_use_is_named(lab_command: LabCommand, lab_file: Callable[..., Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        lab_file(lab_text(f"{{t: {{type: stream, listen: '{address}'}}}}"))
        result = lab_command("up")
    assert result.returncode == 1
    assert f"network lan0, port t: listening on {address}: Address already in use".encode() in result.stderr


@pytest.mark.root
def test_a_bus_has_its_group_in_the_lab_and_another_outside(
    lab_command: LabCommand, lab_file: Callable[..., Path]
) -> None:
    """A member in the lab's namespace, one in the host's, and a host behind a switch hear each other."""
    lab_file(
        'networks: {bus: {type: mcast, group: "239.7.7.1:7001", subnet: 10.0.0.0/24, ports: {out: {type: mcast, '
        'group: "239.7.7.2:7002"}}}}\nnodes: {a: {kind: netns}}\nlinks: [[a:eth0, bus]]\n'
    )
    lab_command.ok("up", "-q")
    (row,) = json.loads(lab_command.ok("ls", "-f", "json"))
    with ExitStack() as stack:
        namespace = stack.enter_context(Path(f"/proc/{row['pid']}/ns/net").open())
        outside = bus_member(stack, "239.7.7.2", 7002)
        with visiting(namespace.fileno()):
            inside = bus_member(stack, "239.7.7.1", 7001)
        for asking, listening in ((outside, inside), (inside, outside)):
            asking[1].send(ARP_REQUEST)
            while listening[0].recv(2000) != ARP_REQUEST:
                pass
            while (answer := asking[0].recv(2000)[20:32])[:2] != b"\0\2":
                pass
            assert socket.inet_ntoa(answer[8:]) == "10.0.0.1"


def bus_member(stack: ExitStack, group: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Join a bus on `lo`: a socket to receive from and one to send to it."""
    receiving, sending = (stack.enter_context(socket.socket(fileno=fd)) for fd in open_bus(group, port, "127.0.0.1"))
    for sock in (receiving, sending):
        sock.settimeout(20)
    return receiving, sending


def up_with(lab_command: LabCommand, *fds: int, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[bytes]:
    """Run `lab up` with descriptors of ours under their own numbers."""
    return subprocess.run(
        lab_command.argv("up", "-q", *options),
        pass_fds=fds,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=lab_command.cwd,
        env=lab_command.environment,
        timeout=60,
        check=False,
    )


def test_descriptors_of_the_caller_become_ports(lab_command: LabCommand, lab_file: Callable[..., Path]) -> None:
    """A connected socket and a listening one; nobody but the fabric keeps them open afterwards."""
    ours, theirs = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as server:
        fds = theirs.fileno(), server.fileno()
        address = server.getsockname()
        lab_file(lab_text(f"{{c: {{type: stream, fd: {fds[0]}}}, l: {{type: stream, fd: {fds[1]}, clients: one}}}}"))
        result = up_with(lab_command, *fds)
        assert result.returncode == 0, result.stderr.decode()
    with ours, theirs:
        theirs.close()
        assert ask_for_a(ours) == "10.0.0.1"
        with socket.create_connection(address) as peer:
            assert ask_for_a(peer) == "10.0.0.1"
            ports = {row["port"]: row["state"] for row in json.loads(lab_command.ok("stats", "-f", "json"))}
            assert ports["c"] == ports["l"] == "up"
        lab_command.ok("down")
        with ours.makefile("rb") as rest:
            rest.read()  # to its end: whoever else had the other end open would keep us waiting
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_descriptor_that_is_not_open_is_a_mistake_in_the_file(
    lab_command: LabCommand, lab_file: Callable[..., Path]
) -> None:
    """Also where lab has one of that number itself; a file can be looked at without them."""
    lab_file(lab_text("{c: {type: stream, fd: 3}}"))
    result = up_with(lab_command)
    assert result.returncode == 1
    assert b"lab.yaml:2:" in result.stderr
    assert b"networks.lan0.ports.c.fd: descriptor 3 is not open" in result.stderr
    lab_command.ok("validate")
    assert up_with(lab_command, options=("--dry-run",)).returncode == 0


def test_descriptors_of_a_lab_that_does_not_come_up_are_closed(
    lab_command: LabCommand, lab_file: Callable[..., Path]
) -> None:
    """With --keep it stays, broken; what it has not made ports of is let go."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        lab_file(
            lab_text(
                f"{{a: {{type: stream, listen: 'unix:{lab_command.cwd}'}}, b: {{type: stream, fd: {theirs.fileno()}}}}}"
            )
        )
        result = up_with(lab_command, theirs.fileno(), options=("--keep",))
        assert result.returncode == 1
        theirs.close()
        ours.settimeout(20)
        assert ours.recv(1) == b""
