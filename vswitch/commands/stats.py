"""`lab stats`."""

from __future__ import annotations

import click

from .listing import format_option, show
from .running_lab import lab_option


@click.command("stats")
@lab_option
@format_option
def command(lab: str | None, form: str) -> None:
    """Show the counters of every port: frames and bytes each way, and every reason frames were dropped for."""
    from ..coordinator import protocol
    from ..coordinator.client import Client
    from ..rundir import find

    run_dir, _ = find(lab)
    with Client(run_dir) as client:
        answer = client.request(protocol.Stats(), timeout=10)
    assert isinstance(answer, protocol.Table)
    rows = [dict(row) for row in answer.rows]
    if form == "table":
        for row in rows:
            row["dropped"] = " ".join(f"{name}={count}" for name, count in row.pop("drops", {}).items() if count)
    columns = ["network", "port", "type", "state", "rx_frames", "rx_bytes", "tx_frames", "tx_bytes", "dropped"]
    show(rows, columns, form, empty="no ports")
