"""Builds the C tests with sanitizers and runs each: exit status 0 passed, 77 skipped, anything else failed."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD_TIMEOUT = 1800  # seconds
BUILDS = {"asan": "address,undefined", "tsan": "thread"}
SUBJECTS = [
    pytest.param(build, path.stem, id=f"{path.stem.removeprefix('test_')}-{build}")
    for build in BUILDS
    for path in sorted(Path(__file__).parent.glob("test_*.c"))
]


def tool(name: str) -> str:
    """A build tool: from the virtual environment these tests run in, or else from the path."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="session")
def programs() -> dict[str, Path]:
    """Directories of the built tests, by sanitizer. Several test processes may want them at once: one builds."""
    directories = {build: ROOT / f"build-{build}" for build in BUILDS}
    for build, directory in directories.items():
        directory.mkdir(exist_ok=True)
        with (directory / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            options = [f"-DVSWITCH_SANITIZE={BUILDS[build]}", "-DVSWITCH_WERROR=ON"]
            ninja = tool("ninja")
            configure = [
                tool("cmake"),
                "-G",
                "Ninja",
                f"-DCMAKE_MAKE_PROGRAM={ninja}",
                "-S",
                str(ROOT),
                "-B",
                str(directory),
            ]
            for command in ([*configure, *options], [ninja, "-C", str(directory)]):
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=BUILD_TIMEOUT)
    return {build: directory / "tests" / "c" for build, directory in directories.items()}


# Building is no part of a test's time: it may have to wait for another process that builds, on a machine that is busy.
@pytest.mark.timeout(120, func_only=True)
@pytest.mark.parametrize(("build", "subject"), SUBJECTS)
def test_c_program_passes(programs: dict[str, Path], build: str, subject: str) -> None:
    """A C test ends with status 0 and no sanitizer has anything to say."""
    result = subprocess.run([programs[build] / subject], capture_output=True, text=True, timeout=60, check=False)
    if result.returncode == 77:
        pytest.skip(result.stdout.strip().splitlines()[-1])
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Sanitizer" not in result.stderr
