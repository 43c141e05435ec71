"""`lab inspect`."""

from __future__ import annotations

import click

from .listing import format_option, show
from .running_lab import lab_option, node_argument

_TITLES = {
    "qemu": "QEMU",
    "uml": "User-Mode Linux",
    "vde": "VDE",
    "lab": "a port in another lab file",
}


@click.command("inspect")
@node_argument(required=False)
@lab_option
@format_option
def command(node: str | None, lab: str | None, form: str) -> None:
    """Show every interface of NODE, or of the lab: MAC, addresses, link, port and its state.

    \b
    lab inspect                  every interface of the lab
    lab inspect vm1              those of one node
    lab inspect ext1             of an external node: also how to join it
    lab inspect ext1 -f json | jq -r '.[0].join.qemu'

    A node of kind external waits for somebody else's machine. What is printed for it are the options to give QEMU or
    User-Mode Linux, or the command, to become its interface: with its MAC address, so that the addresses shown are
    that machine's to take.
    """
    from ..coordinator import protocol
    from ..coordinator.client import Client
    from ..rundir import find

    run_dir, _ = find(lab)
    with Client(run_dir) as client:
        rows = client.table(protocol.Inspect(node))
    if form == "json":
        show(rows, [], form)
        return
    shown = [{**row, "addresses": " ".join(row["addresses"])} for row in rows]
    columns = ["node", "interface", "mac", "addresses", "mtu", "link", "transport", "state"]
    show(shown, columns if node is None else columns[1:], form, empty="there are no interfaces")
    for row in rows if node is not None else ():
        if not row["join"]:
            continue
        click.echo(f"\nTo join as {row['node']}:{row['interface']}:")
        for program, words in row["join"].items():
            click.echo(f"  {_TITLES[program]}:\n    {words}")
