"""`lab ps`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from .listing import age, format_option, show
from .running_lab import lab_option

if TYPE_CHECKING:
    from ..coordinator.protocol import LabStatus


_TELLING = ("waiting", "accel", "role")
"""Facts worth a place in the table, the first there is."""


@click.command("ps")
@lab_option
@format_option
def command(lab: str | None, form: str) -> None:
    """Show a lab's nodes: state, addresses, process, and why a node has exited."""
    from ..coordinator.client import Client
    from ..rundir import find

    run_dir, _ = find(lab)
    with Client(run_dir) as client:
        show_nodes(client.status(), form)


def show_nodes(status: LabStatus, form: str) -> None:
    """Print a lab's nodes; a lab that is not running is named first, with the cause."""
    import time

    if status.state != "running" and form == "table":
        click.echo(f"lab {status.name} is {status.state}" + (f": {status.cause}" if status.cause else ""), err=True)
    rows: list[dict[str, Any]] = [
        {
            "node": node.name,
            "kind": node.kind,
            "driver": node.driver,
            "state": node.state,
            "addresses": " ".join(
                f"{interface}={','.join(addresses) or '-'}" for interface, addresses in node.interfaces.items()
            ),
            "pid": node.pid,
            "ready_in": None if node.boot_seconds is None else f"{node.boot_seconds:.2f}s",
            "up": age(time.time() - node.since),
            "info": node.cause.split("\n")[0]
            or node.facts.get("waiting", node.facts.get("accel", node.facts.get("role", ""))),
            "macs": node.macs,
            "facts": node.facts,
        }
        for node in status.nodes
    ]
    show(rows, ["node", "kind", "state", "addresses", "pid", "ready_in", "info"], form, empty="the lab has no nodes")
    sys.stdout.flush()
