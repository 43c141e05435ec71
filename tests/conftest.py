"""What all tests share: markers that skip with a reason, a private place for labs, and the `lab` command."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("vswitch", deadline=None)  # how long an example takes says more of the machine than of us
settings.load_profile("vswitch")


def _why_no_root() -> str | None:
    return None if os.geteuid() == 0 else "needs root"


def _why_no_tun() -> str | None:
    return None if os.access("/dev/net/tun", os.R_OK | os.W_OK) else "needs /dev/net/tun"


def _why_no_namespaces() -> str | None:
    from vswitch.namespace import probe

    return probe()


def _why_no_qemu() -> str | None:
    from vswitch.nodes.image import built_image

    if shutil.which("qemu-system-x86_64") is None and shutil.which("qemu-system-aarch64") is None:
        return "needs QEMU (package qemu-system-x86)"
    return None if built_image() is not None else "needs the guest image (lab image build)"


def _why_no_uml() -> str | None:
    from vswitch.nodes.image import built_image

    if shutil.which("linux.uml") is None:
        return "needs User-Mode Linux (package user-mode-linux)"
    return None if built_image() is not None else "needs the guest image (lab image build)"


_REASONS = {
    "uml": _why_no_uml,
    "root": _why_no_root,
    "tun": _why_no_tun,
    "namespaces": _why_no_namespaces,
    "qemu": _why_no_qemu,
}


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Skip what this machine cannot run, saying why."""
    known: dict[str, str | None] = {}
    for item in items:
        for name, reason in _REASONS.items():
            if item.get_closest_marker(name) is not None:
                if name not in known:
                    known[name] = reason()
                if known[name] is not None:
                    item.add_marker(pytest.mark.skip(reason=f"{name}: {known[name]}"))


class LabCommand:
    """Runs the `lab` command with a run directory of this test's own."""

    def __init__(self, runtime: Path, cwd: Path) -> None:
        self.runtime = runtime
        self.cwd = cwd
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
        self.environment.pop("VSWITCH_LAB", None)

    @staticmethod
    def argv(*arguments: str) -> list[str]:
        """The command line of `lab ARGUMENTS`."""
        return [sys.executable, "-m", "vswitch", *arguments]

    def __call__(
        self, *arguments: str, stdin: bytes = b"", cwd: Path | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `lab ARGUMENTS` to its end."""
        return subprocess.run(
            self.argv(*arguments),
            input=stdin,
            capture_output=True,
            cwd=cwd or self.cwd,
            env=self.environment,
            timeout=timeout,
            check=False,
        )

    def ok(self, *arguments: str, stdin: bytes = b"", cwd: Path | None = None, timeout: float = 60) -> str:
        """Run `lab ARGUMENTS`, which must exit 0, and return its standard output."""
        result = self(*arguments, stdin=stdin, cwd=cwd, timeout=timeout)
        assert result.returncode == 0, (
            f"lab {' '.join(arguments)} exited {result.returncode}\n{result.stdout.decode()}\n{result.stderr.decode()}"
        )
        return result.stdout.decode()

    def start(self, *arguments: str, cwd: Path | None = None) -> subprocess.Popen[bytes]:
        """Start `lab ARGUMENTS`, both outputs in pipes."""
        return subprocess.Popen(
            self.argv(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd or self.cwd,
            env=self.environment,
        )

    def left(self) -> list[str]:
        """Names of whatever is in the directory of labs."""
        return [entry.name for entry in self.labs.iterdir()] if self.labs.exists() else []

    @property
    def labs(self) -> Path:
        """Where this test's labs have their run directories."""
        return self.runtime / "vswitch"


@pytest.fixture
def runtime_dir() -> Iterator[Path]:
    """A private, short-named stand-in for $XDG_RUNTIME_DIR."""
    path = Path(tempfile.mkdtemp(prefix="vst-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def lab_command(runtime_dir: Path, tmp_path: Path) -> Iterator[LabCommand]:
    """The `lab` command; whatever labs the test leaves up are taken down, and leaving anything behind fails it."""
    command = LabCommand(runtime_dir, tmp_path)
    yield command
    command.ok("down", "--all")
    command.ok("gc")
    assert command.left() == []


def processes_of(run_id: str) -> set[int]:
    """Pids of all live processes that carry this run id in their environment."""
    found = set()
    marker = f"VSWITCH_RUN={run_id}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if marker in (entry / "environ").read_bytes().split(b"\0"):
                    found.add(int(entry.name))
    return found
