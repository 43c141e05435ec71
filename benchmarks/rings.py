"""Frames per second from ring to ring through our switch, beside a bare copying relay and other systems, in one run.

    benchmarks/rings.py [--quick] [--json FILE] [CASE...]

Sender, fabric and receiver are three processes (ring_load.c says what they touch of each frame); the fabric is the one
a lab has, its ports are opened by name over its socket. Frames are counted where they are received. The `ceiling` is a
relay between the same two clients over the same memory, slots, batches and sleeps that copies and does nothing else.
With CASE only the cases that begin so are measured. All rings have 512 slots of 2048 bytes, batches are of 256 frames.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import port_load
import stream
from report import Row, machine, write
from stream import Pair, running

from vswitch.fabric.client import FabricClient
from vswitch.model.lab import PortSettings, SwitchSettings

ROOT = Path(__file__).parents[1]
SMALL, LARGE = 60, 1514
PATIENCE = 20.0
"""Seconds until a measurement that says nothing has failed."""
ROOMY = SwitchSettings(fdb_limit=1 << 17)
"""A switch whose table has room for every case."""
Work = Callable[[], float]
Start = Callable[[], contextlib.AbstractContextManager[Pair]]


class Timing(NamedTuple):
    """How long and how often to measure: milliseconds, runs, frames sent one at a time, seconds of idling."""

    warm_up: int
    measure: int
    runs: int
    delays: int
    idle: float


QUICK = Timing(warm_up=60, measure=120, runs=3, delays=500, idle=0.5)
FULL = Timing(warm_up=200, measure=800, runs=5, delays=3000, idle=3.0)


# --- our fabric ------------------------------------------------------------------------------------------------------


class Fabric:
    """A fabric process with its switches, and a socket over which ports are opened."""

    def __init__(self, loop: asyncio.AbstractEventLoop, client: FabricClient, socket_path: Path, pid: int) -> None:
        self._loop = loop
        self._client = client
        self._path = socket_path
        self.pid = pid

    def add_switch(self, name: str, settings: SwitchSettings = ROOMY) -> None:
        """Add a switch."""
        self._loop.run_until_complete(self._client.add_network(name, "switch", settings))

    def remove_switch(self, name: str) -> None:
        """Remove a switch and its ports."""
        self._loop.run_until_complete(self._client.remove_network(name))

    def add_port(self, switch: str, name: str, port_type: str, fds: Sequence[int]) -> None:
        """Make a port of `fds`, which are handed over."""
        self._loop.run_until_complete(self._client.add_port(switch, name, port_type, fds))

    def add_outside_port(self, switch: str, name: str, fds: Sequence[int] = (), **spec: object) -> None:
        """Make a port that faces outside, as a lab file says; `fds`, if it names any, are handed over."""
        self._loop.run_until_complete(self._client.add_outside_port(switch, name, spec, fds=fds))

    def declare_ring(self, switch: str, name: str, settings: PortSettings) -> None:
        """Declare a ring port that somebody will open, so that it has settings."""
        self._loop.run_until_complete(self._client.add_outside_port(switch, name, {"type": "ring"}, settings))

    def unlearnt(self) -> int:
        """Frames whose source the switches had no room to learn."""
        return sum(port.unlearnt for port in self._loop.run_until_complete(self._client.stats()))

    def port(self, switch: str, name: str) -> str:
        """A port's name for ring_load."""
        return f"{self._path}:{switch}:{name}"

    def ports(self, switch: str, name: str, count: int) -> list[str]:
        """Names of `count` ports."""
        return [self.port(switch, f"{name}{number}") for number in range(count)]


@contextlib.contextmanager
def fabric(loop: asyncio.AbstractEventLoop) -> Iterator[Fabric]:
    """Run a fabric with one switch, `lan`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client = FabricClient(ours, lambda event: None)
    command = [sys.executable, "-m", "vswitch.fabric", "--control-fd", str(theirs.fileno())]
    with tempfile.TemporaryDirectory(prefix="vsb-") as scratch, running(command, [theirs.fileno()]) as process:
        path = Path(scratch, "ring")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(path))
        listener.listen(64)
        theirs.close()

        async def set_up() -> None:
            await client.open()
            await client.listen_rings(listener)

        loop.run_until_complete(set_up())
        made = Fabric(loop, client, path, process.pid)
        made.add_switch("lan")
        yield made
        loop.run_until_complete(client.close())


# --- running ring_load -----------------------------------------------------------------------------------------------


def fds_in(ports: Sequence[str]) -> list[int]:
    """The descriptors among the names of ports."""
    return [int(port[3:]) for port in ports if port.startswith("fd:")]


class SilentError(Exception):
    """A process that was to tell what it measured has ended or hangs."""


def output_of(process: subprocess.Popen[str], limit: int) -> str:
    """Up to `limit` bytes of what a process says next. Raises SilentError."""
    assert process.stdout is not None
    fd = process.stdout.fileno()
    if select.select([fd], [], [], PATIENCE)[0] and (data := os.read(fd, limit)):
        return data.decode()
    raise SilentError(f"no answer from {' '.join(map(str, process.args)):.300}")  # type: ignore[arg-type]


def line_from(process: subprocess.Popen[str]) -> str:
    """The next line a process says. Raises SilentError."""
    line = ""
    while not line.endswith("\n"):
        line += output_of(process, 1)  # so that nothing is left in a buffer that select() does not know of
    return line.strip()


class Load:
    """Runs ring_load, compiled."""

    def __init__(self, scratch: Path, timing: Timing) -> None:
        self.program = scratch / "ring_load"
        self.timing = timing
        sources = [Path(__file__).with_name("ring_load.c")]
        sources += [ROOT / "vswitch" / name for name in ("libvswitch.c", "netmap_ring.c")]
        flags = ["-O2", "-std=gnu11", "-D_GNU_SOURCE", f"-I{ROOT / 'vswitch'}"]
        subprocess.run(["cc", *flags, "-o", self.program, *sources], check=True)

    @contextlib.contextmanager
    def process(self, mode: str, flags: Sequence[str], ports: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
        """Run it in one of its modes."""
        argv = [str(self.program), mode, *flags, *ports]
        with running(argv, fds_in(ports), stdout=subprocess.PIPE) as process:
            yield process

    def throughput(
        self,
        senders: Sequence[str],
        receivers: Sequence[str],
        *flags: str,
        receive: Sequence[str] = (),
        send: Sequence[str] = (),
    ) -> float:
        """Frames per second that arrive, in millions. `flags` are for both sides."""
        times = ["-w", str(self.timing.warm_up), "-d", str(self.timing.measure)]
        with self.process("receive", [*flags, *times, *receive], receivers) as receiver:
            if "-n" not in receive:  # without announcing, its port may be there only once the sender's is
                assert line_from(receiver) == "ready"
            with self.process("send", [*flags, *send], senders):
                line = line_from(receiver)
                return float(line if line != "ready" else line_from(receiver)) / 1e6

    def delays(self, sender: str, receiver: str, *receive: str) -> tuple[float, float]:
        """Median and 99th percentile of the microseconds a frame takes."""
        flags = ["-c", str(self.timing.delays), *receive]
        with self.process("delays", flags, [receiver]) as receiving:
            if "-n" not in receive:
                assert line_from(receiving) == "ready"
            with self.process("stamp", [], [sender]):
                line = line_from(receiving)
                p50, p99 = (line if line != "ready" else line_from(receiving)).split()
        return float(p50), float(p99)


@contextlib.contextmanager
def ceiling(load: Load) -> Iterator[tuple[str, str]]:
    """The bare relay: yields a sender's and a receiver's port."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    relay_ends = [pair[1].fileno() for pair in pairs]
    argv = [str(load.program), "relay", *map(str, relay_ends)]
    with running(argv, relay_ends):
        for _, theirs in pairs:
            theirs.close()
        yield f"fd:{pairs[0][0].fileno()}", f"fd:{pairs[1][0].fileno()}"
        for ours, _ in pairs:
            ours.close()


# --- peers -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def linux_bridge(load: Load) -> Iterator[Pair]:
    """Packet sockets on two veths whose other ends are in a bridge, all in a network namespace of its own."""
    script = "; ".join(
        [
            "set -e",
            "ip link add name bridge type bridge",
            *(f"ip link add name {x} type veth peer name {x}1; ip link set dev {x}1 master bridge" for x in "ab"),
            "for i in bridge a a1 b b1; do ip link set dev $i up; done",
            f"exec {load.program} packets $0 a b",
        ]
    )
    ours, theirs = socket.socketpair()
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    argv = ["unshare", "--net", *as_root, "sh", "-c", script, str(theirs.fileno())]
    subprocess.run(argv, pass_fds=[theirs.fileno()], check=True)
    fds = [socket.recv_fds(ours, 1, 1)[1][0] for _ in "ab"]
    ours.close()
    theirs.close()
    with socket.socket(fileno=fds[0]) as a, socket.socket(fileno=fds[1]) as b:
        yield a, b


def memif(size: int) -> float:
    """Frames per second between two testpmd processes over DPDK's memif, in millions. They poll, and never sleep."""
    with tempfile.TemporaryDirectory(prefix="vsb-") as scratch:
        vdev = f"socket={scratch}/memif,socket-abstract=no,bsize=2048,rsize=9"

        def command(role: str, cores: str, *forward: str) -> list[str]:
            eal = [f"--lcores={cores}", "--no-huge", "-m", "256", "--no-pci", "--no-telemetry", "--log-level=error"]
            eal += [f"--file-prefix={role}{os.getpid()}", f"--vdev=net_memif0,role={role},{vdev}"]
            return ["dpdk-testpmd", *eal, "--", "--total-num-mbufs=8192", "--burst=256", "--auto-start", *forward]

        cpus = sorted(os.sched_getaffinity(0))
        a, b = cpus[0], cpus[-1]
        receive = command("server", f"0@{a},1@{b}", "--forward-mode=rxonly", "--stats-period=1")
        send = command("client", f"0@{b},1@{a}", "--forward-mode=txonly", f"--txpkts={size}", "--stats-period=9")
        quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with running(receive, [], stdout=subprocess.PIPE, **quiet) as receiver:
            text = ""
            rates: list[str] = []
            while "NIC statistics" not in text:  # a client that comes too early never connects
                text += output_of(receiver, 4096)
            with running(send, [], stdout=subprocess.DEVNULL, **quiet):
                while len(rates) < 2:  # the first second is not a full one
                    text += output_of(receiver, 4096)
                    rates = [rate for rate in re.findall(r"Rx-pps:\s+(\d+)\s", text) if rate != "0"]
            return float(rates[1]) / 1e6


# --- cases -----------------------------------------------------------------------------------------------------------


class Bench:
    """Everything the cases need."""

    def __init__(self, loop: asyncio.AbstractEventLoop, scratch: Path, timing: Timing, shared: Fabric | None) -> None:
        self.loop = loop
        self.shared = shared
        self.timing = timing
        self.load = Load(scratch, timing)
        self.packets = port_load.compile_load(scratch)

    @contextlib.contextmanager
    def fabric(self) -> Iterator[Fabric]:
        """A fabric whose switch `lan` is new: a process of its own, or the shared one."""
        if self.shared is None:
            with fabric(self.loop) as made:
                yield made
        else:
            self.shared.remove_switch("lan")
            self.shared.add_switch("lan")
            yield self.shared

    def in_turns(self, systems: Mapping[str, Work]) -> dict[str, float]:
        """Median of each, one run of every one after the other."""
        results: dict[str, list[float]] = {name: [] for name in systems}
        for _ in range(self.timing.runs):
            for name, work in systems.items():
                results[name].append(work())
        return {name: statistics.median(values) for name, values in results.items()}

    def row(self, case: str, unit: str, value: float, peer: str | None = None, peer_value: float | None = None) -> Row:
        """A row of medians."""
        return Row(case=case, unit=unit, value=value, peer=peer, peer_value=peer_value, runs=self.timing.runs)

    # --- what is measured once, by name ------------------------------------------------------------------------------

    def ours(self, *flags: str, **sides: Sequence[str]) -> float:
        """Through a fabric of its own, from one port to another."""
        with self.fabric() as made:
            return self.load.throughput([made.port("lan", "a")], [made.port("lan", "b")], *flags, **sides)

    def relayed(self, *flags: str) -> float:
        """Through the ceiling."""
        with ceiling(self.load) as (sender, receiver):
            return self.load.throughput([sender], [receiver], *flags, receive=["-n"])

    def through(self, start: Start, transport: str, size: int) -> float:
        """Through a system that is spoken to over sockets."""
        timing = port_load.Timing(self.timing.warm_up, self.timing.measure, self.timing.runs)
        with start() as ends:
            return stream.measure(self.packets, stream.Case(size, batched=True), timing, ends, transport) / 1e6

    # --- the cases ---------------------------------------------------------------------------------------------------

    def switch(self, size: int) -> Iterator[Row]:
        """`switch/60B` and `switch/1514B`, beside every peer that can."""
        scale = 1.0 if size == SMALL else size * 8 / 1e3
        systems: dict[str, Work] = {
            "ours": partial(self.ours, "-l", str(size)),
            "ceiling": partial(self.relayed, "-l", str(size)),
        }
        skipped: dict[str, str] = {}
        sockets: dict[str, tuple[str, Start, str]] = {
            "vde_switch": ("vde_switch", stream.vde_switch, "dgram"),
            "qemu-hub": ("qemu-system-x86_64", stream.qemu_hub, "stream4"),
            "linux-bridge": ("unshare", partial(linux_bridge, self.load), "dgram"),
        }
        for peer, (program, start, transport) in sockets.items():
            reason = missing(program) if peer != "linux-bridge" else no_bridge()
            if reason is None:
                systems[peer] = partial(self.through, start, transport, size)
            else:
                skipped[peer] = reason
        case, unit = f"switch/{size}B", "Mpps" if size == SMALL else "Gbit/s"
        medians = {name: value * scale for name, value in self.in_turns(systems).items()}
        yield self.row(case, unit, medians["ours"], "target", 20 if size == SMALL else 100)
        for peer in ("ceiling", *sockets):
            if peer in skipped:
                yield Row(case=case, unit=unit, value=medians["ours"], peer=peer, skipped=skipped[peer])
            else:
                yield self.row(case, unit, medians["ours"], peer, medians[peer])

    def many_macs(self) -> Iterator[Row]:
        """1000 addresses per side. In both cases the sender writes both addresses of every frame."""
        systems = {"many": partial(self.ours, "-a", "-m", "1000"), "one": partial(self.ours, "-a", "-m", "1")}
        medians = self.in_turns(systems)
        yield self.row("switch/60B/1000macs", "Mpps", medians["many"], "one MAC", medians["one"])

    def broadcast(self) -> Iterator[Row]:
        """One sender to 16 ports, all open in one receiving process. Copies are counted where they arrive."""

        def to_all() -> float:
            with self.fabric() as made:
                return self.load.throughput([made.port("lan", "a")], made.ports("lan", "b", 16), "-B")

        medians = self.in_turns({"all": to_all, "one": partial(self.ours)})
        yield self.row("broadcast/16", "M copies/s", medians["all"], "unicast", medians["one"])

    def pipe(self) -> Iterator[Row]:
        """Two clients of one owner, no switch between."""

        def piped() -> float:
            with self.fabric() as made:
                ends = made.port("lan", "p{x"), made.port("lan", "p}x")
                return self.load.throughput(ends[:1], ends[1:], receive=["-n"])

        systems: dict[str, Work] = {"ours": piped}
        reason = missing("dpdk-testpmd")
        if reason is None:
            systems["memif"] = partial(memif, SMALL)
        try:
            medians = self.in_turns(systems)
        except SilentError as error:
            if "testpmd" not in str(error):
                raise
            reason = "dpdk-testpmd does not run here with net_memif"
            medians = self.in_turns({"ours": piped})
        yield self.row("pipe/60B", "Mpps", medians["ours"], "target", 60)
        if reason is None:
            yield self.row("pipe/60B", "Mpps", medians["ours"], "memif", medians["memif"])
        else:
            yield Row(case="pipe/60B", unit="Mpps", value=medians["ours"], peer="memif", skipped=reason)

    def latency(self) -> Iterator[Row]:
        """One frame at a time, 300 us apart: the fabric (it lingers 50 us) and the receiver are both asleep."""
        results: dict[str, list[tuple[float, float]]] = {"ours": [], "ceiling": []}
        for _ in range(self.timing.runs):
            with self.fabric() as made:
                results["ours"].append(self.load.delays(made.port("lan", "a"), made.port("lan", "b")))
            with ceiling(self.load) as (sender, receiver):
                results["ceiling"].append(self.load.delays(sender, receiver, "-n"))
        for i, (name, target) in enumerate((("p50", 20), ("p99", 100))):
            medians = {system: statistics.median(run[i] for run in runs) for system, runs in results.items()}
            yield self.row(f"latency/{name}", "us", medians["ours"], "target", target)
            yield self.row(f"latency/{name}", "us", medians["ours"], "ceiling", medians["ceiling"])
        yield self.row("latency/idle-cpu", "ms/s", self.in_turns({"idle": self.idle_cpu})["idle"])

    def idle_cpu(self) -> float:
        """Milliseconds of processor time a second that fabric and two clients use which wait for frames."""
        with self.fabric() as made, contextlib.ExitStack() as clients:
            pids = [made.pid]
            for name in "ab":
                client = clients.enter_context(self.load.process("receive", [], [made.port("lan", name)]))
                assert line_from(client) == "ready"
                pids.append(client.pid)
            signal.sigtimedwait([], 0.1)  # let everybody fall asleep
            before = sum(map(cpu_time, pids))
            signal.sigtimedwait([], self.timing.idle)
            return (sum(map(cpu_time, pids)) - before) * 1e3 / self.timing.idle

    # --- how cost grows ----------------------------------------------------------------------------------------------

    def growing(self, name: str, unit: str, systems: dict[int, Work]) -> Iterator[Row]:
        """One row for each size; the peer is the smallest."""
        medians = self.in_turns({str(size): work for size, work in systems.items()})
        first = str(min(systems))
        for size in systems:
            peer = None if str(size) == first else f"{name}/{first}"
            yield self.row(f"{name}/{size}", unit, medians[str(size)], peer, medians[first] if peer else None)

    def ports_idle(self) -> Iterator[Row]:
        """Two ports active, the rest attached and idle."""
        with contextlib.ExitStack() as fabrics:

            def attach(count: int) -> Work:
                made = fabrics.enter_context(fabric(self.loop))
                if count > 2:
                    idle = made.ports("lan", "idle", count - 2)
                    assert line_from(fabrics.enter_context(self.load.process("hold", [], idle))) == "ready"
                return lambda: self.load.throughput([made.port("lan", "a")], [made.port("lan", "b")])

            yield from self.growing("ports-idle", "Mpps", {count: attach(count) for count in (2, 16, 128, 1024)})

    def ports_busy(self) -> Iterator[Row]:
        """Half of the ports send to the other half, in pairs, a batch each in turn. Each port has 2 MiB of rings."""

        def busy(count: int) -> float:
            with self.fabric() as made:
                return self.load.throughput(made.ports("lan", "a", count // 2), made.ports("lan", "b", count // 2))

        yield from self.growing("ports-busy", "Mpps", {count: partial(busy, count) for count in (2, 16, 64, 256)})

    def switches(self) -> Iterator[Row]:
        """A pair of ports in each of so many switches of one fabric, all busy."""

        def busy(count: int) -> float:
            with fabric(self.loop) as made:
                names = [f"lan{number}" for number in range(count)]
                for name in names:
                    made.add_switch(name)
                senders = [made.port(name, "a") for name in names]
                return self.load.throughput(senders, [made.port(name, "b") for name in names])

        yield from self.growing("switches", "Mpps", {count: partial(busy, count) for count in (1, 16, 256)})

    def fdb(self) -> Iterator[Row]:
        """So many addresses, half on each side, in random order."""

        def among(addresses: int) -> float:
            with self.fabric() as made:
                ports = made.port("lan", "a"), made.port("lan", "b")
                rate = self.load.throughput(ports[:1], ports[1:], "-a", "-m", str(addresses // 2))
                if made.unlearnt():
                    sys.exit(f"fdb/{addresses}: the switch has not learnt all addresses")
                return rate

        yield from self.growing("fdb", "Mpps", {size: partial(among, size) for size in (10, 1000, 8000, 64000)})

    def memory(self) -> Iterator[Row]:
        """What an idle port and an idle switch cost, in KiB."""
        count = 256
        private, shared, largest, switches = [], [], [], []
        for _ in range(self.timing.runs):
            with fabric(self.loop) as made:
                before = private_memory(made.pid)
                for number in range(count):  # first: what ports have left behind would be used again
                    made.add_switch(f"lan{number}")
                switches.append((private_memory(made.pid) - before) / count)
                before, shmem = private_memory(made.pid), shared_memory()
                with self.load.process("hold", [], made.ports("lan", "p", count)) as holder:
                    assert line_from(holder) == "ready"
                    private.append((private_memory(made.pid) - before) / count)
                    shared.append((shared_memory() - shmem) / count)
                    largest.append(ring_size(holder.pid))
        yield self.row("memory/port", "KiB", statistics.median(private))
        yield self.row("memory/port/ring-idle", "KiB", statistics.median(shared))
        yield self.row("memory/port/ring-full", "KiB", statistics.median(largest))
        yield self.row("memory/switch", "KiB", statistics.median(switches))

    # --- Python ------------------------------------------------------------------------------------------------------

    def python(self) -> Iterator[Row]:
        """`vswitch.ring` in batches, the C client at the other end."""
        client = [sys.executable, str(Path(__file__).with_name("ring_client.py"))]
        times = [str(self.timing.warm_up), str(self.timing.measure)]

        def sends() -> float:
            with self.fabric() as made:
                a, b = made.port("lan", "a"), made.port("lan", "b")
                flags = ["-w", times[0], "-d", times[1]]
                with self.load.process("receive", flags, [b]) as receiver:
                    assert line_from(receiver) == "ready"
                    with running([*client, "send", a, str(SMALL)], []):
                        return float(line_from(receiver)) / 1e6

        def receives(how: str) -> float:
            with self.fabric() as made:
                a, b = made.port("lan", "a"), made.port("lan", "b")
                with running([*client, how, b, *times], [], stdout=subprocess.PIPE) as receiver:
                    assert line_from(receiver) == "ready"
                    with self.load.process("send", [], [a]):
                        return float(line_from(receiver)) / 1e6

        medians = self.in_turns(
            {"send": sends, "receive": partial(receives, "receive"), "borrow": partial(receives, "borrow")}
        )
        for how, value in medians.items():
            yield self.row(f"python/{how}", "Mpps", value, "target", 1)


# --- what the machine has --------------------------------------------------------------------------------------------


def missing(program: str) -> str | None:
    """Why a program cannot be run, None if it can."""
    return None if shutil.which(program) else f"{program} is not installed"


def no_bridge() -> str | None:
    """Why there can be no bridge in a namespace of ours, None if there can."""
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    argv = ["unshare", "--net", *as_root, "ip", "link", "add", "name", "bridge", "type", "bridge"]
    try:
        result = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return f"{error.filename} is not installed"
    return result.stderr.strip() or None if result.returncode else None


def cpu_time(pid: int) -> float:
    """Seconds of processor time that all threads of a process have used."""
    schedstats = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in schedstats) / 1e9


def private_memory(pid: int) -> int:
    """KiB of memory that only this process has."""
    return sum(map(int, re.findall(r"Private_\w+:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text()))) - (
        ring_memory(pid)
    )


def ring_memory(pid: int) -> int:
    """KiB of private_memory() that are rings which the process happens to be alone in having touched."""
    kib, in_ring = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            in_ring = "memfd:vswitch-ring" in line
        elif in_ring and line.startswith("Private_"):
            kib += int(line.split()[1])
    return kib


def shared_memory() -> int:
    """KiB of shared memory in use on this machine."""
    return int(re.search(r"Shmem:\s+(\d+)", Path("/proc/meminfo").read_text())[1])  # type: ignore[index]


def ring_size(pid: int) -> float:
    """KiB of one of the rings that a process has mapped, all of it touched."""
    line = next(line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "memfd:vswitch-ring" in line)
    start, end = (int(address, 16) for address in line.split(" ")[0].split("-"))
    return (end - start) / 1024


def main() -> None:
    """Run every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="only those that begin so")
    parser.add_argument(
        "--quick", action="store_true", help="shorter, fewer runs, one fabric for most of them: every row in under 50 s"
    )
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    load_before = os.getloadavg()[0]
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    rows: list[Row] = []
    with contextlib.ExitStack() as held:
        scratch = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="vsb-")))
        shared = held.enter_context(fabric(loop)) if arguments.quick else None
        bench = Bench(loop, scratch, QUICK if arguments.quick else FULL, shared)
        cases: dict[str, Callable[[], Iterator[Row]]] = {
            f"switch/{SMALL}B": partial(bench.switch, SMALL),
            f"switch/{LARGE}B": partial(bench.switch, LARGE),
            "switch/60B/1000macs": bench.many_macs,
            "broadcast/16": bench.broadcast,
            "pipe/60B": bench.pipe,
            "latency": bench.latency,
            "ports-idle": bench.ports_idle,
            "ports-busy": bench.ports_busy,
            "switches": bench.switches,
            "fdb": bench.fdb,
            "memory": bench.memory,
            "python": bench.python,
        }
        for case, measure in cases.items():
            if not arguments.cases or any(case.startswith(wanted) for wanted in arguments.cases):
                try:
                    rows += measure()
                except SilentError as error:
                    sys.exit(f"{case}: {error}")
    loop.close()
    load = f"load {load_before:.1f} before, {os.getloadavg()[0]:.1f} after"
    print("  ".join(f"{name}: {value}" for name, value in machine().items()), load, sep="  ")
    print("rings of 512 slots, buffers of 2048 bytes, batches of 256 frames; nothing is pinned to a core\n")
    write(rows, arguments.json)


if __name__ == "__main__":
    main()
