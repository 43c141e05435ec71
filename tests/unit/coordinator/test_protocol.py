"""The wire form of the control messages."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vswitch.coordinator import protocol
from vswitch.coordinator.protocol import Event, Reply, Request
from vswitch.errors import ProtocolError

REQUESTS = [
    protocol.Status(),
    protocol.Detach(),
    protocol.Down(),
    protocol.Exec("a", ("sh", "-c", "true"), {"A": "1"}, "/tmp", (24, 80)),
    protocol.Console("a"),
    protocol.Input(b"\0\xff"),
    protocol.Resize(10, 20),
    protocol.Signal(2),
    protocol.Ack(5),
    protocol.Hangup(),
    protocol.Stats(),
    protocol.Fdb("lan0"),
    protocol.Networks(),
    protocol.Ports("lan0"),
    protocol.Configure("lan0", None, {"ageing": "1s"}),
    protocol.Configure("lan0", "a:eth0", {"vlan": "10"}),
    protocol.AddStatic("lan0", "52:54:00:00:00:01@10", "a:eth0"),
    protocol.Forget("lan0", "52:54:00:00:00:01", None),
    protocol.Flush("lan0", "a:eth0", 10),
]


@pytest.mark.parametrize("operation", REQUESTS, ids=lambda operation: type(operation).__name__)
def test_request_survives_the_wire(operation: protocol.Operation) -> None:
    request = Request(7, operation)
    assert protocol.unpack_request(protocol.pack(request)) == request


def test_reply_and_event_survive_the_wire() -> None:
    reply = Reply(7, protocol.Output("stderr", b"x" * 1000))
    assert protocol.unpack_reply(protocol.pack(reply)) == reply
    event = Event(sequence=1, time=2.0, what="node", name="a", state="ready")
    assert protocol.unpack_event(protocol.pack(event)) == event


def test_client_of_another_version_is_told_both_versions() -> None:
    other = struct.pack("!4sH", b"VSW\0", protocol.VERSION + 1)
    body = protocol.pack(Request(1, protocol.Status()))[1]
    with pytest.raises(ProtocolError, match=rf"speaks protocol {protocol.VERSION + 1}.*speaks {protocol.VERSION}"):
        protocol.unpack_request([other, body])


def test_oversize_message_is_refused() -> None:
    with pytest.raises(ProtocolError):
        protocol.unpack_request([protocol.HEADER, b"\0" * (protocol.MAX_MESSAGE + 1)])


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_garbage_is_refused_as_such(frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        protocol.unpack_request(frames)


@given(st.binary(max_size=500))
def test_garbage_behind_a_right_header_is_refused_as_such(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        protocol.unpack_request([protocol.HEADER, body])
