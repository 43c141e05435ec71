"""`lab console`."""

from __future__ import annotations

import sys

import click

from .running_lab import lab_option, node_argument


@click.command("console")
@lab_option
@node_argument()
def command(lab: str | None, node: str) -> None:
    """Attach to NODE's console: a VM's serial port, a shell in a netns host. Ctrl-] leaves it."""
    from ..coordinator import protocol
    from ..coordinator.client import Client
    from ..errors import LabError
    from ..rundir import find
    from .terminal import join, terminal_environment, terminal_size

    run_dir, run = find(lab)
    with Client(run_dir) as client:
        known = {status.name: status for status in client.status().nodes}
        if node not in known:
            raise LabError(f"no node {node!r} in lab {run.name}; nodes: {', '.join(known) or 'none'}")
        if known[node].driver == "netns":
            shell = ("sh", "-c", "command -v bash >/dev/null && exec bash; exec sh")
            size = terminal_size() if sys.stdin.isatty() else None
            environment = terminal_environment() if size else {}
            request: protocol.Operation = protocol.Exec(node, shell, environment, None, size)
            sys.exit(join(client, request, raw=size is not None))
        greeting = f"attached to {node}'s console; Ctrl-] leaves it"
        sys.exit(join(client, protocol.Console(node), raw=True, detachable=True, greeting=greeting))
