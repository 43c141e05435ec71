"""Peers that come and go by the thousand, die, stand still, or send nonsense: their port alone has the trouble."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.fabric.bystanders import Bystanders, bystanders, descriptors, eventually, resident, row_of
from tests.unit.fabric.peers import BROADCAST, Peer, frame, framed, mac
from tests.unit.fabric.running import Fabric, run, running_fabric, within
from vswitch.fabric.client import FabricEvent
from vswitch.ports.stream import MAX_CLIENTS

needs_socat = pytest.mark.skipif(shutil.which("socat") is None, reason="needs socat")


@contextlib.asynccontextmanager
async def listening_port(fabric: Fabric, path: Path) -> AsyncIterator[Bystanders]:
    """A port `p` that listens on `path`, beside two bystanders."""
    async with bystanders(fabric) as others:
        await fabric.client.add_outside_port("lan", "p", {"type": "stream", "listen": f"unix:{path}"})
        yield others


def connected(path: Path) -> socket.socket:
    """A client of the port."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))  # waits while the port has more to accept than it has done
    client.settimeout(10)
    return client


async def next_end(fabric: Fabric) -> FabricEvent:
    """The next event of a port that ended."""
    while True:
        event = await within(fabric.events.get())
        if event.state in ("closed", "error"):
            return event


@pytest.mark.timeout(180)
def test_ten_thousand_connections_leave_nothing_behind(runtime_dir: Path) -> None:
    """Neither descriptors nor ports nor memory; half of the clients send a frame before they go."""
    total, at_once = 10_000, 50
    path = runtime_dir / "p"

    def come_and_go() -> None:
        for _ in range(total // at_once):
            clients = [connected(path) for _ in range(at_once)]
            for client in clients[::2]:
                with contextlib.suppress(BrokenPipeError):  # there were too many: it was turned away
                    client.sendall(framed(frame(mac(0xA), mac(9))))
            for client in clients:
                client.close()

    async def main() -> None:
        async with asyncio.timeout(150), running_fabric() as fabric, listening_port(fabric, path) as others:
            before = descriptors(fabric)
            memory = resident(fabric)
            abuse = asyncio.get_running_loop().run_in_executor(None, come_and_go)
            while not abuse.done():
                await others.check()
            await abuse
            await within(all_gone(fabric))
            opened = collections.Counter(fabric.events.get_nowait().state for _ in range(fabric.events.qsize()))
            assert opened["up"] == opened["closed"] > total // 10
            assert [row.port for row in await fabric.client.stats()] == ["a", "b", "p"]
            assert descriptors(fabric) == before
            assert resident(fabric) - memory < 16 << 20

    async def all_gone(fabric: Fabric) -> None:
        while len(rows := await fabric.client.stats()) != 3 or rows[2].state != "listening":
            pass

    asyncio.run(main())


def test_listening_port_recovers_when_descriptors_are_free_again(runtime_dir: Path) -> None:
    """It says what is wrong; whoever could not be taken waits, and is served then."""

    async def body(fabric: Fabric) -> None:
        path = runtime_dir / "p"
        async with listening_port(fabric, path) as others:
            pid = fabric.process.pid
            taken = [int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()]  # noqa: ASYNC240
            room = 3
            free = [number for number in range(4096) if number not in taken][room]
            _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, hard))
            clients = [connected(path) for _ in range(room + 2)]

            async def out_of_descriptors() -> None:
                while (await fabric.events.get()).reason != "cannot accept a client: Too many open files":
                    pass

            await within(out_of_descriptors())
            await others.check()
            clients[0].close()
            clients[1].close()
            for client in clients[2:]:
                Peer(client).send(frame(mac(0xA), mac(7), b"served"))
                while b"served" not in others.a.receive():
                    pass
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
            for client in clients[2:]:
                client.close()
            await within(in_order(fabric))

    async def in_order(fabric: Fabric) -> None:
        # Without anything wrong it has no row of its own while the last clients are still there.
        while any(row.port == "p" and row.reason for row in await fabric.client.stats()):
            pass

    run(body)


def test_garbage_ends_that_client_alone(runtime_dir: Path) -> None:
    """Random bytes, another protocol, the longest length there is: the port goes on listening."""
    garbage = [
        b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\xff" * 70_000,
        struct.pack(">I", 69633),
        *(b"\x80" + random.Random(seed).randbytes(5000) for seed in range(20)),
    ]

    async def body(fabric: Fabric) -> None:
        path = runtime_dir / "p"
        async with listening_port(fabric, path) as others:
            for data in garbage:
                with connected(path) as client:
                    with contextlib.suppress(OSError):
                        client.sendall(data)
                    event = await next_end(fabric)
                    assert event.state == "error"
                    assert "the peer sent a frame of" in event.reason
                    with contextlib.suppress(ConnectionResetError):
                        assert client.recv(1) == b""
                await others.check()
            with connected(path) as client:
                Peer(client).send(frame(mac(0xA), mac(9), b"in order"))
                assert b"in order" in others.a.receive()
            assert (await next_end(fabric)).state == "closed"

    run(body)


def test_empty_frames_and_runts_are_counted_and_go_no_further(runtime_dir: Path) -> None:
    """A length of 0 above all: QEMU would never receive again after one."""

    async def body(fabric: Fabric) -> None:
        path = runtime_dir / "p"
        async with listening_port(fabric, path) as others:
            with connected(path) as client:
                client.sendall(bytes(4) * 100 + framed(bytes(13)) + framed(frame(mac(0xA), mac(9), b"after")))
                assert b"after" in others.a.receive()
                assert others.b.silent()
                assert (await row_of(fabric, "p#1")).drops == {"runt": 101}
            await next_end(fabric)

    run(body)


def test_clients_that_never_finish_a_frame_hold_only_their_own_place(runtime_dir: Path) -> None:
    """As many as are allowed; more are turned away, and told so. Their memory is bounded, a place given up is free."""

    async def body(fabric: Fabric) -> None:
        path = runtime_dir / "p"
        async with listening_port(fabric, path) as others:
            memory = resident(fabric)
            begun = struct.pack(">I", 69632) + bytes(69_000)
            clients = []
            for number in range(MAX_CLIENTS):
                client = connected(path)
                client.sendall(begun[:3] if number % 2 else begun)
                clients.append(client)
                while (await within(fabric.events.get())).port != f"p#{number + 1}":
                    pass
            with connected(path) as one_too_many:
                assert one_too_many.recv(1) == b""
            row = await eventually(fabric, "p", "full")
            assert row.reason == f"{MAX_CLIENTS} clients are connected; more are turned away"
            await others.check()
            assert resident(fabric) - memory < MAX_CLIENTS * (69632 + 16384) + (16 << 20)
            clients.pop().close()
            assert (await next_end(fabric)).reason == "the peer closed the connection in mid-frame"
            await within(listening_again(fabric))
            with connected(path) as client:
                Peer(client).send(frame(mac(0xA), mac(9), b"in its place"))
                assert b"in its place" in others.a.receive()
            for client in clients:
                client.close()

    async def listening_again(fabric: Fabric) -> None:
        while (await fabric.events.get()).state != "listening":
            pass

    run(body)


@needs_socat
def test_peer_that_stands_still_costs_only_its_own_frames(runtime_dir: Path) -> None:
    """Stopped, its queue fills and drops whole frames, counted; let go on, it gets the rest in order. Then killed."""

    async def body(fabric: Fabric) -> None:
        path, got = runtime_dir / "p", runtime_dir / "got"
        async with listening_port(fabric, path) as others:
            command = ["socat", "-u", f"UNIX-CONNECT:{path}", f"CREATE:{got}"]
            with subprocess.Popen(command, stdin=subprocess.DEVNULL) as peer:  # noqa: ASYNC220
                try:
                    await eventually(fabric, "p#1", "up")
                    os.kill(peer.pid, signal.SIGSTOP)
                    count, size = 300, 9014
                    await asyncio.to_thread(others.flood, count, size)
                    row = await row_of(fabric, "p#1")
                    dropped = row.drops["overflow"]
                    assert 0 < dropped < count
                    await others.check()
                    os.kill(peer.pid, signal.SIGCONT)

                    async def caught_up() -> None:
                        while (await row_of(fabric, "p#1")).tx_frames < count - dropped:
                            pass

                    await within(caught_up())
                    await asyncio.to_thread(others.flood, 1, size)
                finally:
                    os.kill(peer.pid, signal.SIGKILL)
            assert (await next_end(fabric)).port == "p#1"
            await eventually(fabric, "p", "listening")
        numbers = numbers_in(got.read_bytes(), size)
        assert numbers == sorted(numbers)
        assert numbers[0] == 0

    run(body)


def numbers_in(data: bytes, size: int) -> list[int]:
    """The numbers of the whole frames of `size` bytes in a stream; there may be part of one at the end."""
    numbers, at = [], 0
    while at + 4 + size <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        assert length == size, f"byte {at}"
        content = data[at + 4 : at + 4 + length]
        number = int.from_bytes(content[14:18], "big")
        assert content == frame(BROADCAST, mac(0xA), number.to_bytes(4, "big"), size=size)
        numbers.append(number)
        at += 4 + length
    return numbers[:-1] if numbers and numbers[-1] == 0 and len(numbers) > 1 else numbers


def test_partial_writes_keep_frame_boundaries() -> None:
    """Through a socket that takes little at once, to a peer that reads a few bytes at a time."""

    async def body(fabric: Fabric) -> None:
        async with bystanders(fabric) as others:
            ours, theirs = socket.socketpair()
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            await fabric.client.add_outside_port("lan", "p", {"type": "stream", "fd": 5}, fds=[theirs.detach()])
            await within(fabric.events.get())
            sizes = [60, 1514, 69632, 14, 9014, 16000, 65535, 61] * 2
            for size in sizes:
                others.a.send(frame(BROADCAST, mac(0xA), b"piecemeal", size=size))
            for size in sizes:
                assert others.b.receive() == frame(BROADCAST, mac(0xA), b"piecemeal", size=size)
            data = await asyncio.to_thread(read_slowly, ours, sum(sizes) + 4 * len(sizes))
            assert data == b"".join(framed(frame(BROADCAST, mac(0xA), b"piecemeal", size=size)) for size in sizes)
            ours.close()

    def read_slowly(sock: socket.socket, size: int) -> bytes:
        sock.settimeout(10)
        chunks = random.Random(1)
        data = b""
        while len(data) < size:
            data += sock.recv(chunks.choice((1, 3, 5, 100, 1000, 5000)))
        return data

    run(body)


def test_datagram_peer_that_sends_nonsense_or_reads_nothing_troubles_nobody(runtime_dir: Path) -> None:
    """Empty and short datagrams are counted; what does not fit its socket is dropped. It may die and come again."""

    async def body(fabric: Fabric) -> None:
        ours, theirs = runtime_dir / "ours", runtime_dir / "theirs"
        async with bystanders(fabric) as others:
            spec = {"type": "dgram", "local": f"unix:{ours}", "remote": f"unix:{theirs}"}
            await fabric.client.add_outside_port("lan", "p", spec)
            for _ in range(2):
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
                    peer.bind(str(theirs))
                    await eventually(fabric, "p", "up")
                    peer.connect(str(ours))
                    for data in (b"", b"x", bytes(13)):
                        peer.send(data)
                    peer.send(frame(mac(0xA), mac(9), b"sense"))
                    while b"sense" not in others.a.receive():
                        pass
                    await asyncio.to_thread(others.flood, 600, 9014)
                    row = await row_of(fabric, "p")
                    assert row.drops["runt"] == 3
                    assert row.drops["overflow"] > 0, row
                    await others.check()
                theirs.unlink()
                others.a.send(frame(BROADCAST, mac(0xA)))
                others.b.receive()
                while (await within(fabric.events.get())).state in ("up", "open"):
                    pass

    run(body)
