"""What a benchmark reports: rows beside a peer, the machine they were measured on, a table and a JSON file."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case beside one peer: medians of `runs` runs, both measured in the same run.

    Without a peer `peer` and `peer_value` are None. `skipped` says why a row could not be measured, `note` what else is
    to be known of it.
    """

    case: str
    unit: str
    value: float | None = None
    peer: str | None = None
    peer_value: float | None = None
    runs: int = 0
    skipped: str | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours divided by the peer's, for times too."""
        return self.value / self.peer_value if self.value is not None and self.peer_value else None


def write(rows: list[Row], json_path: str | Path | None) -> None:
    """Print the rows as a table and, with a path, write them as JSON beside the machine's facts."""
    print(f"{'case':<24} {'ours':>12} {'peer':<12} {'peer has':>12} {'ratio':>7}  unit, runs")
    for row in rows:
        if row.skipped is not None:
            print(f"{row.case:<24} {_number(row.value):>12} {row.peer or '-':<12} skipped: {row.skipped}")
            continue
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        print(
            f"{row.case:<24} {_number(row.value):>12} {row.peer or '-':<12} {_number(row.peer_value):>12} {ratio:>7}"
            f"  {row.unit}, {row.runs}{'  ' if row.note else ''}{row.note}"
        )
    if json_path is not None:
        document = {"machine": machine(), "rows": [_as_json(row) for row in rows]}
        Path(json_path).write_text(json.dumps(document, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Facts about this machine that explain its figures."""
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = next((int(line.split()[1]) // 1024 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "arch": platform.machine(),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": memory,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "qemu": version("qemu-system-x86_64"),
    }


def version(program: str) -> str | None:
    """Return the first line of `program --version`, None where it is not installed."""
    try:
        result = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return result.stdout.partition("\n")[0]


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _as_json(row: Row) -> dict[str, Any]:
    document: dict[str, Any] = {"case": row.case, "value": row.value, "unit": row.unit, "peer": row.peer}
    if row.skipped is not None:
        return document | {"skipped": row.skipped}
    document |= {"peer_value": row.peer_value, "ratio": row.ratio, "runs": row.runs}
    return document | {"note": row.note} if row.note else document
