"""`lab up`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import click

from .lab_file import lab_file_argument

if TYPE_CHECKING:
    from ..coordinator.client import Client
    from ..coordinator.launch import Launched
    from ..model.lab import Lab
    from ..rundir import Run, RunDir

_INTERRUPTED = 130
_MOST_WAITING = 10
"""Ports without a peer that are named."""
_DEADLY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Interrupted(Exception):
    """The user pressed Ctrl-C, or the terminal went away."""


@click.command("up")
@lab_file_argument
@click.option("-a", "--attach", is_flag=True, help="Stay attached and show events; Ctrl-C takes the lab down.")
@click.option("-n", "--name", metavar="NAME", help="Name of the running lab: another copy of the same file needs one.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True, max=1e6),
    metavar="SECONDS",
    help="Give up when not every node is ready after this long.",
)
@click.option("--keep", is_flag=True, help="If a node does not become ready, leave the lab up to be looked at.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no table of nodes.")
def command(
    file: str, attach: bool, name: str | None, timeout: float | None, keep: bool, dry_run: bool, quiet: bool
) -> None:
    """Start the lab in FILE and wait until every node is ready; then it runs on by itself.

    If a node does not become ready, says which and why with the end of its console, takes the lab down again (unless
    --keep) and exits 1.
    """
    for number in _DEADLY:
        signal.signal(number, _interrupt)
    try:
        if dry_run:
            _print_plan(file)
        else:
            sys.exit(_bring_up(file, name, attach=attach, timeout=timeout, keep=keep, quiet=quiet))
    except (_Interrupted, KeyboardInterrupt):
        click.echo("\ninterrupted before the lab had begun; nothing is left", err=True)
        sys.exit(_INTERRUPTED)


def _interrupt(number: int, frame: object) -> None:
    raise _Interrupted


def _ignore_signals() -> None:
    """Cleaning up is quick and must not be cut short."""
    for number in _DEADLY:
        signal.signal(number, signal.SIG_IGN)


def _load(file: str, *, inherited: bool) -> Lab:
    from ..model import load

    lab = load(file, inherited=inherited)
    for warning in lab.warnings:
        click.echo(f"warning: {warning}", err=True)
    return lab


def _print_plan(file: str) -> None:
    from ..coordinator import plan

    for action in plan.diff(None, _load(file, inherited=False)):
        click.echo(action)


def _bring_up(file: str, name: str | None, *, attach: bool, timeout: float | None, keep: bool, quiet: bool) -> int:
    from ..coordinator.descriptors import named_descriptors
    from ..coordinator.launch import Standby, launch
    from ..errors import LabError
    from ..rundir import AlreadyUpError

    begun = time.monotonic()
    if name is not None:
        from ..model import check_name

        check_name(name)
    standby = Standby()  # it loads while we read the file
    try:
        lab = _load(file, inherited=True)
        try:
            launched = launch(lab, standby, name=name)
        except AlreadyUpError as up:
            if up.run.source != lab.source:
                raise LabError(f"{up}; choose another --name") from None
            return _already_up(lab, up.run_dir, up.run)
        for number in named_descriptors(lab):  # the lab has them now; ours would keep its peers' ends open
            os.close(number)
        try:
            return _see_through(lab, launched, begun, attach=attach, timeout=timeout, keep=keep, quiet=quiet)
        except (_Interrupted, KeyboardInterrupt):
            if standby.detached:
                click.echo(f"\ninterrupted, but lab {launched.run.name} was up already; see: lab down", err=True)
                return _INTERRUPTED
            _ignore_signals()
            click.echo(f"\ninterrupted: taking lab {launched.run.name} down", err=True)
            _end(launched)
            click.echo(f"lab {launched.run.name} is down, nothing is left", err=True)
            return 0 if attach else _INTERRUPTED
    finally:
        _ignore_signals()
        standby.close()


def _see_through(
    lab: Lab, launched: Launched, begun: float, *, attach: bool, timeout: float | None, keep: bool, quiet: bool
) -> int:
    """Wait until the lab runs and let go of it, or say why it does not; return the exit code."""
    from ..coordinator.client import Client

    name = launched.run.name
    with Client(launched.run_dir) as client:
        failure = _wait_ready(client, lab, launched, timeout, quiet)
        if failure is not None:
            click.echo(f"lab {name} did not come up: {failure}", err=True)
            if keep:
                launched.standby.detach(client)
                click.echo(f"it is kept as it is; see: lab ps, lab logs; end it with: lab down -l {name}", err=True)
            else:
                _end(launched)
                click.echo(f"lab {name} has been taken down (--keep leaves it up to be looked at)", err=True)
            return 1
        if not quiet:
            _show_ready(client, launched.run, time.monotonic() - begun)
        if attach:
            click.echo(f"attached to lab {name}; Ctrl-C takes it down", err=True)
            _follow(client)
        else:
            launched.standby.detach(client)
    return 0


def _already_up(lab: Lab, run_dir: RunDir, run: Run) -> int:
    """Say that this file's lab is up, and if it is not what the file says now; return the exit code."""
    import msgspec

    from ..coordinator.client import Client

    with Client(run_dir) as client:
        status = client.status()
    click.echo(f"lab {run.name} is already up (see: lab ps; another copy of it: lab up --name NAME)")
    if run_dir.lab_file.read_bytes() != msgspec.json.encode(lab):
        click.echo(
            "note: file and lab differ (the file has changed since, or settings of the lab have); "
            "lab down, then lab up, to have it as the file says",
            err=True,
        )
    if status.state == "broken":
        click.echo(f"but it is broken: {status.cause}", err=True)
        return 1
    return 0


def _end(launched: Launched) -> None:
    """Take a lab that has not been detached down: letting go of the lifeline is enough, also before it listens."""
    from ..coordinator.sweep import sweep

    launched.standby.close()
    if launched.run_dir.path.exists():
        sweep(launched.run_dir)


def _wait_ready(client: Client, lab: Lab, launched: Launched, timeout: float | None, quiet: bool) -> str | None:
    """Follow the lab until it runs; return None, or why it does not."""
    from ..coordinator.protocol import Event, LabStatus
    from ..errors import NoSuchLabError

    end = None if timeout is None else time.monotonic() + timeout
    progress = _progress(lab, quiet)
    states: dict[str, str] = {}
    try:
        with progress:
            for news in client.follow():
                if isinstance(news, LabStatus):
                    states = {node.name: node.state for node in news.nodes}
                    lab_state, cause = news.state, news.cause
                elif isinstance(news, Event):
                    if news.what == "node":
                        states[news.name] = news.state
                    elif news.what == "lab":
                        lab_state, cause = news.state, news.cause
                progress.update(states)
                if lab_state == "running":
                    return None
                if lab_state in ("broken", "stopping"):
                    return cause or "it was taken down"
                if end is not None and time.monotonic() >= end:
                    late = ", ".join(f"{node} is {state}" for node, state in states.items() if state != "ready")
                    return f"not ready within {timeout:g} s: {late}" + _consoles(launched.run_dir, states)
    except NoSuchLabError:
        code = launched.standby.process.wait(timeout=10)
        return f"its coordinator ended with exit code {code}:\n{_log_tail(launched.run_dir)}"
    return "no more news from its coordinator"


def _consoles(run_dir: RunDir, states: dict[str, str]) -> str:
    """The last lines of the consoles of the first few nodes that are not ready."""
    text = ""
    for node in [node for node, state in states.items() if state != "ready"][:3]:
        with contextlib.suppress(OSError):
            lines = run_dir.console_log(node).read_text(errors="replace").splitlines()[-10:]
            text += f"\n  {node}'s console:\n" + "\n".join(f"    {line}" for line in lines)
    return text


def _log_tail(run_dir: RunDir) -> str:
    try:
        return "\n".join(f"    {line}" for line in run_dir.log.read_text(errors="replace").splitlines()[-15:])
    except OSError:
        return "    (its log is gone)"


def _show_ready(client: Client, run: Run, seconds: float) -> None:
    from .ps import show_nodes

    show_nodes(client.status(), "table")
    click.echo(f"lab {run.name} is up: every node ready in {seconds:.1f} s")
    _show_waiting(client)


def _show_waiting(client: Client) -> None:
    """Name the ports that have no peer yet, or never will: the lab is up without them."""
    from ..coordinator import protocol

    waiting = [row for row in client.table(protocol.Stats()) if row["state"] != "up" and row["type"] != "ring"]
    for row in waiting[:_MOST_WAITING]:
        why = f": {row['reason']}" if row["reason"] else ""
        click.echo(f"port {row['network']}/{row['port']} ({row['type']}) is {row['state']}{why}")
    if len(waiting) > _MOST_WAITING:
        click.echo(f"{len(waiting) - _MOST_WAITING} more ports are not up; see: lab stats")


def _follow(client: Client) -> None:
    from .events import line

    for news in client.follow():
        if news is not None and not hasattr(news, "nodes"):
            click.echo(line(news))


class _Progress:
    """Says nothing."""

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def update(self, states: dict[str, str]) -> None:
        """Take the nodes' states as they are now."""


class _PlainProgress(_Progress):
    """One line a node as it becomes ready; in a large lab one line for every tenth of the nodes."""

    _MANY = 30

    def __init__(self, total: int) -> None:
        self._total = total
        self._ready: set[str] = set()

    def update(self, states: dict[str, str]) -> None:
        new = {node for node, state in states.items() if state == "ready"} - self._ready
        before = len(self._ready)
        self._ready |= new
        if self._total <= self._MANY:
            for node in sorted(new):
                click.echo(f"{node} is ready", err=True)
        elif new and before * 10 // self._total != len(self._ready) * 10 // self._total:
            click.echo(f"{len(self._ready)} of {self._total} nodes ready", err=True)


class _LiveProgress(_Progress):
    """One line on a terminal, rewritten as states change."""

    def __init__(self, lab: Lab) -> None:
        from rich.console import Console
        from rich.status import Status

        self._lab = lab
        self._status = Status(f"starting lab {lab.name}", console=Console(stderr=True))

    def __enter__(self) -> _Progress:
        self._status.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._status.stop()

    def update(self, states: dict[str, str]) -> None:
        ready = sum(state == "ready" for state in states.values())
        booting = [node for node, state in states.items() if state == "booting"]
        shown = ", ".join(booting[:4]) + (f" and {len(booting) - 4} more" if len(booting) > 4 else "")
        text = f"lab {self._lab.name}: {ready} of {len(self._lab.nodes)} nodes ready"
        self._status.update(text + (f"; booting {shown}" if shown else ""))


def _progress(lab: Lab, quiet: bool) -> _Progress:
    if quiet:
        return _Progress()
    return _LiveProgress(lab) if sys.stderr.isatty() else _PlainProgress(len(lab.nodes))
