"""Every port type with every other on one switch, each with its real peer: frames of all sizes, bytes compared."""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import Iterator

import pytest

from tests.unit.fabric.peers import BROADCAST, SIZES, frame, framed, mac

from .port_members import FRAME_MIN, MEMBERS, World, missing

pytestmark = pytest.mark.namespaces

PAIRS = [pytest.param(*pair, id="-to-".join(pair)) for pair in itertools.permutations(MEMBERS, 2)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Everything there is, running."""
    with World(tmp_path_factory.mktemp("w")) as world:
        yield world


def having(world: World, *names: str) -> None:
    """Skip where a member is missing."""
    for name in names:
        if name not in world.names:
            pytest.skip(f"{name} {missing(name)}")


@pytest.mark.parametrize(("source", "to"), PAIRS)
def test_frames_of_every_size_arrive_as_they_were_sent(world: World, source: str, to: str) -> None:
    """What one of both does not carry is counted where it ends; nothing is changed, doubled or out of order."""
    having(world, source, to)
    numbers = random.Random(f"{source} {to}")
    sizes = [size for size in SIZES if size <= MEMBERS[source].into]
    frames = [frame(world.mac(to), world.mac(source), numbers.randbytes(size - 14), size=size) for size in sizes]
    before = world.drops(to, "too_long")
    arrived = world.exchange(source, to, frames)
    expected = [data[: MEMBERS[to].kept] for data in frames if len(data) <= MEMBERS[to].out]
    assert [len(data) for data in arrived] == [len(data) for data in expected]
    assert arrived == expected
    assert world.drops(to, "too_long") - before == len(frames) - len(expected)


@pytest.mark.parametrize(("port_type", "kind"), [("stream", socket.SOCK_STREAM), ("dgram", socket.SOCK_DGRAM)])
def test_empty_and_short_frames_leave_by_no_port(world: World, port_type: str, kind: socket.SocketKind) -> None:
    """An empty frame would stop QEMU's reader for good: whoever sends it, all others still hear what comes after."""
    stranger, theirs = socket.socketpair(socket.AF_UNIX, kind)
    source = mac(100)
    runts = [frame(BROADCAST, source)[:size] for size in range(FRAME_MIN)]
    after = frame(BROADCAST, source, port_type.encode())
    with stranger:
        world.add_port(f"stranger-{port_type}", port_type, theirs)
        for data in (*runts, after):
            stranger.send(framed(data) if kind == socket.SOCK_STREAM else data)
        for name in world.names:
            assert world.heard(name, until=after) == [], name
        assert world.drops(f"stranger-{port_type}", "runt") == len(runts)
