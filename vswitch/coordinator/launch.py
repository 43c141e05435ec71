"""Starting a lab's coordinator, and waiting for it to be gone."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
from typing import NamedTuple

import msgspec

from .. import __version__
from ..model.lab import Lab
from ..rundir import RUN_ENV, CrashedLabError, Process, Run, RunDir, claim
from .sweep import sweep


class Launched(NamedTuple):
    """A lab being brought up. While `lifeline` is open and `Detach` has not been sent, the lab's life hangs on it:
    close it, or die, and the lab goes down.
    """

    run_dir: RunDir
    run: Run
    lifeline: socket.socket
    coordinator: subprocess.Popen[bytes]


def launch(lab: Lab, *, name: str | None = None) -> Launched:
    """Claim a run directory for `lab` and start its coordinator, which begins bringing it up.

    `name` insists on that name for the running lab; without it the lab's own name is used, with a number after it
    where another file's lab has it. Remains of a crashed lab in the way are swept first. Raises AlreadyUpError.
    """
    while True:
        try:
            run_dir, run = claim(name or lab.name, lab.source, version=__version__, exact=name is not None)
            break
        except CrashedLabError as crashed:
            sweep(crashed.run_dir)
    ours, theirs = socket.socketpair()
    try:
        run_dir.lab_file.write_bytes(msgspec.json.encode(lab))
        with run_dir.log.open("ab") as log, theirs:
            coordinator = subprocess.Popen(
                [sys.executable, "-m", "vswitch.coordinator", run_dir.path, "--lifeline", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env={**os.environ, RUN_ENV: run.run_id},
            )
        # From here on the directory is the coordinator's.
        run_dir.write_run(msgspec.structs.replace(run, owner=Process.of(coordinator.pid)))
    except BaseException:
        ours.close()
        run_dir.remove()
        raise
    return Launched(run_dir, run, ours, coordinator)


def wait_gone(process: Process, timeout: float) -> bool:
    """Wait until `process` has ended; return whether it has within `timeout` seconds."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(process.pid)
        try:
            if process.alive():
                return bool(select.select([pidfd], [], [], timeout)[0])
        finally:
            os.close(pidfd)
    return True
