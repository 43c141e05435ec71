"""Starting a lab's coordinator, and waiting for it to be gone."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from .. import __version__
from ..errors import LabError
from ..model.lab import Lab
from ..rundir import CrashedLabError, Process, Run, RunDir, claim
from .client import Client
from .descriptors import named_descriptors
from .protocol import Detach
from .sweep import sweep

_HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Standby:
    """A coordinator that has started and waits to be given its lab, so that it can load while the lab file is read.

    Its life hangs on `lifeline` until it is told `Detach`: close that, or die, and it takes its lab, if any, down.
    """

    def __init__(self) -> None:
        self._detached = False
        self.lifeline, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vswitch.coordinator", "--lifeline", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def begin(self, run_dir: RunDir, descriptors: Sequence[int]) -> None:
        """Have it bring up the lab of `run_dir`; it gets duplicates of `descriptors`. Raises LabError."""
        try:
            # Far less than the socket's buffer, so it is taken whole.
            socket.send_fds(self.lifeline, [os.fsencode(run_dir.path) + b"\n"], descriptors)
        except OSError as error:
            raise LabError(f"handing descriptors {list(descriptors)} to the lab: {error.strerror}") from None

    def detach(self, client: Client) -> None:
        """Have the lab run on by itself. Signals are held back meanwhile: it is either ours or on its own."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
        try:
            client.request(Detach(), timeout=10)
            self._detached = True
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)

    @property
    def detached(self) -> bool:
        """Whether the lab runs on by itself."""
        return self._detached

    def close(self) -> None:
        """Let go; unless it was detached, wait until the coordinator, with its lab, is gone. Idempotent."""
        self.lifeline.close()
        if not self._detached:
            self.process.wait(timeout=60)
        else:
            self.process.returncode = 0  # it outlives us on purpose, so that is nothing to warn of


class Launched(NamedTuple):
    """A lab being brought up."""

    run_dir: RunDir
    run: Run
    standby: Standby


def launch(lab: Lab, standby: Standby, *, name: str | None = None) -> Launched:
    """Claim a run directory for `lab` and give it to a coordinator, which begins bringing it up.

    `name` insists on that name for the running lab; without it the lab's own name is used, with a number after it
    where another file's lab has it. Remains of a crashed lab in the way are swept first. Descriptors that the lab names
    go along as duplicates; ours remain. Raises AlreadyUpError, or LabError when one is not open.
    """
    while True:
        try:
            run_dir, run = claim(name or lab.name, lab.source, version=__version__, exact=name is not None)
            break
        except CrashedLabError as crashed:
            sweep(crashed.run_dir)
    try:
        run_dir.lab_file.write_bytes(msgspec.json.encode(lab))
        run = msgspec.structs.replace(run, owner=Process.of(standby.process.pid))
        run_dir.write_run(run)  # from here on the directory is the coordinator's
        standby.begin(run_dir, named_descriptors(lab))
    except BaseException:
        standby.close()
        run_dir.remove()
        raise
    return Launched(run_dir, run, standby)


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
