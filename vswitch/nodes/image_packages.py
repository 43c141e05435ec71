"""The distribution's packages a guest image is made of: found, downloaded and unpacked by apt and dpkg, without root.

Downloaded packages are kept beside the images, so that a rebuild (a new agent) needs no network.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import MachineError

# Metapackages that depend on the newest small kernel, Debian's first.
_KERNELS = {
    "x86_64": ("linux-image-cloud-amd64", "linux-image-virtual"),
    "aarch64": ("linux-image-cloud-arm64", "linux-image-virtual"),
}
_DOWNLOAD_TIMEOUT = 600  # s


class Package(NamedTuple):
    """One package in one version."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class Packages(NamedTuple):
    """What an image is built from: the kernel's image, with it what holds its modules, and busybox."""

    kernel: tuple[Package, ...]
    busybox: Package


def find_packages() -> Packages:
    """Ask apt for the newest packages. Raises MachineError saying what to run when it knows none."""
    if shutil.which("apt-cache") is None or shutil.which("dpkg-deb") is None:
        raise MachineError(
            "building the guest image needs apt and dpkg (Debian, Ubuntu); elsewhere give nodes kernel: and initrd:"
        )
    machine = platform.machine()
    if machine not in _KERNELS:
        raise MachineError(f"there is no guest image for {machine} machines; give nodes a kernel: and an initrd:")
    for meta in _KERNELS[machine]:
        for kernel in _depends(meta, "linux-image-"):
            modules = tuple(_depends(kernel, "linux-modules-"))
            return Packages(tuple(_candidate(name) for name in (kernel, *modules)), _candidate("busybox-static"))
    raise MachineError(f"apt knows no package {' or '.join(_KERNELS[machine])}; run: apt-get update (as root)")


def _depends(name: str, prefix: str) -> Iterator[str]:
    """Names beginning with `prefix` that package `name` depends on."""
    listing = _run("apt-cache", "depends", "--no-recommends", "--no-suggests", name, check=False)
    for line in listing.splitlines():
        relation, _, other = line.strip().partition(": ")
        if relation.lstrip("|") == "Depends" and other.startswith(prefix):
            yield other


def _candidate(name: str) -> Package:
    for line in _run("apt-cache", "show", "--no-all-versions", name, check=False).splitlines():
        if line.startswith("Version: "):
            return Package(name, line.removeprefix("Version: "))
    raise MachineError(f"apt knows no package {name}; run: apt-get update (as root)")


def unpack(package: Package, into: Path, store: Path, say: Callable[[str], None]) -> None:
    """Unpack `package` into the directory `into`, downloading it to `store` unless it is there. Raises MachineError."""
    pattern = f"{package.name}_{package.version.replace(':', '%3a')}_*.deb"
    archive = next(store.glob(pattern), None)
    if archive is None:
        say(f"downloading {package}")
        archive = _download(package, store)
    say(f"unpacking {package}")
    _run("dpkg-deb", "-x", os.fspath(archive), os.fspath(into))


def _download(package: Package, store: Path) -> Path:
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store, prefix=".get-") as directory:
        # Root's apt would hand the download to a user who may not write here.
        sandbox = ("-o", "APT::Sandbox::User=root") if os.geteuid() == 0 else ()
        _run("apt-get", *sandbox, "-qq", "download", f"{package.name}={package.version}", cwd=Path(directory))
        (archive,) = Path(directory).glob("*.deb")
        return archive.rename(store / archive.name)


def _run(*argv: str, check: bool = True, cwd: Path | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, env=environment, cwd=cwd, timeout=_DOWNLOAD_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise MachineError(f"{_command(argv)} took longer than {_DOWNLOAD_TIMEOUT} s") from None
    if check and done.returncode != 0:
        lines = [line for line in done.stderr.strip().splitlines() if line.startswith("E:")] or ["it says nothing"]
        raise MachineError(
            f"{_command(argv)} failed: {lines[0]}; if the package lists are old: apt-get update (as root)"
        )
    return done.stdout


def _command(argv: Sequence[str]) -> str:
    return " ".join(argv)
