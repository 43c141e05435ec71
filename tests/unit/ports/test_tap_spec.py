"""TAP ports as a lab file asks for them, served by a real fabric process in a namespace of the test's own."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import fcntl
import os
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vswitch.coordinator.supervise import spawn_task
from vswitch.errors import FabricError
from vswitch.fabric.client import FabricEvent
from vswitch.namespace import visiting
from vswitch.ports.packet import open_packet
from vswitch.ports.tap import TapSpec, open_tap

from ..fabric.peers import BROADCAST, frame, mac
from ..fabric.running import Fabric, run
from .namespaces import TIMEOUT, Namespace

pytestmark = [pytest.mark.root, pytest.mark.tun]


TUNGETSNDBUF = 0x800454D3  # linux/if_tun.h


def in_namespace(host: Namespace, test: Callable[[Fabric], Coroutine[Any, Any, None]]) -> None:
    """Run the test's body with a fabric to which `host` is the machine."""
    run(test, ["nsenter", f"--net=/proc/{host.pid}/ns/net"])


def devices(host: Namespace) -> dict[str, str]:
    """The devices of the namespace but `lo`, each with what `ip link` says of it."""
    command = ["nsenter", f"--net=/proc/{host.pid}/ns/net", "ip", "-o", "-d", "link"]
    lines = subprocess.check_output(command, text=True).splitlines()
    return {name.split("@")[0]: line for line in lines if (name := line.split(": ")[1]) != "lo"}


def open_queues(pid: int, name: str) -> int:
    """How many descriptors of the device the process has, see proc_pid_fdinfo(5)."""
    return sum(f"iff:\t{name}" in path.read_text() for path in Path(f"/proc/{pid}/fdinfo").iterdir())


async def add(fabric: Fabric, **spec: Any) -> str:
    """Add a TAP port `t`, and return the device it says it is on."""
    await fabric.client.add_outside_port("lan", "t", {"type": "tap", **spec})
    (row,) = [row for row in await fabric.client.stats() if row.port == "t"]
    assert (row.type, row.state) == ("tap", "up")
    return row.peer


def script(path: Path, text: str) -> str:
    """A shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_device_is_made_and_goes_with_the_port() -> None:
    """Its name, if it has been given none, is one that is free, and told; it is up with the MTU asked for."""

    async def body(fabric: Fabric) -> None:
        assert await add(fabric) == "device vsw0"
        await fabric.client.remove_port("lan", "t")
        assert devices(host) == {}
        assert await add(fabric, ifname="outside", device_mtu=9000) == "device outside"
        assert "mtu 9000" in devices(host)["outside"]
        assert ",UP" in devices(host)["outside"]
        assert await fabric.events.get() == FabricEvent("lan", "t", "up", "device vsw0")
        await fabric.client.remove_network("lan")
        assert devices(host) == {}
        await fabric.client.add_network("lan", "switch")
        await add(fabric)

    with Namespace() as host:
        in_namespace(host, body)
        assert devices(host) == {}  # the fabric has ended


@pytest.mark.parametrize("vnet_hdr", [True, False])
@pytest.mark.parametrize("queues", [1, 4])
def test_frames_of_every_size_pass_both_ways(*, vnet_hdr: bool, queues: int) -> None:
    """What the machine's stack sends by the device enters the switch byte for byte, and the other way round."""

    async def body(fabric: Fabric) -> None:
        peer = await fabric.peer("lan", "p")
        await add(fabric, ifname="t0", vnet_hdr=vnet_hdr, queues=queues, device_mtu=65521)
        with visiting(host.fd):
            (fd,) = open_packet("t0", vnet_hdr=False)
        with socket.socket(fileno=fd) as raw:
            raw.settimeout(TIMEOUT)
            for size in (14, 42, 60, 64, 1514, 1518, 4096, 9014, 16000, 65535):
                sent = (BROADCAST + mac(1) + b"\x88\xb5" + os.urandom(size))[:size]
                raw.send(sent)
                while (got := peer.receive())[6:12] != mac(1):
                    pass  # what the stack says by itself
                assert got == sent
                peer.send(answer := sent[:6] + mac(2) + sent[12:])
                while (got := raw.recv(1 << 17))[6:12] != mac(2):
                    pass
                assert got == answer
        peer.close()

    with Namespace() as host:
        in_namespace(host, body)


def test_many_flows_over_several_queues_stay_in_order() -> None:
    """The kernel spreads flows over the queues; within each, every datagram arrives, in order. So do those back."""

    def datagrams(source: Namespace, address: str, target: Namespace, to: str) -> None:
        with target.bound(socket.SOCK_DGRAM, to) as server, contextlib.ExitStack() as stack:
            flows = [stack.enter_context(source.bound(socket.SOCK_DGRAM, address)) for _ in range(16)]
            for number in range(50):
                for flow in flows:
                    flow.sendto(number.to_bytes(2, "big"), server.getsockname())
                for _ in flows:
                    data, sender = server.recvfrom(100)
                    got[sender].append(int.from_bytes(data, "big"))

    async def body(fabric: Fabric) -> None:
        await add(fabric, ifname="t0", queues=4)
        host.ip("addr add 10.7.0.1/24 dev t0")
        with visiting(inside.fd):
            tap = open_tap("eth0")
        inside.ip("addr add 10.7.0.2/24 dev eth0")
        inside.ip("link set eth0 up")
        await fabric.client.add_port("lan", "inside", "tap", tap.fds)
        await asyncio.to_thread(datagrams, host, "10.7.0.1", inside, "10.7.0.2")
        await asyncio.to_thread(datagrams, inside, "10.7.0.2", host, "10.7.0.1")
        assert open_queues(fabric.process.pid, "t0") == 5  # of which one is there for the end

    got: dict[Any, list[int]] = collections.defaultdict(list)
    with Namespace() as host, Namespace() as inside:
        in_namespace(host, body)
    assert len(got) == 32
    assert all(numbers == list(range(50)) for numbers in got.values())


def test_devices_given_by_descriptor_are_used_as_they_are() -> None:
    """Queues of one device, whose namespace is another; descriptors of anything else, or of two, are refused."""

    async def give(fabric: Fabric, fds: list[int], port: str = "t") -> None:
        spec = {"type": "tap", "fds": list(range(3, 3 + len(fds)))}
        await fabric.client.add_outside_port("lan", port, spec, fds=fds)

    async def body(fabric: Fabric) -> None:
        with visiting(host.fd):
            one, two = open_tap("one", queues=2), open_tap("two", vnet_hdr=False)
        with pytest.raises(FabricError, match="are of several devices: one, two"):
            await give(fabric, [os.dup(one.fds[0]), two.fds[0]])
        with pytest.raises(FabricError, match="not that of a TAP device"):
            await give(fabric, [os.open("/dev/null", os.O_RDWR)])
        peer = await fabric.peer("lan", "p")
        await give(fabric, one.fds)
        host.ip("link set one up")
        with visiting(host.fd), socket.socket(fileno=open_packet("one", vnet_hdr=False)[0]) as raw:
            raw.settimeout(TIMEOUT)
            peer.send(frame(BROADCAST, mac(2)))
            while (got := raw.recv(2000))[6:12] != mac(2):
                pass
        assert got == frame(BROADCAST, mac(2))
        peer.close()

    with Namespace() as host:
        run(body)
        assert devices(host) == {}


def test_send_buffer_is_set() -> None:
    """As large as asked for, over the kernel's own idea."""

    async def body(fabric: Fabric) -> None:
        peer = await fabric.peer("lan", "p")
        with visiting(host.fd):
            (fd,) = open_tap("t0").fds
        ours = os.dup(fd)
        assert struct.unpack("i", fcntl.ioctl(ours, TUNGETSNDBUF, bytes(4))) != (5000,)
        await fabric.client.add_outside_port("lan", "t", {"type": "tap", "fd": 3, "sndbuf": 5000}, fds=[fd])
        assert struct.unpack("i", fcntl.ioctl(ours, TUNGETSNDBUF, bytes(4))) == (5000,)
        os.close(ours)
        peer.close()

    with Namespace() as host:
        run(body)


def test_device_deleted_by_somebody_ends_the_port() -> None:
    """It is not made anew: whoever deleted it had a reason. The port says why it is closed."""

    async def body(fabric: Fabric) -> None:
        await add(fabric, ifname="t0")
        assert (await fabric.events.get()).state == "up"
        host.ip("link del t0")
        assert await fabric.events.get() == FabricEvent("lan", "t", "closed", "the device is gone")
        assert await fabric.events.get() == FabricEvent("lan", "t", "closed", "the device is gone")
        (row,) = await fabric.client.stats()
        assert (row.state, row.reason) == ("closed", "the device is gone")

    with Namespace() as host:
        in_namespace(host, body)


def test_persistent_device_is_opened_and_left_as_it_was() -> None:
    """A device that was there before is there after, with the MTU, state and bridge it had."""

    async def body(fabric: Fabric) -> None:
        await add(fabric, ifname="t0", device_mtu=1400, bridge="br0")
        during = devices(host)["t0"]
        assert "mtu 1400" in during
        assert "master br0" in during
        assert ",UP" in during
        await fabric.client.remove_port("lan", "t")
        after = devices(host)["t0"]
        assert "mtu 1500" in after
        assert "master" not in after
        assert ",UP" not in after

    with Namespace() as host:
        host.ip("tuntap add dev t0 mode tap multi_queue")
        host.ip("link add br0 type bridge")
        in_namespace(host, body)


def test_persist_leaves_a_device_behind() -> None:
    """Asked to, the port leaves its device, up."""

    async def body(fabric: Fabric) -> None:
        await add(fabric, ifname="t0", persist=True)

    with Namespace() as host:
        in_namespace(host, body)
        assert ",UP" in devices(host)["t0"]


def test_scripts_are_run_with_the_device_there(tmp_path: Path) -> None:
    """First and last, each with the device's name, which has an address from one to the other."""
    trace = tmp_path / "trace"
    up = script(tmp_path / "up", f'ip addr add 10.9.9.9/24 dev "$1" && echo "up $1" >> {trace}')
    down = script(tmp_path / "down", f'ip -br addr show dev "$1" | grep -q 10.9.9.9 && echo "down $1" >> {trace}')

    async def body(fabric: Fabric) -> None:
        await add(fabric, ifname="t0", script=up, downscript=down)
        assert trace.read_text() == "up t0\n"
        await fabric.client.remove_port("lan", "t")
        assert trace.read_text() == "up t0\ndown t0\n"
        await add(fabric, downscript=script(tmp_path / "last", f'echo "$1" > {trace}'))
        await fabric.client.remove_network("lan")
        assert trace.read_text() == "vsw0\n"
        await fabric.client.add_network("lan", "switch")
        trace.unlink()
        await add(fabric, downscript=tmp_path.joinpath("last").as_posix())

    with Namespace() as host:
        in_namespace(host, body)
    assert trace.read_text() == "vsw0\n"  # also when the fabric ends with its port


def test_failing_script_fails_the_port_with_its_last_words(tmp_path: Path) -> None:
    """Nothing is left of a port whose script fails, and the downscript has had its turn."""
    trace = tmp_path / "trace"
    bad = script(tmp_path / "bad", "echo one; echo no such thing >&2; exit 3")
    down = script(tmp_path / "down", f"echo $1 > {trace}")

    async def body(fabric: Fabric) -> None:
        with pytest.raises(FabricError, match=rf"network lan, port t: {bad}: exit code 3: no such thing$"):
            await add(fabric, ifname="t0", script=bad, downscript=down)
        assert devices(host) == {}
        assert trace.read_text() == "t0\n"
        with pytest.raises(FabricError, match="port t: /none: No such file or directory"):
            await add(fabric, ifname="t0", script="/none")
        assert await fabric.client.stats() == []

    with Namespace() as host:
        in_namespace(host, body)


def test_endless_script_is_ended_with_all_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removing a port whose script runs on ends the script, too."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    endless = script(tmp_path / "endless", f"sleep 1000 > {fifo} & wait")

    async def body(fabric: Fabric) -> None:
        adding = spawn_task(fabric.client.add_outside_port("lan", "t", {"type": "tap", "script": endless}))
        with await asyncio.to_thread(fifo.open, "rb") as started:  # blocks until sleep has it open
            adding.cancel()
            await fabric.client.remove_port("lan", "t")
            assert started.read() == b""  # everyone who had it open is gone

    with Namespace() as host:
        in_namespace(host, body)
        assert devices(host) == {}


def test_linux_bridge_carries_pings_through_our_switch() -> None:
    """A bridge with a TAP of ours and a veth pair to another namespace; a host on a second TAP."""

    async def body(fabric: Fabric) -> None:
        await add(fabric, ifname="t0", bridge="br0")
        assert "master br0" in devices(host)["t0"]
        with visiting(inside.fd):
            tap = open_tap("eth0")
        inside.ip("addr add 10.7.0.1/24 dev eth0")
        inside.ip("link set eth0 up")
        await fabric.client.add_port("lan", "inside", "tap", tap.fds)
        ping = ["nsenter", f"--net=/proc/{beyond.pid}/ns/net", "busybox", "ping", "-c3", "-W5", "-s1400", "10.7.0.1"]
        assert b" 0% packet loss" in await asyncio.to_thread(subprocess.check_output, ping, timeout=TIMEOUT)

    with Namespace() as host, Namespace() as beyond, Namespace() as inside:
        host.ip("link add br0 type bridge")
        host.ip(f"link add veth0 type veth peer name eth0 netns {beyond.pid}")
        for device in ("br0", "veth0"):
            host.ip(f"link set {device} up")
        host.ip("link set veth0 master br0")
        beyond.ip("addr add 10.7.0.2/24 dev eth0")
        beyond.ip("link set eth0 up")
        in_namespace(host, body)
        assert set(devices(host)) == {"br0", "veth0"}


HELPER = "/usr/lib/qemu/qemu-bridge-helper"
needs_helper = pytest.mark.skipif(shutil.which(HELPER) is None, reason="needs qemu-bridge-helper (qemu-system-common)")


def with_bridge_conf(host: Namespace, conf: Path, test: Callable[[Fabric], Coroutine[Any, Any, None]]) -> None:
    """Run the test's body with a fabric that finds `conf` at /etc/qemu, and to which `host` is the machine."""
    mount = f'mount -t tmpfs none /etc && mkdir /etc/qemu && cp {conf} /etc/qemu/bridge.conf && exec "$@"'
    run(test, ["nsenter", f"--net=/proc/{host.pid}/ns/net", "unshare", "-m", "sh", "-ec", mount, "sh"])


@needs_helper
def test_bridge_helper_hands_over_a_device_in_the_bridge(tmp_path: Path) -> None:
    """QEMU's own helper makes the device, if its configuration allows the bridge; else its words are passed on."""
    (conf := tmp_path / "bridge.conf").write_text("allow br0\n")

    async def body(fabric: Fabric) -> None:
        assert await add(fabric, bridge="br0", helper=HELPER) == "device tap0"
        assert "master br0" in devices(host)["tap0"]
        await fabric.client.remove_port("lan", "t")
        assert set(devices(host)) == {"br0", "br1"}
        with pytest.raises(FabricError, match=r"access denied by acl file.*'allow br1' in /etc/qemu/bridge\.conf"):
            await add(fabric, bridge="br1", helper=HELPER)

    with Namespace() as host:
        host.ip("link add br0 type bridge")
        host.ip("link add br1 type bridge")
        with_bridge_conf(host, conf, body)


@needs_helper
def test_bridge_helper_is_used_where_we_may_not() -> None:
    """Without CAP_NET_ADMIN, and a helper that has it no more than we: what it says shows that it was asked."""

    async def body(fabric: Fabric) -> None:
        with pytest.raises(FabricError, match=r"qemu-bridge-helper: exit code 1: .*/etc/qemu/bridge\.conf"):
            await add(fabric, bridge="br0")
        ourselves: list[dict[str, str]] = [{"bridge": "br0", "helper": "none"}, {"bridge": "br0", "ifname": "t0"}, {}]
        for spec in ourselves:
            with pytest.raises(FabricError, match=r"`lab up` as root.*ip tuntap add"):
                await add(fabric, **spec)

    with Namespace() as host:
        host.ip("link add br0 type bridge")
        run(
            body,
            [
                "nsenter",
                f"--net=/proc/{host.pid}/ns/net",
                "setpriv",
                "--bounding-set=-net_admin",
                "--inh-caps=-net_admin",
            ],
        )


def test_mistakes_name_the_device_and_the_cure() -> None:
    """Each refusal says what is wrong with what, and nothing is left."""

    async def body(fabric: Fabric) -> None:
        with visiting(host.fd):
            busy = open_tap("busy")
        mistakes: list[tuple[dict[str, Any], str]] = [
            ({"ifname": "busy"}, "device busy is in use by another program"),
            ({"ifname": "br0"}, "device br0 is not a TAP device"),
            ({"ifname": "one", "queues": 2}, "device one is not a TAP device, or not one for several queues"),
            ({"bridge": "br1"}, "there is no network device 'br1'; known: .*did you mean 'br0'"),
            ({"ifname": "t0", "bridge": "one"}, "device t0: adding it to bridge one: "),
        ]
        for spec, words in mistakes:
            with pytest.raises(FabricError, match=f"network lan, port t: {words}"):
                await add(fabric, **spec)
        assert set(devices(host)) == {"br0", "busy", "one"}
        for fd in busy.fds:
            os.close(fd)

    with Namespace() as host:
        host.ip("link add br0 type bridge")
        host.ip("tuntap add dev one mode tap")
        in_namespace(host, body)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"vhost": True}, "vhost: the frames pass through the switch"),
        ({"fd": 3, "fds": [4]}, "give one of: fd, fds"),
        ({"fd": 3, "ifname": "t0", "up": False}, "somebody else's to set up; leave out: ifname, up"),
        ({"helper": "/x"}, "helper: say which bridge"),
        ({"helper": "/x", "bridge": "b", "queues": 2}, "qemu-bridge-helper makes .* leave out: queues"),
    ],
)
def test_keys_that_exclude_each_other(keys: dict[str, Any], words: str) -> None:
    """Said before anything is opened."""
    (problem,) = TapSpec(**keys).problems()
    assert re.search(words, problem)


@pytest.mark.parametrize(
    "name", ["t0", "a" * 15, "eth0.7", "_-x", "日本語", "x" * 16, "a b", "a/b", "a%d", "a:1", "..", ""]
)
def test_a_devices_name_is_one_the_kernel_takes(name: str) -> None:
    """It counts bytes, 15 of them; a name for it is ASCII."""
    try:
        taken = msgspec.convert({"type": "tap", "ifname": name}, TapSpec).ifname == name
    except msgspec.ValidationError:
        taken = False
    assert taken == (name in ("t0", "a" * 15, "eth0.7", "_-x"))
