"""Builds the fuzzers and lets each look for a while: none may find anything. `./dev fuzz` looks for longer."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.c.test_c import tool

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build-fuzz"
SECONDS = {"ring": 60}
FEWER_SECONDS = 20
SUBJECTS = sorted(path.stem for path in Path(__file__).parent.glob("*.c"))


@pytest.fixture(scope="session")
def fuzzers() -> Path:
    """The directory of the built fuzzers. Several test processes may want them at once: one builds."""
    if shutil.which("clang-19") is None:
        pytest.skip("needs clang-19 and libFuzzer (packages clang-19, libclang-rt-19-dev)")
    BUILD.mkdir(exist_ok=True)
    with (BUILD / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        options = ["-DCMAKE_C_COMPILER=clang-19", "-DVSWITCH_FUZZ=ON"]
        options += ["-DVSWITCH_SANITIZE=address,undefined,fuzzer-no-link", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
        configure = [tool("cmake"), "-G", "Ninja", "-S", str(ROOT), "-B", str(BUILD), *options]
        if subprocess.run(configure, stdout=subprocess.DEVNULL, check=False).returncode:
            pytest.skip("clang-19 cannot build with sanitizers here (package libclang-rt-19-dev)")
        subprocess.run([tool("ninja"), "-C", BUILD], check=True, stdout=subprocess.DEVNULL)
    return BUILD / "tests" / "fuzz"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_fuzzer_finds_nothing(fuzzers: Path, subject: str) -> None:
    """What it has found worth keeping in earlier runs on this machine is where it begins, with the corpus."""
    seconds = SECONDS.get(subject, FEWER_SECONDS)
    found = BUILD / f"corpus-{subject}"
    found.mkdir(exist_ok=True)
    result = subprocess.run(
        [
            fuzzers / f"fuzz_{subject}",
            f"-max_total_time={seconds}",
            "-timeout=20",
            f"-artifact_prefix={BUILD}/{subject}-",
            found,
            Path(__file__).with_name(f"{subject}-corpus"),
        ],
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
