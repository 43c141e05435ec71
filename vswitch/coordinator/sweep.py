"""Sweeping up after labs that crashed: their processes, found by the run id they carry, and their directories."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..rundir import RUN_ENV, RunDir, base, list_runs

_KILL_WAIT = 5000  # ms


class Swept(NamedTuple):
    """What sweeping one lab removed."""

    name: str
    pids: tuple[int, ...]


def crashed() -> Iterator[RunDir]:
    """Every lab directory of this user whose coordinator is dead."""
    for run_dir, run in list_runs():
        if not run.owner.alive():
            yield run_dir


def sweep(run_dir: RunDir) -> Swept:
    """Kill what is left of a crashed lab and delete its directory. Only processes carrying its run id are touched."""
    run = run_dir.run()
    pids = tuple(_processes_of(run.run_id))
    _kill(pids)
    run_dir.remove()
    return Swept(run.name, pids)


def sweep_orphans() -> Swept:
    """Kill this user's processes of labs that have lost their directory, and delete half-removed directories."""
    known = {run.run_id for _, run in list_runs()}
    ours = f"@{base()}"
    pids = tuple(pid for pid, run_id in _marked() if run_id.endswith(ours) and run_id not in known)
    _kill(pids)
    for entry in base().glob(".gone-*"):
        RunDir(entry).remove()
    return Swept("(no lab)", pids)


def _processes_of(run_id: str) -> Iterator[int]:
    return (pid for pid, marked in _marked() if marked == run_id)


def _marked() -> Iterator[tuple[int, str]]:
    """Processes of this user, other than this one and its forebears, that carry a run id: (pid, run id)."""
    prefix = f"{RUN_ENV}=".encode()
    own = set(_forebears())
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in own:
            continue
        with contextlib.suppress(OSError):  # ended meanwhile, or not ours to look at
            if entry.stat().st_uid != os.getuid():
                continue
            for variable in (entry / "environ").read_bytes().split(b"\0"):
                if variable.startswith(prefix):
                    yield int(entry.name), variable[len(prefix) :].decode(errors="replace")


def _forebears() -> Iterator[int]:
    pid = os.getpid()
    while pid > 0:
        yield pid
        try:
            text = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return
        pid = int(text[text.rindex(b")") + 2 :].split()[1])


def _kill(pids: tuple[int, ...]) -> None:
    """Kill processes and wait until they are gone."""
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll(_KILL_WAIT)
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)
