"""The benchmarks run, and report what is asked for. No figure is asserted on that depends on speed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def rows_of(benchmark: str, *arguments: str, to: Path) -> list[dict[str, Any]]:
    """Run a benchmark, briefly; return the rows it writes to a file in `to`."""
    file = to / "rows.json"
    argv = [sys.executable, str(BENCHMARKS / benchmark), "--quick", "--json", str(file), *arguments]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stderr
    document = json.loads(file.read_text())
    assert document["machine"]["cores"] >= 1
    rows: list[dict[str, Any]] = document["rows"]
    return rows


def test_ring_benchmark_counts_frames_and_names_the_peer(tmp_path: Path) -> None:
    (row,) = rows_of("rings.py", "switch/60B/1000macs", to=tmp_path)
    assert (row["case"], row["unit"], row["peer"], row["runs"]) == ("switch/60B/1000macs", "Mpps", "one MAC", 3)
    assert row["value"] > 0
    assert row["ratio"] == row["value"] / row["peer_value"]


@pytest.mark.namespaces
@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs QEMU (package qemu-system-x86)")
@pytest.mark.skipif(shutil.which("vde_switch") is None, reason="needs vde_switch (package vde2)")
def test_port_benchmark_measures_every_type_on_both_sides_and_says_what_bounds_it(tmp_path: Path) -> None:
    peers = dict.fromkeys(("stream", "dgram", "dgram-udp", "mcast", "l2tpv3"), "qemu-hub")
    peers |= {"vde": "vde_switch", "raw-pipe": "vde_switch", "packet": "linux-bridge"}
    only = [word for name in peers for word in ("--only", f"{name}/60B")]
    rows = rows_of("ports.py", *only, to=tmp_path)
    expected = [(f"{name}/60B", beside) for name, peer in peers.items() for beside in (peer, "ceiling")]
    assert [(row["case"], row["peer"]) for row in rows] == expected
    for row in rows:
        assert (row["unit"], row["runs"]) == ("Mfps", 3), row
        assert row["value"] > 0
        assert row["ratio"] == row["value"] / row["peer_value"]
        assert "bound by" in row["note"]


def test_switch_meets_the_criteria_of_rfc_2889_that_do_not_depend_on_speed(tmp_path: Path) -> None:
    """Errored frames go nowhere, and the table holds exactly as many addresses as its limit says."""
    rows = {row["case"]: row for row in rows_of("rfc2889.py", "errored", "address", to=tmp_path)}
    assert [case for case, row in rows.items() if row["passed"] is not True] == []
    assert {"errored/runt/13B", "errored/oversize/69633B", "address-caching-capacity"} <= set(rows)
