"""Frames per second through two ports of each type, beside whoever does the same, in one run.

    benchmarks/ports.py [--quick] [--json FILE] [--only CASE]...

Sender, switch and receiver are processes of their own (port_load.c says what the load does); ours is the fabric process
that a lab has. The same load, over the same sockets, is put on the peer: a QEMU without a machine whose hub joins two
netdevs of that type, vde_switch, or Linux's bridge with veth pairs; and on nothing at all: the `ceiling` is a bare pair
of the sockets, or of veths, that sender and receiver have. Frames are counted where they arrive. `gso` frames
are 64 KiB of TCP that the receiver's side may cut, but need not. `iperf3/tap` is TCP between two hosts' stacks. All of
it happens in a network namespace of its own, so nothing leaves it and every address in it is free.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import port_load
import port_tcp
import port_ways as ways
from port_load import Load, LoadError, Timing
from port_ways import GSO, Open, Place
from report import Row, machine, write
from rings import fabric, missing, no_bridge

from vswitch.errors import FabricError, MachineError
from vswitch.namespace import enter_lab_namespace

QUICK = Timing(warm_up=30, measure=80, runs=3)
FULL = Timing(warm_up=200, measure=800, runs=5)
SMALL, LARGE = 60, 1514
WINDOWS = {SMALL: 512, LARGE: 512, GSO: 32}
"""Frames under way where nothing holds the sender up: no more than any socket on the way has room for."""
BUSY = 0.85
"""A process that takes so much of a core is what bounds the rest."""


class Type(NamedTuple):
    """What is measured of a port type: two of its ports, beside a peer's; at least `target` times its rate is asked."""

    ours: Open
    peer: str
    theirs: Open
    bare: Open
    """The same load with nothing between."""
    target: float | None = None
    window: bool = False
    """Nothing holds up who sends too fast."""
    sizes: tuple[int, ...] = (SMALL, LARGE)


BARE_UNIX, BARE_UDP = ways.bare_datagrams(ways.unix_datagrams), ways.bare_datagrams(ways.udp_datagrams)
TYPES = {
    "stream": Type(ways.our_streams, "qemu-hub", ways.qemu_streams, ways.bare_stream, 2),
    "dgram": Type(
        ways.our_datagrams(ways.unix_datagrams), "qemu-hub", ways.qemu_datagrams(ways.unix_datagrams), BARE_UNIX, 2
    ),
    "dgram-udp": Type(
        ways.our_datagrams(ways.udp_datagrams), "qemu-hub", ways.qemu_datagrams(ways.udp_datagrams), BARE_UDP, 2, True
    ),
    "mcast": Type(ways.our_mcast, "qemu-hub", ways.qemu_mcast, BARE_UDP, window=True),
    "l2tpv3": Type(ways.our_l2tpv3, "qemu-hub", ways.qemu_l2tpv3, BARE_UDP, window=True),
    "vde": Type(ways.our_vde, "vde_switch", ways.their_vde, BARE_UNIX, 3),
    "raw-pipe": Type(ways.our_raw_pipes, "vde_switch", ways.vde_plugs, ways.bare_stream),
    "tap": Type(
        ways.our_taps, "linux-bridge", ways.linux_bridge, ways.bare_veth, window=True, sizes=(SMALL, LARGE, GSO)
    ),
    "packet": Type(
        ways.our_packets, "linux-bridge", ways.linux_bridge, ways.bare_veth, window=True, sizes=(SMALL, LARGE, GSO)
    ),
}
PROGRAMS = {"qemu-hub": "qemu-system-x86_64", "vde_switch": "vde_switch", "vde_plug2tap": "vde_plug2tap"}


def absent(peer: str) -> str | None:
    """Why a peer cannot be measured, None if it can."""
    return no_bridge() if peer == "linux-bridge" else missing(PROGRAMS[peer])


def median_load(loads: Sequence[Load]) -> Load:
    """The median of each figure."""
    rate, lost, sender, receiver = (
        statistics.median(values) for values in zip(*(load[:4] for load in loads), strict=True)
    )
    others = tuple(statistics.median(values) for values in zip(*(load.others for load in loads), strict=True))
    return Load(rate, lost, sender, receiver, others)


def bound_by(load: Load) -> str:
    """Say who is busy, and whether that is what holds up the rest; in brackets the cores each takes."""
    cores = {"sender": load.sender, "switch": sum(load.others), "receiver": load.receiver}
    busiest = max(cores, key=lambda name: cores[name])
    if cores[busiest] >= BUSY:
        said = busiest
    elif sum(cores.values()) >= BUSY * len(os.sched_getaffinity(0)):
        said = "all cores"
    else:
        said = "nobody alone"
    used = ", ".join(f"{name} {value:.2f}" for name, value in cores.items())
    cost = f"; {cores['switch'] * 1e6 / load.rate:.2f} us a frame" if load.others and load.rate else ""
    return f"bound by {said} ({used}{cost}), lost {load.lost:.1%}"


def case_name(name: str, size: int) -> str:
    return f"{name}/gso" if size == GSO else f"{name}/{size}B"


class Bench(NamedTuple):
    """Where, with what and how long is measured."""

    place: Place
    program: Path
    timing: Timing


def in_turns(bench: Bench, opens: dict[str, Open], size: int, window: int) -> dict[str, list[Load]]:
    """Measure every way once, then every way again."""
    batch = min(port_load.per_call(size), window // 4 or 1) if window else port_load.per_call(size)
    loads: dict[str, list[Load]] = {who: [] for who in opens}
    with contextlib.ExitStack() as held:
        opened = {who: held.enter_context(open_way(bench.place, size)) for who, open_way in opens.items()}
        for _ in range(bench.timing.runs):
            for who, (sender, receiver, pids) in opened.items():
                ends = sender, receiver
                load = port_load.measure(bench.program, ends, size, bench.timing, batch=batch, window=window, pids=pids)
                loads[who].append(load)
    return loads


def rows_of(bench: Bench, name: str, kind: Type, size: int) -> Iterator[Row]:
    """Ours, the peer and the bare sockets in turns; a row beside each of the others."""
    case, unit = case_name(name, size), "Gbit/s" if size == GSO else "Mfps"
    scale = size * 8 / 1e9 if size == GSO else 1e-6
    skipped = absent(kind.peer)
    opens = {"ours": kind.ours, "ceiling": kind.bare} | ({} if skipped else {kind.peer: kind.theirs})
    try:
        loads = in_turns(bench, opens, size, WINDOWS[size] if kind.window else 0)
    except LoadError as error:
        sys.exit(f"{case}: {error}")
    except (FabricError, OSError) as error:  # no right to /dev/net/tun, say
        for peer in (kind.peer, "ceiling"):
            yield Row(case=case, unit=unit, peer=peer, skipped=str(error))
        return
    found = {who: median_load(some) for who, some in loads.items()}
    target = "" if kind.target is None else f"target at least {kind.target:g}; "
    for peer, note in ((kind.peer, f"{target}ours {bound_by(found['ours'])}; peer "), ("ceiling", "")):
        load = found.get(peer)
        yield Row(
            case=case,
            unit=unit,
            value=found["ours"].rate * scale,
            peer=peer,
            peer_value=None if load is None else load.rate * scale,
            runs=bench.timing.runs,
            skipped=skipped if peer == kind.peer else None,
            note="" if load is None else note + bound_by(load),
        )


def tcp_rows(bench: Bench) -> Iterator[Row]:
    """`iperf3/tap`: one second a run, or four when there is time."""
    peers = {"linux-bridge": (port_tcp.bridged_hosts, 0.4), "vde_plug2tap": (port_tcp.plugged_hosts, 10.0)}
    skipped = {peer: absent(peer) for peer in peers}
    ours = missing("iperf3") or (None if os.access("/dev/net/tun", os.R_OK | os.W_OK) else "no right to /dev/net/tun")
    systems = {"ours": port_tcp.tap_hosts} | {peer: hosts for peer, (hosts, _) in peers.items() if not skipped[peer]}
    rates: dict[str, list[float]] = {who: [] for who in systems}
    if ours is None:
        seconds = 1 if bench.timing is QUICK else 4
        for _ in range(bench.timing.runs):
            for who, hosts in systems.items():
                rates[who].append(port_tcp.tcp_rate(bench.place, hosts, seconds))
    for peer, (_, target) in peers.items():
        reason = ours or skipped[peer]
        yield Row(
            case="iperf3/tap",
            unit="Gbit/s",
            value=statistics.median(rates["ours"]) if ours is None else None,
            peer=peer,
            peer_value=statistics.median(rates[peer]) if reason is None else None,
            runs=bench.timing.runs,
            skipped=reason,
            note=f"target at least {target:g}",
        )


def main() -> None:
    """Run every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter, fewer runs: every row in under 50 s")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    parser.add_argument("--only", metavar="CASE", action="append", help="only cases that begin so")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        enter_lab_namespace()
    except MachineError as error:
        sys.exit(str(error))
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="vsb-") as scratch, fabric(loop) as made:
        timing = QUICK if arguments.quick else FULL
        bench = Bench(Place(made, Path(scratch)), port_load.compile_load(Path(scratch)), timing)
        cases: dict[str, Callable[[], Iterator[Row]]] = {
            case_name(name, size): partial(rows_of, bench, name, kind, size)
            for name, kind in TYPES.items()
            for size in kind.sizes
        }
        cases["iperf3/tap"] = partial(tcp_rows, bench)
        for case, measure in cases.items():
            if not arguments.only or any(case.startswith(wanted) for wanted in arguments.only):
                rows += measure()
    loop.close()
    print("  ".join(f"{name}: {value}" for name, value in machine().items()), f"load {os.getloadavg()[0]:.1f}\n")
    write(rows, arguments.json)


if __name__ == "__main__":
    main()
