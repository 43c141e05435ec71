"""`lab fdb`."""

from __future__ import annotations

import click

from .listing import format_option, show
from .running_lab import lab_option


@click.command("fdb")
@click.argument("network")
@lab_option
@format_option
def command(network: str, lab: str | None, form: str) -> None:
    """Show the addresses the switch NETWORK has learnt, on which port, and how long ago each was heard."""
    from ..coordinator import protocol
    from ..coordinator.client import Client
    from ..rundir import find

    run_dir, _ = find(lab)
    with Client(run_dir) as client:
        answer = client.request(protocol.Fdb(network), timeout=10)
    assert isinstance(answer, protocol.Table)
    show(list(answer.rows), ["mac", "port", "age"], form, empty="nothing learnt yet")
