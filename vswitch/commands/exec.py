"""`lab exec`."""

from __future__ import annotations

import sys

import click

from .running_lab import lab_option, node_argument


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@lab_option
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal: for shells, editors, top.")
@click.option("-e", "--env", multiple=True, metavar="KEY=VALUE", help="Set a variable in the command's environment.")
@click.option("-w", "--workdir", metavar="DIR", help="Directory to run it in.")
@node_argument()
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND...")
def command(
    lab: str | None, tty: bool, env: tuple[str, ...], workdir: str | None, node: str, argv: tuple[str, ...]
) -> None:
    """Run COMMAND in NODE with this terminal's input and output, and exit with its exit code.

    \b
    lab exec vm1 -- ping -c1 vm2
    lab exec -t h1 -- bash
    tar c dir | lab exec vm1 -- tar x -C /tmp
    """
    from ..coordinator import protocol
    from ..coordinator.client import Client
    from ..rundir import find
    from .terminal import join, terminal_environment, terminal_size

    if argv[0] == "--":
        argv = argv[1:]
    if not argv:
        raise click.UsageError("say what to run: lab exec NODE -- COMMAND")
    environment = terminal_environment() if tty else {}
    for setting in env:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise click.UsageError(f"--env wants KEY=VALUE, not {setting!r}")
        environment[key] = value
    run_dir, _ = find(lab)
    with Client(run_dir) as client:
        request = protocol.Exec(node, argv, environment, workdir, terminal_size() if tty else None)
        sys.exit(join(client, request, raw=tty))
