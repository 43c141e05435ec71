"""Stream ports: what a lab file may say, and QEMU itself as the peer."""

from __future__ import annotations

import select
import shutil
import socket
import subprocess

import pytest

from vswitch.ports.address import split_host_port
from vswitch.ports.port import load_port_types
from vswitch.ports.stream import StreamSpec

from ..fabric.lan import Lan
from ..fabric.peers import BROADCAST, Peer, frame, mac


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1:7001", ("127.0.0.1", 7001)), ("[::1]:1", ("::1", 1)), ("host.example:65535", ("host.example", 65535))],
)
def test_address_splits(text: str, expected: tuple[str, int]) -> None:
    """Host and port come apart at the last colon."""
    assert split_host_port(text) == expected


@pytest.mark.parametrize("text", ["", ":", "host", ":1", "host:", "host:0", "host:65536", "::1:7001", "h:-1", "h:1x"])
def test_address_that_is_none_is_refused(text: str) -> None:
    """What is expected is said."""
    with pytest.raises(ValueError, match="write host:port"):
        split_host_port(text)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (StreamSpec(listen="127.0.0.1:7001"), None),
        (StreamSpec(connect="unix:/run/x.sock"), None),
        (StreamSpec(), "exactly one of"),
        (StreamSpec(listen="a:1", connect="b:1"), "exactly one of"),
        (StreamSpec(listen="unix:relative"), "absolute path"),
        (StreamSpec(listen="unix:/" + "x" * 107), "107 bytes"),
        (StreamSpec(connect="nowhere"), "is not an address"),
    ],
)
def test_stream_spec_says_what_is_wrong(spec: StreamSpec, problem: str | None) -> None:
    """Addresses are checked before the lab starts."""
    problems = spec.problems()
    assert (problems == []) if problem is None else (len(problems) == 1 and problem in problems[0])


def test_port_types_are_found_by_import() -> None:
    """A file in the package is enough to add a type."""
    assert load_port_types()["stream"] is StreamSpec


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs QEMU (package qemu-system-x86)")
def test_stream_port_talks_to_qemu(lan: Lan) -> None:
    """Frames of every size pass through QEMU's hub and our switch, both ways, unchanged."""
    (ours, qemu_a), (outer, qemu_b) = socket.socketpair(), socket.socketpair()
    command = ["qemu-system-x86_64", "-M", "none", "-nodefaults", "-no-user-config", "-display", "none"]
    for number, sock in enumerate((qemu_a, qemu_b)):
        command += ["-netdev", f"stream,id=s{number},server=off,addr.type=fd,addr.str={sock.fileno()}"]
        command += ["-netdev", f"hubport,id=h{number},hubid=0,netdev=s{number}"]
    fds = [qemu_a.fileno(), qemu_b.fileno()]
    with subprocess.Popen(command, pass_fds=fds, stderr=subprocess.DEVNULL) as qemu:
        try:
            qemu_a.close()
            qemu_b.close()
            beyond, (inside, _) = Peer(outer), lan.peer()
            port = lan.engine.add_port(lan.switch, "stream", [ours.detach()])
            # QEMU connects its netdevs one after the other and drops what arrives between: say hello until it is heard.
            while inside.silent():
                beyond.send(frame(BROADCAST, mac(1), b"hello"))
                select.select([inside.sock], [], [], 0.05)
            beyond.send(frame(BROADCAST, mac(1), b"begin"))
            while b"begin" not in inside.receive():
                pass
            for size in (18, 60, 1514, 9014, 65549, 69632):
                beyond.send(frame(BROADCAST, mac(1), size=size))
                assert inside.receive() == frame(BROADCAST, mac(1), size=size)
                inside.send(frame(mac(1), mac(2), size=size))
                assert beyond.receive() == frame(mac(1), mac(2), size=size)
        finally:
            qemu.kill()
        qemu.wait()
    assert lan.next_event()[:2] == (port, "closed")
    beyond.close()
