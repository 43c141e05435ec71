"""Frames per second through our switch, beside QEMU's hub and vde_switch, in one run.

    benchmarks/stream.py [--quick] [--json FILE]

Sender, switch and receiver are processes of their own. Ours is the fabric process as a lab has it, with two `stream`
ports over unix sockets; QEMU's is `-M none` with two `stream` netdevs in one hub; vde_switch is spoken to in its own
protocol over unix datagrams and cannot carry frames over 1518 bytes. `batched` senders put many frames into one system
call, `single` ones only one, as QEMU does. Frames are counted where they are received.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import port_load
from port_load import End, Timing
from report import Row, write

from vswitch.fabric.client import FabricClient

SIZES = (60, 1514, 65000)
VDE_MAX = 1518
Pair = tuple[socket.socket, socket.socket]


class Case(NamedTuple):
    """What is measured: frames of `size` bytes, `per_call` of them in a system call."""

    size: int
    batched: bool

    @property
    def name(self) -> str:
        return f"stream/{self.size}B/{'batched' if self.batched else 'single'}"

    @property
    def per_call(self) -> int:
        return port_load.per_call(self.size) if self.batched else 1


@contextlib.contextmanager
def running(argv: list[str], fds: list[int], **options: int) -> Iterator[subprocess.Popen[str]]:
    """A process that is killed at the end of the block."""
    with subprocess.Popen(argv, pass_fds=fds, text=True, **options) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def stream_pairs() -> tuple[Pair, Pair]:
    """Two socket pairs: our ends and the switch's."""
    (a, a_switch), (b, b_switch) = socket.socketpair(), socket.socketpair()
    return (a, b), (a_switch, b_switch)


@contextlib.contextmanager
def our_switch(loop: asyncio.AbstractEventLoop) -> Iterator[Pair]:
    """The fabric process with one switch."""
    ends, switch_ends = stream_pairs()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "vswitch.fabric", "--control-fd", str(theirs.fileno())]
    client = FabricClient(ours, print)

    async def set_up() -> None:
        await client.open()
        await client.add_network("lan", "switch")
        for name, end in zip("ab", switch_ends, strict=True):
            await client.add_port("lan", name, "stream", [end.detach()])

    with running(command, [theirs.fileno()]):
        theirs.close()
        loop.run_until_complete(set_up())
        yield ends
        loop.run_until_complete(client.close())


@contextlib.contextmanager
def hub_of(netdevs: Sequence[str], fds: Sequence[int] = ()) -> Iterator[subprocess.Popen[str]]:
    """A QEMU without a machine, whose hub joins `netdevs`, written as after -netdev but without an id."""
    command = ["qemu-system-x86_64", "-M", "none", "-nodefaults", "-no-user-config", "-display", "none"]
    for number, netdev in enumerate(netdevs):
        kind, _, options = netdev.partition(",")
        command += ["-netdev", f"{kind},id=n{number},{options}"]
        command += ["-netdev", f"hubport,id=h{number},hubid=0,netdev=n{number}"]
    with running(command, list(fds), stderr=subprocess.DEVNULL) as process:  # "hub 0 with no nics"
        yield process


@contextlib.contextmanager
def qemu_hub() -> Iterator[Pair]:
    """A hub of two stream netdevs."""
    ends, switch_ends = stream_pairs()
    fds = [end.fileno() for end in switch_ends]
    with hub_of([f"stream,server=off,addr.type=fd,addr.str={fd}" for fd in fds], fds):
        for end in switch_ends:
            end.close()
        yield ends


@contextlib.contextmanager
def serving_vde(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A vde_switch that has begun to serve `directory`."""
    with running(
        ["vde_switch", "-s", str(directory)],
        [],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # complains of every frame once a client has gone
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("port/print\n")  # answered once it serves
        process.stdin.flush()
        while not process.stdout.readline().startswith("1000"):
            pass
        yield process


@contextlib.contextmanager
def vde_switch() -> Iterator[Pair]:
    """A vde_switch, and two clients of it."""
    with tempfile.TemporaryDirectory(prefix="vsb-") as scratch:
        directory = Path(scratch, "vde")
        with (
            serving_vde(directory),
            vde_client(directory, Path(scratch, "a")) as a,
            vde_client(directory, Path(scratch, "b")) as b,
        ):
            yield a, b


@contextlib.contextmanager
def vde_client(directory: Path, path: Path) -> Iterator[socket.socket]:
    """A datagram socket connected to a port of the switch (VDE's request version 3); the port lives as long."""
    data = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    data.bind(str(path))
    address = struct.pack("=H108s", socket.AF_UNIX, os.fsencode(path))
    with socket.socket(socket.AF_UNIX) as control, data:
        control.connect(str(directory / "ctl"))
        control.send(struct.pack("=IIi", 0xFEEDFACE, 3, 0) + address + b"benchmark")
        answer = control.recv(110)
        data.connect(os.fsdecode(answer[2:].split(b"\0")[0]))
        yield data


def measure(load: Path, case: Case, timing: Timing, ends: Pair, kind: str) -> float:
    """Frames per second that arrive at the second end."""
    a, b = (End(end, kind) for end in ends)
    return port_load.measure(load, (a, b), case.size, timing, batch=case.per_call).rate


def why_not(peer: str, case: Case) -> str | None:
    """Why `peer` cannot be measured, None if it can."""
    program = {"qemu-hub": "qemu-system-x86_64", "vde_switch": "vde_switch"}[peer]
    if shutil.which(program) is None:
        return f"{program} is not installed"
    if peer == "vde_switch" and case.size > VDE_MAX:
        return f"vde_switch cuts frames at {VDE_MAX} bytes"
    return None


def rows_of(case: Case, timing: Timing, load: Path, loop: asyncio.AbstractEventLoop) -> list[Row]:
    """Measure ours and every peer in turns."""
    systems: dict[str, tuple[Callable[[], contextlib.AbstractContextManager[Pair]], str]] = {
        "ours": (lambda: our_switch(loop), "stream4")
    }
    peers = {"qemu-hub": (qemu_hub, "stream4"), "vde_switch": (vde_switch, "dgram")}
    skipped = {peer: reason for peer in peers if (reason := why_not(peer, case)) is not None}
    systems.update((peer, how) for peer, how in peers.items() if peer not in skipped)
    results: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(timing.runs):
        for name, (start, transport) in systems.items():
            with start() as ends:
                results[name].append(measure(load, case, timing, ends, transport) / 1e6)
    medians = {name: statistics.median(values) for name, values in results.items()}
    return [
        Row(
            case=case.name,
            value=medians["ours"],
            unit="Mfps",
            peer=peer,
            peer_value=medians.get(peer),
            runs=timing.runs,
            skipped=skipped.get(peer),
        )
        for peer in peers
    ]


def main() -> None:
    """Run every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter, fewer runs")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    arguments = parser.parse_args()
    timing = Timing(warm_up=100, measure=250, runs=3) if arguments.quick else Timing(200, 1000, 5)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="vsb-") as scratch:
        load = port_load.compile_load(Path(scratch))
        for batched in (True, False):
            for size in SIZES:
                rows += rows_of(Case(size, batched), timing, load, loop)
    loop.close()
    write(rows, arguments.json)


if __name__ == "__main__":
    main()
