"""`lab logs`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import click

from .listing import reader_gone
from .running_lab import lab_option, node_argument


@click.command("logs")
@lab_option
@click.option("-f", "--follow", is_flag=True, help="Go on printing until the lab goes down.")
@click.option("-n", "--tail", type=int, metavar="N", help="Begin with only the last N lines of each.")
@node_argument(required=False)
def command(lab: str | None, follow: bool, tail: int | None, node: str | None) -> None:
    """Show what NODE printed on its console; without NODE, every node's, and the lab's own log, each line named."""
    from ..coordinator.client import Client
    from ..errors import LabError, NoSuchLabError
    from ..rundir import find

    run_dir, run = find(lab)
    if node is not None:
        sources = {"": run_dir.console_log(node)}
        if not sources[""].exists():
            known = sorted(path.name for path in (run_dir.path / "nodes").glob("*"))
            raise LabError(
                f"no console of {node!r} in lab {run.name}; nodes with one: {', '.join(known) or 'none yet'}"
            )
    else:
        sources = {"lab": run_dir.log, "fabric": run_dir.path / "fabric.log"}
        sources |= {path.parent.name: path for path in sorted((run_dir.path / "nodes").glob("*/console.log"))}
    tails = [_Tail(name, path) for name, path in sources.items() if path.exists()]
    for source in tails:
        source.print_new(tail)
    if follow:
        try:
            with Client(run_dir) as client:
                for _ in client.follow():  # about ten times a second, and at once when something happens
                    for source in tails:
                        source.print_new()
                    if reader_gone():
                        return
        except (NoSuchLabError, KeyboardInterrupt):
            pass
    for source in tails:
        source.print_rest()


class _Tail:
    """Prints what is new in a file, whole lines, each with the file's name in front."""

    def __init__(self, name: str, path: Path) -> None:
        self._prefix = f"{name} | ".encode() if name else b""
        self._file: BinaryIO = path.open("rb")
        self._rest = b""

    def print_new(self, last: int | None = None) -> None:
        """Print the whole lines that are new, or only the last few of them."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        if last is not None:
            lines = lines[-last:] if last > 0 else []
        out = sys.stdout.buffer
        for text in lines:
            out.write(self._prefix + text.rstrip(b"\r") + b"\n")
        out.flush()

    def print_rest(self) -> None:
        """Print what is new, also a last line that has not ended (a prompt)."""
        self.print_new()
        if self._rest.strip():
            sys.stdout.buffer.write(self._prefix + self._rest.rstrip(b"\r") + b"\n")
            sys.stdout.buffer.flush()
            self._rest = b""
