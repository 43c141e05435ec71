"""The fabric process and its client, over a real control channel."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from vswitch.errors import FabricError
from vswitch.fabric.client import FabricClient, FabricEvent

from .peers import BROADCAST, TIMEOUT, Peer, frame, mac

_T = TypeVar("_T")


class Fabric:
    """A running fabric process, its client, and the events it sent."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vswitch.fabric", "--control-fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
            )
        self.events: asyncio.Queue[FabricEvent] = asyncio.Queue()
        self.client = FabricClient(ours, self.events.put_nowait)

    async def peer(self, network: str, port: str) -> Peer:
        """Add a stream port and return its far end."""
        peer, fd = Peer.pair()
        try:
            await self.client.add_port(network, port, "stream", [fd])
        except FabricError:
            peer.close()
            raise
        return peer


@asynccontextmanager
async def running_fabric() -> AsyncIterator[Fabric]:
    """A fabric with a switch `lan`; it must have ended, with status 0, soon after its client has closed."""
    fabric = Fabric()
    try:
        await fabric.client.open()
        await fabric.client.add_network("lan", "switch", ageing=300, fdb_limit=8192)
        yield fabric
    finally:
        await fabric.client.close()
        status = await asyncio.to_thread(fabric.process.wait, TIMEOUT)
    assert status == 0


def run(test: Callable[[Fabric], Coroutine[Any, Any, None]]) -> None:
    """Run a test's body with a fabric."""

    async def main() -> None:
        async with asyncio.timeout(30), running_fabric() as fabric:
            await test(fabric)

    asyncio.run(main())


def within(work: Awaitable[_T]) -> Awaitable[_T]:
    """`work`, with a limit on its time."""
    return asyncio.wait_for(work, TIMEOUT)


def test_frames_move_between_ports_that_were_handed_over() -> None:
    """Ports are made of descriptors; stats and the FDB call them by the names they were given."""

    async def body(fabric: Fabric) -> None:
        a, b = await fabric.peer("lan", "vm1:eth0"), await fabric.peer("lan", "vm2:eth0")
        a.send(frame(BROADCAST, mac(1)))
        assert b.receive() == frame(BROADCAST, mac(1))
        (entry,) = await fabric.client.fdb("lan")
        assert (entry.mac, entry.port) == ("52:54:00:00:00:01", "vm1:eth0")
        rows = {row.port: row for row in await fabric.client.stats()}
        assert rows["vm1:eth0"].rx_frames == rows["vm2:eth0"].tx_frames == 1
        assert {row.state for row in rows.values()} == {"up"}
        a.close()
        b.close()

    run(body)


def test_networks_are_apart() -> None:
    """Frames of one network are not seen in another; removing one leaves the other alone."""

    async def body(fabric: Fabric) -> None:
        await fabric.client.add_network("other", "hub", ageing=0, fdb_limit=1)
        a, b = await fabric.peer("lan", "a"), await fabric.peer("lan", "b")
        c, d = await fabric.peer("other", "a"), await fabric.peer("other", "b")
        a.send(frame(BROADCAST, mac(1)))
        b.receive()
        c.send(frame(BROADCAST, mac(2)))
        assert d.receive() == frame(BROADCAST, mac(2))
        await fabric.client.remove_network("other")
        with pytest.raises(EOFError):
            d.receive()
        b.send(frame(BROADCAST, mac(3)))
        assert a.receive() == frame(BROADCAST, mac(3))
        assert {row.network for row in await fabric.client.stats()} == {"lan"}
        for peer in (a, b, c, d):
            peer.close()

    run(body)


def test_errors_name_network_and_port() -> None:
    """A refused request says what was refused, and the descriptors are closed all the same."""

    async def body(fabric: Fabric) -> None:
        client = fabric.client
        with pytest.raises(FabricError, match="network lan is in the fabric already"):
            await client.add_network("lan", "hub", ageing=0, fdb_limit=1)
        fd = os.open("/dev/null", os.O_RDWR)
        with pytest.raises(FabricError, match=r"network lan, port a: .*non-socket"):
            await client.add_port("lan", "a", "stream", [fd])
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        with pytest.raises(FabricError, match=r"network lan, port a: unknown port type 'strem'"):
            await client.add_port("lan", "a", "strem", [os.open("/dev/null", os.O_RDWR)])
        with pytest.raises(FabricError, match="no network wan"):
            await client.add_port("wan", "a", "stream", [os.open("/dev/null", os.O_RDWR)])
        with pytest.raises(FabricError, match="network lan has no port a"):
            await client.remove_port("lan", "a")
        peer = await fabric.peer("lan", "a")
        with pytest.raises(FabricError, match="network lan has a port a already"):
            await fabric.peer("lan", "a")
        peer.close()

    run(body)


def test_refused_descriptors_do_not_pile_up_in_the_fabric() -> None:
    """Whatever becomes of a request, the fabric keeps no descriptor it has no port for."""

    async def body(fabric: Fabric) -> None:
        directory = f"/proc/{fabric.process.pid}/fd"
        before = len(os.listdir(directory))  # noqa: PTH208
        for network, port_type in [("lan", "stream"), ("lan", "strem"), ("wan", "stream"), ("lan", "mcast")] * 5:
            with pytest.raises(FabricError):
                await fabric.client.add_port(network, "a", port_type, [os.open("/dev/null", os.O_RDWR)])
        assert len(os.listdir(directory)) == before  # noqa: PTH208

    run(body)


def test_port_that_ends_is_an_event_and_stays_visible() -> None:
    """The coordinator hears of it once; the row stays, with the reason, until the port is removed."""

    async def body(fabric: Fabric) -> None:
        peer = await fabric.peer("lan", "a")
        peer.close()
        event = await within(fabric.events.get())
        assert event == FabricEvent("lan", "a", "closed", "the peer closed the connection")
        (row,) = await fabric.client.stats()
        assert (row.state, row.reason) == ("closed", "the peer closed the connection")
        await fabric.client.remove_port("lan", "a")
        assert await fabric.client.stats() == []

    run(body)


def test_many_ports_and_concurrent_requests_fit() -> None:
    """Tables come in as many messages as they need, and requests do not wait for each other."""

    async def body(fabric: Fabric) -> None:
        pairs = [Peer.pair() for _ in range(350)]
        await asyncio.gather(
            *(fabric.client.add_port("lan", f"p{i:03}", "stream", [fd]) for i, (_, fd) in enumerate(pairs))
        )
        assert [row.port for row in await fabric.client.stats()] == [f"p{i:03}" for i in range(350)]
        for number, (peer, _) in enumerate(pairs):
            peer.send(frame(mac(0), mac(number + 1)))
            pairs[number - 1][0].receive()
            if number == 0:
                continue
        entries = await fabric.client.fdb("lan")
        assert len(entries) == 350
        assert [entry.mac for entry in entries] == sorted(entry.mac for entry in entries)
        for peer, _ in pairs:
            peer.close()

    run(body)


def test_fabric_out_of_descriptors_refuses_and_lives() -> None:
    """A descriptor that could not be taken over is an error of that request alone."""

    async def body(fabric: Fabric) -> None:
        soft, _ = resource.prlimit(fabric.process.pid, resource.RLIMIT_NOFILE)
        assert soft == resource.getrlimit(resource.RLIMIT_NOFILE)[1], "the soft limit was not raised"
        taken = {int(name) for name in os.listdir(f"/proc/{fabric.process.pid}/fd")}  # noqa: PTH208
        limit = min(set(range(1000)) - taken)
        resource.prlimit(fabric.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        with pytest.raises(FabricError, match="out of descriptors"):
            await fabric.peer("lan", "a")
        assert await fabric.client.stats() == []

    run(body)


def test_fabric_ends_when_its_parents_end_is_killed() -> None:
    """SIGKILL of the process that holds the channel ends the fabric; nothing is left behind."""
    program = (
        "import os, socket, subprocess, sys\n"
        "ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "child = subprocess.Popen([sys.executable, '-m', 'vswitch.fabric', '--control-fd', str(theirs.fileno())],"
        " pass_fds=[theirs.fileno()])\n"
        "theirs.close()\n"
        "from vswitch.fabric.client import FabricClient\n"
        "import asyncio\n"
        "async def main():\n"
        "    client = FabricClient(ours, print)\n"
        "    await client.open()\n"
        "    await client.add_network('lan', 'switch', ageing=300, fdb_limit=10)\n"
        "    print(child.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    with open(pidfd, "rb", buffering=0):
        import select

        assert select.select([pidfd], [], [], TIMEOUT)[0], "the fabric lives on"


def test_requests_fail_when_the_fabric_is_gone() -> None:
    """A dead fabric answers nobody, at once, and says so."""

    async def main() -> None:
        fabric = Fabric()
        await fabric.client.open()
        await fabric.client.add_network("lan", "switch", ageing=300, fdb_limit=10)
        fabric.process.kill()
        await asyncio.to_thread(fabric.process.wait, TIMEOUT)
        for _ in range(2):
            with pytest.raises(FabricError, match="gone"):
                await within(fabric.client.stats())
        await fabric.client.close()

    asyncio.run(main())


def test_outside_stream_port_serves_many_clients(tmp_path: Path) -> None:
    """Each client of a listening port is a port of the network, for as long as it stays."""

    async def body(fabric: Fabric) -> None:
        path = tmp_path / "uplink.sock"
        await fabric.client.add_outside_port("lan", "uplink", {"type": "stream", "listen": f"unix:{path}"})
        (row,) = await fabric.client.stats()
        assert (row.port, row.state) == ("uplink", "listening")
        inside = await fabric.peer("lan", "a")
        clients = []
        for number in (1, 2):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(path))
            clients.append(Peer(sock))
            assert await within(fabric.events.get()) == FabricEvent("lan", f"uplink#{number}", "up", "")
        inside.send(frame(BROADCAST, mac(1)))
        assert [client.receive() for client in clients] == [frame(BROADCAST, mac(1))] * 2
        clients[0].close()
        assert (await within(fabric.events.get())).port == "uplink#1"
        inside.send(frame(BROADCAST, mac(1), b"again"))
        assert clients[1].receive() == frame(BROADCAST, mac(1), b"again")
        assert [row.port for row in await fabric.client.stats()] == ["a", "uplink#2"]
        await fabric.client.remove_port("lan", "uplink")
        with pytest.raises(EOFError):
            clients[1].receive()
        assert not path.exists()
        for peer in (inside, clients[1]):
            peer.close()

    run(body)


def test_outside_stream_port_reconnects() -> None:
    """A connecting port tries until somebody listens, and again after a disconnect."""

    async def body(fabric: Fabric) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"127.0.0.1:{server.getsockname()[1]}"
            await fabric.client.add_outside_port("lan", "up", {"type": "stream", "connect": address})
            inside = await fabric.peer("lan", "a")
            for payload in (b"first", b"second"):
                accepted, _ = await asyncio.to_thread(server.accept)
                peer = Peer(accepted)
                assert (await within(fabric.events.get())).state == "up"
                inside.send(frame(BROADCAST, mac(1), payload))
                assert peer.receive() == frame(BROADCAST, mac(1), payload)
                peer.close()
                assert (await within(fabric.events.get())).state == "closed"
            inside.close()

    run(body)


def test_outside_port_that_cannot_be_served_is_refused(tmp_path: Path) -> None:
    """Bad settings, and sockets that are taken, are errors of the request, naming network and port."""

    async def body(fabric: Fabric) -> None:
        taken = tmp_path / "taken.sock"
        plain = tmp_path / "plain"
        plain.write_text("precious")
        cases = [
            ({"type": "strem"}, "unknown port type strem; known: .*stream"),
            ({"type": "stream"}, "exactly one of"),
            ({"type": "stream", "listen": "x:1", "connect": "y:1"}, "exactly one of"),
            ({"type": "stream", "lisen": "x:1"}, "unknown field `lisen`"),
            ({"type": "stream", "listen": "nonsense"}, "is not an address"),
            ({"type": "stream", "listen": f"unix:{taken}"}, "somebody else listens"),
            ({"type": "stream", "listen": f"unix:{plain}"}, "not a socket"),
            ({"type": "mcast", "group": "10.0.0.1:1234"}, "not an IPv4 multicast address"),
        ]
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(taken))
            listener.listen()
            for spec, reason in cases:
                with pytest.raises(FabricError, match=f"network lan, port up: .*{reason}"):
                    await fabric.client.add_outside_port("lan", "up", spec)
        assert plain.read_text() == "precious"
        # The same name, and the path its dead owner left behind, are free.
        await fabric.client.add_outside_port("lan", "up", {"type": "stream", "listen": f"unix:{taken}"})

    run(body)
