"""Start a coordinator: `python -m vswitch.coordinator --lifeline FD`. `lab up` does; users do not."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys
from pathlib import Path

import msgspec

from ..errors import LabError, MachineError
from ..model.lab import Lab
from ..namespace import enter_lab_namespace
from ..ports.descriptors import MAX_OF_LAB
from ..rundir import FABRIC_ENV, RunDir
from .descriptors import Descriptors
from .server import Coordinator
from .supervise import Child

log = logging.getLogger(__name__)

_MAX_TOLD = 8192
"""Bytes: a path and a newline, sent at once."""


def main() -> None:
    """Wait to be given a lab over the lifeline, then own it until it is taken down."""
    parser = argparse.ArgumentParser(prog="vswitch-coordinator")
    parser.add_argument("--lifeline", type=int, required=True)
    lifeline = socket.socket(fileno=parser.parse_args().lifeline)
    told, fds, flags, _ = socket.recv_fds(lifeline, _MAX_TOLD, MAX_OF_LAB, socket.MSG_CMSG_CLOEXEC)
    if not told:
        return  # there is no lab after all
    lifeline.setblocking(False)
    run_dir = RunDir(Path(os.fsdecode(told.rstrip(b"\n"))))
    with run_dir.log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        if flags & socket.MSG_CTRUNC:
            raise LabError("the lab's descriptors are more than this process may have (ulimit -n)")
        _own(run_dir, lifeline, fds)
    except Exception:
        log.exception("the coordinator ends")
        os._exit(1)
    # Nothing is left to be tidied up in this process, and whoever took the lab down waits for its end.
    os._exit(0)


def _own(run_dir: RunDir, lifeline: socket.socket, fds: list[int]) -> None:
    run = run_dir.run()
    lab = msgspec.json.decode(run_dir.lab_file.read_bytes(), type=Lab)
    descriptors = Descriptors(lab, fds)
    # The fabric starts before we leave the host's network namespace: ports that face outside the lab belong there.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, (run_dir.path / "fabric.log").open("ab") as fabric_log:
        fabric = Child.spawn(
            [sys.executable, "-m", "vswitch.fabric", "--control-fd", str(theirs.fileno())],
            run_id=run.run_id,
            pass_fds=[theirs.fileno()],
            env={**os.environ, FABRIC_ENV: run.run_id},
            output=fabric_log,
        )
    # No thread has been started yet (importing ZeroMQ starts none): a new user namespace wants a single one.
    try:
        enter_lab_namespace()
        namespace = True
    except MachineError as error:
        log.warning("%s", error)
        namespace = False

    async def serve() -> None:
        coordinator = Coordinator(
            run_dir,
            lab,
            namespace=namespace,
            fabric=fabric,
            control=ours,
            lifeline=lifeline,
            descriptors=descriptors,
        )
        await coordinator.serve()

    asyncio.run(serve())
    run_dir.remove()  # not after an error: whoever sweeps up should be able to read the log before


if __name__ == "__main__":
    main()
