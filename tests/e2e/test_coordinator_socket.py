"""What strangers may do to a coordinator's sockets: nothing."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from tests.conftest import LabCommand
from vswitch.coordinator import protocol
from vswitch.coordinator.client import Client
from vswitch.coordinator.protocol import Request
from vswitch.errors import LabError
from vswitch.rundir import RunDir

pytestmark = pytest.mark.namespaces


@pytest.fixture
def running(lab_command: LabCommand, lab_file: Callable[..., Path]) -> RunDir:
    lab_file("name: one\nnodes: {a: {kind: netns}}\n")
    lab_command.ok("up", "-q")
    return RunDir(lab_command.labs / "one")


@pytest.fixture
def dealer(running: RunDir) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        sock.connect(f"ipc://{running.control_socket}")
        yield sock


def test_client_of_another_version_gets_a_clear_error(running: RunDir, dealer: zmq.Socket[bytes]) -> None:
    body = protocol.pack(Request(1, protocol.Status()))[1]
    dealer.send_multipart([struct.pack("!4sH", b"VSW\0", 99), body])
    assert dealer.poll(10_000)
    reply = protocol.unpack_reply(dealer.recv_multipart())
    assert isinstance(reply.answer, protocol.Failed)
    assert "the client speaks protocol 99" in reply.answer.message


def test_garbage_harms_nothing(running: RunDir, dealer: zmq.Socket[bytes]) -> None:
    dice = random.Random(1)
    for _ in range(300):
        frames = [dice.randbytes(dice.randrange(80)) for _ in range(dice.randrange(1, 5))]
        dealer.send_multipart(frames)
        dealer.send_multipart([protocol.HEADER, dice.randbytes(dice.randrange(80))])
    strays: list[protocol.Operation] = [
        protocol.Input(b"x"),
        protocol.Ack(-5),
        protocol.Hangup(),
        protocol.Resize(1, 1),
    ]
    for number, operation in enumerate(strays):
        dealer.send_multipart(protocol.pack(Request(number, operation)))
    for kind in (socket.SOCK_STREAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_UNIX, kind) as raw:
            raw.connect(str(running.events_socket if kind else running.control_socket))
            raw.sendall(dice.randbytes(5000))
    with Client(running) as client:
        assert client.status().state == "running"
        assert client.run("a", ("echo", "still here"), timeout=10) == (0, b"still here\n")


def assert_ends(client: Client, command: bytes) -> None:
    """No process of node a runs `command`, or soon none does any more."""
    for _ in range(200):
        _, out = client.run("a", ("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"), timeout=10)
        if command not in out:
            break
    assert command not in out


def test_client_that_ignores_its_window_loses_its_stream_only(running: RunDir, dealer: zmq.Socket[bytes]) -> None:
    dealer.send_multipart(protocol.pack(Request(1, protocol.Exec("a", ("sleep", "4321")))))
    for _ in range(20):
        dealer.send_multipart(protocol.pack(Request(1, protocol.Input(b"x" * 64 * 1024))))
    with Client(running) as client:
        assert_ends(client, b"sleep 4321")
        assert client.status().state == "running"


def test_stream_hung_up_before_it_began_never_runs(running: RunDir, dealer: zmq.Socket[bytes]) -> None:
    for number in range(1, 21):
        dealer.send_multipart(protocol.pack(Request(number, protocol.Exec("a", ("sleep", "4322")))))
        dealer.send_multipart(protocol.pack(Request(number, protocol.Hangup())))
    with Client(running) as client:
        assert_ends(client, b"sleep 4322")


def test_slow_reader_of_a_fast_command_bounds_what_is_under_way(running: RunDir, dealer: zmq.Socket[bytes]) -> None:
    dealer.send_multipart(protocol.pack(Request(1, protocol.Exec("a", ("cat", "/dev/zero")))))
    received = 0
    while dealer.poll(1500):  # Alive messages come every second and carry nothing
        answer = protocol.unpack_reply(dealer.recv_multipart()).answer
        if isinstance(answer, protocol.Output):
            received += len(answer.data)
        elif isinstance(answer, protocol.Alive):
            break
    assert 0 < received <= protocol.WINDOW + 64 * 1024
    dealer.send_multipart(protocol.pack(Request(1, protocol.Hangup())))


def test_unknown_network_is_named_in_the_error(running: RunDir) -> None:
    with Client(running) as client, pytest.raises(LabError, match="nowhere"):
        client.request(protocol.Fdb("nowhere"), timeout=10)


def test_sockets_are_out_of_reach_of_other_users(running: RunDir) -> None:
    assert running.path.stat().st_mode & 0o077 == 0
