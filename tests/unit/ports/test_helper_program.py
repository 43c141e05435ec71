"""Programs a port runs for a moment end with the process that runs them."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

TIMEOUT = 20.0


def test_program_dies_with_a_process_that_is_killed(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    code = (
        "import asyncio, sys; from vswitch.ports.helper_program import run_program; "
        "asyncio.run(run_program(['/bin/sh', '-c', f'exec sleep 1000 > {sys.argv[1]}']))"
    )
    end = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with open(end, "rb", buffering=0), subprocess.Popen([sys.executable, "-c", code, str(fifo)]) as parent:
        watch = select.poll()
        watch.register(end, select.POLLIN)
        try:
            # A poll of a FIFO nobody has opened yet waits; its writer is there once /proc says that sleep runs.
            children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
            while not any(Path(f"/proc/{pid}/comm").read_text() == "sleep\n" for pid in children.read_text().split()):
                assert parent.poll() is None
                select.select([], [], [], 0.01)
        finally:
            parent.kill()
        assert watch.poll(TIMEOUT * 1000), "it lives on"
