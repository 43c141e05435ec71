"""What a lab's ports make outside its directory is gone after it, whichever of its processes is killed first."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import LabCommand, processes_of

pytestmark = pytest.mark.namespaces


@pytest.fixture
def made(lab_command: LabCommand, lab_file: Callable[..., Path], runtime_dir: Path) -> list[Path]:
    """A lab with ports of which each makes a file: their paths."""
    paths = [runtime_dir / name for name in ("s", "d", "v", "e")]
    s, d, v, e = paths
    lab_file(
        "name: left\nnetworks:\n  lan0:\n    ports:\n"
        f"      s: {{type: stream, listen: 'unix:{s}'}}\n"
        f"      d: {{type: dgram, local: 'unix:{d}', remote: 'unix:{d}peer'}}\n"
        f"      v: {{type: vde, listen: {v}}}\n"
        f"nodes: {{a: {{kind: netns}}, x: {{kind: external, listen: 'unix:{e}'}}}}\n"
        "links: [[a:eth0, lan0], [x:eth0, lan0]]\n"
    )
    lab_command.ok("up", "-q")
    assert all(path.exists() for path in paths)
    return paths


def kill(pid: int) -> None:
    with ended(pid):
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def ended(pid: int) -> Iterator[None]:
    """Have the process end after the block."""
    fd = os.pidfd_open(pid)
    try:
        yield
        assert select.select([fd], [], [], 30)[0]
    finally:
        os.close(fd)


def coordinator_of(lab: LabCommand) -> int:
    (row,) = json.loads(lab.ok("ls", "-f", "json"))
    return int(row["pid"])


def fabric_of(lab: LabCommand) -> int:
    (run,) = lab.labs.glob("*/run.json")
    return next(
        pid
        for pid in processes_of(json.loads(run.read_text())["run_id"])
        if b"vswitch.fabric" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )


def test_after_the_fabric_was_killed_down_removes_the_files(lab_command: LabCommand, made: list[Path]) -> None:
    kill(fabric_of(lab_command))
    assert all(path.exists() for path in made)
    lab_command.ok("down")
    assert [path for path in made if path.exists()] == []


def test_after_the_coordinator_was_killed_the_fabric_removes_them(lab_command: LabCommand, made: list[Path]) -> None:
    with ended(fabric_of(lab_command)):
        kill(coordinator_of(lab_command))
    assert [path for path in made if path.exists()] == []


def test_after_both_were_killed_gc_removes_them(lab_command: LabCommand, made: list[Path]) -> None:
    fabric = fabric_of(lab_command)
    os.kill(fabric, signal.SIGSTOP)  # so that it does not tidy up
    kill(coordinator_of(lab_command))
    kill(fabric)
    assert all(path.exists() for path in made)
    assert "swept left" in lab_command.ok("gc")
    assert [path for path in made if path.exists()] == []


def test_what_somebody_else_serves_by_now_stays(lab_command: LabCommand, made: list[Path]) -> None:
    stream, datagram, directory, _ = made
    kill(fabric_of(lab_command))
    with contextlib.ExitStack() as stack:
        for path, kind in (
            (stream, socket.SOCK_STREAM),
            (datagram, socket.SOCK_DGRAM),
            (directory / "ctl", socket.SOCK_STREAM),
        ):
            path.unlink()
            other = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            other.bind(str(path))
            if kind == socket.SOCK_STREAM:
                other.listen()
        lab_command.ok("down")
        assert [path.exists() for path in made] == [True, True, True, False]
        assert (directory / "ctl").exists()


@pytest.mark.root
@pytest.mark.tun
def test_after_the_coordinator_was_killed_the_downscript_runs(
    lab_command: LabCommand, lab_file: Callable[..., Path], tmp_path: Path
) -> None:
    script = tmp_path / "down"
    # It takes longer than a process that is being killed has.
    script.write_text(f'#!/bin/sh\nsleep 1 && echo "$1" > {tmp_path}/trace\n')
    script.chmod(0o755)
    lab_file(
        f"networks: {{lan0: {{ports: {{t: {{type: tap, downscript: {script}}}}}}}}}\n"
        "nodes: {a: {kind: netns}}\nlinks: [[a:eth0, lan0]]\n"
    )
    lab_command.ok("up", "-q")
    kill(coordinator_of(lab_command))
    lab_command.ok("gc")  # which waits for the fabric to have done so
    assert (tmp_path / "trace").read_text().startswith("vsw")
