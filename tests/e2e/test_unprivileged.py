"""A user without any privilege: made for the test, gone after it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from vswitch.nodes.image import default_image

from .conftest import PAIR, Leftovers

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]


def copy_installation(target: Path) -> None:
    """Copy vswitch, as built, and every package it needs into the directory `target`."""
    wanted, done = ["vswitch"], set[str]()
    while wanted:
        name = wanted.pop()
        if name in done:
            continue
        done.add(name)
        distribution = metadata.distribution(name)
        for text in distribution.requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name)
        for file in distribution.files or []:
            if ".." not in file.parts and file.suffix != ".pyc" and not file.name.startswith("_editable"):
                to = target / file
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(distribution.locate_file(file)), to)
    shutil.copytree(ROOT / "vswitch", target / "vswitch", ignore=shutil.ignore_patterns("*.pyc"), dirs_exist_ok=True)
    subprocess.run(["chmod", "-R", "a+rX", target], check=True)


class User:
    """An account of the machine, with a home and a runtime directory, that may run our Python."""

    def __init__(self) -> None:
        self.name = f"vsw{secrets.token_hex(3)}"
        self.home = Path(tempfile.mkdtemp(prefix="vsu-"))
        subprocess.run(["useradd", "--no-create-home", "--home-dir", self.home, self.name], check=True)
        self.runtime = self.home / "run"
        self.runtime.mkdir(mode=0o700)
        for path in (self.home, self.runtime):
            shutil.chown(path, self.name, self.name)
        self.home.chmod(0o700)
        self.python = self._python()

    def _python(self) -> list[str]:
        """A Python this user may run, with copies of our packages: what root installed may be out of its reach."""
        prefix = ["setpriv", f"--reuid={self.name}", f"--regid={self.name}", "--init-groups", "--inh-caps=-all"]
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        for base in (sys.executable, "/usr/bin/python3", f"/usr/bin/python{version}"):
            # Through sh: the interpreter itself must be opened with this user's rights.
            make = f'"{base}" -m venv --without-pip "{self.home}/venv" && "{self.home}/venv/bin/python" -V'
            result = subprocess.run([*prefix, "sh", "-c", make], capture_output=True, text=True, check=False)
            if result.returncode == 0 and version in result.stdout:
                (packages,) = (self.home / "venv").glob("lib/python*/site-packages")
                copy_installation(packages)
                return [*prefix, f"{self.home}/venv/bin/python", "-m", "vswitch"]
            shutil.rmtree(self.home / "venv", ignore_errors=True)
        pytest.fail(f"no Python {version} that another user may run")

    def lab(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "LANG": "C.UTF-8",
        }
        return subprocess.run(
            [*self.python, *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=90,
            check=False,
        )

    def remove(self) -> None:
        subprocess.run(["userdel", self.name], check=True)
        shutil.rmtree(self.home)


@pytest.fixture
def user() -> Iterator[User]:
    account = User()
    yield account
    account.lab("down", "--all", cwd=Path("/"))
    account.remove()


def test_netns_lab_needs_no_privilege(user: User) -> None:
    """Up, ping by name over a veth pair and a packet socket (no TUN for this user), down, nothing left."""
    (user.home / "lab.yaml").write_text(PAIR)
    shutil.chown(user.home / "lab.yaml", user.name, user.name)
    before = Leftovers.of(user.runtime)
    up = user.lab("up", cwd=user.home)
    assert up.returncode == 0, up.stderr
    ping = user.lab("exec", "a", "--", "busybox", "ping", "-c2", "-W2", "b", cwd=user.home)
    assert ping.returncode == 0, ping.stdout + ping.stderr
    types = {row["type"] for row in json.loads(user.lab("stats", "-f", "json", cwd=user.home).stdout)}
    expected = "tap" if Path("/dev/net/tun").stat().st_mode & 0o006 == 0o006 else "packet"
    assert types == {expected}
    who = user.lab("exec", "a", "--", "cat", "/proc/self/uid_map", cwd=user.home)
    assert who.stdout.split()[2] == "1", "the lab is in a user namespace of one user"
    down = user.lab("down", cwd=user.home)
    assert down.returncode == 0, down.stderr
    assert Leftovers.of(user.runtime) == before
    assert list(user.runtime.iterdir()) == []


@pytest.mark.uml
def test_user_mode_linux_needs_no_privilege(user: User) -> None:
    """Two kernels, on a switch and on a multicast bus of the user's own namespace, and nothing left of them."""
    images = user.home / ".cache/vswitch/images"
    shutil.copytree(default_image().directory, images / default_image().key)
    (user.home / "lab.yaml").write_text(
        "name: own\n"
        "networks: {lan0: {subnet: 10.0.0.0/24}, bus: {type: mcast, subnet: 10.0.1.0/24}}\n"
        "nodes: {a: {kind: uml}, b: {kind: uml}}\n"
        "links: [[a:eth0, lan0], [b:eth0, lan0], [a:eth1, bus], [b:eth1, bus]]\n"
    )
    subprocess.run(["chown", "-R", f"{user.name}:", user.home / ".cache", user.home / "lab.yaml"], check=True)
    before = Leftovers.of(user.runtime)
    up = user.lab("up", cwd=user.home)
    assert up.returncode == 0, up.stderr
    for address in ("10.0.0.2", "10.0.1.2"):
        ping = user.lab("exec", "a", "--", "ping", "-c2", "-W5", address, cwd=user.home)
        assert ping.returncode == 0, ping.stdout + ping.stderr
    down = user.lab("down", cwd=user.home)
    assert down.returncode == 0, down.stderr
    assert Leftovers.of(user.runtime) == before
    assert list(user.runtime.iterdir()) == []
