"""The guest image: how its parts are found, ordered and written, and that builds are cached, atomic and concurrent."""

from __future__ import annotations

import io
import lzma
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from vswitch.commands.image import command
from vswitch.errors import MachineError
from vswitch.nodes import image
from vswitch.nodes.image_initramfs import Archive, Modules
from vswitch.nodes.image_packages import Package, Packages, find_packages

# --- the initramfs ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs cpio")
def test_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    file = io.BytesIO()
    archive = Archive(file)
    archive.add("usr/share/odd", stat.S_IFREG | 0o640, b"12345")
    archive.add("usr/share/odd", stat.S_IFREG | 0o640, b"a second one is not added")
    archive.add("link", stat.S_IFLNK | 0o777, b"usr/share/odd")
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.close()
    listing = subprocess.run(["cpio", "-tv", "--quiet", "-n"], input=file.getvalue(), capture_output=True, check=True)
    lines = [line.split() for line in listing.stdout.decode().splitlines()]
    assert [(words[0], words[-1]) for words in lines] == [
        ("drwxr-xr-x", "usr"),
        ("drwxr-xr-x", "usr/share"),
        ("-rw-r-----", "usr/share/odd"),
        ("lrwxrwxrwx", "usr/share/odd"),
        ("drwxr-xr-x", "dev"),
        ("crw-------", "dev/console"),
    ]
    assert lines[2][2:5] == ["0", "0", "5"]
    extract = ["cpio", "-i", "--quiet", "--to-stdout", "usr/share/odd"]
    assert subprocess.run(extract, input=file.getvalue(), capture_output=True, check=True).stdout == b"12345"


def module(home: Path, name: str, depends: str, *, compressed: bool = False) -> None:
    path = home / "kernel" / "some" / f"{name}.ko"
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"ELF...\0license=GPL\0depends=" + depends.encode() + b"\0name=x\0"
    if compressed:
        path = path.with_suffix(".ko.xz")
        data = lzma.compress(data)
    path.write_bytes(data)


def test_modules_load_after_all_they_need_and_without_what_is_built_in(tmp_path: Path) -> None:
    module(tmp_path, "virtio_net", "net_failover,virtio,virtio_ring")
    module(tmp_path, "net_failover", "failover", compressed=True)
    module(tmp_path, "failover", "")
    module(tmp_path, "virtio-ring", "")
    module(tmp_path, "loop_a", "loop_b")
    module(tmp_path, "loop_b", "loop_a")
    (tmp_path / "modules.builtin").write_text("kernel/drivers/virtio/virtio.ko\n")
    modules = Modules(tmp_path)
    order = list(modules.in_load_order(["virtio_net", "failover"]))
    assert order == ["failover", "net_failover", "virtio_ring", "virtio_net"]
    assert list(modules.in_load_order(["loop_a"])) == ["loop_b", "loop_a"]
    assert modules.read("net_failover").startswith(b"ELF")
    assert (modules.has("virtio"), modules.has("e1000")) == (True, False)
    with pytest.raises(MachineError, match="no module e1000"):
        list(modules.in_load_order(["e1000"]))


# --- the packages ----------------------------------------------------------------------------------------------------


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory first on the PATH; the apt-cache in it answers with the file named after its last argument."""
    program = tmp_path / "apt-cache"
    program.write_text(f'#!/bin/sh\nfor last; do :; done\ncat "{tmp_path}/$1.$last" 2>/dev/null\n')
    program.chmod(0o755)
    (tmp_path / "dpkg-deb").write_text("#!/bin/sh\n")
    (tmp_path / "dpkg-deb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    return tmp_path


def test_kernel_is_what_the_metapackage_depends_on_with_its_modules(apt: Path) -> None:
    """As on Ubuntu 24.04, whose kernels keep their modules in another package."""
    (apt / "depends.linux-image-virtual").write_text(
        "linux-image-virtual\n  Depends: linux-image-6.8.0-31-generic\n  Depends: linux-firmware\n"
    )
    (apt / "depends.linux-image-6.8.0-31-generic").write_text(
        "linux-image-6.8.0-31-generic\n  PreDepends: kmod\n  Depends: linux-modules-6.8.0-31-generic\n"
    )
    (apt / "show.linux-image-6.8.0-31-generic").write_text("Package: x\nVersion: 6.8.0-31.31\n")
    (apt / "show.linux-modules-6.8.0-31-generic").write_text("Package: x\nVersion: 6.8.0-31.31\n")
    (apt / "show.busybox-static").write_text("Package: x\nVersion: 1:1.36.1-6ubuntu3\n")
    assert find_packages() == Packages(
        (
            Package("linux-image-6.8.0-31-generic", "6.8.0-31.31"),
            Package("linux-modules-6.8.0-31-generic", "6.8.0-31.31"),
        ),
        Package("busybox-static", "1:1.36.1-6ubuntu3"),
    )


@pytest.mark.usefixtures("apt")
def test_apt_without_package_lists_is_told_to_update() -> None:
    with pytest.raises(MachineError, match=r"run: apt-get update \(as root\)"):
        find_packages()


# --- the cache -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vswitch"


def put_image(cache: Path, *, agent: str) -> image.Ingredients:
    made_from = image.Ingredients(
        recipe=image._RECIPE, machine=os.uname().machine, agent=agent, kernel=("k 1",), busybox="b 2"
    )
    directory = cache / "images" / made_from.key
    directory.mkdir(parents=True)
    for name in ("vmlinuz", "initrd"):
        (directory / name).write_bytes(b"x")
    (directory / "image.json").write_bytes(msgspec.json.encode(made_from))
    return made_from


def test_image_of_another_agent_is_listed_but_not_used(cache: Path) -> None:
    assert image.built_image() is None
    old = put_image(cache, agent="another")
    assert image.built_image() is None
    with pytest.raises(MachineError, match="lab image build"):
        image.default_image()
    new = put_image(cache, agent=image._agent_hash())
    assert old.key != new.key
    found = image.default_image()
    assert (found.key, found.kernel, found.current) == (new.key, cache / "images" / new.key / "vmlinuz", True)
    (cache / "images" / ".build-half").mkdir()
    (cache / "images" / "broken").mkdir()
    (cache / "images" / "broken" / "image.json").write_text("{")
    assert {(i.key, i.current) for i in image.list_images()} == {(old.key, False), (new.key, True)}


@pytest.mark.usefixtures("apt")
def test_build_without_package_lists_uses_the_image_that_is_there(cache: Path) -> None:
    said: list[str] = []
    with pytest.raises(MachineError, match="apt-get update"):
        image.build_image(said.append)
    made_from = put_image(cache, agent=image._agent_hash())
    assert image.build_image(said.append).key == made_from.key
    assert "apt-get update" in said[0]


def test_image_command_lists_and_removes(cache: Path) -> None:
    old, new = put_image(cache, agent="another"), put_image(cache, agent=image._agent_hash())
    run = CliRunner().invoke
    rows = msgspec.json.decode(run(command, ["ls", "-f", "json"]).output)
    assert {row["image"]: row["current"] for row in rows} == {old.key: "no", new.key: "yes"}
    assert isinstance(run(command, ["rm", "nothing"]).exception, Exception)
    assert run(command, ["rm"]).exit_code == 2
    assert run(command, ["rm", "--old"]).exit_code == 0
    assert [i.key for i in image.list_images()] == [new.key]
    assert run(command, ["rm", new.key]).output == f"removed {new.key}\n"
    assert list((cache / "images").iterdir()) == []


@pytest.mark.qemu
def test_builds_at_once_agree_and_later_ones_find_the_image(cache: Path) -> None:
    """Real packages, from the store of the real cache where they are there. No build leaves anything half-made."""
    store = Path.home() / ".cache" / "vswitch" / "packages"
    if store.exists():
        shutil.copytree(store, cache / "packages", copy_function=os.link, dirs_exist_ok=True)
    build = [sys.executable, "-m", "vswitch", "image", "build"]
    both = [subprocess.Popen(build, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(2)]
    said = {process.communicate(timeout=100)[0].decode().strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    (directory,) = said
    assert [str(path) for path in (cache / "images").iterdir()] == [directory]
    built = image.default_image()
    assert str(built.directory) == directory
    before = built.initrd.stat()
    again = subprocess.run(build, capture_output=True, text=True, check=True)
    assert (again.stdout.strip(), again.stderr) == (directory, "")
    assert built.initrd.stat() == before
    listed = subprocess.run(["cpio", "-t", "--quiet"], input=built.initrd.read_bytes(), capture_output=True, check=True)
    names = listed.stdout.decode().split()
    for needed in ("init", "bin/sh", "bin/ping", "sbin/ip", "modules.list", "dev/console", "usr/sbin/arping"):
        assert needed in names
