"""Children watched through pidfds, and sweeping up after a crash."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from vswitch import rundir
from vswitch.coordinator import sweep as sweep_module
from vswitch.coordinator.supervise import Child, describe_exit
from vswitch.coordinator.sweep import crashed, sweep, sweep_orphans


def test_child_is_awaited_by_many_and_reports_its_exit_code() -> None:
    async def scenario() -> tuple[int, int]:
        child = Child.spawn(["sh", "-c", "exit 3"], run_id="x")
        first, second = await asyncio.gather(child.wait(), child.wait())
        return first, second

    assert asyncio.run(scenario()) == (3, 3)


def test_killed_child_reports_the_signal_and_carries_the_run_id() -> None:
    async def scenario() -> tuple[int, bytes]:
        read, write = os.pipe()
        child = Child.spawn(["sh", "-c", "echo $VSWITCH_RUN; exec sleep 1000"], run_id="test-run", output=write)
        os.close(write)
        said = os.read(read, 100)
        os.close(read)
        child.kill(signal.SIGTERM)
        code = await child.wait()
        child.kill()  # nothing happens
        return code, said

    assert asyncio.run(scenario()) == (-signal.SIGTERM, b"test-run\n")


@pytest.mark.parametrize(
    ("code", "words"), [(0, "exit code 0"), (-9, "killed by SIGKILL"), (-99, "killed by signal 99")]
)
def test_exit_is_described_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words


def test_sweep_kills_only_processes_of_that_lab(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_dir))
    run_dir, run = rundir.claim("dead", "/x/lab.yaml", version="0", exact=True)
    other_dir, other = rundir.claim("live", "/y/lab.yaml", version="0", exact=True)

    def sleeper(run_id: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", "1000"], env={**os.environ, "VSWITCH_RUN": run_id})

    with subprocess.Popen(["sleep", "1000"]) as owner:
        run_dir.write_run(msgspec.structs.replace(run, owner=rundir.Process.of(owner.pid)))
        owner.kill()
    mine, others = sleeper(run.run_id), sleeper(other.run_id)
    orphan = sleeper(f"no-such-run@{rundir.base()}")
    stranger = sleeper("no-such-run@/another/place")
    try:
        assert [found.name for found in crashed()] == ["dead"]
        assert sweep(run_dir).pids == (mine.pid,)
        assert mine.wait(10) == -signal.SIGKILL
        assert not run_dir.path.exists()
        assert others.poll() is None
        assert orphan.pid in sweep_orphans().pids
        assert orphan.wait(10) == -signal.SIGKILL
        assert others.poll() is None
        assert stranger.poll() is None
        assert other_dir.path.exists()
    finally:
        for process in (mine, others, orphan, stranger):
            process.kill()
            process.wait()


def test_lab_that_starts_while_orphans_are_looked_for_is_left_alone(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_dir))
    look = sweep_module._marked
    started: list[subprocess.Popen[bytes]] = []

    def look_while_a_lab_starts() -> Iterator[tuple[int, str]]:
        if not started:
            _, run = rundir.claim("new", "/n/lab.yaml", version="0", exact=True)
            started.append(subprocess.Popen(["sleep", "1000"], env={**os.environ, "VSWITCH_RUN": run.run_id}))
            yield started[0].pid, run.run_id
        yield from look()

    monkeypatch.setattr(sweep_module, "_marked", look_while_a_lab_starts)
    try:
        assert sweep_orphans().pids == ()
        assert started[0].poll() is None
    finally:
        started[0].kill()
        started[0].wait()


def test_abandoned_staging_directory_is_swept_and_one_in_use_is_not(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_dir))
    base = rundir.base(create=True)
    _, run = rundir.claim("x", "/x/lab.yaml", version="0", exact=True)
    for name, owner in ((".new-used", run.owner), (".new-dead", msgspec.structs.replace(run.owner, start_ticks=1))):
        (base / name).mkdir()
        rundir.RunDir(base / name).write_run(msgspec.structs.replace(run, owner=owner))
    sweep_orphans()
    assert sorted(entry.name for entry in base.glob(".new-*")) == [".new-used"]
