"""`lab gc`."""

from __future__ import annotations

import click


@click.command("gc")
def command() -> None:
    """Sweep what crashed labs left behind: processes and directories. Running labs are not touched."""
    from ..coordinator.sweep import crashed, sweep, sweep_orphans

    swept = [sweep(run_dir) for run_dir in crashed()]
    orphans = sweep_orphans()
    for lab in [*swept, *([orphans] if orphans.pids else [])]:
        click.echo(f"swept {lab.name}: {len(lab.pids)} process(es)" + "".join(f" {pid}" for pid in lab.pids))
    if not swept and not orphans.pids:
        click.echo("nothing to sweep")
