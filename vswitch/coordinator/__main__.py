"""Start a coordinator: `python -m vswitch.coordinator RUN_DIR --lifeline FD`. `lab up` does; users do not."""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
import subprocess
import sys
from pathlib import Path

import msgspec

from ..errors import LabError, MachineError
from ..model.lab import Lab
from ..namespace import enter_lab_namespace
from ..rundir import RunDir
from .supervise import Child


def main() -> None:
    """Own one lab until it is taken down."""
    parser = argparse.ArgumentParser(prog="vswitch-coordinator")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--lifeline", type=int, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    run_dir = RunDir(arguments.run_dir)
    run = run_dir.run()
    lifeline = socket.socket(fileno=arguments.lifeline)
    lifeline.setblocking(False)
    lab = msgspec.json.decode(run_dir.lab_file.read_bytes(), type=Lab)

    # The fabric starts before we leave the host's network namespace: ports that face outside the lab belong there.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, (run_dir.path / "fabric.log").open("ab") as fabric_log:
        fabric = Child.spawn(
            [sys.executable, "-m", "vswitch.fabric", "--control-fd", str(theirs.fileno())],
            run_id=run.run_id,
            pass_fds=[theirs.fileno()],
            output=fabric_log,
        )
    try:
        enter_lab_namespace()
        namespace = True
    except MachineError as error:
        logging.getLogger(__name__).warning("%s", error)
        namespace = False

    from .server import Coordinator  # imported last: it starts ZeroMQ's threads, and a user namespace wants one thread

    async def run_lab() -> None:
        coordinator = Coordinator(run_dir, lab, namespace=namespace, fabric=fabric, control=ours, lifeline=lifeline)
        await coordinator.serve()

    try:
        asyncio.run(run_lab())
    except (LabError, subprocess.SubprocessError) as error:
        logging.getLogger(__name__).error("%s", error)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
