"""Benchmarks for LAN switching devices (RFC 2889, section 5) on our switch, through ring ports.

    benchmarks/rfc2889.py [--quick] [--json FILE] [TEST...]

The device is a fabric process as a lab has it; the tester (rfc2889_load.c) is one process that sends and receives on
all ports. A ring has no clock of its own: "line rate" is what there is room for, unless a test sets a rate. Frame sizes
are the RFC's and include the 4 bytes of FCS that no ring carries; 9018 is the jumbo frame. `criterion` is what the RFC,
or where it has none our own documentation, asks for. Section 5.3 (two devices in a row) is not run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from report import machine
from rings import ROOT, Fabric, fabric

from vswitch.model.lab import PortSettings, SwitchSettings

FCS = 4
SIZES = (64, 128, 256, 512, 1024, 1280, 1518, 9018)
FEW_SIZES = (64, 1518, 9018)
PORT_COUNTS = (4, 16)
CONGESTED_RATE = 100_000
"""Frames/s that the congested port takes, and that count as line rate in section 5.5."""
FDB_LIMIT = 8192
DEVICE = SwitchSettings(fdb_limit=FDB_LIMIT)
Flows = Mapping[int, Sequence[int | str]]
"""Where each port that sends sends to, in turn; "*" is everybody."""
ATTEMPTS = 5
PATIENCE = 30.0
"""Seconds a trial may take."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One row: what was measured, and whether it is as `criterion` asks (None: there is none)."""

    case: str
    value: float
    unit: str
    criterion: str = ""
    passed: bool | None = None
    runs: int = 1

    def as_json(self) -> dict[str, object]:
        """A row as the other benchmarks write them, with the criterion."""
        row: dict[str, object] = {"case": self.case, "value": self.value, "unit": self.unit, "peer": None}
        return row | {"runs": self.runs, "criterion": self.criterion, "passed": self.passed}


@dataclass(frozen=True)
class Trial:
    """What one trial gave: frames by port, `seconds` of sending, latencies in microseconds."""

    seconds: float
    until_last: float
    offered: list[int]
    sent: list[int]
    received: list[int]
    flooded: list[int]
    out_of_order: int
    p50: float
    p99: float

    @property
    def forwarding_rate(self) -> float:
        """Frames/s that reached the port they were for, in millions (RFC 2285, 3.6.1)."""
        return sum(self.received) / self.until_last / 1e6

    def loss(self, copies: int = 1) -> float:
        """Percent of the frames sent that did not arrive; each was to arrive `copies` times."""
        return 100 * (1 - sum(self.received) / (copies * sum(self.sent)))

    @property
    def clean(self) -> bool:
        """Whether nothing was flooded and nothing changed its order."""
        return not sum(self.flooded) and not self.out_of_order


class Tester:
    """Runs rfc2889_load, compiled, on fresh switches of one fabric."""

    def __init__(self, scratch: Path, device: Fabric, quick: bool) -> None:
        self.program = scratch / "rfc2889_load"
        self.device = device
        self.runs = 3 if quick else 5
        self.trial_ms = 60 if quick else 500
        self.paced_ms = 250 if quick else 1000
        self._switches = 0
        sources = [Path(__file__).with_name("rfc2889_load.c")]
        sources += [ROOT / "vswitch" / name for name in ("libvswitch.c", "netmap_ring.c")]
        flags = ["-O2", "-std=gnu11", "-D_GNU_SOURCE", f"-I{ROOT / 'vswitch'}"]
        subprocess.run(["cc", *flags, "-o", self.program, *sources], check=True)

    def switch(self, settings: SwitchSettings = DEVICE) -> str:
        """Make a switch that has learnt nothing."""
        self._switches += 1
        name = f"dut{self._switches}"
        self.device.add_switch(name, settings)
        return name

    def run(self, mode: str, ports: Sequence[str], *flags: str) -> dict[str, float]:
        """Run the tester on ports of the device."""
        argv = [str(self.program), mode, *flags, *ports]
        result = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)
        if result.returncode != 0:
            sys.exit(f"{mode}: {result.stderr.strip()}")
        answer: dict[str, float] = json.loads(result.stdout)
        return answer

    def trial(
        self,
        count: int,
        flows: Flows,
        size: int,
        *flags: str,
        switch: str | None = None,
    ) -> Trial:
        """One trial among `count` ports of a new switch; `flows` has the destinations of each port that sends.

        A trial in which this machine did not let the tester run is made again.
        """
        network = switch or self.switch()
        text = ";".join(f"{port}>{','.join(map(str, to))}" for port, to in flows.items())
        duration = self.paced_ms if "-q" in flags else self.trial_ms
        trial = ["-l", str(size - FCS), "-d", str(duration), "-f", text]
        names = self.device.ports(network, "p", count)
        for _ in range(ATTEMPTS):
            answer = Trial(**self.run("trial", names, *trial, *flags))  # type: ignore[arg-type]
            if answer.seconds > duration / 2000 and any(answer.received):
                break
        else:
            sys.exit(f"{text}: nothing was sent in {ATTEMPTS} trials")
        if switch is None:
            self.device.remove_switch(network)
        return answer

    def trials(self, count: int, flows: Flows, size: int, *flags: str) -> list[Trial]:
        """As many trials as runs."""
        return [self.trial(count, flows, size, *flags) for _ in range(self.runs)]


def median_rate(trials: list[Trial]) -> float:
    """Median forwarding rate in Mpps."""
    return statistics.median(trial.forwarding_rate for trial in trials)


def throughput(case: str, trials: list[Trial]) -> Iterator[Result]:
    """A forwarding rate, which is throughput (RFC 1242) where nothing was lost."""
    lost = max(trial.loss() for trial in trials)
    clean = all(trial.clean for trial in trials)
    yield Result(
        case=case,
        value=median_rate(trials),
        unit="Mpps",
        criterion=f"no loss, no flooding, in order; lost {lost:.3f} %",
        passed=lost == 0 and clean,
        runs=len(trials),
    )


# --- section 5 -------------------------------------------------------------------------------------------------------


def fully_meshed(tester: Tester) -> Iterator[Result]:
    """5.1: every port sends to all others in turn."""
    for count in PORT_COUNTS:
        flows = {port: [(port + 1 + i) % count for i in range(count - 1)] for port in range(count)}
        for size in SIZES:
            trials = tester.trials(count, flows, size)
            yield from throughput(f"mesh/{count}ports/{size}B", trials)


def partially_meshed(tester: Tester) -> Iterator[Result]:
    """5.2: one port to many, and many to one. 5.4: half of the ports to the other half, one way."""
    for count in PORT_COUNTS:
        half = count // 2
        patterns: dict[str, Flows] = {
            "one-to-many": {0: range(1, count)},
            "many-to-one": {port: [0] for port in range(1, count)},
            "unidirectional": {port: [half + (port + i) % half for i in range(half)] for port in range(half)},
        }
        for pattern, flows in patterns.items():
            for size in FEW_SIZES:
                trials = tester.trials(count, flows, size)
                yield from throughput(f"{pattern}/{count}ports/{size}B", trials)


def congestion_control(tester: Tester) -> Iterator[Result]:
    """5.5: port 0 sends half to port 2, half to port 3; port 1 all to port 3, which gets 150 % of what it takes.

    Head of line blocking: the uncongested port 2 gets less than was meant for it, because frames for port 3 are in the
    way. Back pressure: senders are held up, and nothing is lost at port 3. A port's `overflow` decides: with `drop`
    there is to be neither; `pause` (the default) is back pressure, which also holds up what senders have for others.
    """
    for overflow in ("drop", "pause"):
        trials = []
        for _ in range(tester.runs):
            network = tester.switch()
            for port in range(4):
                tester.device.declare_ring(network, f"p{port}", PortSettings(overflow=overflow))
            limits = ["-r", str(CONGESTED_RATE), "-q", f"3:{CONGESTED_RATE}"]
            trials.append(tester.trial(4, {0: [2, 3], 1: [3]}, 64, *limits, switch=network))
        meant = [trial.offered[0] / 2 for trial in trials]
        passing = statistics.median(100 * trial.received[2] / part for trial, part in zip(trials, meant, strict=True))
        held = statistics.median(100 * (1 - sum(trial.sent) / sum(trial.offered)) for trial in trials)
        lost = statistics.median(trial.loss() for trial in trials)
        case = f"congestion/{overflow}"
        yield Result(
            case=f"{case}/uncongested",
            value=passing,
            unit="% arrives",
            criterion="no head of line blocking: at least 99 %",
            passed=passing >= 99,
            runs=len(trials),
        )
        yield Result(case=f"{case}/held-back", value=held, unit="% of load", criterion="reported: back pressure")
        yield Result(
            case=f"{case}/lost", value=lost, unit="% of sent", criterion="reported: 25 % is more than it takes"
        )


def forward_pressure(tester: Tester) -> Iterator[Result]:
    """5.6: the highest rate between two ports; and whether a port is ever given more than it takes."""
    for size in FEW_SIZES:
        trials = tester.trials(2, {0: [1]}, size)
        top = median_rate(trials)
        for part in (0.5, 0.8, 0.95):
            rate = ["-r", str(int(top * part * 1e6))]
            trials += tester.trials(2, {0: [1]}, size, *rate)
        best = max(trials, key=lambda trial: trial.forwarding_rate)
        yield Result(
            case=f"maximum-forwarding-rate/{size}B",
            value=best.forwarding_rate,
            unit="Mpps",
            criterion=f"reported; lost {best.loss():.3f} %",
            runs=len(trials),
        )
    limits = ["-r", str(2 * CONGESTED_RATE), "-q", f"1:{CONGESTED_RATE}"]
    trials = tester.trials(2, {0: [1]}, 64, *limits)
    share = statistics.median(100 * trial.received[1] / (CONGESTED_RATE * trial.until_last) for trial in trials)
    yield Result(
        case="forward-pressure",
        value=share,
        unit="% of line",
        criterion="offered 200 %: at most 100 %, no less than 95 %",
        passed=95 <= share <= 100.5,
        runs=len(trials),
    )


def address_learning(tester: Tester) -> Iterator[Result]:
    """5.7: how many addresses the switch holds without flooding; 5.8: how fast they may come."""

    def flooded(addresses: int) -> tuple[int, float]:
        network = tester.switch()
        names = tester.device.ports(network, "p", 3)
        answer = tester.run("learn", names, "-c", str(addresses))
        tester.device.remove_switch(network)
        if answer["found"] != addresses and not answer["flooded"]:
            sys.exit(f"{addresses - answer['found']:.0f} frames to learnt addresses did not arrive")
        return int(answer["flooded"]), answer["learning_rate"]

    low, high = 1, 2 * FDB_LIMIT
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if flooded(middle)[0] else (middle, high)
    yield Result(
        case="address-caching-capacity",
        value=low,
        unit="addresses",
        criterion=f"fdb_limit {FDB_LIMIT}, less the test port's own",
        passed=low == FDB_LIMIT - 1,
    )
    trials = [flooded(low) for _ in range(tester.runs)]
    yield Result(
        case="address-learning-rate",
        value=statistics.median(rate for _, rate in trials) / 1e6,
        unit="M addresses/s",
        criterion="as fast as they can be sent: nothing flooded",
        passed=not any(lost for lost, _ in trials),
        runs=len(trials),
    )


def errored_frames(tester: Tester) -> Iterator[Result]:
    """5.9: what must not be forwarded. Without FCS and line code, errored means of no valid length.

    Frames of 14 to 59 bytes are forwarded on purpose: hosts on virtual links do not pad.
    """
    kinds: list[tuple[str, int, int | None, bool]] = [
        ("runt/13B", 13, None, False),
        ("unpadded/14B", 14, None, True),
        ("unpadded/59B", 59, None, True),
        ("longest/1514B", 1514, 1500, True),
        ("oversize/1515B", 1515, 1500, False),
        ("longest/69632B", 69632, None, True),
        ("oversize/69633B", 69633, None, False),
    ]
    sent = 100
    for name, length, mtu, forwarded in kinds:
        network = tester.switch()
        for port in range(2):
            tester.device.declare_ring(network, f"p{port}", PortSettings(mtu=mtu))
        names = tester.device.ports(network, "p", 2)
        answer = tester.run("raw", names, "-l", str(length), "-c", str(sent))
        tester.device.remove_switch(network)
        wanted = sent if forwarded else 0
        yield Result(
            case=f"errored/{name}",
            value=answer["received"],
            unit=f"of {sent} arrive",
            criterion=f"{wanted}" + (f", mtu {mtu}" if mtu else ""),
            passed=answer["received"] == wanted,
        )


def broadcast(tester: Tester) -> Iterator[Result]:
    """5.10: broadcast forwarding rate, and latency at a tenth of it."""
    for count in PORT_COUNTS:
        for size in FEW_SIZES:
            flows: Flows = {0: ["*"]}
            trials = tester.trials(count, flows, size)
            lost = max(trial.loss(count - 1) for trial in trials)
            case = f"broadcast/{count}ports/{size}B"
            yield Result(
                case=case,
                value=median_rate(trials),
                unit="M copies/s",
                criterion=f"reported, overload: lost {lost:.1f} %",
                runs=len(trials),
            )
            rate = ["-r", str(int(median_rate(trials) * 1e6 / (count - 1) / 10))]
            calm = tester.trials(count, flows, size, *rate)
            lost = max(trial.loss(count - 1) for trial in calm)
            for name in ("p50", "p99"):
                yield Result(
                    case=f"{case}/latency-{name}",
                    value=statistics.median(getattr(trial, name) for trial in calm),
                    unit="us",
                    criterion=f"no loss at a tenth of that; lost {lost:.3f} %",
                    passed=lost == 0,
                    runs=len(calm),
                )


TESTS: dict[str, Callable[[Tester], Iterator[Result]]] = {
    "mesh": fully_meshed,
    "partial": partially_meshed,
    "congestion": congestion_control,
    "pressure": forward_pressure,
    "address": address_learning,
    "errored": errored_frames,
    "broadcast": broadcast,
}


def show(results: list[Result]) -> None:
    """Print the table."""
    verdicts = {None: "-", True: "pass", False: "FAIL"}
    for result in results:
        value = f"{result.value:.3g}" if abs(result.value) < 1000 else f"{result.value:,.0f}"
        line = f"{result.case:<40} {value:>8} {result.unit:<14} {verdicts[result.passed]:<5} {result.criterion}"
        print(line.rstrip())


def main() -> None:
    """Run every test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", metavar="TEST", help=f"only these: {' '.join(TESTS)}")
    parser.add_argument("--quick", action="store_true", help="shorter trials, fewer of them, every row, under 50 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    results: list[Result] = []
    load = os.getloadavg()[0]
    with contextlib.ExitStack() as held:
        scratch = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="vsb-")))
        tester = Tester(scratch, held.enter_context(fabric(loop)), arguments.quick)
        for name, test in TESTS.items():
            if not arguments.tests or name in arguments.tests:
                results += test(tester)
    loop.close()
    facts = machine() | {"load_before": load, "load_after": os.getloadavg()[0]}
    print("  ".join(f"{name}: {value}" for name, value in facts.items()), end="\n\n")
    show(results)
    if arguments.json is not None:
        document = {"machine": facts, "rows": [result.as_json() for result in results]}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
