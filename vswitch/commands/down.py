"""`lab down`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .running_lab import lab_option

if TYPE_CHECKING:
    from ..rundir import Run, RunDir


@click.command("down")
@click.option("-a", "--all", "every", is_flag=True, help="All your labs.")
@lab_option
def command(every: bool, lab: str | None) -> None:
    """Take a lab down: its nodes end, and nothing of it is left. A crashed lab is swept up."""
    from ..rundir import find, list_runs

    labs = list_runs() if every else [find(lab)]
    for run_dir, run in labs:
        take_down(run_dir, run)
        click.echo(f"lab {run.name} is down")
    if not labs:
        click.echo("no lab is up")


def take_down(run_dir: RunDir, run: Run) -> None:
    """Ask the coordinator to take its lab down and wait until it is gone; sweep up after one that has crashed."""
    from ..coordinator import protocol
    from ..coordinator.client import Client
    from ..coordinator.launch import wait_gone
    from ..coordinator.sweep import sweep
    from ..errors import NoSuchLabError

    if run.owner.alive():
        try:
            with Client(run_dir) as client:
                client.request(protocol.Down(), timeout=60)
        except NoSuchLabError:
            pass  # it ended by itself meanwhile
        wait_gone(run.owner, timeout=10)
    if run_dir.path.exists():
        sweep(run_dir)
