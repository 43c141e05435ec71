"""The fabric process and its client, over a real control channel."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vswitch.errors import FabricError
from vswitch.fabric.client import FabricEvent, PortStats
from vswitch.model.lab import PortSettings, SwitchSettings

from .peers import BROADCAST, TIMEOUT, Peer, frame, mac
from .running import Fabric, run, within

DEFAULTS = PortSettings()
FILTERING = SwitchSettings(vlan_filtering=True)


def test_frames_move_between_ports_that_were_handed_over() -> None:
    """Ports are made of descriptors; stats and the FDB call them by the names they were given."""

    async def body(fabric: Fabric) -> None:
        a, b = await fabric.peer("lan", "vm1:eth0"), await fabric.peer("lan", "vm2:eth0")
        a.send(frame(BROADCAST, mac(1)))
        assert b.receive() == frame(BROADCAST, mac(1))
        (entry,) = await fabric.client.fdb("lan")
        assert (entry.mac, entry.vlan, entry.port, entry.kind) == ("52:54:00:00:00:01", 0, "vm1:eth0", "dynamic")
        rows = {row.port: row for row in await fabric.client.stats()}
        assert rows["vm1:eth0"].rx_frames == rows["vm2:eth0"].tx_frames == 1
        assert rows["vm1:eth0"].rx_broadcast_frames == rows["vm2:eth0"].tx_broadcast_frames == 1
        assert (rows["vm1:eth0"].rx_broadcast_bytes, rows["vm1:eth0"].rx_unicast_frames) == (60, 0)
        assert (rows["vm1:eth0"].macs, rows["vm2:eth0"].macs) == (1, 0)
        assert {row.state for row in rows.values()} == {"up"}
        a.close()
        b.close()

    run(body)


def test_networks_are_apart() -> None:
    """Frames of one network are not seen in another; removing one leaves the other alone."""

    async def body(fabric: Fabric) -> None:
        await fabric.client.add_network("other", "hub")
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
            await client.add_network("lan", "hub")
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


def test_port_whose_peer_has_gone_is_closed_after_its_last_frames() -> None:
    """Somebody else saw that: the reason is theirs, an event tells it, and what the peer had sent is delivered."""

    async def body(fabric: Fabric) -> None:
        there = await fabric.peer("lan", "there")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with ours:
            await fabric.client.add_port("lan", "gone", "dgram", [theirs.detach()])
            ours.send(frame(BROADCAST, mac(1)))
            await fabric.client.end_port("lan", "gone", "the node has exited")
            assert there.receive() == frame(BROADCAST, mac(1))
            assert await within(fabric.events.get()) == FabricEvent("lan", "gone", "closed", "the node has exited")
            await fabric.client.end_port("lan", "gone", "it has exited again")
            (row,) = [row for row in await fabric.client.stats() if row.port == "gone"]
            assert (row.state, row.reason, row.rx_frames) == ("closed", "the node has exited", 1)
            await fabric.client.remove_port("lan", "gone")
            with pytest.raises(FabricError, match="network lan has no port gone"):
                await fabric.client.end_port("lan", "gone", "")
            assert fabric.events.empty()
        there.close()

    run(body)


def test_outside_port_that_comes_up_late_has_one_row_without_the_old_reason(tmp_path: Path) -> None:
    """Before, it has one that says why it waits; afterwards again."""

    async def body(fabric: Fabric) -> None:
        path = tmp_path / "late"
        spec = {"type": "stream", "connect": f"unix:{path}"}
        await fabric.client.add_outside_port("lan", "up", spec)

        async def became(state: str, reason: str = "") -> None:
            while True:
                await within(fabric.events.get())
                (row,) = await fabric.client.stats()
                if (row.state, row.reason) == (state, reason):
                    return

        for _ in range(2):
            await became("connecting", f"connecting to unix:{path}: No such file or directory")
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
                server.listen()
                await became("up")
                path.unlink()

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
        "    await client.add_network('lan', 'switch')\n"
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
        await fabric.client.add_network("lan", "switch")
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
            us = f"pid {os.getpid()}, uid {os.getuid()}"
            assert await within(fabric.events.get()) == FabricEvent("lan", f"uplink#{number}", "up", us)
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
                assert (await within(fabric.events.get())).state == "connecting"
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
            ({"type": "stream", "listen": f"unix:{taken}"}, "somebody else has"),
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


# --- settings ---------------------------------------------------------------------------------------------------------


async def stats_of(fabric: Fabric, port: str) -> PortStats:
    return next(row for row in await fabric.client.stats() if row.port == port)


async def entries(fabric: Fabric) -> set[tuple[str, int, str, str]]:
    """The FDB, addresses by their last byte."""
    return {(entry.mac[-2:], entry.vlan, entry.port, entry.kind) for entry in await fabric.client.fdb("lan")}


async def counted(fabric: Fabric, port: str, reason: str, number: int) -> None:
    """Wait until the port has dropped so many frames for this reason."""
    while (await stats_of(fabric, port)).drops.get(reason, 0) < number:
        pass
    assert (await stats_of(fabric, port)).drops[reason] == number


def test_settings_hold_from_the_first_frame_of_a_port() -> None:
    """Frames that are there before the port is: each would be flooded by a port with default settings."""

    async def body(fabric: Fabric) -> None:
        witness = await fabric.peer("lan", "witness", PortSettings())
        for number in range(20):
            peer, fd = Peer.pair()
            for _ in range(10):
                peer.send(frame(BROADCAST, mac(number + 1)))
            settings = PortSettings(storm_limit=1)
            await fabric.client.add_port("lan", f"p{number}", "stream", [fd], settings)
            await within(counted(fabric, f"p{number}", "storm", 9))
            assert witness.receive() == frame(BROADCAST, mac(number + 1))
            peer.close()
        witness.close()

    run(body)


def test_vlans_of_ports_are_changed_while_frames_move() -> None:
    """Access ports of two VLANs do not hear each other until one of them changes over."""

    async def body(fabric: Fabric) -> None:
        await fabric.client.configure_network("lan", FILTERING)
        a = await fabric.peer("lan", "a", PortSettings(vlan=10))
        b = await fabric.peer("lan", "b", PortSettings(vlan=20))
        trunk = await fabric.peer("lan", "t", PortSettings(trunk=("1-4094",)))
        a.send(frame(BROADCAST, mac(1), size=60))
        assert trunk.receive()[12:16] == bytes.fromhex("8100000a")
        assert b.silent()
        await fabric.client.configure_port("lan", "b", PortSettings(vlan=10))
        a.send(frame(BROADCAST, mac(1)))
        assert b.receive() == frame(BROADCAST, mac(1))
        assert await entries(fabric) == {("01", 10, "a", "dynamic")}
        for peer in (a, b, trunk):
            peer.close()

    run(body)


def test_static_entries_come_move_and_go_with_the_settings_of_ports() -> None:
    """In any order: a port that takes an address over and the one that gives it up may be changed either way round."""

    async def body(fabric: Fabric) -> None:
        address = "52:54:00:00:00:07"
        settings = PortSettings(static_macs=(address,))
        a, b = await fabric.peer("lan", "a", settings), await fabric.peer("lan", "b")
        assert await entries(fabric) == {("07", 0, "a", "static")}
        b.send(frame(BROADCAST, mac(7)))
        await within(counted(fabric, "b", "moved", 1))
        await fabric.client.configure_port("lan", "b", settings)
        await fabric.client.configure_port("lan", "a", DEFAULTS)
        assert await entries(fabric) == {("07", 0, "b", "static")}
        await fabric.client.configure_port("lan", "b", DEFAULTS)
        await fabric.client.configure_port("lan", "a", settings)
        assert await entries(fabric) == {("07", 0, "a", "static")}
        await fabric.client.configure_network("lan", FILTERING)
        assert await entries(fabric) == {("07", 1, "a", "static")}
        with pytest.raises(FabricError, match="is static; it belongs to port a"):
            await fabric.client.remove_fdb_entry("lan", address, 1)
        await fabric.client.remove_port("lan", "a")
        assert await entries(fabric) == set()
        for peer in (a, b):
            peer.close()

    run(body)


def test_learnt_addresses_are_forgotten_one_by_one_by_port_and_all() -> None:
    async def body(fabric: Fabric) -> None:
        a, b = await fabric.peer("lan", "a"), await fabric.peer("lan", "b", PortSettings(sticky=True))
        for peer, numbers in ((a, (1, 2, 3)), (b, (4, 5))):
            for number in numbers:
                peer.send(frame(mac(0), mac(number)))
        while (await stats_of(fabric, "a")).macs + (await stats_of(fabric, "b")).macs < 5:
            pass
        assert ("04", 0, "b", "sticky") in await entries(fabric)
        await fabric.client.remove_fdb_entry("lan", "52:54:00:00:00:01", 0)
        with pytest.raises(FabricError, match="network lan knows no 52:54:00:00:00:01"):
            await fabric.client.remove_fdb_entry("lan", "52:54:00:00:00:01", 0)
        assert await fabric.client.flush_fdb("lan", port="a") == 2
        assert await entries(fabric) == {("04", 0, "b", "sticky"), ("05", 0, "b", "sticky")}
        with pytest.raises(FabricError, match="network lan has no port c"):
            await fabric.client.flush_fdb("lan", port="c")
        assert await fabric.client.flush_fdb("lan", vlan=5) == 0
        assert await fabric.client.flush_fdb("lan") == 2
        for peer in (a, b):
            peer.close()

    run(body)


def test_settings_of_an_outside_port_are_those_of_all_its_peers_now_and_later(tmp_path: Path) -> None:
    async def body(fabric: Fabric) -> None:
        path = tmp_path / "up.sock"
        spec = {"type": "stream", "listen": f"unix:{path}"}
        inside = await fabric.peer("lan", "a")
        await fabric.client.add_outside_port("lan", "up", spec, PortSettings(isolated=True, storm_limit=1))
        await fabric.client.configure_port("lan", "a", PortSettings(isolated=True))

        async def connect(number: int) -> Peer:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(path))
            assert (await within(fabric.events.get())).port == f"up#{number}"
            return Peer(sock)

        first = await connect(1)
        first.send(frame(BROADCAST, mac(1)))
        inside.send(frame(BROADCAST, mac(2)))
        await within(counted(fabric, "a", "nowhere", 1))
        second = await connect(2)
        await fabric.client.configure_port("lan", "up", PortSettings(mtu=100))
        third = await connect(3)
        for number, peer in enumerate((first, second, third), 1):
            peer.send(frame(BROADCAST, mac(number), b"long", size=200))
            await within(counted(fabric, f"up#{number}", "oversize", 1))
            peer.send(frame(BROADCAST, mac(number), b"short"))
            assert inside.receive() == frame(BROADCAST, mac(number), b"short")
        with pytest.raises(FabricError, match="network lan has no port down"):
            await fabric.client.configure_port("lan", "down", DEFAULTS)
        for peer in (inside, first, second, third):
            peer.close()

    run(body)


def test_hub_has_no_addresses_to_forget_and_says_so() -> None:
    async def body(fabric: Fabric) -> None:
        await fabric.client.add_network("hub", "hub")
        with pytest.raises(FabricError, match="network hub: "):
            await fabric.client.flush_fdb("hub")
        with pytest.raises(FabricError, match="network hub: "):
            await fabric.client.remove_fdb_entry("hub", "52:54:00:00:00:01", 0)
        peer, fd = Peer.pair()
        await fabric.client.add_port("hub", "a", "stream", [fd], PortSettings(mtu=100))
        await fabric.client.configure_port("hub", "a", PortSettings(overflow="drop"))
        peer.close()

    run(body)
