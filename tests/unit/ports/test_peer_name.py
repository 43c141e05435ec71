"""Words for whoever is at the other end of a socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from vswitch.ports.peer_name import peer_name

US = f"pid {os.getpid()}, uid {os.getuid()}"


@pytest.mark.parametrize(
    ("family", "host", "shown"), [(socket.AF_INET, "127.0.0.1", "127.0.0.1:"), (socket.AF_INET6, "::1", "[::1]:")]
)
def test_peer_over_tcp_is_its_address(family: socket.AddressFamily, host: str, shown: str) -> None:
    with socket.create_server((host, 0), family=family) as server, socket.socket(family) as client:
        client.connect(server.getsockname()[:2])
        accepted, _ = server.accept()
        with accepted:
            assert peer_name(accepted) == f"{shown}{client.getsockname()[1]}"
            assert peer_name(client) == f"{shown}{server.getsockname()[1]}"


def test_peer_over_a_unix_socket_is_its_path_or_else_its_process(tmp_path: Path) -> None:
    path = tmp_path / "server"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(path))
        server.listen()
        client.connect(str(path))
        accepted, _ = server.accept()
        with accepted:
            assert peer_name(client) == f"unix:{path}"
            assert peer_name(accepted) == US


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"\0\x1b[2J\n\xff", r"unix:@\x1b[2J\n\udcff"),
        (b"\0" + b"\x01" * 100, ("unix:@" + r"\x01" * 100)[:199] + "…"),
    ],
    ids=["escaped", "cut"],
)
def test_peer_that_calls_itself_something_unsayable_is_escaped_and_cut(name: bytes, shown: str) -> None:
    """It may choose any bytes: a terminal would do what they say, and JSON could not hold them."""
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(name)
        server.listen()
        client.connect(name)
        assert peer_name(client) == shown


def test_nobody_has_no_name() -> None:
    for family, kind in ((socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_UNIX, socket.SOCK_DGRAM)):
        with socket.socket(family, kind) as sock:
            assert peer_name(sock) == ""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with a, b:
        assert peer_name(a) == US
