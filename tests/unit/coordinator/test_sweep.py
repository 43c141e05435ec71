"""What a dead fabric's ports had started is ended, and nothing else."""

from __future__ import annotations

import os
import secrets
import subprocess

from vswitch.coordinator.sweep import sweep_fabric
from vswitch.rundir import FABRIC_ENV, RUN_ENV


def test_what_a_dead_fabric_left_is_killed_and_nodes_are_not() -> None:
    """Nor what belongs to the fabric of another lab."""
    ours, other = secrets.token_hex(8), secrets.token_hex(8)
    left, node, others = (
        subprocess.Popen(["sleep", "1000"], env={**os.environ, RUN_ENV: ours, **more})
        for more in ({FABRIC_ENV: ours}, {}, {FABRIC_ENV: other})
    )
    try:
        assert sweep_fabric(ours) == (left.pid,)
        assert left.wait(20) == -9
        assert (node.poll(), others.poll()) == (None, None)
    finally:
        for process in (left, node, others):
            process.kill()
            process.wait()
