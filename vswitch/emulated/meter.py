"""Measures all flows of probes that arrive at a node, in bounded memory, and says so as a table. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence

from ..model.units import UNITS
from . import probe
from .flow import Flow
from .histogram import RELATIVE_ERROR
from .role import Arguments, Command, Reply, Usage

MAX_FLOWS = 256
"""Flows measured one by one; probes of further ones are only counted. A flow takes 90 KiB."""

_COLUMNS = ("flow", "received", "lost", "dup", "reordered", "pps", "min", "p50", "p99", "p99.9", "max")
_EXPECTATION = re.compile(r"([a-z0-9_.]+)(<=|>=|=)([0-9.]+)(us|ms|s)?")
_SUMMED = ("received", "lost", "missed_before", "duplicates", "reordered", "outside_window")


class Meter:
    """Flows by the number in their probes; `names` are the generators' names by flow divided by `RUNS`."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._flows: dict[int, Flow] = {}
        self.other = 0
        """Frames without a probe."""
        self.untracked = 0
        """Probes of flows beyond MAX_FLOWS."""
        self.report_command = Command(self._report, "report [-f table|json]", "loss, order and latency of every flow")
        self.expect_command = Command(
            self._expect,
            "expect [NAME=N | NAME<=N | NAME>=N]...",
            "exit 1 unless the totals are so, as in lost=0 p99<=2ms",
        )

    def take(self, frames: Sequence[bytes], now: int) -> None:
        """Measure frames that arrived at `now`."""
        find, unpack, flows = probe.find, probe.unpack, self._flows
        for frame in frames:
            at = find(frame)
            if at < 0:
                self.other += 1
                continue
            number, sequence, stamp, _ = unpack(frame, at)
            flow = flows.get(number)
            if flow is None:
                if len(flows) >= MAX_FLOWS:
                    self.untracked += 1
                    continue
                flow = flows[number] = Flow()
            flow.arrived(sequence, stamp, len(frame), now)

    def reset(self) -> None:
        """Count from now on."""
        self._flows = {number: flow.begin_anew() for number, flow in self._flows.items()}
        self.other = self.untracked = 0

    def stats(self) -> dict[str, object]:
        """All counters, fit for JSON; `total` adds the flows up, `latency_error` is that of percentiles."""
        reports = {self._name(number): flow.report() for number, flow in sorted(self._flows.items()) if flow.received}
        return {
            "total": self.total(),
            "other": self.other,
            "untracked": self.untracked,
            "latency_error": RELATIVE_ERROR,
            "flows": reports,
        }

    def total(self) -> dict[str, int]:
        """The counters of all flows together."""
        reports = [flow.report() for flow in self._flows.values()]
        return {name: sum(int(str(report[name])) for report in reports) for name in _SUMMED}

    def _seen(self) -> int:
        return sum(flow.received > 0 for flow in self._flows.values())

    def _name(self, number: int) -> str:
        """The generator's name; its second run is another flow, so the number of the flow tells them apart."""
        known = self._names.get(number // RUNS)
        return f"{known}/{number % RUNS}" if known is not None else str(number)

    # --- commands ---------------------------------------------------------------------------------------------------

    def _report(self, arguments: Arguments, reply: Reply, now: int) -> None:
        if list(arguments) not in ([], ["-f", "table"], ["-f", "json"]):
            raise Usage
        if list(arguments[1:]) == ["json"]:
            reply.out(json.dumps(self.stats(), indent=2) + "\n")
        else:
            reply.out(self.table())
        reply.exit()

    def table(self) -> str:
        """One line a flow; latency in microseconds."""
        rows = [list(_COLUMNS)]
        for number, flow in sorted(self._flows.items()):
            if not flow.received:
                continue
            latency = flow.latency.summary()
            counters = (flow.received, flow.lost, flow.duplicates, flow.reordered)
            rows.append(
                [
                    self._name(number),
                    *map(str, counters),
                    f"{flow.report()['pps']:.0f}",
                    *(f"{latency[name]:.1f}" if latency else "-" for name in _COLUMNS[6:]),
                ]
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            )
            for row in rows
        ]
        if len(rows) == 1:
            lines = ["no probe has arrived"]
        if self.other or self.untracked:
            lines.append(f"other frames: {self.other}; probes of flows beyond the first {MAX_FLOWS}: {self.untracked}")
        return "\n".join(lines) + "\n"

    def _expect(self, arguments: Arguments, reply: Reply, now: int) -> None:
        if not arguments:
            raise Usage("nothing expected")
        checks = [self._expectation(argument) for argument in arguments]
        failed = [why for check in checks if (why := check()) is not None]
        for why in failed:
            reply.err(f"{why}\n")
        reply.exit(1 if failed else 0)

    def _expectation(self, text: str) -> Callable[[], str | None]:
        """A check that says what is not as expected. Raises Usage."""
        found = _EXPECTATION.fullmatch(text)
        if found is None:
            raise Usage(f"{text[:60]!r} is not understood")
        name, sign, number, unit = found.groups()
        counters = {**self.total(), "other": self.other, "untracked": self.untracked, "flows": self._seen()}
        if name in counters and unit is None:
            value, wanted = float(counters[name]), float(number)
        elif unit is not None and (name in ("min", "max", "mean") or re.fullmatch(r"p(50|90|99|99\.9)", name)):
            # The worst flow's: what holds for it holds for all.
            value = max((flow.latency.summary().get(name, 0.0) for flow in self._flows.values()), default=0.0)
            wanted = UNITS["duration"].read(number + unit) * 1e6
        else:
            known = ", ".join([*counters, "min", "mean", "p50", "p90", "p99", "p99.9", "max (these with a unit)"])
            raise Usage(f"{name!r} is not known; known: {known}")
        holds = {"=": value == wanted, "<=": value <= wanted, ">=": value >= wanted}[sign]
        shown = f"{value / 1e6:.9f}".rstrip("0").rstrip(".") + " s" if unit else f"{value:g}"
        return lambda: None if holds else f"{text}: it is {shown}"


RUNS = 16
"""Runs of one generator that are told apart: its flows are numbered from RUNS times its place in the lab."""
