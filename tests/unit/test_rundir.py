"""Run directories: claims, names, and telling a live lab from a crashed one."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from vswitch import rundir
from vswitch.errors import LabError, NoSuchLabError
from vswitch.rundir import AlreadyUpError, CrashedLabError, Process


@pytest.fixture
def base(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_dir))
    return rundir.base()


def claim(name: str, source: str, *, exact: bool = False) -> rundir.RunDir:
    return rundir.claim(name, source, version="0", exact=exact)[0]


def dead_process() -> Process:
    with subprocess.Popen(["sleep", "60"]) as child:
        process = Process.of(child.pid)
        assert process.alive()
        child.kill()
    return process


def test_same_file_is_already_up(base: Path) -> None:
    claim("duo", "/a/lab.yaml")
    with pytest.raises(AlreadyUpError, match=r"'duo' is already up, from /a/lab\.yaml"):
        claim("duo", "/a/lab.yaml")


def test_same_name_from_another_directory_gets_a_number(base: Path) -> None:
    assert [claim("duo", f"/{directory}/lab.yaml").name for directory in "abc"] == ["duo", "duo-2", "duo-3"]
    with pytest.raises(AlreadyUpError, match="duo-2"):
        claim("duo", "/b/lab.yaml")


def test_explicit_name_is_taken_as_it_is_or_refused(base: Path) -> None:
    claim("mine", "/a/lab.yaml", exact=True)
    with pytest.raises(AlreadyUpError):
        claim("mine", "/b/lab.yaml", exact=True)


def test_many_claims_at_once_each_get_a_name_of_their_own(base: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        names = list(pool.map(lambda number: claim("duo", f"/{number}/lab.yaml").name, range(32)))
    assert len(set(names)) == 32
    assert not list(base.glob(".new-*"))


def test_dead_owner_is_a_crashed_lab(base: Path) -> None:
    taken, run = rundir.claim("duo", "/a/lab.yaml", version="0", exact=False)
    taken.write_run(msgspec.structs.replace(run, owner=dead_process()))
    with pytest.raises(CrashedLabError):
        claim("duo", "/a/lab.yaml")


def test_reused_pid_is_not_mistaken_for_the_owner() -> None:
    me = Process.of(os.getpid())
    assert me.alive()
    assert not msgspec.structs.replace(me, start_ticks=me.start_ticks - 1).alive()
    assert not msgspec.structs.replace(me, boot_id="another boot").alive()


def test_runtime_directory_too_long_for_a_socket_is_passed_over(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = runtime_dir / ("d" * 60)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    base = rundir.base()
    assert base == Path(f"/tmp/vswitch-{os.getuid()}")
    longest = rundir.RunDir(base / ("n" * rundir.MAX_NAME))
    assert len(str(longest.control_socket)) < 108


def test_directory_open_to_others_is_not_used(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (runtime_dir / "vswitch").mkdir()
    (runtime_dir / "vswitch").chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_dir))
    assert rundir.base() == Path(f"/tmp/vswitch-{os.getuid()}")


def test_find_prefers_the_lab_of_this_directory(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim("here", str(tmp_path / "lab.yaml"))
    claim("there", "/elsewhere/lab.yaml")
    with pytest.raises(NoSuchLabError, match="labs: here, there"):
        rundir.find(None)
    monkeypatch.chdir(tmp_path)
    assert rundir.find(None)[0].name == "here"
    assert rundir.find("there")[0].name == "there"
    with pytest.raises(NoSuchLabError, match="labs: here, there"):
        rundir.find("nowhere")


def test_find_without_any_lab_says_how_to_start_one(base: Path) -> None:
    with pytest.raises(LabError, match="lab up"):
        rundir.find(None)


def test_removed_directory_is_gone_and_its_name_free(base: Path) -> None:
    taken = claim("duo", "/a/lab.yaml")
    taken.node_dir("n").mkdir(parents=True)
    taken.remove()
    taken.remove()
    assert not base.exists(), "the last lab takes the directory of labs along"
    assert claim("duo", "/a/lab.yaml").name == "duo"
