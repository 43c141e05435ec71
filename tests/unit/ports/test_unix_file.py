"""Files of unix sockets: whose they are, and whether anybody is there."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from vswitch.ports.unix_file import bound_unix, hand_over, is_dead


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_that_is_served_is_refused_without_its_server_noticing(
    runtime_dir: Path, kind: socket.SocketKind
) -> None:
    """A server for one client would take us for it."""
    path = runtime_dir / "s"
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as server:
        server.bind(str(path))
        if kind == socket.SOCK_STREAM:
            server.listen()
        with pytest.raises(FileExistsError, match="somebody else has"), bound_unix(str(path), kind):
            pass
        if kind == socket.SOCK_STREAM:
            with pytest.raises(BlockingIOError):
                server.accept()


def test_a_socket_served_by_another_name_is_not_dead(runtime_dir: Path) -> None:
    (runtime_dir / "link").symlink_to(runtime_dir)
    with socket.socket(socket.AF_UNIX) as server:
        server.setblocking(False)
        server.bind(str(runtime_dir / "link" / "s"))
        server.listen()
        assert not is_dead(runtime_dir / "s", socket.SOCK_STREAM)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_dead_socket_is_replaced(runtime_dir: Path) -> None:
    """Also while a client it once accepted is still there, by the same name."""
    path = runtime_dir / "s"
    with socket.socket(socket.AF_UNIX) as client:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
            dead.listen()
            client.connect(str(path))
            accepted, _ = dead.accept()
        with accepted, bound_unix(str(path), socket.SOCK_STREAM) as ours:
            ours.listen()
            assert not is_dead(path, socket.SOCK_STREAM)
    assert not path.exists()


def test_a_second_name_of_another_socket_of_ours_is_left_alone(runtime_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(runtime_dir / "other"))
        (runtime_dir / "other").chmod(0o600)
        (runtime_dir / "name").hardlink_to(runtime_dir / "other")
        with pytest.raises(PermissionError):
            hand_over(runtime_dir / "name", mode=0o666)
        assert stat.S_IMODE((runtime_dir / "other").stat().st_mode) == 0o600


def test_a_socket_that_may_not_be_asked_is_not_somebody_elses(runtime_dir: Path) -> None:
    """It is a lack of permission that is told."""
    path = runtime_dir / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    path.chmod(0)
    runtime_dir.chmod(0o755)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError), bound_unix(str(path), socket.SOCK_STREAM):
            pass
    finally:
        if root:
            os.seteuid(0)
