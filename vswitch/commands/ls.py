"""`lab ls`."""

from __future__ import annotations

import click

from .listing import age, format_option, show


@click.command("ls")
@format_option
def command(form: str) -> None:
    """List your labs: running, broken (up, but something essential died) or crashed (see: lab gc)."""
    import time

    from ..coordinator.client import Client
    from ..errors import LabError
    from ..rundir import list_runs

    rows = []
    for run_dir, run in list_runs():
        row = {"name": run.name, "state": "crashed", "cause": "its coordinator has died; sweep it up with: lab gc"}
        if run.owner.alive():
            try:
                with Client(run_dir) as client:
                    status = client.status(timeout=2)
                ready = sum(node.state == "ready" for node in status.nodes)
                row |= {
                    "state": status.state,
                    "cause": status.cause.split("\n")[0],
                    "nodes": f"{ready}/{len(status.nodes)}",
                }
            except LabError as error:
                row |= {"state": "unreachable", "cause": str(error)}
        rows.append(row | {"pid": run.owner.pid, "up": age(time.time() - run.created), "file": run.source})
    show(rows, ["name", "state", "nodes", "up", "pid", "file", "cause"], form, empty="no lab is up")
