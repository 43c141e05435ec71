"""The `lab` command. Each verb is a module in `commands/`, imported only when it is used."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys

import click

from .errors import LabError, LabFileError

# verb -> its line in `lab --help`; the module is commands/<verb>.py.
VERBS = {
    "up": "Start a lab from its file and wait until every node is ready.",
    "down": "Take a lab down; nothing of it is left.",
    "ls": "List the labs that are up, or crashed.",
    "ps": "Show a lab's nodes and their state.",
    "inspect": "Show the interfaces of a node, and how to join one from outside.",
    "exec": "Run a command in a node.",
    "console": "Attach to a node's console.",
    "logs": "Show what nodes printed on their consoles.",
    "check": "Run the file's checks against the lab.",
    "network": "List networks, or show and change the settings of one.",
    "port": "Show the ports of a network, or change the settings of one.",
    "stats": "Show the counters of every port, or watch their rates.",
    "fdb": "Show the addresses a switch knows, add or remove one.",
    "events": "Follow what happens in a lab.",
    "validate": "Check a lab file and report every mistake.",
    "config": "Print a lab file as it is understood: defaults, addresses and MACs filled in.",
    "schema": "Print the lab file's JSON Schema, for editors.",
    "graph": "Draw a lab's topology.",
    "image": "Build and list guest images.",
    "doctor": "Say what this machine can do, and what to install for the rest.",
    "gc": "Sweep what crashed labs left behind.",
    "completion": "Print shell completion: bash, zsh or fish.",
    "version": "Print the version.",
}


class _Verbs(click.Group):
    """Imports a verb's module when it is called, so that `lab --help` and `lab ps` stay quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"{__package__}.commands.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"no command {args[0]!r}{hint}\nCommands: {', '.join(VERBS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with: lab up lab.yaml, then lab ps, lab exec NODE -- COMMAND, lab down.",
)
@click.version_option(package_name="vswitch", prog_name="lab")
def lab() -> None:
    """Virtual network labs from one YAML file: real machines on a fast user-space Ethernet."""


def main() -> None:
    """Run the command line; errors meant for the user go to stderr as they are, without a traceback."""
    _open_standard_streams()
    try:
        lab(prog_name="lab")
    except LabError as error:
        # Mistakes in a file are left as they are: editors and CI find their file:line:column at the line's beginning.
        plain = isinstance(error, LabFileError) or "\n" in str(error)
        click.echo(str(error) if plain else f"lab: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a directory that may not be written: the system's own words say it
        with contextlib.suppress(OSError):
            place = f": {error.filename}" if error.filename is not None else ""
            click.echo(f"lab: {error.strerror or error}{place}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what could not be written is not tried again at exit
        sys.exit(1)


def _open_standard_streams() -> None:
    """Make sure that descriptors 0, 1 and 2 are open (on /dev/null if need be), whoever started us without.

    Otherwise the next file opened would become our standard input, or be printed to.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
