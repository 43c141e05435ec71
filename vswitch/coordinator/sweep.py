"""Sweeping up after labs that crashed: their processes, found by the run id they carry, and their directories."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import NoSuchLabError
from ..rundir import FABRIC_ENV, RUN_ENV, RunDir, base, list_runs
from .leftovers import remove_left_of

_KILL_WAIT = 5000  # ms
_FABRIC_WAIT = 5000
"""Milliseconds for a fabric that has lost its coordinator to clean up: it does so by itself."""
_ROUNDS = 20
_STAGING_LIMIT = 60  # s; staging takes milliseconds


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
    """Have a crashed lab end, kill what is left of it, and delete its files.

    Only processes carrying its run id are touched.
    """
    run = run_dir.run()

    def left() -> list[int]:
        return [pid for pid, run_id in _marked() if run_id == run.run_id]

    for pid in filter(_is_fabric, left()):
        _wait(pid, _FABRIC_WAIT)
    pids = _kill_all(left)
    remove_left_of(run_dir)
    run_dir.remove()
    return Swept(run.name, pids)


def sweep_orphans() -> Swept:
    """Kill this user's processes of labs that have lost their directory; delete directories half made or removed."""
    ours = f"@{base()}"

    def orphans() -> list[int]:
        marked = [(pid, run_id) for pid, run_id in _marked() if run_id.endswith(ours)]
        # Read after the processes: a lab that starts meanwhile has its directory before its first process.
        known = {run.run_id for _, run in list_runs()}
        return [pid for pid, run_id in marked if run_id not in known]

    pids = _kill_all(orphans)
    for entry in base().glob(".gone-*"):
        RunDir(entry).remove()
    for entry in base().glob(".new-*"):
        if _abandoned(RunDir(entry)):
            RunDir(entry).remove()
    return Swept("(no lab)", pids)


def _abandoned(staged: RunDir) -> bool:
    """Whether nobody will rename a staged directory into place any more."""
    try:
        return not staged.run().owner.alive()
    except NoSuchLabError:
        with contextlib.suppress(OSError):
            return time.time() - staged.path.stat().st_mtime > _STAGING_LIMIT
        return False


def sweep_fabric(run_id: str) -> tuple[int, ...]:
    """Kill what the ports of a lab's dead fabric had started; the lab's nodes are left alone. Takes a moment."""
    return _kill_all(lambda: [pid for pid, of in _marked(FABRIC_ENV) if of == run_id])


def _marked(variable_name: str = RUN_ENV) -> Iterator[tuple[int, str]]:
    """Processes of this user, other than this one and its forebears, that carry a run id: (pid, run id)."""
    prefix = f"{variable_name}=".encode()
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


def _kill_all(find: Callable[[], list[int]]) -> tuple[int, ...]:
    """Kill what `find` finds until it finds nothing: a process may have forked while it was being killed."""
    killed: list[int] = []
    for _ in range(_ROUNDS):
        pids = find()
        if not pids:
            break
        _kill(pids)
        killed += pids
    return tuple(dict.fromkeys(killed))


def _kill(pids: list[int]) -> None:
    """Kill processes and wait until they are gone."""
    for pid in pids:
        _wait(pid, _KILL_WAIT, signal.SIGKILL)


def _wait(pid: int, limit: int, number: signal.Signals | None = None) -> None:
    """Send a process a signal, if there is one to send, and wait until it is gone, `limit` ms at most."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            if number is not None:
                signal.pidfd_send_signal(pidfd, number)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll(limit)
        finally:
            os.close(pidfd)


def _is_fabric(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"vswitch.fabric" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return False
