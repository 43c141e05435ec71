"""TCP between two hosts' stacks over two TAP devices, and over what else joins hosts, for ports.py."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Callable, Iterator

from port_ways import Place, ip
from stream import running, serving_vde

from vswitch.ports.tap import open_tap

_RTMGRP_LINK = 1
Hosts = Callable[[Place], contextlib.AbstractContextManager[list[str]]]
"""Makes two devices that are joined, for a host each."""


@contextlib.contextmanager
def host(device: str, address: str) -> Iterator[int]:
    """A network namespace that `device` has been moved into; yields the process that keeps it."""
    command = ["unshare", "--net", "sh", "-c", "echo; exec cat"]
    with running(command, [], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        ip(f"link set {device} netns {holder.pid}")
        script = f"ip addr add {address}/24 dev {device}; ip link set {device} up"
        subprocess.run([*inside(holder.pid), "sh", "-c", script], check=True)
        yield holder.pid


def inside(pid: int) -> list[str]:
    """How to run a command in a process's network namespace."""
    return ["nsenter", f"--net=/proc/{pid}/ns/net"]


@contextlib.contextmanager
def tap_hosts(place: Place) -> Iterator[list[str]]:
    devices = [f"t{place.number()}" for _ in "ab"]
    with place.switch() as lan:
        for device in devices:
            place.fabric.add_port(lan, device, "tap", open_tap(device).fds)
        yield devices


@contextlib.contextmanager
def bridged_hosts(place: Place) -> Iterator[list[str]]:
    bridge = f"br{place.number()}"
    ip(f"link add {bridge} type bridge\nlink set {bridge} up")
    devices = []
    for number in (place.number(), place.number()):
        devices.append(f"v{number}")
        ip(f"link add v{number} type veth peer name w{number}\nlink set w{number} master {bridge} up")
    yield devices
    ip(f"link del {bridge}")


@contextlib.contextmanager
def plugged_hosts(place: Place) -> Iterator[list[str]]:
    directory = place.path()
    with (
        serving_vde(directory),
        contextlib.ExitStack() as held,
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as news,
    ):
        news.bind((0, _RTMGRP_LINK))
        devices = [f"p{place.number()}" for _ in "ab"]
        for device in devices:
            held.enter_context(running(["vde_plug2tap", "-s", str(directory), device], []))
            while device not in (name for _, name in socket.if_nameindex()):
                news.recv(1 << 16)
        yield devices


def tcp_rate(place: Place, start: Hosts, seconds: int) -> float:
    """Gbit/s that iperf3 sees between two hosts."""
    with start(place) as (a, b), host(a, "10.0.0.1") as client, host(b, "10.0.0.2") as server:
        serve = [*inside(server), "iperf3", "--server", "--one-off", "--forceflush"]
        with running(serve, [], stdout=subprocess.PIPE) as serving:
            assert serving.stdout is not None
            while "listening" not in serving.stdout.readline():
                pass
            ask = [*inside(client), "iperf3", "--client", "10.0.0.2", "--time", str(seconds), "--json"]
            run = subprocess.run(ask, stdout=subprocess.PIPE, text=True, check=False, timeout=60)
            answer = json.loads(run.stdout)
            if "error" in answer:
                raise RuntimeError(f"iperf3: {answer['error']}")
            return float(answer["end"]["sum_received"]["bits_per_second"]) / 1e9
